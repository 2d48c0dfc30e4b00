//! System calls out of an OCI seccomp profile.

use ferrovirt_kubernetes::json;
use ferrovirt_privilege::Right;
use serde_json::Value;
use std::collections::BTreeSet;

/// Every system call that a rule of the profile names, except those that are refused like any other. `clone3` is
/// named to be answered with "not implemented", so that callers fall back to a call that is let through.
/// A profile that lets everything through by default grants `*`.
pub fn lift(profile: &Value) -> BTreeSet<Right<String>> {
    let mut out = BTreeSet::new();
    let refusing = ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"];
    let default = json::text(profile, "defaultAction");
    if !refusing.contains(&default) {
        out.insert(Right::Syscall("*".to_owned()));
    }
    for rule in json::list(profile, "syscalls") {
        out.extend(json::texts(rule, "names").map(|name| Right::Syscall(name.to_owned())));
    }
    out
}
