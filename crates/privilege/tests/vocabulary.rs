//! Words of others in the table: a class, permission, resource, field or value that its enforcer does not know grants nothing, or
//! is refused when somebody installs it. Each list here is of the kernel, Kubernetes or OpenShift.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{PROFILES, table};
use ferrovirt_model::Profile;
use ferrovirt_privilege::{Feature, Grant, Right, Subject, Surface, cluster_grants, feature_grants, grants};

/// Permissions that every class of files has (security/selinux/include/classmap.h).
const FILE: &str = "ioctl read write create getattr setattr lock relabelfrom relabelto append map unlink link rename \
                    execute quotaon mounton audit_access open execmod watch watch_mount watch_sb watch_with_perm \
                    watch_reads";
/// Permissions that every class of sockets has.
const SOCKET: &str = "ioctl read write create getattr setattr lock relabelfrom relabelto append map bind connect listen \
                      accept getopt setopt shutdown recvfrom sendto name_bind";

/// Whether the kernel knows this permission of this class.
fn selinux_knows(class: &str, permission: &str) -> bool {
    let (common, own) = match class {
        "file" => (FILE, "execute_no_trans entrypoint"),
        "dir" => (FILE, "add_name remove_name reparent search rmdir"),
        "lnk_file" | "chr_file" | "blk_file" | "sock_file" | "fifo_file" => (FILE, ""),
        "tun_socket" => (SOCKET, "attach_queue"),
        "unix_stream_socket" => (SOCKET, "connectto"),
        "udp_socket" => (SOCKET, "node_bind"),
        "fd" => ("", "use"),
        "process" => (
            "",
            "fork transition sigchld sigkill sigstop signull signal ptrace getsched setsched getsession getpgid \
             setpgid getcap setcap share getattr setexec setfscreate noatsecure siginh setrlimit rlimitinh \
             dyntransition setcurrent execmem execstack execheap setkeycreate setsockcreate getrlimit",
        ),
        "process2" => ("", "nnp_transition nosuid_transition"),
        "filesystem" => {
            ("", "mount remount unmount getattr relabelfrom relabelto associate quotamod quotaget watch")
        }
        _ => return false,
    };
    [common, own].iter().any(|list| list.split_whitespace().any(|known| known == permission))
}

/// secilc refuses a module with a permission that its class does not have, and with it every machine of the node.
#[test]
fn selinux_permissions_are_those_of_their_class() {
    for (feature, grant) in table() {
        for right in grant.rights {
            if let Right::Selinux { class, permission, .. } = right {
                assert!(selinux_knows(class, permission), "{feature}: {right}");
            }
        }
    }
    // The list tells classes apart.
    assert!(!selinux_knows("chr_file", "entrypoint") && !selinux_knows("process", "nnp_transition"));
}

/// Whether a resource of Kubernetes is there, and whether its objects are in namespaces.
fn resource(group: &str, name: &str) -> Option<bool> {
    let (resource, subresource) = name.split_once('/').unwrap_or((name, ""));
    let (namespaced, subresources): (bool, &[&str]) = match (group, resource) {
        ("", "pods") => (true, &["status"]),
        ("", "events" | "secrets" | "configmaps" | "persistentvolumeclaims") => (true, &[]),
        ("", "nodes") => (false, &["status"]),
        ("", "namespaces" | "persistentvolumes") => (false, &[]),
        ("apps", "deployments" | "daemonsets") => (true, &["status"]),
        ("coordination.k8s.io", "leases") => (true, &[]),
        ("rbac.authorization.k8s.io", "roles" | "rolebindings") => (true, &[]),
        ("rbac.authorization.k8s.io", "clusterroles" | "clusterrolebindings") => (false, &[]),
        ("authorization.k8s.io", "subjectaccessreviews") => (false, &[]),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => (false, &[]),
        ("apiregistration.k8s.io", "apiservices") => (false, &[]),
        ("apiextensions.k8s.io", "customresourcedefinitions") => (false, &[]),
        ("security.openshift.io", "securitycontextconstraints") => (false, &[]),
        // Finalizers are no subresource that is served: an admission check asks for the verb on one.
        ("kubevirt.io", "virtualmachines") => (true, &["status", "finalizers"]),
        // Its status is written through the object itself.
        ("kubevirt.io", "virtualmachineinstances") => (true, &["finalizers"]),
        ("kubevirt.io", "kubevirts") => (true, &["status"]),
        ("subresources.kubevirt.io", "version" | "guestfs") => (false, &[]),
        ("subresources.kubevirt.io", "expand-vm-spec") => (true, &[]),
        ("subresources.kubevirt.io", "virtualmachines") => {
            (true, &["start", "stop", "restart", "expand-spec"])
        }
        ("subresources.kubevirt.io", "virtualmachineinstances") => {
            (true, &["pause", "unpause", "console", "vnc"])
        }
        _ => return None,
    };
    (subresource.is_empty() || subresources.contains(&subresource)).then_some(namespaced)
}

/// RBAC takes any word: a role that names a resource in the wrong group, or a namespace for what is in none, says nothing at all.
#[test]
fn roles_name_resources_that_are_there() {
    for (feature, grant) in table() {
        for right in grant.rights {
            let Right::Verb { group, resource: name, namespace, .. } = right else { continue };
            let known = resource(group, name);
            assert!(known.is_some(), "{feature}: {right}");
            assert!(namespace.is_none() || known == Some(true), "{feature}: {right} is in no namespace");
        }
    }
}

/// The name of an object is not known to the authorizer when it is made in a collection, nor when that is deleted: such a rule never
/// holds. It is known where it is made by a server-side apply, for which the right to patch it is asked for, too.
#[test]
fn rules_with_names_can_hold() {
    for (feature, grant) in table() {
        for right in grant.rights {
            let Right::Verb { verb, name: Some(name), namespace, group, resource: kind } = right else {
                continue;
            };
            let patch = Right::Verb {
                group: *group,
                resource: *kind,
                verb: "patch",
                namespace: *namespace,
                name: Some(*name),
            };
            let applied = *verb == "create" && grant.rights.contains(&patch);
            assert!(applied || !["create", "deletecollection"].contains(verb), "{feature}: {right}");
            // An object of a name that we know is in the namespace that we know.
            let namespaced = resource(group, kind) == Some(true);
            assert!(namespace.is_some() || !namespaced, "{feature}: {right}: everybody's `{name}`");
        }
    }
}

/// What a watch starts from is listed, and what is replaced was read before: the right to the one without the other is no use.
#[test]
fn verbs_come_with_those_that_they_need() {
    for subject in Subject::ALL {
        let all = cluster_grants(Profile::Minimal).of(subject);
        let has = |wanted: &Right<String>, other: &str| {
            let Right::Verb { group, resource, namespace, name, .. } = wanted else { return false };
            all.contains(&Right::Verb {
                group: group.clone(),
                resource: resource.clone(),
                verb: other.to_owned(),
                namespace: namespace.clone(),
                name: name.clone(),
            })
        };
        for right in &all {
            let Right::Verb { group, resource, verb, .. } = right else { continue };
            match verb.as_str() {
                "watch" => assert!(has(right, "list"), "{subject}: {right} without list"),
                // What is sent there is answered and kept nowhere.
                "update" if resource == "expand-vm-spec" => {}
                "update" if !resource.contains('/') => {
                    assert!(has(right, "get"), "{subject}: {right} without get of {group}");
                }
                _ => {}
            }
        }
    }
}

/// Fields of an SCC and the values that OpenShift takes for them; `None` for names of accounts.
fn scc_values(field: &str) -> Option<&'static [&'static str]> {
    Some(match field {
        "allowHostDirVolumePlugin" => &["true"],
        "allowedCapabilities" => &["NET_ADMIN", "NET_RAW", "SYS_NICE"],
        "volumes" => &["emptyDir", "hostPath", "image", "persistentVolumeClaim", "secret"],
        "seccompProfiles" => &["runtime/default"],
        "runAsUser" => &["MustRunAs", "MustRunAsRange", "MustRunAsNonRoot", "RunAsAny"],
        "seLinuxContext" | "fsGroup" | "supplementalGroups" => &["MustRunAs", "RunAsAny"],
        "users" => &["system:serviceaccount:kubevirt:kubevirt-controller"],
        _ => return None,
    })
}

#[test]
fn fields_of_an_scc_have_values_that_it_takes() {
    let lists = ["allowedCapabilities", "volumes", "seccompProfiles", "users"];
    for surface in [Surface::Scc, Surface::MachineScc] {
        let mut single = BTreeMap::new();
        for right in cluster_grants(Profile::Minimal).on(surface) {
            let (Right::Scc { field, value } | Right::MachineScc { field, value }) = &right else {
                panic!("{right} is no field of an SCC")
            };
            let values = scc_values(field).unwrap_or_else(|| panic!("{right}: no such field"));
            assert!(values.contains(&value.as_str()), "{right}");
            if !lists.contains(&field.as_str()) {
                // The rendered document has one of them, and which one would be a matter of order.
                assert_eq!(single.insert(field.clone(), value.clone()), None, "{surface:?} {field}");
            }
        }
    }
}

/// The SCC of labelled pods is `restricted-v2` but for the label: it lets in no path of the node, no capability and no user of choice.
#[test]
fn the_scc_of_machines_frees_the_label_alone() {
    let values = cluster_grants(Profile::Minimal).on(Surface::MachineScc);
    let free: Vec<_> = values.iter().filter(|right| right.to_string().ends_with("=RunAsAny")).collect();
    let free: Vec<_> = free.iter().map(ToString::to_string).collect();
    assert_eq!(
        free,
        [
            "scc kubevirt-machine seLinuxContext=RunAsAny",
            // So it is in restricted-v2.
            "scc kubevirt-machine supplementalGroups=RunAsAny"
        ]
    );
    for right in &values {
        let Right::MachineScc { field, value } = right else { continue };
        assert!(!field.starts_with("allow") && value != "hostPath", "{right}");
    }
}

/// Volumes of a machine are let in by both SCCs, but for a path of the node.
#[test]
fn both_sccs_let_in_the_same_volumes() {
    let all = cluster_grants(Profile::Minimal);
    let volumes = |surface| -> BTreeSet<String> {
        let rights = all.on(surface).into_iter();
        let found = rights.filter_map(|right| match right {
            Right::Scc { field, value } | Right::MachineScc { field, value } if field == "volumes" => {
                Some(value)
            }
            _ => None,
        });
        found.collect()
    };
    let (documented, machine) = (volumes(Surface::Scc), volumes(Surface::MachineScc));
    let only: Vec<_> = documented.symmetric_difference(&machine).map(String::as_str).collect();
    assert_eq!(only, ["hostPath"]);
}

/// Parts of the hook that refuses a right: whose word this must be. A reviewer looks there, and a witness waits for that refusal.
fn enforcers(right: &Right<&'static str>) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    match right {
        Right::Syscall(_) | Right::OwnSyscall(_) => one("__seccomp_filter"),
        Right::Selinux { .. } | Right::SelinuxAttribute { .. } | Right::SelinuxRole { .. } => {
            one("security hook")
        }
        Right::PodField { field, .. } if field.starts_with("seLinux") => one("security hook"),
        Right::Scc { .. } | Right::MachineScc { .. } => one("admission: "),
        Right::Verb { .. } => vec!["authorizer: RBAC".into(), "admission: OwnerReferences".into()],
        Right::Device { .. } => one("devcgroup_check_permission"),
        Right::Capability(name) => vec![format!("CAP_{name}")],
        Right::Host { capability, .. } => vec![
            format!("CAP_{capability}"),
            // Files that are root's alone, where the hook is of what is in the file.
            "is root's alone".into(),
            "kernfs permissions".into(),
            // Of the first user namespace, where it takes one of two.
            "checkpoint_restore_ns_capable".into(),
        ],
        _ => vec!["kernel: ".into(), "admission: ".into()],
    }
}

#[test]
fn hooks_are_of_what_enforces_the_right() {
    for (feature, grant) in table() {
        for right in grant.rights {
            let enforcers = enforcers(right);
            assert!(
                enforcers.iter().any(|enforcer| grant.hook.as_str().contains(enforcer.as_str())),
                "{feature}: {right}: `{}` names none of {enforcers:?}",
                grant.hook
            );
        }
    }
}

/// The rights of one entry are refused by one enforcer, so that one witness can miss them all.
#[test]
fn an_entry_is_of_one_document() {
    for (feature, grant) in table() {
        let surfaces: BTreeSet<_> = grant.rights.iter().map(Right::surface).collect();
        assert_eq!(surfaces.len(), 1, "{feature}: {}", grant.witness);
        let different: BTreeSet<_> = grant.rights.iter().collect();
        assert_eq!(different.len(), grant.rights.len(), "{feature}: {} says a right twice", grant.witness);
    }
}

/// What is in both profiles is written once, so that a change of one is a change of the other.
#[test]
fn an_entry_of_both_profiles_is_the_same_entry() {
    for feature in Feature::ALL {
        let [minimal, documented] =
            PROFILES.map(|profile| grants(feature, profile).collect::<BTreeSet<&Grant>>());
        for one in minimal.difference(&documented) {
            for other in documented.difference(&minimal) {
                assert!(
                    one.subject != other.subject || one.rights != other.rights,
                    "{feature}: {} and {} are one entry",
                    one.witness,
                    other.witness
                );
            }
        }
        for profile in PROFILES {
            let rows = grants(feature, profile).count();
            let different = grants(feature, profile).collect::<BTreeSet<_>>().len();
            assert_eq!(rows, different, "{feature}: an entry is there twice");
        }
    }
}

/// Placeholders are those that a machine, or the node, fills in: a misspelt one would stay in a path.
#[test]
fn placeholders_are_known() {
    let known = [
        "{volume}",
        "{image}",
        "{helper}",
        "{directory}",
        "{claim}",
        "{group}",
        "{mount}",
        "{secret}",
        "{keys}",
        "{nic}",
        "{page}",
        "{size}",
        "{label-type}",
        "{label-level}",
        "{domain}",
        "{runtime}",
        "{agent}",
    ];
    let mut seen = BTreeSet::new();
    for feature in Feature::ALL {
        for profile in PROFILES {
            for (held, _) in feature_grants(feature, profile).iter() {
                let mut rest = held.right.to_string();
                for name in known {
                    if rest.contains(name) {
                        seen.insert(name);
                        rest = rest.replace(name, "");
                    }
                }
                // The display of a mount leaves its volume out.
                if let Right::Mount { volume, .. } = &held.right {
                    seen.extend(known.iter().find(|name| volume.contains(**name)));
                }
                assert!(!rest.contains(['{', '}']), "{feature}: {}", held.right);
            }
        }
    }
    assert_eq!(seen, known.into(), "a placeholder that nothing has");
}
