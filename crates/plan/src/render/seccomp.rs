//! The seccomp profile of launchers, in the form of the OCI runtime specification.

use ferrovirt_privilege::{Right, Subject, Surface, cluster_grants};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Flags of clone that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Address families that launcher and QEMU use: AF_UNIX, AF_INET, AF_INET6.
const FAMILIES: [u64; 3] = [1, 2, 10];
/// What a launcher opens beside those for the handler that it meets in its place: AF_NETLINK.
const NETLINK: u64 = 16;
/// `EPERM`.
const EPERM: u64 = 1;
/// `ENOSYS`.
const ENOSYS: u64 = 38;

/// The value of `linux.seccomp`. What `runtime/default` means for launcher pods on nodes whose agent runs them.
pub fn profile() -> Value {
    rendered(&names(false), &FAMILIES)
}

/// The same for launchers that meet their handler in a place.
pub fn profile_in_place() -> Value {
    rendered(&names(true), &[&FAMILIES[..], &[NETLINK]].concat())
}

/// System calls that launcher pods may make; `place`: with those of launchers in places alone.
fn names(place: bool) -> BTreeSet<String> {
    // The profile is the same in both.
    let grants = cluster_grants(ferrovirt_model::Profile::Minimal);
    let own = grants
        .of(Subject::Launcher)
        .into_iter()
        .filter(|right| place && matches!(right, Right::OwnSyscall(_)));
    let everywhere = grants.on(Surface::Seccomp).into_iter();
    let all = everywhere.chain(own);
    all.filter_map(|right| match right {
        Right::Syscall(name) | Right::OwnSyscall(name) => Some(name),
        _ => None,
    })
    .collect()
}

fn rendered(names: &BTreeSet<String>, families: &[u64]) -> Value {
    let conditional = ["clone", "clone3", "socket"];
    let plain: Vec<_> = names.iter().filter(|name| !conditional.contains(&name.as_str())).collect();
    let has = |name: &str| names.iter().any(|known| known == name);
    let mut rules = vec![json!({"names": plain, "action": "SCMP_ACT_ALLOW"})];
    if has("clone") {
        rules.push(json!({
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        }));
    }
    if has("clone3") {
        // Its flags are behind a pointer, which a filter cannot read: C libraries fall back to clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    if has("socket") {
        for family in families {
            rules.push(json!({
                "names": ["socket"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}],
            }));
        }
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        // Compiling the filter for one architecture takes 2 ms, for three 24 ms.
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrovirt_kubernetes::json;

    #[test]
    fn a_launcher_in_a_place_connects_and_speaks_netlink_and_no_other_does() {
        let added: Vec<String> = names(true).difference(&names(false)).cloned().collect();
        assert_eq!(added, ["connect", "pidfd_open"]);
        let netlink = |profile: &Value| {
            json::list(profile, "/syscalls").any(|rule| {
                json::texts(rule, "names").any(|name| name == "socket")
                    && rule.pointer("/args/0/value") == Some(&NETLINK.into())
            })
        };
        assert!(netlink(&profile_in_place()) && !netlink(&profile()));
    }
}
