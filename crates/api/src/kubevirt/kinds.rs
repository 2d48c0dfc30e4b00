//! The kinds themselves.

use super::{
    KubeVirtSpec, KubeVirtStatus, VirtualMachineInstanceSpec, VirtualMachineInstanceStatus,
    VirtualMachineSpec, VirtualMachineStatus,
};

crate::wire::kind! {
    /// A machine that may be started and stopped; it owns the VirtualMachineInstance of the same name.
    VirtualMachine, "virtualmachines", "VirtualMachineList", VirtualMachineSpec, VirtualMachineStatus
}
crate::wire::kind! {
    /// One run of a machine.
    VirtualMachineInstance, "virtualmachineinstances", "VirtualMachineInstanceList",
    VirtualMachineInstanceSpec, VirtualMachineInstanceStatus
}
crate::wire::kind! {
    /// The installation and its configuration.
    KubeVirt, "kubevirts", "KubeVirtList", KubeVirtSpec, KubeVirtStatus
}
