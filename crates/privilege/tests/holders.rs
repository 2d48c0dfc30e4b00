//! Who may hold what: each process has rights of the kinds that confine it, and the promises about single processes hold for every
//! row that anybody adds.

mod common;

use std::collections::BTreeSet;

use common::{PROFILES, table};
use ferrovirt_privilege::{Access, Feature, Right, Subject, Surface, VolumeSource, cluster_grants};

/// The documents in which a subject's rights are.
fn surfaces(subject: Subject) -> &'static [Surface] {
    use Surface::{Filter, MachineScc, Node, Order, Pod, Rbac, Scc, Seccomp, Selinux};
    match subject {
        Subject::Qemu => &[Pod, Order, Seccomp, Selinux],
        Subject::Launcher => &[Pod, Order, Seccomp, Selinux, Filter],
        Subject::NodeAgent | Subject::Node => &[Rbac, Node],
        Subject::Plug | Subject::Net => &[Pod, Node, Filter],
        Subject::Api => &[Rbac, Pod, Node],
        Subject::Supervisor => &[Node],
        Subject::ApiServer => &[Node, Filter],
        Subject::Controller => &[Rbac, Scc, MachineScc],
        Subject::SccWebhook
        | Subject::MachineApi
        | Subject::Anybody
        | Subject::Viewer
        | Subject::Editor
        | Subject::Administrator => &[Rbac],
    }
}

#[test]
fn rights_are_of_the_kinds_that_confine_their_holder() {
    for (feature, grant) in table() {
        for right in grant.rights {
            assert!(
                surfaces(grant.subject).contains(&right.surface()),
                "{feature}: {} and {right} ({:?})",
                grant.subject,
                right.surface()
            );
        }
    }
}

/// Everything that a subject has, in any profile, with the feature.
fn rights_of(subject: Subject) -> Vec<(Feature, &'static Right<&'static str>)> {
    let rows = table().into_iter().filter(|(_, grant)| grant.subject == subject);
    let found: Vec<_> =
        rows.flat_map(|(feature, grant)| grant.rights.iter().map(move |right| (feature, right))).collect();
    assert!(!found.is_empty(), "{subject}");
    found
}

/// Of the parts that a cluster runs, and of what reads strangers' requests, one has a capability.
#[test]
fn one_capability_on_a_cluster() {
    use Subject::{Api, ApiServer, Controller, MachineApi, Net, Plug, SccWebhook};
    for subject in [Plug, Net, Api, Controller, SccWebhook, MachineApi, ApiServer] {
        let found: BTreeSet<&str> = rights_of(subject)
            .into_iter()
            .filter_map(|(_, right)| match right {
                Right::Capability(name) | Right::Host { capability: name, operation: _ } => Some(*name),
                _ => None,
            })
            .collect();
        let wanted: &[&str] = if subject == Net { &["NET_ADMIN"] } else { &[] };
        assert_eq!(found, wanted.iter().copied().collect(), "{subject}");
    }
}

/// A verb of a subject: group, resource, verb, namespace and name.
type Verb = (&'static str, &'static str, &'static str, Option<&'static str>, Option<&'static str>);

fn verbs(subject: Subject) -> Vec<Verb> {
    rights_of(subject)
        .into_iter()
        .filter_map(|(_, right)| match right {
            Right::Verb { group, resource, verb, namespace, name } => {
                Some((*group, *resource, *verb, *namespace, *name))
            }
            _ => None,
        })
        .collect()
}

/// On a cluster no process that serves more than one machine reads a secret but its own certificate's, by name, and none makes
/// another one.
#[test]
fn secrets_on_a_cluster() {
    use Subject::{Api, Controller, MachineApi, Net, Plug, SccWebhook};
    for subject in [Api, Controller, MachineApi, Net, Plug, SccWebhook] {
        for (_, resource, verb, namespace, name) in verbs(subject) {
            if resource == "secrets" {
                assert!([MachineApi, SccWebhook].contains(&subject), "{subject}: {verb} secrets");
                assert!(name.is_some() && namespace.is_some(), "{subject}: {verb} {name:?} in {namespace:?}");
                let made = subject == MachineApi && ["create", "patch"].contains(&verb);
                assert!(made || ["get", "update"].contains(&verb), "{subject}: {verb} {name:?}");
            }
        }
        for (feature, right) in rights_of(subject) {
            if let Right::Mount { source, access, .. } = right {
                let own = matches!(source, VolumeSource::Secret { name, .. } if !name.contains('{'));
                assert!(own && *access == Access::Read, "{feature}: {subject}: {right}");
            }
        }
    }
}

/// What speaks with the API server on a node of a cluster writes machines' state and events, and nothing of pods, nodes or claims.
/// RBAC knows no node: a verb here is one on every node's objects.
#[test]
fn the_api_part_writes_machines_and_events() {
    let reads = ["get", "list", "watch"];
    let written: BTreeSet<_> = verbs(Subject::Api)
        .into_iter()
        .filter(|(_, _, verb, ..)| !reads.contains(verb))
        .map(|(_, resource, verb, ..)| (resource, verb))
        .collect();
    assert_eq!(written, BTreeSet::from([("virtualmachineinstances", "patch"), ("events", "create")]));
    for subject in [Subject::Plug, Subject::Net] {
        assert!(verbs(subject).is_empty(), "{subject} has no token");
    }
}

/// Paths of the node are those of the slots and two of the kubelet's, which are read; nobody sees a directory that has these in it,
/// and what reads launchers' bytes has no way to the kubelet.
#[test]
fn paths_of_the_node() {
    for subject in Subject::ALL {
        for (feature, right) in rights_of(subject) {
            let Right::NodePath { path, access } = right else { continue };
            assert!([Subject::Plug, Subject::Net].contains(&subject), "{feature}: {subject}: {path}");
            assert!(path.starts_with('/') && !path.ends_with('/') && !path.contains(".."), "{path}");
            assert!(path.matches('/').count() >= 4, "{subject}: {path} has too much in it");
            let kubelet = path.starts_with("/var/lib/kubelet");
            assert!(!kubelet || subject == Subject::Plug, "{subject}: {path}");
            assert!(!kubelet || *access == Access::Read, "{subject}: {path}");
        }
    }
}

/// System calls of a filter of our own.
fn own_calls(subject: Subject) -> BTreeSet<&'static str> {
    let found = rights_of(subject).into_iter().filter_map(|(_, right)| match right {
        Right::OwnSyscall(name) | Right::Syscall(name) => Some(*name),
        _ => None,
    });
    found.collect()
}

/// No filter lets through what changes the kernel, another process or the process's own rights.
const NEVER: [&str; 55] = [
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "capset",
    "chroot",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mknod",
    "mknodat",
    "modify_ldt",
    "mount",
    "mount_setattr",
    "move_mount",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "setgroups",
    "setns",
    "setresuid",
    "setuid",
    "setgid",
    "settimeofday",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
];

#[test]
fn no_filter_lets_through_what_leads_out() {
    for subject in Subject::ALL {
        let never: Vec<_> = NEVER.iter().filter(|name| own_calls(subject).contains(*name)).collect();
        assert!(never.is_empty(), "{subject}: {never:?}");
    }
}

/// Without these no program of the C library ends, waits, or goes on after a signal or a stop: a filter that lacks one is found out
/// on the day when a node is suspended.
#[test]
fn every_filter_has_what_every_program_needs() {
    let all = [
        "brk",
        "clock_gettime",
        "close",
        "exit_group",
        "fcntl",
        "futex",
        "mmap",
        "munmap",
        "read",
        "restart_syscall",
        "rt_sigreturn",
        "write",
    ];
    for subject in [Subject::Qemu, Subject::Launcher, Subject::Plug, Subject::Net, Subject::ApiServer] {
        let calls = own_calls(subject);
        let missing: Vec<_> = all.iter().filter(|name| !calls.contains(*name)).collect();
        assert!(missing.is_empty(), "{subject}: {missing:?}");
        // Old and new name of one call: which one is used is the C library's choice.
        for (old, new) in [
            ("epoll_wait", "epoll_pwait"),
            ("poll", "ppoll"),
            ("lstat", "newfstatat"),
            ("stat", "statx"),
            ("open", "openat"),
            ("pipe", "pipe2"),
            ("dup2", "dup3"),
            ("unlink", "unlinkat"),
            ("readlink", "readlinkat"),
            ("select", "pselect6"),
            ("nanosleep", "clock_nanosleep"),
        ] {
            // The API server reads links by one function of Rust's library, which has one call for them.
            let links = subject == Subject::ApiServer && old == "readlink";
            assert!(links || !calls.contains(old) || calls.contains(new), "{subject}: {old} without {new}");
        }
    }
}

/// What reads strangers' bytes starts no program and makes no end of another process; the parts that have a path of the node answer
/// no call from the network.
#[test]
fn our_own_processes_stay_what_they_are() {
    for subject in [Subject::Plug, Subject::Net, Subject::ApiServer] {
        let calls = own_calls(subject);
        for name in ["execve", "execveat", "fork", "vfork", "kill", "tkill"] {
            assert!(!calls.contains(name), "{subject}: {name}");
        }
    }
    // In one thread, with no child.
    for name in ["clone", "clone3", "wait4", "waitid"] {
        assert!(!own_calls(Subject::Plug).contains(name), "{name}");
    }
    // `net` calls nobody: its launchers come to it, and netlink needs no connection.
    assert!(!own_calls(Subject::Net).contains("connect"));
    // A launcher calls nobody either, but in its slot; QEMU never does.
    let connects: BTreeSet<_> = rights_of(Subject::Launcher)
        .into_iter()
        .filter(|(_, right)| matches!(right, Right::Syscall("connect") | Right::OwnSyscall("connect")))
        .map(|(_, right)| right.surface())
        .collect();
    assert_eq!(connects, [Surface::Filter].into());
    assert!(!own_calls(Subject::Qemu).contains("connect"));
}

/// Each of these people may do all that the one before may, and more.
#[test]
fn roles_of_people_grow() {
    let ladder = [Subject::Viewer, Subject::Editor, Subject::Administrator];
    for pair in ladder.windows(2) {
        let [less, more] = pair else { panic!("{pair:?}") };
        let [small, large] = [less, more].map(|subject| verbs(*subject).into_iter().collect::<BTreeSet<_>>());
        let missing: Vec<_> = small.difference(&large).collect();
        assert!(missing.is_empty(), "{more} lacks what {less} has: {missing:?}");
        assert!(large.len() > small.len(), "{more} has no more than {less}");
    }
    // Nobody but an editor enters a machine or changes whether it runs: a viewer sees it, also expanded.
    for subject in [Subject::Viewer, Subject::Anybody] {
        for (group, resource, verb, ..) in verbs(subject) {
            let seen = resource == "virtualmachines/expand-spec" && verb == "get";
            assert!(
                group != "subresources.kubevirt.io" || !resource.contains('/') || seen,
                "{subject}: {verb} {resource}"
            );
        }
    }
    // A client asks for a console, and for what a machine expands to, by GET, and for a change by PUT.
    for (group, resource, verb, ..) in verbs(Subject::Administrator) {
        if group == "subresources.kubevirt.io" {
            let asked = ["/console", "/vnc", "/expand-spec"].iter().any(|end| resource.ends_with(end));
            assert_eq!(verb, if asked { "get" } else { "update" }, "{resource}");
        }
    }
}

/// A machine's own rights are in its pod: what is installed for everybody has none of them.
#[test]
fn what_is_installed_is_no_machines() {
    for profile in PROFILES {
        let all = cluster_grants(profile);
        for subject in [Subject::Qemu, Subject::Launcher] {
            for right in all.of(subject) {
                let installed = [Surface::Seccomp, Surface::Filter, Surface::Selinux];
                assert!(installed.contains(&right.surface()), "{profile:?}: {subject}: {right}");
            }
        }
    }
}

/// The documented profile adds rights to pods and takes none from the system: who installs either has the same parts with the same
/// rights on their nodes, but for what launchers do themselves.
#[test]
fn profiles_differ_in_launchers() {
    let [minimal, documented] = PROFILES.map(cluster_grants);
    for subject in Subject::ALL {
        let launcher = [Subject::Qemu, Subject::Launcher].contains(&subject);
        assert!(launcher || minimal.of(subject) == documented.of(subject), "{subject}");
    }
    assert!(!documented.minus(&minimal).is_empty() && !minimal.minus(&documented).is_empty());
}
