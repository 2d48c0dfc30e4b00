//! Several controllers of one cluster: one of them works by the Lease, and nothing depends on that.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Cluster, NAMESPACE, config, eventually};
use ferrovirt_api::kubevirt::{VirtualMachine, VirtualMachineInstance};
use ferrovirt_control::lease::{Election, LEASE, Lost, Standing, Timing};
use ferrovirt_plan::render::controller;
use ferrovirt_privilege::{
    Scenario,
    scenario::{registered, verbs, witnessed},
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;

/// Nobody takes over by waiting in these tests.
const FOR_EVER: Timing =
    Timing { seconds: 300, deadline: Duration::from_secs(200), pause: Duration::from_millis(20) };

async fn with_lease() -> Cluster {
    let cluster = Cluster::start_without_controllers().await;
    let lease: Lease = serde_json::from_value(controller::lease()).unwrap();
    leases(&cluster).create(&PostParams::default(), &lease).await.unwrap();
    cluster
}

fn leases(cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.admin.clone(), "kubevirt")
}

async fn holder(cluster: &Cluster) -> String {
    leases(cluster).get(LEASE).await.unwrap().spec.unwrap_or_default().holder_identity.unwrap_or_default()
}

/// A replica with the account of the controllers.
fn replica(cluster: &Cluster, name: &str, timing: Timing) -> (Election, watch::Receiver<Standing>) {
    let (standing, seen) = watch::channel(Standing::Unknown);
    (Election::new(cluster.controller.clone(), name.to_owned(), timing, standing), seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_work_at_once_make_one_instance_and_one_pod_of_each_machine() {
    let cluster = Cluster::start_without_controllers().await;
    let both = [cluster.controller.clone(), cluster.acting_as("admin-2").await];
    // The second one's rights: it acts as another user, so that it shows who made what.
    let binding = json!({
        "metadata": {"name": "second"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kubevirt-controller"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "admin-2"}],
    });
    let bindings: Api<k8s_openapi::api::rbac::v1::ClusterRoleBinding> = Api::all(cluster.admin.clone());
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let running: Vec<_> = both
        .into_iter()
        .map(|client| {
            tokio::spawn(async move {
                let Err(error) = ferrovirt_control::run(client, config()).await;
                panic!("the controllers ended: {error}");
            })
        })
        .collect();

    let vms: Api<VirtualMachine> = cluster.api();
    let names: Vec<String> = (0..12).map(|number| format!("m{number}")).collect();
    for name in &names {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"runStrategy": "Always", "template": {"spec": {
                "domain": {"memory": {"guest": "64Mi"}, "devices": {}},
            }}},
        }))
        .unwrap();
        vms.create(&PostParams::default(), &vm).await.unwrap();
    }
    let pods: Api<Pod> = cluster.api();
    let vmis: Api<VirtualMachineInstance> = cluster.api();
    let launchers = ListParams::default().labels("kubevirt.io=virt-launcher");
    let all = eventually("an instance that is scheduled of each machine", async || {
        let vmis = vmis.list(&ListParams::default()).await.unwrap().items;
        let scheduling = |vmi: &VirtualMachineInstance| {
            vmi.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Scheduling"))
        };
        (vmis.len() == names.len() && vmis.iter().all(scheduling)).then_some(vmis)
    })
    .await;
    // What neither has made by now, nobody makes.
    for task in running {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled(), "a controller ran until now");
    }
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods.list(&launchers).await.unwrap() {
        *made.entry(pod.labels()["kubevirt.io/created-by"].clone()).or_default() += 1;
    }
    let wanted = all.iter().map(|vmi| (vmi.uid().unwrap(), 1)).collect();
    assert_eq!(made, wanted, "a pod for each instance, and one alone");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_is_followed_by_another_and_knows_it_when_it_comes_back() {
    let cluster = with_lease().await;
    let short = Timing { seconds: 1, ..FOR_EVER };
    let (mut first, _) = replica(&cluster, "first", short);
    first.acquire().await;
    assert_eq!(holder(&cluster).await, "first");
    let (mut second, mut seen) = replica(&cluster, "second", short);
    let waiting = tokio::spawn(async move {
        second.acquire().await;
        second
    });
    // As long as the first one keeps the Lease, the other one waits.
    let keeping = async {
        seen.wait_for(|standing| *standing == Standing::Waiting).await.unwrap();
        let mut versions = std::collections::BTreeSet::new();
        eventually("renewals", async || {
            let lease = leases(&cluster).get(LEASE).await.unwrap();
            assert_eq!(lease.spec.as_ref().unwrap().holder_identity.as_deref(), Some("first"));
            versions.insert(lease.resource_version());
            (versions.len() > 5).then_some(())
        })
        .await;
    };
    tokio::select! {
        lost = first.keep() => panic!("{lost}"),
        () = keeping => {}
    }
    // Killed: nobody renews it any more.
    let _second = waiting.await.unwrap();
    let lease = leases(&cluster).get(LEASE).await.unwrap().spec.unwrap();
    assert_eq!((lease.holder_identity.as_deref(), lease.lease_transitions), (Some("second"), Some(2)));
    let long = Timing { seconds: 300, ..FOR_EVER };
    let (mut third, mut seen) = replica(&cluster, "third", long);
    let lost = first.keep().await;
    // It had expired by itself meanwhile, or sees the other one.
    assert!(matches!(&lost, Lost::Taken(holder) if holder == "second"), "{lost}");
    // What nobody keeps is taken over by anyone who waits.
    third.acquire().await;
    assert_eq!(*seen.borrow_and_update(), Standing::Leading);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_given_back_is_taken_at_once() {
    let cluster = with_lease().await;
    let (mut first, _) = replica(&cluster, "first", FOR_EVER);
    let (mut second, mut seen) = replica(&cluster, "second", FOR_EVER);
    first.acquire().await;
    let waiting = tokio::spawn(async move { second.acquire().await });
    seen.wait_for(|standing| *standing == Standing::Waiting).await.unwrap();
    first.release().await;
    // Long before its time is over: that is five minutes.
    waiting.await.unwrap();
    assert_eq!(holder(&cluster).await, "second");
    // Giving back what another one has changes nothing.
    first.release().await;
    assert_eq!(holder(&cluster).await, "second");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_verb_of_the_lease_is_missed() {
    let cluster = with_lease().await;
    let roles: Api<Role> = Api::namespaced(cluster.admin.clone(), "kubevirt");
    let full = roles.get("kubevirt-controller").await.unwrap();
    let mut ran = Vec::new();
    for (group, resource, verb) in
        registered(Scenario::Replicas).map(|name| witnessed(name).unwrap()).flat_map(verbs)
    {
        let mut lesser = roles.get("kubevirt-controller").await.unwrap();
        for rule in lesser.rules.iter_mut().flatten() {
            if rule.resources.iter().flatten().any(|one| one == resource) {
                rule.verbs.retain(|one| one != verb);
            }
        }
        assert_ne!(lesser.rules, full.rules, "the role has {verb}");
        roles.replace("kubevirt-controller", &PostParams::default(), &lesser).await.unwrap();
        let hasty = Timing { seconds: 300, deadline: Duration::from_secs(1), pause: FOR_EVER.pause };
        let (mut replica, _) = replica(&cluster, verb, hasty);
        let Lost::Expired(why) = replica.keep().await else { panic!("it could be read and written") };
        let expected = format!("cannot {verb} resource \"{resource}\" in API group \"{group}\"");
        assert!(why.contains(&expected), "{why}");
        let rules = json!({"rules": full.rules});
        roles.patch("kubevirt-controller", &PatchParams::default(), &Patch::Merge(rules)).await.unwrap();
        ran.push(verb);
    }
    assert_eq!(ran, ["get", "update"]);
    // Neighbours: another Lease, another namespace, another verb.
    for (namespace, name) in [("kubevirt", "other"), (NAMESPACE, LEASE)] {
        let leases: Api<Lease> = Api::namespaced(cluster.controller.clone(), namespace);
        let error = leases.get(name).await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 403), "{error}");
    }
    let leases: Api<Lease> = Api::namespaced(cluster.controller.clone(), "kubevirt");
    let error = leases.delete(LEASE, &Default::default()).await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 403), "{error}");
    cluster.end().await;
}
