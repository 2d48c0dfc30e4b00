//! Witnesses of what is rendered: each right of the suite is taken out of the document that grants it, and what
//! follows is the named refusal. The documents are those of machines with every feature, in both profiles.

use crate::{
    config::{ClusterConfig, LauncherRights, World},
    judge::{Finding, judge},
    render,
    render::order::{NicFacts, NodeFacts, order},
    samples,
    scc::admission::{admit, without as lesser},
};
use ferrovirt_model::{Machine, Profile, machine::Binding};
use ferrovirt_privilege::{
    Access, DeviceSource, GrantSet, Label, NetworkStep, Right, Scenario, Surroundings, cluster_grants,
    machine_grants,
    scenario::{registered, witnessed},
};
use ferrovirt_qemu::{
    Descriptors, OrderError, command_line,
    order::{Accelerator, Backing, Order},
};
use ferrovirt_scc::prepare;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A machine as it is granted and rendered.
struct Plan {
    grants: GrantSet,
    pod: Pod,
    order: Order,
}

impl Plan {
    fn new(machine: &Machine, profile: Profile, label: Option<Label>) -> Self {
        Self::within(World::Machine, machine, profile, label)
    }

    fn within(world: World, machine: &Machine, profile: Profile, label: Option<Label>) -> Self {
        Self::of(Self::config(world, profile), machine, label)
    }

    fn config(world: World, profile: Profile) -> ClusterConfig {
        let launcher_rights = Some(LauncherRights::Controller);
        ClusterConfig { profile, launcher_rights, world, ..ClusterConfig::default() }
    }

    fn of(config: ClusterConfig, machine: &Machine, label: Option<Label>) -> Self {
        let profile = config.profile;
        let mut facts = NodeFacts::new(Accelerator::Kvm);
        facts.block_claims.insert("block".into());
        for interface in &machine.interfaces {
            let made = NicFacts {
                mac: "02:00:00:00:00:01".into(),
                lease: None,
                tap: "tap0".into(),
                bridge: "k6t-eth0".into(),
                mtu: 1500,
            };
            facts.nics.insert(interface.name.clone(), made);
        }
        let surroundings = Surroundings { label, ..config.surroundings(&facts.block_claims) };
        Self {
            grants: machine_grants(machine, &surroundings, profile),
            pod: render::pod::pod_in(machine, &Default::default(), &config, &surroundings),
            order: order(machine, &config, &facts).unwrap(),
        }
    }

    /// Plans that have every feature between them.
    fn all() -> Vec<Self> {
        let full = samples::full();
        let mut read_only = samples::full();
        read_only.disks.iter_mut().for_each(|disk| disk.read_only = true);
        let mut bridged = samples::plain();
        bridged.interfaces = vec![samples::interface("default", Binding::Bridge, 1)];
        let machines = [full, read_only, bridged, samples::plain()];
        let both =
            |machine: &Machine| [Profile::Minimal, Profile::Documented].map(|p| Self::new(machine, p, None));
        let label = Label { kind: "virt_launcher.process".into(), level: "s0:c12,c345".into() };
        let labelled = Self::new(&samples::plain(), Profile::Documented, Some(label));
        let seeded = Self::within(World::Cluster, &samples::full(), Profile::Documented, None);
        let served = Self::of(
            ClusterConfig { serves_images: true, ..Self::config(World::Cluster, Profile::Minimal) },
            &samples::full(),
            None,
        );
        machines.iter().flat_map(both).chain([labelled, seeded, served]).collect()
    }

    /// The rights that a grant gives here.
    fn rights(&self, witness: &str) -> Vec<Right<String>> {
        let held = self.grants.iter();
        let ours = held.filter(|(_, origins)| origins.iter().any(|o| o.grant.witness.as_str() == witness));
        ours.map(|(held, _)| held.right.clone()).collect()
    }

    /// What the judge says of it.
    fn judged(&self, pod: &Pod) -> BTreeSet<Finding> {
        judge(pod, &self.order, &scc(Profile::Documented))
    }
}

fn scc(profile: Profile) -> Value {
    render::scc::controller(&cluster_grants(profile))
}

/// The pod without one right.
fn without(pod: &Pod, right: &Right<String>) -> Pod {
    let mut pod = pod.clone();
    let spec = pod.spec.as_mut().unwrap();
    let container = &mut spec.containers[0];
    let mut volumes: BTreeSet<String> = BTreeSet::new();
    match right {
        Right::Mount { path, .. } => {
            let mounts = container.volume_mounts.as_mut().unwrap();
            volumes.extend(mounts.iter().filter(|m| m.mount_path == *path).map(|m| m.name.clone()));
            mounts.retain(|mount| mount.mount_path != *path);
        }
        Right::Device { path, source: DeviceSource::Claim(_), .. } => {
            let devices = container.volume_devices.as_mut().unwrap();
            volumes.extend(devices.iter().filter(|d| d.device_path == *path).map(|d| d.name.clone()));
            devices.retain(|device| device.device_path != *path);
        }
        Right::Device { source: DeviceSource::Plugin(name), .. } | Right::Resource { name, .. } => {
            let resources = container.resources.as_mut().unwrap();
            resources.limits.as_mut().unwrap().remove(name);
            resources.requests.as_mut().unwrap().remove(name);
        }
        Right::Capability(name) => {
            let capabilities = container.security_context.as_mut().unwrap().capabilities.as_mut().unwrap();
            capabilities.add.as_mut().unwrap().retain(|added| added != name);
        }
        Right::ImageHelper { .. } => {
            spec.init_containers.as_mut().unwrap().retain(|container| container.restart_policy.is_some());
            return pod;
        }
        other => panic!("{other} is not in a pod"),
    }
    spec.volumes.as_mut().unwrap().retain(|volume| !volumes.contains(&volume.name));
    pod
}

/// The finding that names the right.
fn names(finding: &Finding, right: &Right<String>) -> bool {
    let inside = |path: &str, place: &str| {
        path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (right, finding) {
        (Right::Mount { path: place, .. }, Finding::NotMounted(path)) => inside(path, place),
        (Right::ImageHelper { .. }, Finding::NotMounted(path)) => inside(path, crate::paths::IMAGES),
        (Right::Mount { path: place, .. }, Finding::SecretNotMounted(path)) => path == place,
        (Right::Mount { volume, .. }, Finding::NoScratch { .. }) => volume == "ephemeral-disks",
        (Right::Device { path, .. }, Finding::NotMounted(missing)) => missing == path,
        (Right::Device { path, .. }, Finding::NoKvmDevice) => path == "/dev/kvm",
        (Right::Device { path, .. }, Finding::CannotMakeTap { missing, .. }) => missing == path,
        (Right::Capability(name), Finding::CannotMakeTap { missing, .. }) => missing == name,
        (Right::Resource { .. }, Finding::HugePages { .. }) => true,
        _ => false,
    }
}

/// What QEMU is started with when the launcher has `queues` queues of each interface.
fn started(order: &Order, queues: usize) -> Result<(), OrderError> {
    let mut order = order.clone();
    order.accelerator = Accelerator::Tcg;
    order.memory.backing = Backing::Anonymous;
    if order.cpu_model == "host" {
        order.cpu_model = "max".into();
    }
    let taps = order.nics.iter().map(|nic| (nic.name.clone(), (10..).take(queues).collect()));
    let descriptors = Descriptors {
        qmp: 3,
        serial: Some(4),
        vnc: Some("/var/run/kubevirt/sockets/vnc.sock".into()),
        taps: taps.collect::<BTreeMap<_, _>>(),
        ..Descriptors::default()
    };
    command_line(&order, &descriptors).map(drop)
}

/// Takes a right away from a plan; true when the named failure follows.
fn missed(plan: &Plan, right: &Right<String>) -> bool {
    match right {
        Right::Network { step, .. } => {
            let queues = usize::try_from(plan.order.nics[0].queues).unwrap();
            let left = match step {
                NetworkStep::ReceiveQueue | NetworkStep::CreateTap => 0,
                NetworkStep::ReceiveMoreQueues | NetworkStep::CreateMoreQueues => 1,
                NetworkStep::ReceiveDhcpSocket => return false,
            };
            assert_eq!(started(&plan.order, queues), Ok(()));
            matches!(started(&plan.order, left), Err(OrderError::Descriptors { have, need, .. }) if have == left && need == queues)
        }
        _ => plan.judged(&without(&plan.pod, right)).iter().any(|finding| names(finding, right)),
    }
}

#[test]
fn each_right_of_a_plan_is_missed_when_it_is_taken_away() {
    let plans = Plan::all();
    for plan in &plans {
        assert_eq!(plan.judged(&plan.pod), BTreeSet::new());
    }
    let mut ran = 0;
    for name in registered(Scenario::Plan).filter(|name| !is_scc(name)) {
        let mut seen = BTreeMap::new();
        for plan in &plans {
            for right in plan.rights(name) {
                *seen.entry(right.clone()).or_insert(false) |= missed(plan, &right);
            }
        }
        assert!(!seen.is_empty(), "no plan here has the grant `{name}`");
        let idle: Vec<_> = seen.iter().filter(|(_, missed)| !**missed).map(|(r, _)| r.to_string()).collect();
        assert!(idle.is_empty(), "`{name}`: nothing fails without {idle:?}");
        ran += 1;
    }
    assert!(ran > 20, "{ran} witnesses ran");
}

/// Proof 4: one step less is refused as well.
#[test]
fn near_misses_of_a_plan_are_found() {
    for plan in Plan::all() {
        for (held, _) in plan.grants.iter() {
            let mut pod = plan.pod.clone();
            let spec = pod.spec.as_mut().unwrap();
            match &held.right {
                // The neighbouring directory, and the same one for reading only.
                Right::Mount { path, access: Access::ReadWrite, .. } if written(&plan.order, path) => {
                    let mounts = spec.containers[0].volume_mounts.as_mut().unwrap();
                    let mount = mounts.iter_mut().find(|mount| mount.mount_path == *path).unwrap();
                    mount.read_only = Some(true);
                    let found = plan.judged(&pod);
                    let inside = |p: &String| p.starts_with(path.as_str());
                    assert!(
                        found.iter().any(|f| matches!(f, Finding::WriteOnReadOnly(p) if inside(p))),
                        "{path}"
                    );
                }
                Right::Mount { path, .. } if path.contains("kubevirt-image-volume") => {
                    let mounts = spec.containers[0].volume_mounts.as_mut().unwrap();
                    let mount = mounts.iter_mut().find(|mount| mount.mount_path == *path).unwrap();
                    mount.mount_path.push('x');
                    let found = plan.judged(&pod);
                    assert!(found.iter().any(|f| names(f, &held.right)), "{path}");
                }
                _ => {}
            }
        }
    }
}

/// The order writes a file in this very mount.
fn written(order: &Order, place: &str) -> bool {
    let of_files = place.contains("/vmi-disks/") || place.ends_with("-ephemeral-disks");
    of_files
        && order
            .disks
            .iter()
            .any(|disk| !disk.read_only && !disk.overlay && disk.path.starts_with(&format!("{place}/")))
}

fn is_scc(witness: &str) -> bool {
    witnessed(witness).unwrap().rights.iter().any(|right| matches!(right, Right::Scc { .. }))
}

/// The words by which the refusal names the field.
fn words<'a>(field: &'a str, value: &'a str) -> &'a str {
    match field {
        "allowedCapabilities" | "volumes" => value,
        "seccompProfiles" => "seccomp",
        "seLinuxContext" => "seLinuxOptions",
        "users" => "not usable by user or serviceaccount",
        "allowHostDirVolumePlugin" => "hostPath",
        field => field,
    }
}

#[test]
fn each_value_of_the_scc_is_missed_when_it_is_taken_away() {
    let full = scc(Profile::Documented);
    let pods: Vec<Pod> = Plan::all().into_iter().map(|plan| plan.pod).collect();
    let with: Vec<_> = pods.iter().map(|pod| admit(pod, std::slice::from_ref(&full)).unwrap()).collect();
    for name in registered(Scenario::Plan).filter(|name| is_scc(name)) {
        for right in witnessed(name).unwrap().rights {
            let Right::Scc { field, value } = right else { continue };
            let lesser = lesser(&full, field, value);
            assert_ne!(lesser, full, "{field}={value} is in the SCC");
            if prepare(lesser.clone()).unwrap() == prepare(full.clone()).unwrap() {
                // The platform keeps the two values of this grant in step: one cannot be taken without the other.
                assert_eq!((*field, *value), ("volumes", "hostPath"));
                continue;
            }
            let missed =
                pods.iter().zip(&with).any(|(pod, before)| match admit(pod, std::slice::from_ref(&lesser)) {
                    Err(why) => why.contains(words(field, value)),
                    // What a machine has not asked for would be put into its pod.
                    Ok(after) => *field == "supplementalGroups" && after.pod != before.pod,
                });
            assert!(missed, "`{name}`: no pod is refused without {field}={value}");
        }
    }
}

/// Proof 4 for admission: what is next to a granted value is refused.
#[test]
fn near_misses_of_the_scc_are_refused() {
    let full = scc(Profile::Documented);
    let pod = Plan::new(&samples::full(), Profile::Documented, None).pod;
    let good = serde_json::to_value(&pod).unwrap();
    assert_eq!(admit(&pod, std::slice::from_ref(&full)).unwrap().scc, render::scc::CONTROLLER);
    let container = "/spec/containers/0/securityContext";
    for (path, value, words) in [
        (format!("{container}/capabilities/add"), json!(["NET_ADMIN", "SYS_ADMIN"]), "SYS_ADMIN"),
        (format!("{container}/capabilities/add"), json!(["IPC_LOCK"]), "IPC_LOCK"),
        (format!("{container}/privileged"), json!(true), "rivileged"),
        (format!("{container}/allowPrivilegeEscalation"), json!(true), "llowPrivilegeEscalation"),
        ("/spec/hostNetwork".into(), json!(true), "ostNetwork"),
        ("/spec/hostPID".into(), json!(true), "ostPID"),
        ("/spec/hostIPC".into(), json!(true), "ostIPC"),
        ("/spec/volumes/0".into(), json!({"name": "n", "nfs": {"server": "s", "path": "/"}}), "nfs"),
        ("/spec/securityContext/seccompProfile".into(), json!({"type": "Unconfined"}), "seccomp"),
    ] {
        let mut bad = good.clone();
        let (parent, last) = path.rsplit_once('/').unwrap();
        match bad.pointer_mut(parent).unwrap() {
            Value::Object(fields) => drop(fields.insert(last.to_owned(), value)),
            Value::Array(list) => list[0] = value,
            _ => panic!("{parent}"),
        }
        let bad: Pod = serde_json::from_value(bad).unwrap();
        let why = admit(&bad, std::slice::from_ref(&full)).expect_err(&path);
        assert!(why.contains(words), "{path}: {why}");
    }
}
