//! From grants to what is applied: pods, SCCs, roles, SELinux modules, seccomp profiles, manifests.

pub mod api;
pub mod calls;
pub mod capabilities;
pub mod cil;
pub mod cluster;
pub mod controller;
pub mod handler;
pub(crate) mod images;
pub mod install;
pub mod machine_rights;
pub mod order;
mod overhead;
pub mod own_node;
pub mod own_secrets;
pub mod places;
pub mod pod;
mod pod_meta;
mod pod_resources;
mod pod_volumes;
mod policy;
pub mod rbac;
mod replicas;
pub mod run_alone;
pub mod scc;
pub mod scc_crd;
pub mod scc_webhook;
pub mod seccomp;
pub mod seed;
pub mod uninstall;

pub use cluster::cluster;
pub use install::install;
pub use overhead::overhead;
pub use pod::{pod, pod_in, pod_name, pod_with_claims};

use serde_json::Value;

/// Documents that a client-side `kubectl apply` sends as they are: it drops fields that are null, and SCCs have required
/// fields that may be null. An empty list, and priority 0, mean the same there.
pub fn applicable(mut documents: Vec<Value>) -> Vec<Value> {
    for document in &mut documents {
        let Value::Object(fields) = document else { continue };
        if let Some(priority) = fields.get_mut("priority").filter(|value| value.is_null()) {
            *priority = Value::from(0);
        }
        for list in ["allowedCapabilities", "defaultAddCapabilities", "requiredDropCapabilities"] {
            if let Some(value) = fields.get_mut(list).filter(|value| value.is_null()) {
                *value = Value::Array(Vec::new());
            }
        }
    }
    documents
}

#[cfg(test)]
mod tests;
