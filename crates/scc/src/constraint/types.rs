//! The SecurityContextConstraints object as the API carries it.
//!
//! Booleans that are absent are false and absent lists are empty. Only the fields that have three states are
//! `Option`s: `priority`, the two about privilege escalation, and `volumes`, whose absence means something else
//! than an empty list when an object is stored.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `null` counts as absent.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// The schema wants these keys to be present, with `null` for "nothing".
fn null_if_empty<S: Serializer>(list: &Vec<String>, to: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { to.serialize_none() } else { list.serialize(to) }
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// What a pod must look like for its author to be let in. Cluster-scoped, no status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContextConstraints {
    /// Always `security.openshift.io/v1`.
    #[serde(default = "api_version", deserialize_with = "ignore_version")]
    pub api_version: String,
    /// Always `SecurityContextConstraints`.
    #[serde(default = "kind", deserialize_with = "ignore_kind")]
    pub kind: String,
    /// Name and the rest of the usual metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Higher is tried first; absent is 0.
    #[serde(default)]
    pub priority: Option<i32>,
    /// `privileged: true` is permitted.
    #[serde(default, deserialize_with = "or_default")]
    pub allow_privileged_container: bool,
    /// `false` forces `allowPrivilegeEscalation: false`; absent behaves like `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_privilege_escalation: Option<bool>,
    /// Value given to containers that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_allow_privilege_escalation: Option<bool>,
    /// Capabilities that may be added; `*` permits all.
    #[serde(default, deserialize_with = "or_default", serialize_with = "null_if_empty")]
    pub allowed_capabilities: Vec<String>,
    /// Capabilities that every container gets.
    #[serde(default, deserialize_with = "or_default", serialize_with = "null_if_empty")]
    pub default_add_capabilities: Vec<String>,
    /// Capabilities that every container loses.
    #[serde(default, deserialize_with = "or_default", serialize_with = "null_if_empty")]
    pub required_drop_capabilities: Vec<String>,
    /// Only an input to the defaulting of this object; never read when a pod is checked.
    #[serde(rename = "allowHostDirVolumePlugin", default, deserialize_with = "or_default")]
    pub allow_host_dir_volume_plugin: bool,
    /// Permitted volume types; `*` is all, `none` matches nothing.
    #[serde(default)]
    pub volumes: Option<Vec<String>>,
    /// Permitted FlexVolume drivers; empty is any.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub allowed_flex_volumes: Vec<FlexVolume>,
    /// The host's network namespace may be used.
    #[serde(default, deserialize_with = "or_default")]
    pub allow_host_network: bool,
    /// Ports of the host may be used.
    #[serde(default, deserialize_with = "or_default")]
    pub allow_host_ports: bool,
    /// The host's process namespace may be used.
    #[serde(rename = "allowHostPID", default, deserialize_with = "or_default")]
    pub allow_host_pid: bool,
    /// The host's IPC namespace may be used.
    #[serde(rename = "allowHostIPC", default, deserialize_with = "or_default")]
    pub allow_host_ipc: bool,
    /// `RequirePodLevel` demands `hostUsers: false`; anything else demands nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_namespace_level: Option<String>,
    /// Forces a read-only root file system.
    #[serde(default, deserialize_with = "or_default")]
    pub read_only_root_filesystem: bool,
    /// Which user ids.
    #[serde(default, deserialize_with = "or_default")]
    pub run_as_user: RunAsUserStrategy,
    /// Which SELinux labels.
    #[serde(rename = "seLinuxContext", default, deserialize_with = "or_default")]
    pub se_linux_context: SELinuxStrategy,
    /// Which group owns the volumes.
    #[serde(default, deserialize_with = "or_default")]
    pub fs_group: GroupStrategy,
    /// Which further groups.
    #[serde(default, deserialize_with = "or_default")]
    pub supplemental_groups: GroupStrategy,
    /// Permitted seccomp profiles; the first one that is not `*` is the default. Empty permits none.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub seccomp_profiles: Vec<String>,
    /// Sysctls beyond the safe ones that are permitted.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Sysctls that are forbidden, even safe ones.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub forbidden_sysctls: Vec<String>,
    /// User names that may use this object without any role.
    #[serde(default, deserialize_with = "or_default")]
    pub users: Vec<String>,
    /// Groups that may use this object without any role.
    #[serde(default, deserialize_with = "or_default")]
    pub groups: Vec<String>,
}

fn api_version() -> String {
    <SecurityContextConstraints as k8s_openapi::Resource>::API_VERSION.to_owned()
}

fn kind() -> String {
    <SecurityContextConstraints as k8s_openapi::Resource>::KIND.to_owned()
}

fn ignore_version<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(from)?;
    Ok(api_version())
}

fn ignore_kind<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(from)?;
    Ok(kind())
}

impl k8s_openapi::Resource for SecurityContextConstraints {
    const API_VERSION: &'static str = "security.openshift.io/v1";
    const GROUP: &'static str = "security.openshift.io";
    const KIND: &'static str = "SecurityContextConstraints";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "securitycontextconstraints";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for SecurityContextConstraints {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl SecurityContextConstraints {
    /// The object's name; empty when it has none.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The permitted volume types; none when absent.
    pub fn volume_types(&self) -> &[String] {
        self.volumes.as_deref().unwrap_or_default()
    }
}

/// One permitted FlexVolume driver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlexVolume {
    /// Name of the driver.
    #[serde(default, deserialize_with = "or_default")]
    pub driver: String,
}

/// How user ids are constrained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunAsUserStrategy {
    /// `MustRunAs`, `MustRunAsRange`, `MustRunAsNonRoot` or `RunAsAny`.
    #[serde(
        rename = "type",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    /// The one user id of `MustRunAs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<i64>,
    /// Lowest user id of `MustRunAsRange`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid_range_min: Option<i64>,
    /// Highest user id of `MustRunAsRange`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid_range_max: Option<i64>,
}

/// How SELinux labels are constrained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SELinuxStrategy {
    /// `MustRunAs` or `RunAsAny`.
    #[serde(
        rename = "type",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    /// The label of `MustRunAs`; an empty level is taken from the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub se_linux_options: Option<SELinuxOptions>,
}

/// The four parts of an SELinux label; absent is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SELinuxOptions {
    /// User.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Role.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Type.
    #[serde(
        rename = "type",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    /// Level with categories.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub level: String,
}

/// How groups are constrained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupStrategy {
    /// `MustRunAs` or `RunAsAny`.
    #[serde(
        rename = "type",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    /// Permitted ids of `MustRunAs`; empty takes them from the namespace.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<IdRange>,
}

/// Ids from `min` to `max`, both included; absent is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// Lowest id.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub min: i64,
    /// Highest id.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub max: i64,
}
