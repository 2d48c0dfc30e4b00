//! Everything that is applied to a cluster: `deploy/ferrovirt.yaml`, and what `ferrovirt manifests` prints.
//!
//! The KubeVirt object is not among it: kubectl refuses an object in the same file as its definition. The controller makes
//! it where there is none.

use super::{
    api, applicable, controller, handler, install, machine_rights, own_node, own_secrets, places, rbac,
    replicas, run_alone, scc_webhook::MANAGED_BY, uninstall,
};
use crate::config::{ClusterConfig, World};
use ferrovirt_kubernetes::object;
use ferrovirt_model::Profile;
use ferrovirt_privilege::{Subject, cluster_grants};
use serde_json::{Value, json};

/// Where images come from unless another place is named: this machine. Nobody has published any, and a name without a host
/// would be looked for where anybody can take it.
pub const IMAGE_PREFIX: &str = "localhost/ferrovirt";

/// The group by which launchers use claims where nobody gives them one: upstream's, so that its volumes can be used.
pub const VOLUME_GROUP: u32 = 107;

/// What kind of cluster it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Platform {
    /// Without SCCs, or with our webhook, whose manifests are apart.
    #[default]
    Kubernetes,
    /// With SCCs of its own.
    Okd,
}

/// What differs between installations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The profile that the controller writes into the KubeVirt object that it makes.
    pub profile: Profile,
    /// Registry and path before the images' names, without a slash at the end.
    pub image_prefix: String,
    /// The cluster.
    pub platform: Platform,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            image_prefix: IMAGE_PREFIX.to_owned(),
            platform: Platform::default(),
        }
    }
}

/// The image of a program of this version.
pub fn image(prefix: &str, program: &str) -> String {
    format!("{prefix}/{program}:{}", env!("CARGO_PKG_VERSION"))
}

/// The manifests in the order of their application. The policy of [`machine_rights`] is the first: definitions and roles, without
/// which nobody stores a machine, come after it, so that no record is older than what looks at records.
pub fn cluster(options: &Options) -> Vec<Value> {
    let Options { profile, image_prefix, platform } = options;
    let config = ClusterConfig { profile: *profile, world: World::Cluster, ..ClusterConfig::default() };
    let wanted = |manifest: &Value| match object::kind(manifest) {
        "KubeVirt" => false,
        "SecurityContextConstraints" => *platform == Platform::Okd,
        _ => true,
    };
    let mut out = Vec::from(machine_rights::policy());
    out.extend(install(&config).into_iter().filter(wanted));
    for namespace in out.iter_mut().filter(|manifest| object::kind(manifest) == "Namespace") {
        // The handler's pods see directories of the node. Everything else there would pass as restricted.
        let labels = json!({"kubevirt.io": "", "pod-security.kubernetes.io/enforce": "privileged"});
        if let Some(old) = namespace.pointer_mut("/metadata/labels") {
            *old = labels;
        }
    }
    let image = |program| image(image_prefix, program);
    // Where there are SCCs, a namespace's groups are its pods'.
    let group = (*platform == Platform::Kubernetes).then_some(VOLUME_GROUP);
    out.push(install::account(api::NAME));
    out.extend(rbac::roles(&cluster_grants(*profile), Subject::MachineApi));
    out.extend(places::policy());
    out.extend(own_node::policy());
    out.extend(run_alone::policy());
    out.extend(uninstall::policy());
    out.extend(own_secrets::policy());
    out.extend([
        controller::lease(),
        controller::deployment(&image("ferrovirt"), &image("virt-launcher"), *profile, group),
        replicas::disruption_budget(controller::NAME),
        handler::daemon_set(&image(handler::NAME), &image("virt-launcher"), *profile, group),
    ]);
    out.extend(api::parts(&image("ferrovirt")));
    // Once they are registered, machines wait for who answers.
    out.extend(api::configurations());
    out.extend(api::services());
    for manifest in &mut out {
        // Upstream's objects have the same names.
        if let Some(metadata) = manifest.pointer_mut("/metadata").and_then(Value::as_object_mut)
            && let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()
        {
            labels.insert(MANAGED_BY.0.to_owned(), json!(MANAGED_BY.1));
        }
    }
    applicable(out)
}
