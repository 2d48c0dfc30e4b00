//! The virt-launcher pod: one container, and others for images where a cluster mounts none; no privilege that the grants do not give.

use super::{images, pod_meta, pod_resources::resources, pod_volumes::storage};
use crate::{config::ClusterConfig, paths};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_model::{
    Machine,
    machine::{Port, Protocol},
};
use ferrovirt_privilege::{GrantSet, Right, Surface, Surroundings, machine_grants};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, Pod, PodSecurityContext, PodSpec, SELinuxOptions,
    SeccompProfile, SecurityContext,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use super::pod_meta::KEPT_BACK;
pub use super::pod_meta::{LABELS, pod_name};

/// Name of the container.
pub const CONTAINER: &str = "compute";
/// Seconds between the end of the guest's grace period and the end of the pod: the launcher gets 15 to end QEMU and
/// report, the container runtime 15 to clean up, as upstream.
const GRACE_MARGIN: i64 = 30;

/// The pod of a machine whose claims are all in file-system mode.
pub fn pod(machine: &Machine, owner: &VirtualMachineInstance, config: &ClusterConfig) -> Pod {
    pod_with_claims(machine, owner, config, &BTreeSet::new())
}

/// The pod of a machine; `block_claims` names the claims of its namespace that are in block mode.
pub fn pod_with_claims(
    machine: &Machine,
    owner: &VirtualMachineInstance,
    config: &ClusterConfig,
    block_claims: &BTreeSet<String>,
) -> Pod {
    pod_in(machine, owner, config, &config.surroundings(block_claims))
}

/// The pod of a machine in its surroundings.
pub fn pod_in(
    machine: &Machine,
    owner: &VirtualMachineInstance,
    config: &ClusterConfig,
    surroundings: &Surroundings,
) -> Pod {
    let grants = machine_grants(machine, surroundings, config.profile);
    let (resources, overhead) = resources(machine, &grants, config);
    let mut storage = storage(&grants);
    let servers = images::containers(&grants, config.image_user);
    if !servers.is_empty() {
        storage.volumes.push(images::volume());
    }
    let scratch = storage.mounts.iter().any(|mount| mount.mount_path == paths::EPHEMERAL);
    let compute = Container {
        name: CONTAINER.to_owned(),
        image: Some(config.launcher_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command(surroundings)),
        // Where QEMU makes its throw-away overlays.
        env: scratch.then(|| {
            vec![EnvVar {
                name: "TMPDIR".to_owned(),
                value: Some(paths::EPHEMERAL.to_owned()),
                ..Default::default()
            }]
        }),
        ports: Some(ports(machine)).filter(|ports| !ports.is_empty()),
        resources: Some(resources),
        security_context: Some(container_security(&grants)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(storage.mounts).filter(|mounts| !mounts.is_empty()),
        volume_devices: Some(storage.devices).filter(|devices| !devices.is_empty()),
        ..Default::default()
    };
    let scheduling = &machine.scheduling;
    let spec = PodSpec {
        init_containers: Some(servers).filter(|list| !list.is_empty()),
        containers: vec![compute],
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(i64::from(machine.grace_seconds).saturating_add(GRACE_MARGIN)),
        host_users: has_own_users(&grants).then_some(false),
        security_context: Some(pod_security(&grants)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        hostname: Some(pod_meta::hostname(machine)),
        subdomain: scheduling.subdomain.clone(),
        service_account_name: scheduling.service_account.clone(),
        priority_class_name: scheduling.priority_class.clone(),
        scheduler_name: scheduling.scheduler.clone(),
        node_selector: Some(node_selector(machine, config, surroundings)).filter(|labels| !labels.is_empty()),
        affinity: owner.spec.affinity.clone(),
        tolerations: Some(owner.spec.tolerations.clone()).filter(|list| !list.is_empty()),
        topology_spread_constraints: Some(owner.spec.topology_spread_constraints.clone())
            .filter(|list| !list.is_empty()),
        dns_config: owner.spec.dns_config.clone(),
        dns_policy: owner.spec.dns_policy.clone(),
        volumes: Some(storage.volumes).filter(|volumes| !volumes.is_empty()),
        ..Default::default()
    };
    Pod {
        metadata: pod_meta::metadata(machine, owner, overhead, config, surroundings),
        spec: Some(spec),
        status: None,
    }
}

/// What the Pod Security level `restricted` asks for, plus the granted fields.
fn pod_security(grants: &GrantSet) -> PodSecurityContext {
    let mut context = PodSecurityContext {
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..Default::default()
    };
    for right in grants.on(Surface::Pod) {
        let Right::PodField { field, value } = right else { continue };
        match field.as_str() {
            "runAsUser" => context.run_as_user = value.parse().ok(),
            "runAsGroup" => context.run_as_group = value.parse().ok(),
            "fsGroup" => context.fs_group = value.parse().ok(),
            "seLinuxOptions.type" => label(&mut context).type_ = Some(value),
            "seLinuxOptions.level" => label(&mut context).level = Some(value),
            _ => {}
        }
    }
    context
}

/// Whether the pod has a user namespace of its own.
fn has_own_users(grants: &GrantSet) -> bool {
    let own = Right::PodField { field: "hostUsers".to_owned(), value: "false".to_owned() };
    grants.on(Surface::Pod).contains(&own)
}

fn label(context: &mut PodSecurityContext) -> &mut SELinuxOptions {
    context.se_linux_options.get_or_insert_default()
}

fn container_security(grants: &GrantSet) -> SecurityContext {
    let add: Vec<_> = grants
        .on(Surface::Pod)
        .into_iter()
        .filter_map(|right| match right {
            Right::Capability(name) => Some(name),
            _ => None,
        })
        .collect();
    SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            add: Some(add).filter(|list| !list.is_empty()),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        ..Default::default()
    }
}

/// The launcher is started with the socket of the node agent, or looks for its handler in its place.
fn command(surroundings: &Surroundings) -> Vec<String> {
    let place = if surroundings.slot { &["--slot", paths::SLOT][..] } else { &[] };
    ["/usr/bin/virt-launcher"].iter().chain(place).map(|word| (*word).to_owned()).collect()
}

/// Nodes whose agent is alive, then the cluster's labels, then the machine's. On a cluster places say where machines can
/// go: a kubelet that starts again ends pods whose selector no longer fits, so that no label which changes may be in it.
fn node_selector(
    machine: &Machine,
    config: &ClusterConfig,
    surroundings: &Surroundings,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    if !surroundings.slot {
        labels.insert("kubevirt.io/schedulable".to_owned(), "true".to_owned());
    }
    labels.extend(config.node_selectors.clone());
    labels.extend(machine.scheduling.node_selector.clone());
    labels
}

fn ports(machine: &Machine) -> Vec<ContainerPort> {
    let ports = machine.interfaces.iter().flat_map(|interface| &interface.ports);
    ports
        .map(|Port { name, protocol, port }| ContainerPort {
            name: name.clone(),
            container_port: i32::from(*port),
            protocol: Some(
                match protocol {
                    Protocol::Tcp => "TCP",
                    Protocol::Udp => "UDP",
                }
                .to_owned(),
            ),
            ..Default::default()
        })
        .collect()
}
