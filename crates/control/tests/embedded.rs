//! The controllers against the real embedded API server, with the role that is installed. The tests play the kubelet
//! and the node agent; everything else is what runs in production.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Cluster, NAMESPACE, eventually, printable};
use ferrovirt_api::kubevirt::{KubeVirt, LauncherPodRecord, VirtualMachine, VirtualMachineInstance};
use ferrovirt_plan::decide::accept::digest;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_gets_an_instance_and_a_pod_and_deleting_it_takes_them_along() {
    let cluster = Cluster::start().await;
    cluster.create_vm("Always").await;
    let pod = cluster.boot().await;

    let vmi: VirtualMachineInstance = cluster.api().get("m").await.unwrap();
    let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), Some(&owner.uid)),
        ("VirtualMachineInstance", vmi.metadata.uid.as_ref())
    );
    assert_eq!(pod.labels()["kubevirt.io/created-by"], vmi.uid().unwrap());
    assert_eq!(pod.labels()["app"], "x", "the template's labels reach the pod");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.containers.len(), 1);
    assert_eq!(spec.security_context.as_ref().unwrap().run_as_non_root, Some(true));
    assert_eq!(pod.annotations()["openshift.io/scc"], "restricted-v2", "a plain machine needs no privilege");
    let node = spec.node_name.clone();
    assert_eq!(node.as_deref(), Some("node"), "the scheduler has placed it");
    assert_eq!(vmi.status.as_ref().unwrap().node_name, node);
    assert_eq!(vmi.labels()["kubevirt.io/nodeName"], "node");
    let ready = eventually("events", async || {
        let reasons = cluster.reasons().await;
        (reasons.iter().filter(|r| *r == "SuccessfulCreate").count() == 2).then_some(())
    });
    ready.await;

    let vms: Api<VirtualMachine> = cluster.api();
    vms.delete("m", &DeleteParams::default()).await.unwrap();
    let pods: Api<Pod> = cluster.api();
    let pod = eventually("a pod that is deleted", async || {
        pods.get_opt(&pod.name_any()).await.unwrap().filter(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    assert_eq!(
        printable(&cluster.wait("a machine that goes", |vm| printable(vm) == "Terminating").await),
        "Terminating"
    );
    // The node agent and the kubelet end it.
    cluster.report("Succeeded").await;
    let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    cluster.pod_status(&pod, "Succeeded", ended).await;
    pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    let vmis: Api<VirtualMachineInstance> = cluster.api();
    eventually("nothing", async || {
        let vm = vms.get_opt("m").await.unwrap();
        let vmi = vmis.get_opt("m").await.unwrap();
        (vm.is_none() && vmi.is_none() && pods.list(&ListParams::default()).await.unwrap().items.is_empty())
            .then_some(())
    })
    .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verb_that_the_role_lacks_is_named_and_giving_it_back_is_enough() {
    let cluster = Cluster::start().await;
    let roles: Api<ClusterRole> = Api::all(cluster.admin.clone());
    let full = roles.get("kubevirt-controller").await.unwrap();
    let mut lesser = full.clone();
    for rule in lesser.rules.iter_mut().flatten() {
        if rule.resources.iter().flatten().any(|resource| resource == "pods") {
            rule.verbs.retain(|verb| verb != "create");
        }
    }
    assert_ne!(full.rules, lesser.rules, "the role has the verb");
    roles.replace("kubevirt-controller", &PostParams::default(), &lesser).await.unwrap();

    cluster.create_vm("Always").await;
    let refusal =
        "User \"system:serviceaccount:kubevirt:kubevirt-controller\" cannot create resource \"pods\"";
    cluster
        .wait("a refusal on the instance", |vmi: &VirtualMachineInstance| {
            vmi.status.as_ref().is_some_and(|s| {
                s.conditions.iter().any(|c| {
                    (c.r#type.as_str(), c.status.as_str(), c.reason.as_deref())
                        == ("Synchronized", "False", Some("FailedCreate"))
                        && c.message.as_deref().is_some_and(|m| m.contains(refusal))
                })
            })
        })
        .await;
    eventually("an event", async || {
        cluster.reasons().await.contains(&"FailedCreate".to_owned()).then_some(())
    })
    .await;

    let rules = json!({"rules": full.rules});
    roles.patch("kubevirt-controller", &PatchParams::default(), &Patch::Merge(rules)).await.unwrap();
    cluster.boot().await;
    let vmi: VirtualMachineInstance = cluster.api().get("m").await.unwrap();
    assert!(vmi.status.unwrap().conditions.iter().all(|c| c.r#type != "Synchronized"), "the refusal is over");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_come_back_take_over_what_they_find() {
    let mut cluster = Cluster::start().await;
    cluster.create_vm("Always").await;
    let first = cluster.pod().await;
    // Killed somewhere between the pod and the running machine.
    cluster.stop_controllers().await;
    cluster.start_controllers();
    let pod = cluster.boot().await;
    assert_eq!(pod.uid(), first.uid(), "no second pod");

    // The guest ends while nobody looks.
    cluster.stop_controllers().await;
    cluster.report("Failed").await;
    cluster.pod_status(&pod, "Failed", json!({"terminated": {"exitCode": 1}})).await;
    cluster.start_controllers();
    let pods: Api<Pod> = cluster.api();
    let second = eventually("another pod", async || {
        let list = pods.list(&ListParams::default()).await.unwrap().items;
        list.into_iter().find(|candidate| candidate.uid() != first.uid())
    })
    .await;
    assert_ne!(second.name_any(), first.name_any());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubevirt_object_says_that_the_controllers_are_at_work() {
    let cluster = Cluster::start().await;
    let clusters: Api<KubeVirt> = Api::namespaced(cluster.admin.clone(), "kubevirt");
    eventually("a deployed installation", async || {
        let status = clusters.get("kubevirt").await.unwrap().status?;
        let available = status.conditions.iter().any(|c| c.r#type == "Available" && c.status == "True");
        (status.phase.as_deref() == Some("Deployed") && available).then_some(())
    })
    .await;
    cluster.end().await;
}

/// What is recorded of the machine's pod.
async fn recorded(cluster: &Cluster) -> Option<LauncherPodRecord> {
    let vmi: VirtualMachineInstance = cluster.api().get("m").await.unwrap();
    vmi.status?.launcher_pod
}

/// The pod, every field.
async fn whole(cluster: &Cluster, pod: &Pod) -> Value {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", pod.name_any());
    cluster.admin.request(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_recorded_and_nobody_else_writes_the_record() {
    let cluster = Cluster::start().await;
    cluster.create_vm("Always").await;
    let pod = cluster.boot().await;
    let record = recorded(&cluster).await.expect("a record");
    assert_eq!(Some(&record.uid), pod.metadata.uid.as_ref());
    assert_eq!(record.digest, digest(&whole(&cluster, &pod).await), "before it had a node, and after");

    // Who may edit machines.
    let binding = json!({
        "metadata": {"name": "alice"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kubevirt.io:edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
    });
    let bindings: Api<RoleBinding> = cluster.api();
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let alice: Api<VirtualMachineInstance> = Api::namespaced(cluster.acting_as("alice").await, NAMESPACE);
    let forged = json!({"uid": "forged", "digest": "sha256-v1:forged"});
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}, "status": {"launcherPod": forged}}));
    let patched = alice.patch("m", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.labels()["a"], "b", "she may edit it");
    assert_eq!(patched.status.unwrap().launcher_pod, Some(record.clone()));
    // An instance that is made with one.
    let instance = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": "own"},
        "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}}, "status": {"launcherPod": forged},
    });
    let made =
        alice.create(&PostParams::default(), &serde_json::from_value(instance).unwrap()).await.unwrap();
    assert_eq!(made.status.unwrap().launcher_pod, None);

    // A node's own writing leaves it alone, and so do changes of the pod that are no change of what it is.
    cluster.report("Running").await;
    let pods: Api<Pod> = cluster.api();
    let label = Patch::Merge(json!({"metadata": {"labels": {"team": "x"}, "annotations": {"note": "y"}}}));
    pods.patch(&pod.name_any(), &PatchParams::default(), &label).await.unwrap();
    assert_eq!(recorded(&cluster).await, Some(record.clone()));
    assert_eq!(record.digest, digest(&whole(&cluster, &pod).await));
    let image = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "evil"}]);
    let image: Patch<()> = Patch::Json(serde_json::from_value(image).unwrap());
    pods.patch(&pod.name_any(), &PatchParams::default(), &image).await.unwrap();
    assert_ne!(record.digest, digest(&whole(&cluster, &pod).await));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_maker_was_killed_before_it_was_recorded_is_recorded_by_the_next_one() {
    let mut cluster = Cluster::start_without_controllers().await;
    // Without this right pods are made and not recorded: the moment between the two, held still.
    let roles: Api<ClusterRole> = Api::all(cluster.admin.clone());
    let full = roles.get("kubevirt-controller").await.unwrap();
    let mut lesser = full.clone();
    for rule in lesser.rules.iter_mut().flatten() {
        rule.resources.iter_mut().for_each(|list| list.retain(|resource| resource != "namespaces"));
    }
    lesser.rules.iter_mut().for_each(|rules| {
        rules.retain(|rule| rule.resources.as_ref().is_none_or(|resources| !resources.is_empty()));
    });
    assert_ne!(full.rules, lesser.rules, "the role has the right");
    roles.replace("kubevirt-controller", &PostParams::default(), &lesser).await.unwrap();
    cluster.start_controllers();
    cluster.create_vm("Always").await;
    let pod = cluster.boot().await;
    assert_eq!(recorded(&cluster).await, None);
    cluster.stop_controllers().await;
    let rules = json!({"rules": full.rules});
    roles.patch("kubevirt-controller", &PatchParams::default(), &Patch::Merge(rules)).await.unwrap();

    // The next one makes other pods: it records none that it has not looked at, and the machine runs on.
    let overcommit = |percent: Option<i32>| {
        let developer = json!({"memoryOvercommit": percent});
        Patch::Merge(json!({"spec": {"configuration": {"developerConfiguration": developer}}}))
    };
    let clusters: Api<KubeVirt> = Api::namespaced(cluster.admin.clone(), "kubevirt");
    clusters.patch("kubevirt", &PatchParams::default(), &overcommit(Some(300))).await.unwrap();
    cluster.start_controllers();
    let label = Patch::Merge(json!({"metadata": {"labels": {"kubevirt.io/nodeName": null}}}));
    let vmis: Api<VirtualMachineInstance> = Api::namespaced(cluster.controller.clone(), NAMESPACE);
    vmis.patch("m", &PatchParams::default(), &label).await.unwrap();
    cluster
        .wait("a round", |vmi: &VirtualMachineInstance| vmi.labels().contains_key("kubevirt.io/nodeName"))
        .await;
    assert_eq!(recorded(&cluster).await, None);
    cluster.stop_controllers().await;

    clusters.patch("kubevirt", &PatchParams::default(), &overcommit(None)).await.unwrap();
    cluster.start_controllers();
    let recorded = eventually("a record", async || recorded(&cluster).await).await;
    assert_eq!(Some(&recorded.uid), pod.metadata.uid.as_ref());
    assert_eq!(recorded.digest, digest(&whole(&cluster, &pod).await));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_is_kept_while_there_are_machines_or_ends_them_as_its_strategy_says() {
    let cluster = Cluster::start().await;
    let configurations: Api<KubeVirt> = Api::namespaced(cluster.admin.clone(), "kubevirt");
    let vms: Api<VirtualMachine> = cluster.api();
    let now = async || configurations.get_opt("kubevirt").await.unwrap();
    let patch = async |patch: Value| {
        configurations.patch("kubevirt", &PatchParams::default(), &Patch::Merge(patch)).await
    };
    let marked = async |wanted: bool| {
        eventually("the annotation", async || {
            now().await.filter(|object| object.annotations().contains_key("ferrovirt.io/machines") == wanted)
        })
        .await
    };
    let strategy = now().await.unwrap().spec.uninstall_strategy;
    assert_eq!(strategy.as_deref(), Some("BlockUninstallIfWorkloadsExist"), "it is said");

    cluster.create_vm("Halted").await;
    let object = marked(true).await;
    assert!(object.finalizers().is_empty(), "its namespace could not be deleted without the controllers");
    let Err(kube::Error::Api(refused)) = configurations.delete("kubevirt", &DeleteParams::default()).await
    else {
        panic!("it was deleted");
    };
    assert_eq!(refused.code, 403);
    assert!(refused.message.contains("set spec.uninstallStrategy to RemoveWorkloads"), "{}", refused.message);
    vms.delete("m", &DeleteParams::default()).await.unwrap();
    marked(false).await;

    // Somebody holds a machine, and tries to make another one meanwhile.
    cluster.create_vm("Halted").await;
    let held = json!({"metadata": {"finalizers": ["example.com/held", "kubevirt.io/virtualMachineControllerFinalize"]}});
    vms.patch("m", &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    marked(true).await;
    let unknown = patch(json!({"spec": {"uninstallStrategy": "Remove"}})).await.unwrap_err().to_string();
    assert!(unknown.contains("use BlockUninstallIfWorkloadsExist or RemoveWorkloads"), "{unknown}");
    patch(json!({"spec": {"uninstallStrategy": "RemoveWorkloads"}})).await.unwrap();
    eventually("the finalizer", async || now().await.filter(|object| object.finalizers().len() == 1)).await;
    configurations.delete("kubevirt", &DeleteParams::default()).await.unwrap();
    eventually("what is waited for", async || {
        let status = now().await?.status?;
        let names = format!("waiting for the end of machines (1): {NAMESPACE}/m");
        let said = |one: &str| one == names;
        let waits = status
            .conditions
            .iter()
            .any(|one| one.r#type == "Progressing" && one.message.as_deref().is_some_and(said));
        (waits && status.phase.as_deref() == Some("Deleting")).then_some(())
    })
    .await;
    let mut other = vms.get("m").await.unwrap();
    assert!(other.metadata.deletion_timestamp.is_some(), "it is being deleted");
    other.metadata = common::named("other");
    let refused = vms.create(&PostParams::default(), &other).await.unwrap_err().to_string();
    assert!(refused.contains("the KubeVirt object is being deleted"), "{refused}");
    let free = json!({"metadata": {"finalizers": null}});
    vms.patch("m", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    eventually("the configuration's end", async || now().await.is_none().then_some(())).await;
    assert!(vms.get_opt("m").await.unwrap().is_none(), "the machine is still there");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_with_the_namespace_leaves_nothing_that_it_would_wait_for() {
    let cluster = Cluster::start_without_controllers().await;
    let configurations: Api<KubeVirt> = Api::namespaced(cluster.admin.clone(), "kubevirt");
    let waiting = json!({
        "metadata": {"annotations": {"ferrovirt.io/machines": "true"}, "finalizers": ["ferrovirt.io/machines"]},
        "spec": {"uninstallStrategy": "RemoveWorkloads"},
    });
    configurations.patch("kubevirt", &PatchParams::default(), &Patch::Merge(waiting)).await.unwrap();
    // A replica that is started again leaves it.
    ferrovirt_control::leave(&cluster.admin).await;
    assert_eq!(configurations.get("kubevirt").await.unwrap().finalizers().len(), 1);
    let namespaces: Api<Namespace> = Api::all(cluster.admin.clone());
    namespaces.delete("kubevirt", &DeleteParams::default()).await.unwrap();
    eventually("the deletion of what is in the namespace", async || {
        let object = configurations.get("kubevirt").await.unwrap();
        object.metadata.deletion_timestamp.map(drop)
    })
    .await;
    ferrovirt_control::leave(&cluster.admin).await;
    eventually("the end of the namespace", async || {
        namespaces.get_opt("kubevirt").await.unwrap().is_none().then_some(())
    })
    .await;
    cluster.end().await;
}
