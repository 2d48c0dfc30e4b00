//! Hardware virtualization: QEMU opens /dev/kvm. The device cgroup refuses without the device plug-in's rule.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject, selinux},
    right::{Access, DeviceSource, Right},
};

pub(super) const TABLE: Table = Table {
    both: &[&[Grant::new(
        Subject::Qemu,
        Phase::Start,
        &[Right::Device {
            path: "/dev/kvm",
            source: DeviceSource::Plugin("devices.kubevirt.io/kvm"),
            access: Access::ReadWrite,
        }],
        "kernel: devcgroup_check_permission refuses to open 10:232",
        "the guest's instructions run on the processor instead of being translated",
        "kvm-device",
    )]],
    minimal: &[Grant::new(
        Subject::Qemu,
        Phase::Running,
        selinux!["{domain}" "container_file_t" "chr_file": "ioctl"],
        "security hook: selinux_file_ioctl on the device node, which has the pod's label",
        "QEMU makes the virtual machine through /dev/kvm",
        "kvm-selinux",
    )],
    documented: &[],
};
