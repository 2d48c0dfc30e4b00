//! The seccomp profile of launchers, in the form of the OCI runtime specification.

use ferrovirt_privilege::{Right, Surface, cluster_grants};
use serde_json::{Value, json};

/// Flags of clone that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Address families that launcher and QEMU use: AF_UNIX, AF_INET, AF_INET6.
const FAMILIES: [u64; 3] = [1, 2, 10];
/// `EPERM`.
const EPERM: u64 = 1;
/// `ENOSYS`.
const ENOSYS: u64 = 38;

/// The value of `linux.seccomp`. What `runtime/default` means for launcher pods on nodes whose agent runs them.
pub fn profile() -> Value {
    // The profile is the same in both.
    let grants = cluster_grants(ferrovirt_model::Profile::Minimal);
    let names: Vec<String> = grants
        .on(Surface::Seccomp)
        .into_iter()
        .filter_map(|right| match right {
            Right::Syscall(name) => Some(name),
            _ => None,
        })
        .collect();
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
        for family in FAMILIES {
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
