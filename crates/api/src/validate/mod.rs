//! Validation: KubeVirt's rules with KubeVirt's field paths and messages, then the fields that this version does
//! not act on yet (see [`crate::support`]).
//!
//! The rules come in the order of upstream's admitters, so that the message of a refusal is the same.

mod cpu;
mod devices;
mod disks;
mod firmware;
mod launcher;
mod metadata;
mod network;
mod pod;
mod resources;
pub(crate) mod text;
mod update;
mod vm;
mod volumes;

use crate::{
    cause::{Cause, Path, Report},
    config::ClusterDefaults,
    convert,
    kubevirt::{VirtualMachineInstance, VirtualMachineInstanceSpec},
    support,
};

pub use update::validate_vmi_update;
pub use vm::validate_vm;
pub(crate) use volumes::sources;

/// Everything that a rule may look at.
struct Rules<'a> {
    path: Path,
    spec: &'a VirtualMachineInstanceSpec,
    config: &'a ClusterDefaults,
    report: Report,
}

/// Every reason to refuse a VirtualMachineInstance, after defaulting. KubeVirt's own accounts
/// (`is_kubevirt_account`) may set reserved labels.
pub fn validate_vmi(
    vmi: &VirtualMachineInstance,
    config: &ClusterDefaults,
    is_kubevirt_account: bool,
) -> Vec<Cause> {
    let mut rules = Rules { path: Path::new("spec"), spec: &vmi.spec, config, report: Report::default() };
    rules.specification();
    rules.volumes_have_disks();
    rules.memory_is_given();
    rules.metadata(&Path::new("metadata"), &vmi.metadata, is_kubevirt_account);
    rules.architecture();
    rules.refuse_unsupported();
    if rules.report.causes.is_empty() {
        // What passes must also be a machine.
        convert::specification(&rules.path, &vmi.spec, "", &mut rules.report);
    }
    rules.report.causes
}

/// The rules that hold for an instance and for the template of a VirtualMachine, below `path`.
pub fn validate_vmi_spec(
    path: &str,
    spec: &VirtualMachineInstanceSpec,
    config: &ClusterDefaults,
) -> Vec<Cause> {
    let mut rules = Rules { path: Path::new(path), spec, config, report: Report::default() };
    rules.specification();
    rules.refuse_unsupported();
    rules.report.causes
}

impl Rules<'_> {
    fn specification(&mut self) {
        self.quantities();
        self.discontinued_bindings();
        self.host_names();
        self.memory();
        self.machine_type();
        self.cpu_resources();
        self.dedicated_cpus();
        self.cpu_options();
        self.start_strategy();
        self.realtime();
        self.networks();
        self.disk_volumes_and_boot_order();
        self.inputs();
        self.io_threads();
        self.probes();
        self.disks();
        self.firmware();
        self.volumes();
        self.dns();
        self.eviction_strategy();
        self.gated_devices();
        self.service_account();
        // What upstream refuses is refused in its words alone.
        if self.report.causes.is_empty() {
            self.references();
            self.pod_volume_names();
            self.command_line();
        }
    }

    /// A valid specification may still ask for what is not built yet.
    fn refuse_unsupported(&mut self) {
        if self.report.causes.is_empty() {
            support::refuse(&self.path, self.spec, &mut self.report);
        }
    }

    fn domain(&self, name: &str) -> Path {
        self.path.child("domain").child(name)
    }
}
