//! Every watch of the controllers loses the revision that it knew, one at a time and all at once; machines start and stop
//! afterwards.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../watch/tests/common/gate.rs"]
mod gate;

use common::{Cluster, client, eventually};
use ferrovirt_api::kubevirt::{VirtualMachine, VirtualMachineInstance};
use gate::Gate;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

/// The kinds that the controllers follow, each over a connection of its own.
const WATCHES: usize = 6;

/// A machine starts, is deleted, and nothing is left of it.
async fn a_machine_starts_and_stops(cluster: &Cluster) {
    cluster.create_vm("Always").await;
    let pod = cluster.boot().await;
    let (vms, vmis): (Api<VirtualMachine>, Api<VirtualMachineInstance>) = (cluster.api(), cluster.api());
    let pods: Api<Pod> = cluster.api();
    vms.delete("m", &DeleteParams::default()).await.unwrap();
    eventually("a pod that is deleted", async || {
        pods.get_opt(&pod.name_any()).await.unwrap().filter(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    cluster.report("Succeeded").await;
    let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    cluster.pod_status(&pod, "Succeeded", ended).await;
    pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("nothing", async || {
        let (vm, vmi) = (vms.get_opt("m").await.unwrap(), vmis.get_opt("m").await.unwrap());
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        (vm.is_none() && vmi.is_none() && pods.is_empty()).then_some(())
    })
    .await;
}

/// What the controllers follow and does not change by itself.
const QUIET: [&str; WATCHES] = [
    "/api/v1/nodes/node",
    "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt",
    "/api/v1/namespaces/quiet/pods/quiet",
    "/api/v1/namespaces/quiet/persistentvolumeclaims/quiet",
    "/apis/kubevirt.io/v1/namespaces/quiet/virtualmachines/quiet",
    "/apis/kubevirt.io/v1/namespaces/quiet/virtualmachineinstances/quiet",
];

/// Makes those of them that are not there.
async fn make_quiet(cluster: &Cluster) {
    let domain = json!({"domain": {"memory": {"guest": "64Mi"}, "devices": {}}});
    for (path, mut object) in [
        ("/api/v1/namespaces", json!({})),
        ("/api/v1/namespaces/quiet/pods", json!({"spec": {"containers": [{"name": "c", "image": "i"}]}})),
        (
            "/api/v1/namespaces/quiet/persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}),
        ),
        (
            "/apis/kubevirt.io/v1/namespaces/quiet/virtualmachines",
            json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
                "spec": {"runStrategy": "Halted", "template": {"spec": domain}}}),
        ),
        (
            "/apis/kubevirt.io/v1/namespaces/quiet/virtualmachineinstances",
            json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "spec": domain}),
        ),
    ] {
        object["metadata"] = json!({"name": "quiet"});
        let request = http::Request::post(path).header("content-type", "application/json");
        let made = cluster.admin.request::<Value>(request.body(object.to_string().into_bytes()).unwrap());
        made.await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_start_and_stop_after_any_watch_of_the_controllers_and_all_of_them_have_expired() {
    let mut cluster = Cluster::start_without_controllers().await;
    let gate = Gate::before(cluster.address).await;
    cluster.controller = client(&gate.through(&cluster.controller_kubeconfig)).await;
    cluster.start_controllers();
    make_quiet(&cluster).await;
    a_machine_starts_and_stops(&cluster).await;

    let connections = gate.connections();
    assert!(connections.len() >= WATCHES, "{connections:?}");
    let mut cut = 0;
    for connection in connections {
        let expired = gate.expire(&[connection], &cluster.admin, &QUIET).await;
        // The others carry requests and may have ended by themselves.
        if expired > 0 {
            a_machine_starts_and_stops(&cluster).await;
        }
        cut += expired;
    }
    assert!(cut >= WATCHES, "{cut}");
    eventually("watches that were sent back to list again", async || {
        (gate::expired(&cluster.admin).await >= WATCHES).then_some(())
    })
    .await;
    gate.expire(&gate.connections(), &cluster.admin, &QUIET).await;
    a_machine_starts_and_stops(&cluster).await;
    cluster.end().await;
}
