//! VirtualMachines.

use serde_json::Value;

use super::Rules;
use crate::{
    cause::{Cause, Path, Reason, Report},
    config::ClusterDefaults,
    convert,
    defaults::default_vmi_spec,
    kubevirt::{DataVolumeTemplateSpec, RunStrategy, VirtualMachine},
    support,
};

/// Every reason to refuse a VirtualMachine that is created or updated. Its template is looked at as an instance
/// would be made from it. A machine that is being deleted is never refused.
pub fn validate_vm(vm: &VirtualMachine, config: &ClusterDefaults, is_kubevirt_account: bool) -> Vec<Cause> {
    if vm.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut template = vm.spec.template.spec.clone();
    default_vmi_spec(&mut template, config);
    let path = Path::new("spec");
    let mut rules =
        Rules { path: Path::new("spec.template.spec"), spec: &template, config, report: Report::default() };
    rules.metadata(&path.child("template.metadata"), &vm.spec.template.metadata, is_kubevirt_account);
    rules.specification();
    let mut report = Report::default();
    data_volume_templates(vm, &mut report);
    run_strategy(vm, config, &mut report);
    rules.report.causes.append(&mut report.causes);
    if rules.report.causes.is_empty() {
        support::refuse_vm(&path, &vm.spec, &mut rules.report);
        support::refuse(&rules.path, &template, &mut rules.report);
    }
    // A template without memory is upstream's to accept; its instance is refused.
    let sized = template.domain.memory.as_ref().is_some_and(|memory| memory.guest.is_some());
    if rules.report.causes.is_empty() && sized {
        convert::specification(&rules.path, &template, "", &mut rules.report);
    }
    rules.report.causes
}

fn run_strategy(vm: &VirtualMachine, config: &ClusterDefaults, report: &mut Report) {
    let path = Path::new("spec");
    let spec = &vm.spec;
    match (&spec.running, &spec.run_strategy) {
        (Some(_), Some(_)) => report.invalid(
            path.child("running"),
            "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy \
             instead",
        ),
        (None, None) => report.invalid(path.child("running"), "RunStrategy must be specified"),
        _ => {}
    }
    let Some(strategy) = &spec.run_strategy else { return };
    let path = path.child("runStrategy");
    match strategy.parse() {
        Ok(RunStrategy::WaitAsReceiver) if !config.gate("DecentralizedLiveMigration") => {
            let message = format!(
                "Invalid RunStrategy ({strategy}), DecentralizedLiveMigration feature gate is not enabled in kubevirt \
                 resource"
            );
            report.invalid(path, message);
        }
        Ok(RunStrategy::WaitAsReceiver) => {
            report.unsupported(&path, format!("not supported yet: {path} {strategy}"));
        }
        Ok(_) => {}
        Err(error) => report.invalid(path, error.to_string()),
    }
}

/// The field says `dataVolumeTemplate`, as upstream has it.
fn data_volume_templates(vm: &VirtualMachine, report: &mut Report) {
    let namespace = vm.metadata.namespace.as_deref();
    for (index, template) in vm.spec.data_volume_templates.iter().enumerate() {
        let path = Path::new("spec.dataVolumeTemplate").index(index);
        let name = template.metadata.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            let field = path.child("name");
            let message = format!("'name' field must not be empty for DataVolumeTemplate entry {field}.");
            report.add(Reason::FieldValueRequired, field, message);
            continue;
        }
        if data_volume(&path, template, report) {
            continue;
        }
        let used = vm.spec.template.spec.volumes.iter().any(|volume| {
            volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == name)
                || volume.data_volume.as_ref().is_some_and(|source| source.name == name)
        });
        if !used {
            let message = format!(
                "DataVolumeTemplate entry {path} must be referenced in the VMI template's 'volumes' list"
            );
            report.add(Reason::FieldValueRequired, &path, message);
        }
        let other = template.metadata.namespace.as_deref().filter(|other| !other.is_empty());
        if let (Some(other), Some(own)) = (other, namespace)
            && other != own
        {
            let message = format!("Embedded DataVolume namespace {other} differs from VM namespace {own}");
            report.invalid(Path::new("spec.dataVolumeTemplates").index(index), message);
        }
    }
}

/// Whether the storage and the source of a DataVolume are refused.
fn data_volume(path: &Path, template: &DataVolumeTemplateSpec, report: &mut Report) -> bool {
    let spec = &template.spec.0;
    let get = |name: &str| spec.get(name).filter(|value| !value.is_null());
    let storage = match (get("pvc"), get("storage")) {
        (None, None) => {
            report.invalid(path.child("PVC.Storage"), "Missing Data volume PVC or Storage");
            return true;
        }
        (Some(_), Some(_)) => {
            report.invalid(
                path.child("PVC.Storage"),
                "Duplicate storage definition, both target storage and target pvc defined",
            );
            return true;
        }
        (Some(storage), None) | (None, Some(storage)) => storage,
    };
    let populated =
        ["dataSource", "dataSourceRef"].iter().any(|name| storage.get(name).is_some_and(|v| !v.is_null()));
    let sourced = get("source").is_some() || get("sourceRef").is_some();
    if populated && sourced {
        report.invalid(path.child("source"), "External population is incompatible with Source and SourceRef");
        return true;
    }
    if !populated && !sourced {
        report.invalid(
            path.child("source.sourceRef"),
            "Data volume should have either Source, SourceRef, or be externally populated",
        );
        return true;
    }
    let Some(source) = get("source") else { return false };
    let count =
        source.as_object().map_or(0, |map| map.values().filter(|value| !Value::is_null(value)).count());
    let message = match count {
        0 => "Missing dataVolume valid source",
        1 => return false,
        _ => "Multiple dataVolume sources",
    };
    report.invalid(path.child("source"), message);
    true
}
