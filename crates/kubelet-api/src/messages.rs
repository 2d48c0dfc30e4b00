//! Messages of the kubelet's APIs, as far as they are used: device plug-ins `v1beta1` and pod-resources `v1`.
//!
//! Fields that are not named here are skipped when a message is read.

use std::collections::BTreeMap;

/// The version that a plug-in registers with.
pub const VERSION: &str = "v1beta1";
/// The health of a device that can be given to a pod.
pub const HEALTHY: &str = "Healthy";

/// `v1beta1.Registration/Register`, served by the kubelet.
pub const REGISTER: &str = "/v1beta1.Registration/Register";
/// The calls of `v1beta1.DevicePlugin`, served by the plug-in.
pub const OPTIONS: &str = "/v1beta1.DevicePlugin/GetDevicePluginOptions";
/// See [`OPTIONS`].
pub const LIST_AND_WATCH: &str = "/v1beta1.DevicePlugin/ListAndWatch";
/// See [`OPTIONS`].
pub const ALLOCATE: &str = "/v1beta1.DevicePlugin/Allocate";
/// See [`OPTIONS`].
pub const PRE_START: &str = "/v1beta1.DevicePlugin/PreStartContainer";
/// See [`OPTIONS`].
pub const PREFERRED: &str = "/v1beta1.DevicePlugin/GetPreferredAllocation";
/// `v1.PodResourcesLister/List`, served by the kubelet.
pub const LIST: &str = "/v1.PodResourcesLister/List";
/// `v1.PodResourcesLister/Get`, served by the kubelet.
pub const GET: &str = "/v1.PodResourcesLister/Get";

/// A message without a field.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// What a plug-in wants to be asked.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Options {
    /// Whether it is called again just before a container starts.
    #[prost(bool, tag = "1")]
    pub pre_start_required: bool,
    /// Whether it says which devices go well together.
    #[prost(bool, tag = "2")]
    pub preferred_allocation: bool,
}

/// A plug-in makes itself known.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RegisterRequest {
    /// Of the API: [`VERSION`].
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its socket, relative to the kubelet's directory of plug-ins.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// What it offers.
    #[prost(string, tag = "3")]
    pub resource_name: String,
    /// See [`Options`].
    #[prost(message, optional, tag = "4")]
    pub options: Option<Options>,
}

/// One device.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Device {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// [`HEALTHY`] or not.
    #[prost(string, tag = "2")]
    pub health: String,
}

/// All devices, sent whenever one changes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Devices {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
}

/// Containers want devices.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AllocateRequest {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<ContainerRequest>,
}

/// Names of devices that the kubelet has chosen for one container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerRequest {
    /// Of those that [`Devices`] had.
    #[prost(string, repeated, tag = "1")]
    pub devices: Vec<String>,
}

/// What the containers get, in the request's order.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AllocateResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<ContainerResponse>,
}

/// What one container gets.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerResponse {
    /// Environment variables.
    #[prost(btree_map = "string, string", tag = "1")]
    pub variables: BTreeMap<String, String>,
    /// Directories and files of the node.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// Device nodes.
    #[prost(message, repeated, tag = "3")]
    pub devices: Vec<DeviceSpec>,
    /// Annotations of the container, for its runtime.
    #[prost(btree_map = "string, string", tag = "4")]
    pub annotations: BTreeMap<String, String>,
    /// Devices that the runtime knows by name, in the form of the Container Device Interface.
    #[prost(message, repeated, tag = "5")]
    pub named: Vec<NamedDevice>,
}

/// A device by its qualified name, such as `vendor.example/class=name`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NamedDevice {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A directory of the node in a container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Mount {
    /// Where it is seen.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where it is.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether nothing is written through it.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
}

/// A device node of the node in a container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeviceSpec {
    /// Where it is seen.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where it is.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Of `r`, `w` and `m`.
    #[prost(string, tag = "3")]
    pub permissions: String,
}

/// A container is about to start. Asked only of plug-ins whose options say so.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PreStartRequest {
    /// Its devices.
    #[prost(string, repeated, tag = "1")]
    pub devices: Vec<String>,
}

/// Which pod is asked for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
}

/// One pod with what it holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetResponse {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub pod: Option<Pod>,
}

/// Every pod of the node with what it holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PodList {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub pods: Vec<Pod>,
}

/// A pod. It has no UID here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Pod {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Its containers.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Container {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it holds, one entry for each resource or more.
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<ContainerDevices>,
}

/// Devices of one resource.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ContainerDevices {
    /// The resource.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// Names of its devices.
    #[prost(string, repeated, tag = "2")]
    pub ids: Vec<String>,
}
