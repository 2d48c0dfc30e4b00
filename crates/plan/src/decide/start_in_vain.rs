//! Pods that do not start in a user namespace of their own, and are made again without one.
//!
//! Nodes say whether they give pods one, and may be wrong: a kubelet's feature gate is off, users may make no user namespaces
//! (`user.max_user_namespaces`), a file system has no idmapped mounts. The kubelet tries such a pod for ever. First it is written
//! on the instance that its pod is given up, then that pod is deleted, and when it is gone another one is made. The launcher has
//! not begun: nothing has been done for it.

use std::time::Duration;

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::pods;
use crate::user_namespace;

/// How long a kubelet may take to make what the pod's containers run in, before it is tried without a user namespace.
const LONGEST: Duration = Duration::from_secs(60);

/// What `userNamespaces` Auto knows of nodes: what keeps one, by name, from giving pods a user namespace.
pub type NodeLack<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What is to be done about a pod that has not started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing, but to look again then.
    Wait(Option<Duration>),
    /// It does not start in one; the message says where and why.
    GiveUp(String),
}

/// A pod with users of its own, whose instance has given up on them.
pub(super) fn is_given_up(vmi: &VirtualMachineInstance, pod: &Pod) -> bool {
    pods::has_own_users(pod) && user_namespace::gave_up(vmi)
}

/// Whether a pod that has a user namespace, and whose launcher has not run, is to be given up.
pub(super) fn judge(pod: &Pod, lack: &NodeLack<'_>, now: Timestamp) -> Verdict {
    let Some(node) = pods::node(pod).filter(|_| pods::has_own_users(pod) && !pods::is_going(pod)) else {
        return Verdict::Wait(None);
    };
    let give_up = |why: &str| {
        Verdict::GiveUp(format!(
            "the launcher pod did not start in a user namespace of its own on node {node}, and is made again without one: {why}"
        ))
    };
    if let Some(why) = lack(node) {
        return give_up(&why);
    }
    if let Some(why) = pods::start_trouble(pod) {
        return give_up(&why);
    }
    let Some(since) = pods::waits_for_sandbox(pod) else { return Verdict::Wait(None) };
    match super::vmi::remaining(since, LONGEST, now) {
        Some(rest) => Verdict::Wait(Some(rest)),
        None => give_up(&format!(
            "its kubelet has made nothing for its containers to run in for {} s; the pod's events say why. Where that has \
             another cause, such as a Secret that is missing, mend it and start the machine again",
            LONGEST.as_secs()
        )),
    }
}
