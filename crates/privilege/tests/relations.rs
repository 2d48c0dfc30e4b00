//! Relations between rows of the table: what one row grants and another must allow, and what no row may grant.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{PROFILES, table};
use ferrovirt_model::Profile;
use ferrovirt_privilege::{
    Access, Feature, GrantSet, Phase, Right, Scenario, Subject, Surface, Task, VolumeSource, cluster_grants,
    feature_grants, grants, scenario, task,
};

/// Capabilities by the kernel's names, without prefix.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The values that a feature, with what every machine has, brings into a field of the SCC.
fn allowed(feature: Feature, profile: Profile, wanted: &str) -> BTreeSet<String> {
    let both = feature_grants(feature, profile).plus(feature_grants(Feature::BaseMachine, profile));
    let values = both.on(Surface::Scc).into_iter().filter_map(|right| match right {
        Right::Scc { field, value } if field == wanted => Some(value),
        _ => None,
    });
    values.collect()
}

/// A pod that a feature asks for is a pod that the SCC of the same feature lets in.
#[test]
fn the_scc_allows_what_a_feature_puts_into_the_pod() {
    for feature in Feature::ALL {
        for profile in PROFILES {
            let granted = feature_grants(feature, profile);
            // The pods of our own parts are no machines'.
            for right in [Subject::Qemu, Subject::Launcher].iter().flat_map(|subject| granted.of(*subject)) {
                let (field, value) = match &right {
                    Right::Capability(name) => ("allowedCapabilities", name.as_str()),
                    Right::Mount { source, .. } => (
                        "volumes",
                        match source {
                            VolumeSource::Scratch | VolumeSource::HugePages => "emptyDir",
                            VolumeSource::Image(_) => "image",
                            VolumeSource::HostPath { .. } => "hostPath",
                            VolumeSource::Claim(_) => "persistentVolumeClaim",
                            VolumeSource::Secret { .. } => "secret",
                        },
                    ),
                    _ => continue,
                };
                assert!(
                    allowed(feature, profile, field).contains(value),
                    "{feature}: {right} needs {field}={value}"
                );
                if value == "hostPath" {
                    assert!(
                        allowed(feature, profile, "allowHostDirVolumePlugin").contains("true"),
                        "{feature}"
                    );
                }
            }
        }
    }
}

/// The reader of a source has nothing that its writer lacks, and no row of a reader writes.
#[test]
fn a_reader_has_less_than_its_writer() {
    use Feature::{
        ClaimBlockRead, ClaimBlockWrite, ClaimFileRead, ClaimFileWrite, EmptyDisk, EmptyDiskRead,
        HostDiskCreate, HostDiskRead, HostDiskWrite,
    };
    let pairs = [
        (ClaimFileRead, ClaimFileWrite),
        (ClaimBlockRead, ClaimBlockWrite),
        (HostDiskRead, HostDiskWrite),
        (HostDiskRead, HostDiskCreate),
        (EmptyDiskRead, EmptyDisk),
    ];
    let widened = |right: Right<String>| match right {
        Right::Mount { volume, path, source, access: _ } => {
            let source = match source {
                VolumeSource::HostPath { path, create: _ } => VolumeSource::HostPath { path, create: false },
                source => source,
            };
            Right::Mount { volume, path, source, access: Access::ReadWrite }
        }
        Right::Device { path, source, access: _ } => {
            Right::Device { path, source, access: Access::ReadWrite }
        }
        Right::Open { path, access: _ } => Right::Open { path, access: Access::ReadWrite },
        right => right,
    };
    for (reader, writer) in pairs {
        for profile in PROFILES {
            let (read, written) = (feature_grants(reader, profile), feature_grants(writer, profile));
            for surface in [Surface::Order, Surface::Pod, Surface::Scc, Surface::Node] {
                let more: BTreeSet<_> = written.on(surface).into_iter().map(widened).collect();
                for right in read.on(surface) {
                    assert!(
                        surface != Surface::Order || !right.to_string().contains("write"),
                        "{reader}: {right}"
                    );
                    assert!(
                        more.contains(&widened(right.clone())),
                        "{reader} has {right}, {writer} does not"
                    );
                }
            }
        }
    }
}

#[test]
fn capabilities_are_spelled_as_the_kernel_spells_them() {
    for (feature, grant) in table() {
        for right in grant.rights {
            if let Right::Capability(name) | Right::Host { capability: name, operation: _ } = right {
                assert!(CAPABILITIES.contains(name), "{feature}: {name}");
            }
        }
    }
}

/// No wildcard, no way to more rights, and no list of all secrets.
#[test]
fn roles_are_narrow() {
    let known = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "use"];
    for (feature, grant) in table() {
        for right in grant.rights {
            let Right::Verb { group, resource, verb, namespace: _, name } = right else { continue };
            let subject = grant.subject;
            assert!(known.contains(verb), "{feature}: {right}");
            for text in [group, resource, verb] {
                assert!(!text.contains('*') && text.trim() == *text, "{feature}: {right}");
            }
            let secrets = *resource == "secrets" && group.is_empty();
            assert!(
                !secrets || name.is_some() || *verb == "get" || *verb == "create",
                "{feature}: {subject}: {right}"
            );
            let roles = *group == "rbac.authorization.k8s.io";
            assert!(!roles || ["get", "list", "watch"].contains(verb), "{feature}: {subject}: {right}");
        }
    }
}

/// Who only looks does nothing else, and nobody of the people decides about the system.
#[test]
fn people() {
    let all = cluster_grants(Profile::Minimal);
    let verbs = |subject: Subject| {
        let rights = all.of(subject).into_iter();
        let found: Vec<(String, String, String)> = rights
            .filter_map(|right| match right {
                Right::Verb { group, resource, verb, .. } => Some((group, resource, verb)),
                _ => None,
            })
            .collect();
        assert!(!found.is_empty(), "{subject}");
        found
    };
    for subject in [Subject::Viewer, Subject::Anybody] {
        for (_, resource, verb) in verbs(subject) {
            let reads = ["get", "list", "watch"].contains(&verb.as_str());
            // Its answer is what was sent: a request with a body is a PUT, and nothing is written.
            assert!(reads || resource == "expand-vm-spec", "{subject}: {verb} {resource}");
        }
    }
    for subject in [Subject::Viewer, Subject::Editor, Subject::Administrator, Subject::Anybody] {
        for (group, resource, verb) in verbs(subject) {
            assert!(group.ends_with("kubevirt.io"), "{subject}: {verb} {resource}.{group}");
            assert!(!resource.ends_with("/status"), "{subject}: {verb} {resource}");
            let reads = ["get", "list", "watch"].contains(&verb.as_str());
            assert!(resource != "kubevirts" || reads, "{subject}: {verb} {resource}");
        }
    }
}

/// Lists are whole, in the order of their types, and names tell their owners apart.
#[test]
fn lists_are_whole_and_names_are_different() {
    assert!(Feature::ALL.is_sorted_by(|a, b| a < b));
    assert!(Subject::ALL.is_sorted_by(|a, b| a < b));
    assert!(Task::ALL.is_sorted_by(|a, b| a < b));
    let distinct = |names: Vec<&str>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    assert!(distinct(Feature::ALL.map(Feature::name).into()));
    assert!(distinct(Subject::ALL.map(Subject::name).into()));
    assert!(distinct(Task::ALL.map(Task::name).into()));
    let phases = [Phase::Install, Phase::Start, Phase::Running, Phase::HotPlug, Phase::Migration];
    assert!(distinct(phases.map(Phase::name).into()));
    let used: BTreeSet<_> = table().iter().map(|(_, grant)| grant.subject).collect();
    assert_eq!(used, Subject::ALL.into(), "a subject without a grant");
    let tasks: BTreeSet<_> = table().iter().filter_map(|(_, grant)| task(grant)).collect();
    assert_eq!(tasks, Task::ALL.into(), "a task that nothing is granted for");
}

/// Documents list rights as texts: two rights of one document and one subject never read the same.
#[test]
fn two_rights_never_read_the_same() {
    let mut seen: BTreeMap<(Subject, Surface, String), Right<&str>> = BTreeMap::new();
    for (feature, grant) in table() {
        for right in grant.rights {
            let key = (grant.subject, right.surface(), right.to_string());
            let first = seen.entry(key).or_insert_with(|| right.clone());
            let volume = |right: &Right<&str>| matches!(right, Right::Mount { .. });
            assert!(first == right || volume(right), "{feature}: {first:?} and {right:?}");
        }
    }
}

/// A right that is made about a machine says what the table says, each text in its place.
#[test]
fn filling_in_keeps_every_text_in_its_place() {
    let mark = |text: &&str| format!("<{text}>");
    for (feature, grant) in table() {
        for right in grant.rights {
            let filled = right.map(&|text: &&str| (*text).to_owned());
            assert_eq!(filled.to_string(), right.to_string(), "{feature}");
            assert_eq!(filled.surface(), right.surface(), "{feature}");
            let marked = right.map(&mark);
            let back = marked.map(&|text: &String| text.trim_matches(['<', '>']).to_owned());
            assert_eq!(back, filled, "{feature}");
            assert!(marked.to_string().contains('<'), "{feature}: {marked}");
        }
    }
}

fn sets() -> Vec<GrantSet> {
    let picks =
        [Feature::BaseMachine, Feature::Kvm, Feature::Tap, Feature::HostDiskWrite, Feature::ControlPlane];
    picks.into_iter().flat_map(|feature| PROFILES.map(|profile| feature_grants(feature, profile))).collect()
}

/// Comparison is that of sets: what a report says is missing plus what is shared is everything.
#[test]
fn sets_compare_as_sets() {
    let sets = sets();
    for a in &sets {
        assert!(!a.is_empty() && a.minus(a).is_empty() && a.within(a));
        assert_eq!(a.clone().plus(a.clone()), *a);
        let by_subject: usize = Subject::ALL.into_iter().map(|subject| a.of(subject).len()).sum();
        assert_eq!(by_subject, a.len());
        for b in &sets {
            let both = a.clone().plus(b.clone());
            assert!(a.within(&both) && b.within(&both));
            assert_eq!(both, b.clone().plus(a.clone()));
            let only = a.minus(b);
            assert!(only.within(a) && only.minus(b).len() == only.len());
            let shared = a.minus(&only);
            assert!(shared.within(b));
            assert_eq!(only.len() + shared.len(), a.len());
            assert_eq!(a.within(b), only.is_empty());
            assert_eq!(both.len(), b.len() + only.len());
            // A right of somebody else is another one.
            let held = |set: &GrantSet| set.iter().map(|(held, _)| held.clone()).collect::<BTreeSet<_>>();
            assert_eq!(held(&both), &held(a) | &held(b));
            assert!(both.iter().all(|(_, origins)| !origins.is_empty()));
        }
    }
}

/// A right that two features ask for has both as its origins, so that taking one of them away leaves the other.
#[test]
fn a_right_names_everybody_who_asked() {
    for profile in PROFILES {
        let both = feature_grants(Feature::ContainerDisk, profile)
            .plus(feature_grants(Feature::KernelBoot, profile));
        let shared = both.iter().find(|(held, _)| held.right.to_string() == "scc volumes=image");
        let origins: Vec<_> =
            shared.iter().flat_map(|(_, origins)| origins.iter()).map(|origin| origin.feature).collect();
        assert_eq!(origins, [Feature::ContainerDisk, Feature::KernelBoot]);
    }
    let texts = [("{image}", "a/b".to_owned())];
    let filled = feature_grants(Feature::ContainerDisk, Profile::Minimal).with(&texts);
    assert!(filled.iter().any(|(held, _)| held.right.to_string().ends_with("of image a/b")));
}

/// Each suite has a name of its own, runs something, and is where the list says it is.
#[test]
fn suites_are_where_they_are_said_to_be() {
    let suites: BTreeSet<Scenario> = scenario::SCENARIOS.iter().map(|(_, suite)| *suite).collect();
    let names: BTreeSet<&str> = suites.iter().map(|suite| suite.name()).collect();
    let documented = suites.iter().filter(|suite| matches!(suite, Scenario::DocumentedOnly(_))).count();
    assert_eq!(names.len(), suites.len() - documented + 1);
    for suite in suites {
        for name in scenario::registered(suite) {
            let grant = scenario::witnessed(name);
            assert_eq!(grant.map(|grant| grant.witness.as_str()), Some(name));
            assert_eq!(grant.and_then(scenario::scenario), Some(suite), "{name}");
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let source = include_str!("../src/scenario.rs");
    let files: Vec<&str> =
        source.lines().filter_map(|line| line.trim().strip_prefix("/// `")?.split('`').next()).collect();
    let files: Vec<&str> = files.into_iter().filter(|file| file.ends_with(".rs")).collect();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        assert!(root.join(file).exists(), "{file} is named in scenario.rs and is not there");
    }
}

/// Only the API's grants are read as verbs, each with its three parts in order.
#[test]
fn verbs_of_a_grant() {
    let grant = scenario::witnessed("controller-pods");
    let verbs: Vec<_> = grant.into_iter().flat_map(scenario::verbs).collect();
    assert!(verbs.contains(&("", "pods", "create")), "{verbs:?}");
    assert_eq!(scenario::witnessed("no-such-witness"), None);
    let tap = scenario::witnessed("tap-bridge");
    assert_eq!(tap.into_iter().flat_map(scenario::verbs).count(), 0);
}

/// What the documented profile alone grants to a pod is not in the minimal one under another entry.
#[test]
fn the_minimal_profile_takes_away_what_it_says() {
    for feature in Feature::ALL {
        let [minimal, documented] = PROFILES.map(|profile| feature_grants(feature, profile));
        let shared: BTreeSet<_> = grants(feature, Profile::Minimal).collect();
        for grant in grants(feature, Profile::Documented).filter(|grant| !shared.contains(grant)) {
            for right in grant.rights {
                let filled = right.map(&|text: &&str| (*text).to_owned());
                let pod = right.surface() == Surface::Pod;
                assert!(!pod || !minimal.of(grant.subject).contains(&filled), "{feature}: {right}");
                assert!(documented.of(grant.subject).contains(&filled), "{feature}: {right}");
            }
        }
    }
}
