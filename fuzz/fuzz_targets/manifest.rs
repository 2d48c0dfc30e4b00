//! Any bytes as a manifest: decoding, defaulting, validation, conversion. What is admitted must be a machine.
#![no_main]

use ferrovirt_api::{
    ClusterDefaults, default_vm, default_vmi,
    kubevirt::{KubeVirt, VirtualMachine, VirtualMachineInstance},
    machine, validate_vm, validate_vmi,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let value: Option<Value> = serde_json::from_str(text).ok().or_else(|| serde_saphyr::from_str(text).ok());
    let Some(value) = value else { return };
    let mut config = ClusterDefaults::default();
    if let Ok(kubevirt) = serde_json::from_value::<KubeVirt>(value.clone()) {
        config = ClusterDefaults::from(&kubevirt);
    }
    config.feature_gates.insert("HostDisk".to_owned());
    if let Ok(mut vm) = serde_json::from_value::<VirtualMachine>(value.clone()) {
        default_vm(&mut vm, &config, None);
        let _ = validate_vm(&vm, &config, false);
    }
    if let Ok(mut vmi) = serde_json::from_value::<VirtualMachineInstance>(value) {
        let _ = machine(&vmi);
        default_vmi(&mut vmi, &config);
        let named = vmi.metadata.name.as_deref().is_some_and(|name| !name.is_empty());
        if named && validate_vmi(&vmi, &config, false).is_empty() {
            assert!(machine(&vmi).is_ok());
        }
    }
});
