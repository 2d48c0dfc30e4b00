//! The controllers against the real embedded API server, with the role that is installed. The tests play the kubelet
//! and the node agent; everything else is what runs in production.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Debug;
use std::time::Duration;

use ferrovirt_api::kubevirt::{KubeVirt, VirtualMachine, VirtualMachineInstance};
use ferrovirt_apiserver::server::{Config, Server};
use ferrovirt_plan::config::ClusterConfig;
use ferrovirt_plan::render;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const NAMESPACE: &str = "team";
/// Far more than anything here takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

struct Cluster {
    _data: tempfile::TempDir,
    stop: tokio::sync::watch::Sender<bool>,
    server: JoinHandle<()>,
    controllers: Option<JoinHandle<()>>,
    controller: Client,
    handler: Client,
    admin: Client,
}

async fn client(kubeconfig: &str) -> Client {
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn config() -> ClusterConfig {
    ClusterConfig { use_emulation: true, ..ClusterConfig::default() }
}

impl Cluster {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Server::open(Config {
            data_dir: data.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            agent_socket: data.path().join("agent.sock"),
            scc_admission: Default::default(),
        })
        .await
        .unwrap();
        server.ensure(&render::install(&config())).await.unwrap();
        server.ensure(&render::install::embedded(&config())).await.unwrap();
        let admin = client(&server.admin_kubeconfig()).await;
        let account = async |name: &str| {
            client(&server.kubeconfig_for_service_account("kubevirt", name).await.unwrap()).await
        };
        let controller = account("kubevirt-controller").await;
        let handler = account("kubevirt-handler").await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let server = tokio::spawn(server.serve(stopped));
        let mut cluster = Self { _data: data, stop, server, controllers: None, controller, handler, admin };
        let namespace = Namespace { metadata: named(NAMESPACE), ..Namespace::default() };
        let namespaces: Api<Namespace> = Api::all(cluster.admin.clone());
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        cluster.add_node().await;
        cluster.start_controllers();
        cluster
    }

    fn start_controllers(&mut self) {
        let client = self.controller.clone();
        self.controllers = Some(tokio::spawn(async move {
            let Err(error) = ferrovirt_control::run(client, config()).await;
            panic!("the controllers ended: {error}");
        }));
    }

    async fn stop_controllers(&mut self) {
        if let Some(task) = self.controllers.take() {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled(), "the controllers ran until now");
        }
    }

    async fn end(mut self) {
        self.stop_controllers().await;
        self.stop.send_replace(true);
        self.server.await.unwrap();
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    async fn add_node(&self) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "node", "labels": {
                "kubevirt.io/schedulable": "true", "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
            }},
            "status": {
                "capacity": {"cpu": "8", "memory": "16Gi", "pods": "100", "ephemeral-storage": "100Gi",
                    "devices.kubevirt.io/kvm": "100"},
                "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "100", "ephemeral-storage": "100Gi",
                    "devices.kubevirt.io/kvm": "100"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Test"}],
            },
        }))
        .unwrap();
        let nodes: Api<Node> = Api::all(self.admin.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }

    async fn create_vm(&self, strategy: &str) -> VirtualMachine {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "m"},
            "spec": {"runStrategy": strategy, "template": {
                "metadata": {"labels": {"app": "x"}},
                "spec": {"terminationGracePeriodSeconds": 0, "domain": {
                    "memory": {"guest": "64Mi"},
                    "devices": {"disks": [{"name": "scratch", "disk": {"bus": "virtio"}}]},
                }, "volumes": [{"name": "scratch", "emptyDisk": {"capacity": "1Mi"}}]},
            }},
        }))
        .unwrap();
        self.api().create(&PostParams::default(), &vm).await.unwrap()
    }

    /// The launcher pod, once it is there.
    async fn pod(&self) -> Pod {
        let pods: Api<Pod> = self.api();
        let launchers = ListParams::default().labels("kubevirt.io=virt-launcher");
        eventually("a launcher pod", async || {
            let list = pods.list(&launchers).await.unwrap().items;
            assert!(list.len() <= 1, "two launcher pods");
            list.into_iter().next()
        })
        .await
    }

    /// Plays the kubelet.
    async fn pod_status(&self, pod: &Pod, phase: &str, state: Value) {
        let ready = if phase == "Running" { "True" } else { "False" };
        let status = json!({"status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": ready}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{
                "name": "compute", "image": "i", "imageID": "", "ready": phase == "Running", "restartCount": 0,
                "state": state,
            }],
        }});
        let pods: Api<Pod> = self.api();
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// Plays the node agent, as itself.
    async fn report(&self, phase: &str) {
        let vmis: Api<VirtualMachineInstance> = Api::namespaced(self.handler.clone(), NAMESPACE);
        let vmi = vmis.get("m").await.unwrap();
        let mut transitions = vmi.status.map(|s| s.phase_transition_timestamps).unwrap_or_default();
        transitions.push(serde_json::from_value(json!({"phase": phase})).unwrap());
        let status = json!({"status": {"phase": phase, "phaseTransitionTimestamps": transitions}});
        vmis.patch("m", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn wait<K>(&self, what: &str, holds: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = self.api();
        eventually(what, async || api.get_opt("m").await.unwrap().filter(|object| holds(object))).await
    }

    async fn wait_phase(&self, phase: &str) -> VirtualMachineInstance {
        self.wait(phase, |vmi: &VirtualMachineInstance| {
            vmi.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase)
        })
        .await
    }

    async fn boot(&self) -> Pod {
        let pod = self.pod().await;
        self.wait_phase("Scheduling").await;
        self.pod_status(&pod, "Running", json!({"running": {}})).await;
        self.wait_phase("Scheduled").await;
        self.report("Running").await;
        self.wait("a running machine", |vm: &VirtualMachine| printable(vm) == "Running").await;
        self.pod().await
    }

    async fn reasons(&self) -> Vec<String> {
        let events: Api<Event> = self.api();
        events.list(&ListParams::default()).await.unwrap().into_iter().filter_map(|e| e.reason).collect()
    }
}

fn named(name: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: Some(name.into()),
        ..Default::default()
    }
}

fn printable(vm: &VirtualMachine) -> &str {
    vm.status.as_ref().and_then(|s| s.printable_status.as_deref()).unwrap_or_default()
}

/// Looks again and again until there is an answer.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("there never was {what}"))
}

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
