//! `kubevirt-controller` on a cluster: what is applied for its pods beside its account and roles.

use crate::config::NAMESPACE;
use serde_json::{Value, json};

/// Account, roles, Deployment and Lease.
pub const NAME: &str = "kubevirt-controller";

/// The Lease that says which replica works. It is made here so that the account needs no right to make any; the replicas
/// fill it.
pub fn lease() -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
    })
}
