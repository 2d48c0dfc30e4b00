//! Updates of a VirtualMachineInstance.

use ferrovirt_kubernetes::quantity::Amount;

use crate::{
    cause::{Cause, Reason, Report},
    kubevirt::{Memory, VirtualMachineInstance},
};

use super::metadata::reserved_labels;

/// Every reason to refuse a change of an instance. Users may not change its specification; KubeVirt's own accounts
/// may, within the ceilings that were set when it was made. The status is not looked at: for users the API server
/// keeps the old one.
pub fn validate_vmi_update(
    old: &VirtualMachineInstance,
    new: &VirtualMachineInstance,
    is_kubevirt_account: bool,
) -> Vec<Cause> {
    let mut report = Report::default();
    if old.spec != new.spec {
        if is_kubevirt_account {
            ceilings(old, new, &mut report);
        } else {
            report.add(Reason::FieldValueNotSupported, "", "update of VMI object is restricted");
        }
    }
    if report.causes.is_empty()
        && !is_kubevirt_account
        && reserved_labels(&old.metadata) != reserved_labels(&new.metadata)
    {
        report.add(
            Reason::FieldValueNotSupported,
            "",
            "modification of the following reserved kubevirt.io/ labels on a VMI object is prohibited",
        );
    }
    report.causes
}

fn ceilings(old: &VirtualMachineInstance, new: &VirtualMachineInstance, report: &mut Report) {
    let max_sockets = |vmi: &VirtualMachineInstance| {
        vmi.spec.domain.cpu.as_ref().and_then(|cpu| cpu.max_sockets).unwrap_or_default()
    };
    if max_sockets(old) != max_sockets(new) {
        report.invalid("", "CPU topology maxSockets changed");
        return;
    }
    let max_guest = |memory: &Option<Memory>| {
        let quantity = memory.as_ref().and_then(|memory| memory.max_guest.as_ref())?;
        Amount::parse(&quantity.0).ok()
    };
    if let (Some(before), Some(after)) =
        (max_guest(&old.spec.domain.memory), max_guest(&new.spec.domain.memory))
        && before != after
    {
        report.invalid("", "Memory maxGuest changed");
        return;
    }
    // Nothing can be plugged yet, so every volume is permanent.
    if old.spec.volumes.len() != new.spec.volumes.len() {
        report.invalid("", "Number of permanent volumes has changed");
        return;
    }
    for volume in &new.spec.volumes {
        match old.spec.volumes.iter().find(|other| other.name == volume.name) {
            None => report.invalid("", format!("permanent volume {}, not found", volume.name)),
            Some(other) if other != volume => {
                report.invalid("", format!("permanent volume {}, changed", volume.name));
            }
            Some(_) => {}
        }
    }
}
