//! What a pod is given beyond the Pod Security level `restricted`.

use crate::render::{images, places::RESOURCE as PLACE};
use ferrovirt_privilege::{Access, DeviceSource, Right, VolumeSource};
use k8s_openapi::{
    api::core::v1::{Container, KeyToPath, Pod, PodSpec, SecretVolumeSource, Volume},
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Device nodes behind the extended resources that the node agent and the handler offer.
const DEVICES: [(&str, &str); 3] = [
    ("devices.kubevirt.io/kvm", "/dev/kvm"),
    ("devices.kubevirt.io/tun", "/dev/net/tun"),
    // A place for a machine: a directory, and a device node.
    (PLACE, "/dev/net/tun"),
];

/// Shares of the node that are limits, not rights.
const SHARES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Every right of the pod: what it asks for, and what it fails to give up.
pub fn lift(pod: &Pod) -> BTreeSet<Right<String>> {
    let mut out = BTreeSet::new();
    let Some(spec) = &pod.spec else { return out };
    pod_level(spec, &mut out);
    let empty = Vec::new();
    let volumes = spec.volumes.as_ref().unwrap_or(&empty);
    let mut used = BTreeSet::new();
    for container in spec.init_containers.iter().flatten() {
        out.insert(match of_images(container, volumes) {
            Some(right) => {
                used.insert(images::HELPER.to_owned());
                right
            }
            None => field("initContainers", &json!(container)),
        });
    }
    for container in &spec.containers {
        security(container, spec, &mut out);
        resources(container, &mut out);
        for mount in container.volume_mounts.iter().flatten() {
            used.insert(mount.name.clone());
            let volume = volumes.iter().find(|volume| volume.name == mount.name);
            let access = if mount.read_only == Some(true) { Access::Read } else { Access::ReadWrite };
            out.insert(match volume.and_then(source) {
                Some(source) => Right::Mount {
                    volume: mount.name.clone(),
                    path: mount.mount_path.clone(),
                    source,
                    access,
                },
                None => field("volumes", &volume.map_or(Value::Null, |volume| json!(volume))),
            });
            let plain = mount.sub_path.is_none() && mount.mount_propagation.is_none();
            if !plain {
                out.insert(field("volumeMounts", &json!(mount)));
            }
        }
        for device in container.volume_devices.iter().flatten() {
            used.insert(device.name.clone());
            let claim = volumes
                .iter()
                .find(|volume| volume.name == device.name)
                .and_then(|volume| volume.persistent_volume_claim.as_ref());
            out.insert(match claim {
                Some(claim) => Right::Device {
                    path: device.device_path.clone(),
                    source: DeviceSource::Claim(claim.claim_name.clone()),
                    access: if claim.read_only == Some(true) { Access::Read } else { Access::ReadWrite },
                },
                None => field("volumeDevices", &json!(device)),
            });
        }
    }
    // A volume that nothing mounts can still demand something of the node.
    for volume in volumes.iter().filter(|volume| !used.contains(&volume.name)) {
        out.insert(field("volumes", &json!(volume)));
    }
    out
}

/// What a container gives that is exactly one of those for images; none for any other.
fn of_images(container: &Container, volumes: &[Volume]) -> Option<Right<String>> {
    let image = container.image.clone()?;
    let user = container.security_context.as_ref()?.run_as_user;
    // Root's would be a right of its own.
    let user =
        user.map(|user| u32::try_from(user).ok().filter(|user| *user != 0).ok_or(())).transpose().ok()?;
    let scratch = |name: &str| {
        let volume = volumes.iter().find(|volume| volume.name == name);
        volume.and_then(source) == Some(VolumeSource::Scratch)
    };
    if *container == images::helper(&image, user) {
        return scratch(images::HELPER).then_some(Right::ImageHelper { image });
    }
    let volume = images::served(container)?.to_owned();
    let ours = *container == images::server(&volume, &image, user);
    (ours && scratch(images::HELPER) && scratch(images::SOCKETS))
        .then_some(Right::ImageServer { volume, image })
}

fn field(name: &str, value: &Value) -> Right<String> {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Right::PodField { field: name.to_owned(), value }
}

/// The pod's own fields. Those that say no are required; those that say yes are rights.
fn pod_level(spec: &PodSpec, out: &mut BTreeSet<Right<String>>) {
    let mut add = |name: &str, value: Value| {
        if !matches!(value, Value::Null | Value::Bool(false)) {
            out.insert(field(name, &value));
        }
    };
    // Of this one saying no is what was asked for.
    if let Some(users) = spec.host_users {
        add("hostUsers", json!(users.to_string()));
    }
    add("hostNetwork", json!(spec.host_network));
    add("hostPID", json!(spec.host_pid));
    add("hostIPC", json!(spec.host_ipc));
    add("shareProcessNamespace", json!(spec.share_process_namespace));
    add("ephemeralContainers", json!(spec.ephemeral_containers));
    add("resourceClaims", json!(spec.resource_claims));
    add("runtimeClassName", json!(spec.runtime_class_name));
    if spec.containers.len() != 1 {
        add("containers", json!(spec.containers.len()));
    }
    if spec.automount_service_account_token != Some(false) {
        add("automountServiceAccountToken", json!(true));
    }
    let context = spec.security_context.clone().unwrap_or_default();
    add("runAsUser", json!(context.run_as_user));
    add("runAsGroup", json!(context.run_as_group));
    add("fsGroup", json!(context.fs_group));
    add("supplementalGroups", json!(context.supplemental_groups));
    add("sysctls", json!(context.sysctls));
    add("appArmorProfile", json!(context.app_armor_profile));
    add("windowsOptions", json!(context.windows_options));
    let labels = context.se_linux_options.unwrap_or_default();
    add("seLinuxOptions.type", json!(labels.type_));
    add("seLinuxOptions.user", json!(labels.user));
    add("seLinuxOptions.role", json!(labels.role));
    add("seLinuxOptions.level", json!(labels.level));
}

/// The container's security context, with the pod's where it says nothing.
fn security(container: &Container, spec: &PodSpec, out: &mut BTreeSet<Right<String>>) {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let mut add = |name: &str, value: Value| out.insert(field(name, &value));
    if own.privileged == Some(true) {
        add("privileged", json!(true));
    }
    if own.allow_privilege_escalation != Some(false) {
        add("allowPrivilegeEscalation", json!(true));
    }
    if own.read_only_root_filesystem != Some(true) {
        add("readOnlyRootFilesystem", json!(false));
    }
    if own.run_as_non_root.or(pod.run_as_non_root) != Some(true) {
        add("runAsNonRoot", json!(false));
    }
    let seccomp = own.seccomp_profile.or(pod.seccomp_profile);
    if seccomp.as_ref().is_none_or(|profile| profile.type_ != "RuntimeDefault") {
        add("seccompProfile", json!(seccomp));
    }
    for (name, value) in [
        ("container.runAsUser", json!(own.run_as_user)),
        ("container.runAsGroup", json!(own.run_as_group)),
        ("container.seLinuxOptions", json!(own.se_linux_options)),
        ("container.procMount", json!(own.proc_mount)),
        ("container.appArmorProfile", json!(own.app_armor_profile)),
    ] {
        if !value.is_null() {
            add(name, value);
        }
    }
    let capabilities = own.capabilities.unwrap_or_default();
    if !capabilities.drop.iter().flatten().any(|name| name == "ALL") {
        add("capabilities.drop", json!(capabilities.drop));
    }
    out.extend(capabilities.add.into_iter().flatten().map(Right::Capability));
}

fn resources(container: &Container, out: &mut BTreeSet<Right<String>>) {
    let Some(resources) = &container.resources else { return };
    let mut all: BTreeMap<&String, &Quantity> = BTreeMap::new();
    all.extend(resources.requests.iter().flatten());
    all.extend(resources.limits.iter().flatten());
    for (name, quantity) in all.into_iter().filter(|(name, _)| !SHARES.contains(&name.as_str())) {
        if name == PLACE {
            out.insert(Right::Resource { name: name.clone(), quantity: quantity.0.clone() });
        }
        out.insert(match DEVICES.iter().find(|(known, _)| known == name) {
            Some((_, path)) => Right::Device {
                path: (*path).to_owned(),
                source: DeviceSource::Plugin(name.clone()),
                access: Access::ReadWrite,
            },
            None => Right::Resource { name: name.clone(), quantity: quantity.0.clone() },
        });
    }
    if resources.claims.is_some() {
        out.insert(field("resources.claims", &json!(resources.claims)));
    }
}

fn source(volume: &Volume) -> Option<VolumeSource<String>> {
    let Volume { name: _, empty_dir, image, host_path, persistent_volume_claim, secret, .. } = volume;
    if let Some(directory) = empty_dir {
        return match directory.medium.as_deref() {
            None | Some("") => Some(VolumeSource::Scratch),
            Some("HugePages") => Some(VolumeSource::HugePages),
            Some(_) => None,
        };
    }
    if let Some(image) = image {
        return Some(VolumeSource::Image(image.reference.clone()?));
    }
    if let Some(host) = host_path {
        let create = match host.type_.as_deref() {
            Some("Directory") => false,
            Some("DirectoryOrCreate") => true,
            _ => return None,
        };
        return Some(VolumeSource::HostPath { path: host.path.clone(), create });
    }
    if let Some(claim) = persistent_volume_claim {
        return Some(VolumeSource::Claim(claim.claim_name.clone()));
    }
    secret.as_ref().and_then(keys)
}

/// A secret of which named keys are mounted under their own names, each if it is there, and readable at most; none in any
/// other form.
fn keys(secret: &SecretVolumeSource) -> Option<VolumeSource<String>> {
    let SecretVolumeSource { secret_name, items, optional, default_mode } = secret;
    let items = items.as_ref().filter(|items| !items.is_empty())?;
    let plain = |item: &KeyToPath| item.path == item.key && item.mode.is_none() && !item.key.contains(',');
    if *optional != Some(true)
        || default_mode.is_some_and(|mode| mode & !0o644 != 0)
        || !items.iter().all(plain)
    {
        return None;
    }
    let keys: Vec<&str> = items.iter().map(|item| item.key.as_str()).collect();
    Some(VolumeSource::Secret { name: secret_name.clone()?, keys: keys.join(",") })
}
