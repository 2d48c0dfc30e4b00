//! Pods that cannot start in a user namespace of their own, and are made again without one.
//!
//! Nodes say whether they give pods one, and may be wrong. A user namespace is given up only where somebody says that it does not
//! work: the node about itself, or the runtime about the pod's container (a file system without idmapped mounts). First it is
//! written on the instance that its pod is given up, then that pod is deleted, and when it is gone another one is made. The
//! launcher has not begun: nothing has been done for it.
//!
//! A pod for which nothing has been made yet says nothing of that kind: its node may be slow, a volume may be missing, and who
//! makes user namespaces until a node has no more of them must not take those of other machines. It waits, and its instance says
//! what to look at. Why a kubelet makes nothing is only in events, which are no evidence: who may edit a namespace writes them.

use std::time::Duration;

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::pods;
use crate::user_namespace;

/// How long a kubelet may take to make what the pod's containers run in, before the instance says that it waits.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What `userNamespaces` Auto knows of nodes: what keeps one, by name, from giving pods a user namespace.
pub type NodeLack<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What is to be done about a pod that has not started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing, but to look again then.
    Wait(Option<Duration>),
    /// It takes long, and nobody says that a user namespace is why; the message says what to look at.
    Say(String),
    /// It cannot start in one; the message says where and why.
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
            "the launcher pod cannot start in a user namespace of its own on node {node}, and is made again without one: {why}"
        ))
    };
    if let Some(why) = lack(node) {
        return give_up(&why);
    }
    match pods::start_trouble(pod) {
        Some(why) if blames_user_namespace(&why) => return give_up(&why),
        Some(why) if pods::is_tried_again(pod) => {
            return Verdict::Say(waits(
                pod,
                node,
                &format!("the runtime does not start its container ({why})"),
            ));
        }
        _ => {}
    }
    let Some(since) = pods::waits_for_sandbox(pod) else { return Verdict::Wait(None) };
    match super::vmi::remaining(since, TIMEOUT, now) {
        Some(rest) => Verdict::Wait(Some(rest)),
        None => Verdict::Say(waits(
            pod,
            node,
            &format!("its kubelet has made nothing for its containers to run in for {} s", TIMEOUT.as_secs()),
        )),
    }
}

fn waits(pod: &Pod, node: &str, what: &str) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    format!(
        "the launcher pod waits on node {node}, and keeps its user namespace: {what}. `kubectl describe pod {} -n {namespace}` \
         shows the pod's events: where they speak of user namespaces (\"noop process for unshare\" and \"no space left on device\" \
         is a node whose user.max_user_namespaces is 0 or used up), mend the node, or set spec.configuration.userNamespaces of the \
         KubeVirt object to Never and start the machine again",
        pods::name(pod)
    )
}

/// Whether a runtime says of a container that user namespaces, or the idmapped mounts that volumes need in them, do not work.
/// Where there are no more of them just now, it says nothing of that kind.
///
/// Words of runc ("failed to set MOUNT_ATTR_IDMAP on ... maybe the filesystem used doesn't support idmap mounts"), crun
/// ("mount_setattr"), containerd and CRI-O. Each has a blank or an underscore, as names of objects have none: a machine may be
/// called after them.
fn blames_user_namespace(said: &str) -> bool {
    const WORDS: [&str; 7] = [
        "user namespace",
        "mount_attr_idmap",
        "mount_setattr",
        "idmap mount",
        "idmapped mount",
        "uid_map",
        "gid_map",
    ];
    const USED_UP: [&str; 5] = [
        "no space left on device",
        "resource temporarily unavailable",
        "cannot allocate memory",
        "unused ids",
        "empty slot",
    ];
    let said = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    has(&WORDS) && !has(&USED_UP)
}

#[cfg(test)]
mod tests {
    use super::blames_user_namespace;

    #[test]
    fn only_a_runtime_that_has_no_user_namespaces_is_believed() {
        for no in [
            "StartError: failed to set MOUNT_ATTR_IDMAP on /var/lib/kubelet/x: invalid argument",
            "CreateContainerError: mount_setattr `/etc/hosts`: Function not implemented",
            "RunContainerError: runtime does not support user namespaces",
            "StartError: write to `/proc/7/uid_map`: Invalid argument",
        ] {
            assert!(blames_user_namespace(no), "{no}");
        }
        for other in [
            "CreateContainerError: context deadline exceeded",
            "CreateContainerError: failed to reserve container name virt-launcher-idmap-userns-x",
            "StartError: exec: /usr/bin/virt-launcher: no such file or directory",
            // Somebody else may have used them up.
            "RunContainerError: failed to unshare user namespace: No space left on device",
            "CreateContainerError: could not find an empty slot to allocate a user namespace",
        ] {
            assert!(!blames_user_namespace(other), "{other}");
        }
    }
}
