//! What the cluster is configured to do, read from the KubeVirt object.

pub mod pod_network;
pub mod verbosity;

use self::pod_network::PodNetwork;
use crate::user_namespace::{UnknownUserNamespaces, UserNamespaces};
use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_model::{Profile, profile::UnknownProfile};
use ferrovirt_privilege::Surroundings;
use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

/// Namespace of the controllers, their accounts and the KubeVirt object.
pub const NAMESPACE: &str = "kubevirt";
/// Name of the KubeVirt object.
pub const KUBEVIRT: &str = "kubevirt";

/// User and group of the launcher's image, to whom upstream's disks in images belong.
pub const LAUNCHER_USER: u32 = 107;
/// The largest number of a group that Kubernetes takes.
const MOST_GROUP: u32 = i32::MAX.unsigned_abs();

/// The configuration that rendering depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// How much privilege launcher pods get (`spec.configuration.privilegeProfile`).
    pub profile: Profile,
    /// Whose rights count for what launcher pods get (`spec.configuration.launcherRights`); the profile's choice when
    /// absent.
    pub launcher_rights: Option<LauncherRights>,
    /// Software emulation is allowed, and /dev/kvm not asked for (`developerConfiguration.useEmulation`).
    pub use_emulation: bool,
    /// Image of the launcher.
    pub launcher_image: String,
    /// Processors of guests for each processor that is requested (`developerConfiguration.cpuAllocationRatio`).
    pub cpu_allocation_ratio: u64,
    /// Percentage of its memory that a guest may have been promised (`developerConfiguration.memoryOvercommit`).
    pub memory_overcommit: u64,
    /// Node labels that every launcher pod requires (`developerConfiguration.nodeSelectors`).
    pub node_selectors: BTreeMap<String, String>,
    /// Whether launcher pods carry an SELinux label (`selinux.labelPods`).
    pub label_pods: LabelPods,
    /// The pod network of nodes that Ferrovirt itself runs (`podNetwork`).
    pub pod_network: PodNetwork,
    /// `fsGroup` of launcher pods with claims on a cluster (`volumeGroup`); the documented profile has one of its own.
    pub volume_group: Option<u32>,
    /// Which launcher pods on a cluster have a user namespace of their own (`userNamespaces`).
    pub user_namespaces: UserNamespaces,
    /// The API server keeps them, and every node that takes machines gives pods one. The controllers find it out.
    pub cluster_has_user_namespaces: bool,
    /// What lies under the machines. Anyone who starts the controllers knows it; it is no field of the KubeVirt object.
    pub world: World,
    /// The cluster mounts no container images, so that containers give out what is in them. The controllers find it out.
    pub serves_images: bool,
    /// User of these containers, whose images may have root's: the launcher's. None where constraints give pods their users.
    pub image_user: Option<u32>,
}

/// What lies under the machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum World {
    /// One machine with `ferrovirt up`: our own node agent runs the pods.
    #[default]
    Machine,
    /// A cluster, whose kubelets run the pods.
    Cluster,
}

/// When launcher pods carry an SELinux label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelPods {
    /// When a node of the cluster has SELinux and the policy of launcher pods: elsewhere nothing would enforce it.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A value of `labelPods` that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is unknown: use Auto, Always or Never")]
pub struct UnknownLabelPods(String);

impl FromStr for LabelPods {
    type Err = UnknownLabelPods;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "Auto" => Ok(Self::Auto),
            "Always" => Ok(Self::Always),
            "Never" => Ok(Self::Never),
            other => Err(UnknownLabelPods(other.to_owned())),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            launcher_rights: None,
            use_emulation: false,
            launcher_image: concat!("ferrovirt/virt-launcher:", env!("CARGO_PKG_VERSION")).to_owned(),
            // Both are upstream's defaults.
            cpu_allocation_ratio: 10,
            memory_overcommit: 100,
            node_selectors: BTreeMap::new(),
            label_pods: LabelPods::default(),
            pod_network: PodNetwork::default(),
            volume_group: None,
            user_namespaces: UserNamespaces::default(),
            cluster_has_user_namespaces: false,
            world: World::default(),
            serves_images: false,
            image_user: None,
        }
    }
}

/// Whose rights count for what a launcher pod gets beyond what anybody's pod may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LauncherRights {
    /// Those of the one who makes or changes the machine, or of the service account that it names.
    Requester,
    /// The controller's: it lends them to everybody who may make machines.
    Controller,
}

/// A KubeVirt object that cannot be acted on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The profile is unknown.
    #[error("spec.configuration.privilegeProfile of the KubeVirt object")]
    Profile(#[source] UnknownProfile),
    /// The value of `labelPods` is unknown.
    #[error("spec.configuration.selinux.labelPods of the KubeVirt object")]
    LabelPods(#[source] UnknownLabelPods),
    /// The value of `userNamespaces` is unknown.
    #[error("spec.configuration.userNamespaces of the KubeVirt object")]
    UserNamespaces(#[source] UnknownUserNamespaces),
    /// Our own node agent gives pods none.
    #[error(
        "spec.configuration.userNamespaces of the KubeVirt object is \"Always\", and under `ferrovirt up` no pod has a user \
         namespace of its own: use \"Auto\" or \"Never\""
    )]
    NoUserNamespaces,
    /// Neither the requester nor the controller.
    #[error(
        "spec.configuration.launcherRights of the KubeVirt object is {0:?}: use \"Requester\" or \"Controller\""
    )]
    LauncherRights(String),
    /// A type that the privilege table does not know.
    #[error(
        "spec.configuration.selinuxLauncherType of the KubeVirt object is not supported: the type of launcher pods is \
         part of the privilege profile; choose spec.configuration.privilegeProfile instead"
    )]
    SelinuxType,
    /// A rule of the pod network that does not exist.
    #[error(transparent)]
    PodNetwork(#[from] pod_network::Error),
    /// No group, or root's.
    #[error(
        "spec.configuration.volumeGroup of the KubeVirt object is {0}: use the number of a group from 1 to 2147483647"
    )]
    VolumeGroup(i64),
    /// A number that is divided by is not positive.
    #[error(
        "spec.configuration.developerConfiguration.{field} of the KubeVirt object is {value}: use a positive number"
    )]
    NotPositive {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
}

impl ClusterConfig {
    /// Reads the configuration; what is absent has its default.
    ///
    /// # Errors
    /// An unknown profile, and numbers that cannot be divided by.
    pub fn from_kubevirt(object: &KubeVirt) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let Some(given) = &object.spec.configuration else { return Ok(config) };
        if let Some(profile) = &given.privilege_profile {
            config.profile = profile.parse().map_err(ConfigError::Profile)?;
        }
        config.launcher_rights = match given.launcher_rights.as_deref() {
            None => None,
            Some("Requester") => Some(LauncherRights::Requester),
            Some("Controller") => Some(LauncherRights::Controller),
            Some(other) => return Err(ConfigError::LauncherRights(other.to_owned())),
        };
        if given.selinux_launcher_type.as_ref().is_some_and(|name| !name.is_empty()) {
            return Err(ConfigError::SelinuxType);
        }
        if let Some(text) = given.selinux.as_ref().and_then(|selinux| selinux.label_pods.as_ref()) {
            config.label_pods = text.parse().map_err(ConfigError::LabelPods)?;
        }
        if let Some(text) = &given.user_namespaces {
            config.user_namespaces = text.parse().map_err(ConfigError::UserNamespaces)?;
        }
        if let Some(network) = &given.pod_network {
            config.pod_network = PodNetwork::read(network)?;
        }
        if let Some(group) = given.volume_group {
            let known = u32::try_from(group).ok().filter(|group| (1..=MOST_GROUP).contains(group));
            config.volume_group = Some(known.ok_or(ConfigError::VolumeGroup(group))?);
        }
        if let Some(developer) = &given.developer_configuration {
            config.use_emulation = developer.use_emulation.unwrap_or_default();
            config.node_selectors = developer.node_selectors.clone();
            if let Some(value) = developer.cpu_allocation_ratio {
                config.cpu_allocation_ratio = positive("cpuAllocationRatio", value)?;
            }
            if let Some(value) = developer.memory_overcommit {
                config.memory_overcommit = positive("memoryOvercommit", value)?;
            }
        }
        Ok(config)
    }

    /// The configuration in force: the KubeVirt object's, where there is one. What is no field of it stays as `defaults`
    /// have it.
    ///
    /// # Errors
    /// As [`Self::from_kubevirt`], with what is wrong, for a person.
    pub fn in_force(object: Option<&KubeVirt>, defaults: &Self) -> Result<Self, String> {
        let Some(object) = object else { return Ok(defaults.clone()) };
        let read = Self::from_kubevirt(object).map_err(|error| chain(&error))?;
        if defaults.world == World::Machine && read.user_namespaces == UserNamespaces::Always {
            return Err(ConfigError::NoUserNamespaces.to_string());
        }
        Ok(Self {
            launcher_image: defaults.launcher_image.clone(),
            world: defaults.world,
            cluster_has_user_namespaces: defaults.cluster_has_user_namespaces,
            serves_images: defaults.serves_images,
            image_user: defaults.image_user,
            ..read
        })
    }

    /// What holds on a cluster without a KubeVirt object. `volume_group` is absent where constraints give pods their users and
    /// groups.
    pub fn on_cluster(profile: Profile, launcher_image: String, volume_group: Option<u32>) -> Self {
        let image_user = volume_group.map(|_| LAUNCHER_USER);
        Self { profile, launcher_image, volume_group, image_user, world: World::Cluster, ..Self::default() }
    }

    /// Whose rights count. The documents lend the controller's to everybody, so the documented profile does unless it
    /// says otherwise.
    pub fn rights(&self) -> LauncherRights {
        self.launcher_rights.unwrap_or(match self.profile {
            Profile::Minimal => LauncherRights::Requester,
            Profile::Documented => LauncherRights::Controller,
        })
    }

    /// What the rights of a machine depend on beside the machine.
    pub fn surroundings(&self, block_claims: &BTreeSet<String>) -> Surroundings {
        Surroundings {
            emulation: self.use_emulation,
            block_claims: block_claims.clone(),
            label: None,
            // The machine has a say: see [`crate::user_namespace`].
            user_namespace: false,
            slot: self.world == World::Cluster,
            volume_group: self.volume_group.filter(|_| self.world == World::Cluster),
            image_helper: (self.serves_images && self.world == World::Cluster)
                .then(|| self.launcher_image.clone()),
        }
    }
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn positive(field: &'static str, value: i32) -> Result<u64, ConfigError> {
    match u64::try_from(value) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(ConfigError::NotPositive { field, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(spec: serde_json::Value) -> Result<ClusterConfig, ConfigError> {
        let object = json!({"metadata": {"name": "kubevirt"}, "spec": spec});
        ClusterConfig::from_kubevirt(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_default_is_minimal() {
        assert_eq!(read(json!({})).unwrap(), ClusterConfig::default());
        assert_eq!(ClusterConfig::default().profile, Profile::Minimal);
    }

    #[test]
    fn fields_are_read() {
        let config = read(json!({"configuration": {
            "privilegeProfile": "documented",
            "developerConfiguration": {"useEmulation": true, "cpuAllocationRatio": 4},
            "selinux": {"labelPods": "Never"},
            "volumeGroup": 107,
        }}))
        .unwrap();
        assert_eq!(config.label_pods, LabelPods::Never);
        let group = |world| {
            let config = ClusterConfig { world, ..config.clone() };
            config.surroundings(&BTreeSet::new()).volume_group
        };
        assert_eq!((group(World::Cluster), group(World::Machine)), (Some(107), None));
        assert_eq!(
            (config.profile, config.use_emulation, config.cpu_allocation_ratio),
            (Profile::Documented, true, 4)
        );
    }

    #[test]
    fn the_profile_chooses_whose_rights_count_unless_the_switch_does() {
        for (profile, rights, want) in [
            ("minimal", None, LauncherRights::Requester),
            ("documented", None, LauncherRights::Controller),
            ("minimal", Some("Controller"), LauncherRights::Controller),
            ("documented", Some("Requester"), LauncherRights::Requester),
        ] {
            let mut configuration = json!({"privilegeProfile": profile});
            if let Some(rights) = rights {
                configuration["launcherRights"] = rights.into();
            }
            assert_eq!(read(json!({"configuration": configuration})).unwrap().rights(), want);
        }
        let error = read(json!({"configuration": {"launcherRights": "Everybody"}})).unwrap_err();
        assert!(error.to_string().contains("Requester"), "{error}");
    }

    #[test]
    fn the_object_says_everything_but_image_and_world() {
        let defaults = ClusterConfig {
            profile: Profile::Documented,
            use_emulation: true,
            launcher_image: "registry.example/launcher:1".to_owned(),
            world: World::Cluster,
            ..ClusterConfig::default()
        };
        let object = |configuration| {
            let object = json!({"metadata": {"name": "kubevirt"}, "spec": {"configuration": configuration}});
            serde_json::from_value::<KubeVirt>(object).unwrap()
        };
        assert_eq!(ClusterConfig::in_force(None, &defaults).unwrap(), defaults);
        let read = ClusterConfig::in_force(Some(&object(json!({}))), &defaults).unwrap();
        let wanted = ClusterConfig { profile: Profile::Minimal, use_emulation: false, ..defaults.clone() };
        assert_eq!(read, wanted);
        let bad = ClusterConfig::in_force(Some(&object(json!({"privilegeProfile": "huge"}))), &defaults);
        assert!(bad.unwrap_err().contains("huge"));
    }

    #[test]
    fn bad_values_are_refused() {
        assert!(matches!(
            read(json!({"configuration": {"privilegeProfile": "huge"}})),
            Err(ConfigError::Profile(_))
        ));
        assert!(matches!(
            read(json!({"configuration": {"selinux": {"labelPods": "Sometimes"}}})),
            Err(ConfigError::LabelPods(_))
        ));
        for group in [0, -1, 1_i64 << 31] {
            let error = read(json!({"configuration": {"volumeGroup": group}})).unwrap_err();
            assert_eq!(error, ConfigError::VolumeGroup(group));
        }
        let config = json!({"configuration": {"developerConfiguration": {"cpuAllocationRatio": 0}}});
        assert_eq!(
            read(config).unwrap_err().to_string(),
            "spec.configuration.developerConfiguration.cpuAllocationRatio of the KubeVirt object is 0: use a positive number"
        );
    }
}
