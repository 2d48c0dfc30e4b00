//! Objects of `kubevirt.io`, as the cluster has them.

use ferrovirt_machines::{CONFIGURATIONS, GROUP, INSTANCES};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};

/// Requests for a resource of ours in a namespace.
pub(crate) fn api(client: &Client, resource: &str, namespace: &str) -> Api<DynamicObject> {
    let kind = match resource {
        CONFIGURATIONS => "KubeVirt",
        INSTANCES => "VirtualMachineInstance",
        _ => "VirtualMachine",
    };
    let kind = GroupVersionKind::gvk(GROUP, "v1", kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, resource))
}
