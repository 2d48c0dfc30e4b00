//! Which launcher pods on a cluster have a user namespace of their own (`hostUsers: false`), and what keeps others from it.
//!
//! With `Auto`, the default, a pod has one where all that its machine uses is known to work in one, the API server keeps it, and
//! every node that takes machines gives pods one. A pod whose node or runtime says all the same that it has none is made again
//! without; where nobody says so, it waits. An administrator who knows more about the cluster says `Always`.

use crate::{
    config::{ClusterConfig, World},
    render::places,
};
use ferrovirt_api::kubevirt::{KubeVirtCondition, VirtualMachineInstance};
use ferrovirt_kubernetes::typed_condition::Condition as _;
use ferrovirt_model::{Machine, Profile};
use ferrovirt_privilege::{Feature, Surroundings, features};
use k8s_openapi::api::core::v1::Node;
use std::{fmt, str::FromStr};

/// The constraint of the platform that is for pods with a user namespace. Every other one gives pods users of their namespace's
/// range, which begins above the 65,536 users that a kubelet gives a pod.
pub const CONSTRAINT: &str = "restricted-v3";
/// Users of that constraint, groups too.
pub(crate) const USERS: std::ops::RangeInclusive<u32> = 1000..=65534;
/// The first Linux whose tmpfs has idmapped mounts; secrets are in one.
const LINUX: (u32, u32) = (6, 3);
/// The first kubelet that gives pods one where nobody has changed its feature gates.
const KUBELET: (u32, u32) = (1, 33);
/// Nodes that a sentence names.
const SHOWN: usize = 3;
/// Condition of an instance whose pod cannot start in a user namespace of its own, and is made again without, or waits long.
pub const CONDITION: &str = "UserNamespace";
/// Its reason where it is made again.
pub const NOT_STARTED: &str = "NotStarted";
/// Its reason where it waits: nobody says that it is the user namespace.
pub const WAITING: &str = "Waiting";

/// Which launcher pods have a user namespace of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserNamespaces {
    /// Those of which everything is known to work in one, where every node that takes machines gives pods one.
    #[default]
    Auto,
    /// Those, and those of which an administrator has to know it, whatever nodes say.
    Always,
    /// None.
    Never,
}

/// A value of `userNamespaces` that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is unknown: use Auto, Always or Never")]
pub struct UnknownUserNamespaces(String);

impl FromStr for UserNamespaces {
    type Err = UnknownUserNamespaces;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "Auto" => Ok(Self::Auto),
            "Always" => Ok(Self::Always),
            "Never" => Ok(Self::Never),
            other => Err(UnknownUserNamespaces(other.to_owned())),
        }
    }
}

/// What keeps a pod from a user namespace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Our own node agent runs the pods.
    OwnNode,
    /// The KubeVirt object says so.
    Never,
    /// The documented profile.
    Documented,
    /// Security context constraints give pods their users; with `Auto` only.
    Constraints,
    /// The cluster has not shown that it gives pods one; with `Auto` only.
    Cluster,
    /// A feature that cannot work in one.
    Feature(Feature, &'static str),
    /// A feature of which an administrator has to know whether it works in one; with `Auto` only.
    Unknown(Feature, &'static str),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnNode => f.write_str("under `ferrovirt up` no pod has one"),
            Self::Never => f.write_str("userNamespaces of the KubeVirt object is Never"),
            Self::Documented => f.write_str(
                "the documented profile: the capability SYS_NICE is one of the node's first user namespace",
            ),
            Self::Constraints => f.write_str(
                "security context constraints give pods their users, which userNamespaces Always changes",
            ),
            Self::Cluster => f.write_str(
                "the cluster does not give pods one: the condition UserNamespaces of the KubeVirt object says why",
            ),
            Self::Feature(feature, why) => write!(f, "{feature}: {why}"),
            Self::Unknown(feature, why) => write!(f, "{feature}: {why}, unless userNamespaces is Always"),
        }
    }
}

/// What keeps the machine's pod from a user namespace of its own; nothing where it has one.
pub fn obstacles(machine: &Machine, config: &ClusterConfig, surroundings: &Surroundings) -> Vec<Obstacle> {
    if config.world == World::Machine {
        return vec![Obstacle::OwnNode];
    }
    let auto = config.user_namespaces == UserNamespaces::Auto;
    let mut out = Vec::new();
    for (is_so, obstacle) in [
        (config.user_namespaces == UserNamespaces::Never, Obstacle::Never),
        (config.profile == Profile::Documented, Obstacle::Documented),
        (auto && config.image_user.is_none(), Obstacle::Constraints),
        (auto && !config.cluster_has_user_namespaces, Obstacle::Cluster),
    ] {
        out.extend(is_so.then_some(obstacle));
    }
    let of_features = features(machine, surroundings).into_iter().filter_map(of);
    out.extend(of_features.filter(|found| auto || !matches!(found, Obstacle::Unknown(..))));
    out
}

/// Whether the machine's pod has a user namespace of its own.
pub fn pod_has_one(machine: &Machine, config: &ClusterConfig, surroundings: &Surroundings) -> bool {
    obstacles(machine, config, surroundings).is_empty()
}

/// A feature without an arm of its own breaks the build: somebody has to have seen it work.
fn of(feature: Feature) -> Option<Obstacle> {
    Some(match feature {
        Feature::BaseMachine
        | Feature::Emulation
        | Feature::Tap
        | Feature::Masquerade
        | Feature::Bridge
        | Feature::MultiQueue
        | Feature::Dhcp
        | Feature::ContainerDisk
        | Feature::KernelBoot
        | Feature::Overlay
        | Feature::EmptyDisk
        | Feature::EmptyDiskRead
        | Feature::CloudInit
        | Feature::CloudInitMounted
        | Feature::CloudInitSecret
        | Feature::Graphics
        | Feature::SerialConsole
        | Feature::UserNamespace
        // Of claims, which are asked about themselves.
        | Feature::VolumeGroup
        | Feature::Slot
        // Not a machine's.
        | Feature::ControlPlane
        | Feature::SccWebhook
        | Feature::MachineApi
        | Feature::UserRoles => return None,
        Feature::Kvm => Obstacle::Unknown(
            feature,
            "/dev/kvm is the node's own there and gets no owner, so that everybody has to be let open it on every node",
        ),
        Feature::ClaimFileRead | Feature::ClaimFileWrite => Obstacle::Unknown(
            feature,
            "not every file system has idmapped mounts (NFS has none), and the pod would wait for ever",
        ),
        Feature::HugePages => Obstacle::Unknown(feature, "they were not tried in one"),
        Feature::ServedImage | Feature::ServedImages => {
            Obstacle::Unknown(feature, "containers of images were not tried in one")
        }
        Feature::ClaimBlockRead | Feature::ClaimBlockWrite => {
            Obstacle::Feature(feature, "Kubernetes refuses devices of claims there")
        }
        Feature::HostDiskRead | Feature::HostDiskWrite | Feature::HostDiskCreate => {
            Obstacle::Feature(feature, "a file of the node belongs to a user of the node")
        }
        Feature::Sriov => Obstacle::Feature(feature, "a device of the node gets no owner there"),
        Feature::SelinuxLabel => Obstacle::Feature(
            feature,
            "the constraint kubevirt-machine gives pods users of their namespace's range, which are none of a user namespace",
        ),
    })
}

/// Which nodes that take machines give pods without a runtime class a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// No node takes machines, so that nobody knows.
    None,
    /// Every one.
    All,
    /// Not all: names of those that do not, and what each lacks.
    Lacking(Vec<(String, String)>),
}

impl Nodes {
    /// Whether pods get one: also where no node takes machines yet. A node that comes and has none gets another pod.
    pub fn may_have(&self) -> bool {
        !matches!(self, Self::Lacking(_))
    }
}

/// What nodes say of user namespaces.
///
/// Those that are cordoned count, too: a pod that waits may be bound to one later.
pub fn nodes<'a>(all: impl IntoIterator<Item = &'a Node>) -> Nodes {
    let mut found = Nodes::None;
    for node in all.into_iter().filter(|node| takes_machines(node)) {
        let Some(why) = lack(node) else {
            if found == Nodes::None {
                found = Nodes::All;
            }
            continue;
        };
        let row = (node.metadata.name.clone().unwrap_or_default(), why);
        match &mut found {
            Nodes::Lacking(rows) => rows.push(row),
            other => *other = Nodes::Lacking(vec![row]),
        }
    }
    found
}

/// A handler's device plug-in has registered there, also one that is away for a while.
fn takes_machines(node: &Node) -> bool {
    let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref());
    capacity.is_some_and(|capacity| capacity.contains_key(places::RESOURCE))
}

/// What keeps a node from giving pods one, by what it says of its kubelet, its runtime (KEP-127: `status.runtimeHandlers`) and
/// its kernel, and what to change.
pub fn lack(node: &Node) -> Option<String> {
    let status = node.status.as_ref();
    let info = status.and_then(|status| status.node_info.as_ref());
    let kubelet = info.map(|info| info.kubelet_version.as_str()).unwrap_or_default();
    if version(kubelet.trim_start_matches('v')).is_none_or(|version| version < KUBELET) {
        return Some(format!("its kubelet is {kubelet:?}: use 1.33 or later"));
    }
    let mut handlers = status.iter().flat_map(|status| status.runtime_handlers.iter().flatten());
    let default = handlers.find(|handler| handler.name.as_deref().unwrap_or_default().is_empty());
    let features = default.and_then(|handler| handler.features.as_ref());
    if features.is_none_or(|features| features.user_namespaces != Some(true)) {
        let why = "its container runtime has none: use containerd 2 or CRI-O, with runc 1.2 or crun 1.9, or later ones";
        return Some(why.to_owned());
    }
    let kernel = info.map(|info| info.kernel_version.as_str()).unwrap_or_default();
    let old = version(kernel).is_none_or(|version| version < LINUX);
    old.then(|| format!("its kernel is {kernel:?}: use Linux 6.3 or later"))
}

/// Whether the pod of an instance did not start in one. With `Auto` it gets none any more.
pub fn gave_up(vmi: &VirtualMachineInstance) -> bool {
    let conditions = vmi.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.r#type == CONDITION && condition.status == "False")
}

/// Whether launcher pods of the cluster can have user namespaces, and what to change: the KubeVirt object's condition
/// `UserNamespaces`. `given_up`: names of machines whose pods did not start in one. Nothing where our own node agent
/// runs the pods.
pub fn condition(
    config: &ClusterConfig,
    api_server_keeps: bool,
    nodes: &Nodes,
    given_up: &[String],
) -> Option<KubeVirtCondition> {
    if config.world == World::Machine {
        return None;
    }
    let say = |status, reason, message: &str| {
        Some(KubeVirtCondition::new("UserNamespaces", status, reason, message))
    };
    let off = |reason, message| say("False", reason, message);
    match config.user_namespaces {
        UserNamespaces::Never => {
            return off("Never", "spec.configuration.userNamespaces is Never: use Auto or Always");
        }
        _ if config.profile == Profile::Documented => {
            let why = "the documented profile needs a capability of the node's user namespace (SYS_NICE): \
                       spec.configuration.privilegeProfile minimal does not";
            return off("DocumentedProfile", why);
        }
        _ if !api_server_keeps => {
            let why = "the API server, or a webhook of it, took hostUsers out of the last launcher pod that was asked about: switch \
                       the feature gate UserNamespacesSupport of API server and kubelets on (it is from Kubernetes 1.33), or look \
                       for a mutating webhook that changes pods. Of every new pod it is asked again";
            return off("ApiServer", why);
        }
        UserNamespaces::Always => {
            let on = "launcher pods have a user namespace of their own, whatever nodes say, but for those of machines with what \
                      cannot work in one";
            return say("True", "Always", on);
        }
        UserNamespaces::Auto => {}
    }
    if config.image_user.is_none() {
        let why = "security context constraints give pods users of their namespaces' ranges, which a user namespace has not: \
                   with spec.configuration.userNamespaces Always launcher pods are bound to restricted-v3, which has others";
        return off("Constraints", why);
    }
    match nodes {
        Nodes::None => {
            let why =
                "no node takes machines yet, so that none has said whether it gives pods user namespaces";
            return say("Unknown", "NoNodes", why);
        }
        Nodes::Lacking(rows) => {
            let named = rows.iter().take(SHOWN).map(|(node, why)| format!("{node} gives pods none ({why})"));
            let more = rows.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!("; and {more} more nodes") } else { String::new() };
            return off("Nodes", &format!("{}{more}", named.collect::<Vec<_>>().join("; ")));
        }
        Nodes::All => {}
    }
    if !given_up.is_empty() {
        let named: Vec<_> = given_up.iter().take(SHOWN).map(String::as_str).collect();
        let message = format!(
            "launcher pods have a user namespace of their own, but for {} machines whose pods did not start in one ({}{}): their \
             condition {CONDITION} says where and why; mend that and start them again, or use userNamespaces Never",
            given_up.len(),
            named.join(", "),
            if given_up.len() > SHOWN { ", ..." } else { "" }
        );
        return off(NOT_STARTED, &message);
    }
    let on = "launcher pods have a user namespace of their own where all that their machines use is known to work in one";
    say("True", "Auto", on)
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::{
            self,
            accept::{Place, Step, differences},
        },
        lift, samples,
        scc::admission,
    };
    use ferrovirt_api::kubevirt::KubeVirt;
    use ferrovirt_model::machine::{Disk, Source};
    use ferrovirt_privilege::{Label, Surface, machine_grants};
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn config(user_namespaces: UserNamespaces) -> ClusterConfig {
        ClusterConfig {
            user_namespaces,
            use_emulation: true,
            cluster_has_user_namespaces: true,
            ..ClusterConfig::on_cluster(Profile::Minimal, "launcher".to_owned(), Some(107))
        }
    }

    fn with(disk: Disk) -> Machine {
        Machine { disks: vec![disk], ..samples::plain() }
    }

    /// What keeps it, by default and where the administrator says `Always`.
    fn kept(machine: &Machine, config: &ClusterConfig) -> (Vec<Obstacle>, Vec<Obstacle>) {
        let block = ["block".to_owned()].into();
        let found = |user_namespaces| {
            let config = ClusterConfig { user_namespaces, ..config.clone() };
            obstacles(machine, &config, &config.surroundings(&block))
        };
        (found(UserNamespaces::Auto), found(UserNamespaces::Always))
    }

    #[test]
    fn a_machine_of_which_all_is_known_has_one_and_others_say_why_not() {
        let auto = config(UserNamespaces::Auto);
        let mut machine = samples::plain();
        machine.interfaces =
            vec![samples::interface("default", ferrovirt_model::machine::Binding::Masquerade, 4)];
        assert_eq!(kept(&machine, &auto), (vec![], vec![]));
        let claim = |name: &str| Source::Claim { claim: name.into(), read_only: false, ephemeral: false };
        let host = Source::HostDisk { path: "/srv/a.img".into(), create: None };
        let empty = Source::EmptyDisk { capacity: ferrovirt_model::Bytes::mib(1) };
        let image = Source::ContainerDisk { image: "a".into(), path: None };
        let feature = |found: &[Obstacle]| {
            let named = |found: &Obstacle| match found {
                Obstacle::Feature(feature, _) | Obstacle::Unknown(feature, _) => Some(*feature),
                _ => None,
            };
            found.iter().filter_map(named).collect::<Vec<_>>()
        };
        for (source, by_default, always) in [
            (empty, vec![], vec![]),
            (image.clone(), vec![], vec![]),
            (claim("files"), vec![Feature::ClaimFileWrite], vec![]),
            (claim("block"), vec![Feature::ClaimBlockWrite], vec![Feature::ClaimBlockWrite]),
            (host, vec![Feature::HostDiskWrite], vec![Feature::HostDiskWrite]),
        ] {
            let (auto, forced) = kept(&with(samples::disk("d", source.clone())), &auto);
            assert_eq!((feature(&auto), feature(&forced)), (by_default, always), "{source:?}");
        }
        let served = ClusterConfig { serves_images: true, ..auto.clone() };
        let (auto_of, forced) = kept(&with(samples::disk("d", image)), &served);
        assert_eq!(feature(&auto_of), [Feature::ServedImage, Feature::ServedImages]);
        assert_eq!(forced, []);
        let kvm = ClusterConfig { use_emulation: false, ..auto.clone() };
        let (auto_of, forced) = kept(&samples::plain(), &kvm);
        assert_eq!((feature(&auto_of), forced), (vec![Feature::Kvm], vec![]));
        let text = auto_of[0].to_string();
        assert!(
            text.starts_with("KVM: /dev/kvm") && text.ends_with("unless userNamespaces is Always"),
            "{text}"
        );
    }

    #[test]
    fn the_cluster_keeps_pods_from_one() {
        let auto = config(UserNamespaces::Auto);
        for (config, by_default, always) in [
            (
                ClusterConfig { cluster_has_user_namespaces: false, ..auto.clone() },
                vec![Obstacle::Cluster],
                vec![],
            ),
            (ClusterConfig { image_user: None, ..auto.clone() }, vec![Obstacle::Constraints], vec![]),
            (
                ClusterConfig { profile: Profile::Documented, ..auto.clone() },
                vec![Obstacle::Documented],
                vec![Obstacle::Documented],
            ),
            (
                ClusterConfig { world: World::Machine, ..auto.clone() },
                vec![Obstacle::OwnNode],
                vec![Obstacle::OwnNode],
            ),
        ] {
            assert_eq!(kept(&samples::plain(), &config), (by_default, always));
        }
        let never = config(UserNamespaces::Never);
        let around = never.surroundings(&BTreeSet::new());
        assert_eq!(obstacles(&samples::plain(), &never, &around), [Obstacle::Never]);
        let label = Some(Label { kind: "t".into(), level: "s0:c1,c2".into() });
        let always = config(UserNamespaces::Always);
        let around = Surroundings { label, ..always.surroundings(&BTreeSet::new()) };
        assert!(!pod_has_one(&samples::plain(), &always, &around));
    }

    fn node(capacity: Value, handlers: Value, kernel: &str) -> Node {
        node_of("v1.33.0", capacity, handlers, kernel)
    }

    fn node_of(kubelet: &str, capacity: Value, handlers: Value, kernel: &str) -> Node {
        let info: Value = [
            "architecture",
            "bootID",
            "containerRuntimeVersion",
            "kubeProxyVersion",
            "machineID",
            "operatingSystem",
            "osImage",
            "systemUUID",
        ]
        .map(|field| (field.to_owned(), json!("")))
        .into_iter()
        .chain([("kernelVersion".to_owned(), json!(kernel)), ("kubeletVersion".to_owned(), json!(kubelet))])
        .collect::<serde_json::Map<_, _>>()
        .into();
        let status = json!({"capacity": capacity, "runtimeHandlers": handlers, "nodeInfo": info});
        serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap()
    }

    #[test]
    fn every_node_that_takes_machines_has_to_have_them() {
        let places = || json!({"cpu": "2", "devices.ferrovirt.io/machine": "110"});
        let own = |has: bool| json!([{"name": "other"}, {"name": "", "features": {"userNamespaces": has}}]);
        let good = node(places(), own(true), "6.3.0-1-amd64");
        // The kubelet was started again, and the plug-in has not registered yet.
        let away = node(
            json!({"devices.ferrovirt.io/machine": "0"}),
            json!([{"features": {"userNamespaces": true}}]),
            "6.18+deb14",
        );
        let elsewhere = node(json!({"cpu": "2"}), json!(null), "4.18");
        assert_eq!(nodes([&good, &away, &elsewhere]), Nodes::All);
        assert_eq!(nodes([&elsewhere]), Nodes::None);
        assert_eq!(nodes([]), Nodes::None, "nobody has said it");
        for (bad, why) in [
            (node(places(), own(false), "6.18.0"), "container runtime"),
            (
                node(places(), json!([{"name": "userns", "features": {"userNamespaces": true}}]), "6.18.0"),
                "container runtime",
            ),
            (node(places(), json!(null), "6.18.0"), "container runtime"),
            (node(places(), own(true), "6.2.16"), "6.2.16"),
            (node(places(), own(true), "5.14.0-570.el9"), "Linux 6.3"),
            (node(places(), own(true), "unknown"), "unknown"),
            // Its runtime has them, and it uses them only where a feature gate was switched on.
            (node_of("v1.32.9+k3s1", places(), own(true), "6.18.0"), "v1.32.9"),
        ] {
            let Nodes::Lacking(found) = nodes([&good, &bad]) else { panic!("{bad:?}") };
            assert!(found.len() == 1 && found[0].0 == "n" && found[0].1.contains(why), "{found:?}");
        }
    }

    #[test]
    fn the_kubevirt_object_says_why_there_are_none_and_what_to_change() {
        let auto = config(UserNamespaces::default());
        let lacking =
            Nodes::Lacking(["a", "b", "c", "d"].map(|name| (name.to_owned(), "old".to_owned())).to_vec());
        let documented = ClusterConfig { profile: Profile::Documented, ..auto.clone() };
        let constraints = ClusterConfig { image_user: None, ..auto.clone() };
        let given_up = ["vms/guest".to_owned()];
        let (never, always) = (config(UserNamespaces::Never), config(UserNamespaces::Always));
        for (config, keeps, nodes, given_up, wanted) in [
            (&auto, true, &Nodes::All, &[][..], ("True", "Auto", "where all")),
            (
                &auto,
                true,
                &Nodes::All,
                &given_up[..],
                ("False", "NotStarted", "1 machines whose pods did not start in one (vms/guest)"),
            ),
            (&auto, true, &Nodes::None, &[], ("Unknown", "NoNodes", "no node")),
            (&auto, true, &lacking, &[], ("False", "Nodes", "c gives pods none (old); and 1 more nodes")),
            (&auto, false, &Nodes::All, &[], ("False", "ApiServer", "UserNamespacesSupport")),
            (&always, false, &Nodes::All, &[], ("False", "ApiServer", "UserNamespacesSupport")),
            (&always, true, &lacking, &[], ("True", "Always", "whatever nodes say")),
            (&constraints, true, &Nodes::All, &[], ("False", "Constraints", "userNamespaces Always")),
            (&documented, true, &Nodes::All, &[], ("False", "DocumentedProfile", "privilegeProfile minimal")),
            (&never, true, &Nodes::All, &[], ("False", "Never", "use Auto")),
        ] {
            let said = condition(config, keeps, nodes, given_up).unwrap();
            assert_eq!((said.status.as_str(), said.reason()), (wanted.0, wanted.1), "{said:?}");
            assert!(said.message.as_deref().is_some_and(|text| text.contains(wanted.2)), "{said:?}");
        }
        let machine = ClusterConfig { world: World::Machine, ..auto };
        assert_eq!(condition(&machine, true, &Nodes::All, &[]), None);
    }

    #[test]
    fn a_pod_that_did_not_start_in_one_has_none_but_where_an_administrator_says_so() {
        let mut vmi = instance();
        let has = |vmi: &VirtualMachineInstance, user_namespaces| {
            let pod = decide::launcher_pod(vmi, &config(user_namespaces), &[], false).unwrap();
            pod.spec.unwrap().host_users == Some(false)
        };
        assert!(has(&vmi, UserNamespaces::Auto));
        let conditions = json!([{"type": CONDITION, "status": "False", "reason": NOT_STARTED}]);
        vmi.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
        assert!(gave_up(&vmi) && !has(&vmi, UserNamespaces::Auto) && has(&vmi, UserNamespaces::Always));
    }

    fn instance() -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "metadata": {"name": "m", "namespace": "demo", "uid": "u"},
            "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}},
        }))
        .unwrap()
    }

    #[test]
    fn the_pod_has_one_and_says_by_which_constraint_it_is_admitted() {
        let pod = |config: &ClusterConfig| {
            let pod = decide::launcher_pod(&instance(), config, &[], false).unwrap();
            let annotations = pod.metadata.annotations.unwrap();
            (pod.spec.unwrap().host_users, annotations.get(ferrovirt_scc::REQUIRED_SCC).cloned())
        };
        let scc = |name: &str| Some(name.to_owned());
        assert_eq!(pod(&config(UserNamespaces::Auto)), (Some(false), scc("restricted-v3")));
        assert_eq!(pod(&config(UserNamespaces::Never)), (None, scc("restricted-v2")));
        let rights = Some(crate::config::LauncherRights::Controller);
        let lent = ClusterConfig { launcher_rights: rights, ..config(UserNamespaces::Auto) };
        assert_eq!(
            pod(&lent),
            (Some(false), scc("restricted-v3")),
            "under another it would get a user that it has not"
        );
    }

    /// As OKD admits it, and our SCC webhook: with a user that every user namespace has, which no node takes for a strange one.
    #[test]
    fn it_fits_restricted_v3_and_has_a_user_of_that() {
        let always = ClusterConfig { image_user: None, ..config(UserNamespaces::Always) };
        let pod = decide::launcher_pod(&instance(), &always, &[], false).unwrap();
        let admitted = admission::admit(&pod, &[]).unwrap();
        assert_eq!(admitted.scc, "restricted-v3");
        let user = |pod: &Value| pod["spec"]["containers"][0]["securityContext"]["runAsUser"].clone();
        assert_eq!(user(&admitted.pod), 1000);
        let namespace = json!({"metadata": {"annotations": {"openshift.io/sa.scc.uid-range": "1000620000/10000",
            "openshift.io/sa.scc.mcs": "s0:c25,c10"}}});
        let place = Place { node: "n", namespace: &namespace };
        let should = serde_json::to_value(&pod).unwrap();
        let wrong = |pod: &Value| -> Vec<String> {
            let found = differences(pod, &should, &place, Step::Start);
            found.into_iter().map(|found| found.field).collect()
        };
        assert_eq!(wrong(&admitted.pod), [""; 0]);
        let mut other = admitted.pod.clone();
        other["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(1_000_620_000);
        other["spec"]["securityContext"]["fsGroup"] = json!(1_000_620_000);
        let fields = ["spec.containers[0].securityContext.runAsUser", "spec.securityContext.fsGroup"];
        assert_eq!(wrong(&other).into_iter().collect::<BTreeSet<_>>(), fields.map(str::to_owned).into());
        // And one of its own users is none where the pod has not got them.
        let never = ClusterConfig { image_user: None, ..config(UserNamespaces::Never) };
        let pod = decide::launcher_pod(&instance(), &never, &[], false).unwrap();
        let mut other = admission::admit(&pod, &[]).unwrap().pod;
        other["spec"]["containers"][0]["securityContext"]["runAsUser"] = json!(1000);
        let found = differences(&other, &serde_json::to_value(&pod).unwrap(), &place, Step::Start);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    /// Proof 2: what is rendered is read back.
    #[test]
    fn a_pod_with_one_is_its_grants() {
        let config = config(UserNamespaces::Always);
        let around = Surroundings { user_namespace: true, ..config.surroundings(&BTreeSet::new()) };
        let pod =
            crate::render::pod_in(&samples::plain(), &VirtualMachineInstance::default(), &config, &around);
        let grants = machine_grants(&samples::plain(), &around, Profile::Minimal);
        assert_eq!(lift::pod::lift(&pod), grants.on(Surface::Pod));
        let mut nodes = pod.clone();
        nodes.spec.as_mut().unwrap().host_users = Some(true);
        assert_ne!(lift::pod::lift(&nodes), lift::pod::lift(&pod));
    }

    /// What all nodes have changes; what the KubeVirt object and the machine say does not.
    #[test]
    fn a_node_takes_both_pods_where_only_nodes_decide() {
        let forms = |config: &ClusterConfig| {
            let all = decide::accept::candidates(&instance(), config, &BTreeSet::new(), false).unwrap();
            all.iter().map(|pod| pod["spec"]["hostUsers"] == json!(false)).collect::<Vec<_>>()
        };
        let auto = config(UserNamespaces::Auto);
        assert_eq!(forms(&auto), [true, false]);
        assert_eq!(
            forms(&ClusterConfig { cluster_has_user_namespaces: false, ..auto.clone() }),
            [false, true]
        );
        assert_eq!(forms(&ClusterConfig { use_emulation: false, ..auto }), [false]);
        assert_eq!(forms(&config(UserNamespaces::Always)), [true]);
        assert_eq!(forms(&config(UserNamespaces::Never)), [false]);
        assert_eq!(forms(&ClusterConfig { world: World::Machine, ..config(UserNamespaces::Auto) }), [false]);
    }

    #[test]
    fn the_kubevirt_object_says_which() {
        let read = |value: &str, world| {
            let object = json!({"metadata": {"name": "kubevirt"},
                "spec": {"configuration": {"userNamespaces": value}}});
            let object: KubeVirt = serde_json::from_value(object).unwrap();
            let defaults = ClusterConfig { world, ..ClusterConfig::default() };
            ClusterConfig::in_force(Some(&object), &defaults).map(|config| config.user_namespaces)
        };
        assert_eq!(read("Never", World::Cluster), Ok(UserNamespaces::Never));
        assert_eq!(read("Always", World::Cluster), Ok(UserNamespaces::Always));
        assert_eq!(read("Auto", World::Machine), Ok(UserNamespaces::Auto));
        let always = read("Always", World::Machine).unwrap_err();
        assert!(always.contains("ferrovirt up") && always.contains("Auto"), "{always}");
        let wrong = read("Sometimes", World::Cluster).unwrap_err();
        assert!(wrong.contains("userNamespaces") && wrong.contains("use Auto, Always or Never"), "{wrong}");
    }
}
