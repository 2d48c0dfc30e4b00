//! Taking down what a pod has on the node. Every step is fine when there is nothing to take down.

use super::{Shared, record::VOLUMES};
use ferrovirt_node::{disk::remove_tree, oci::cgroup, volumes};
use ferrovirt_sys::netns;
use std::{thread, time::Duration};

/// Pauses between tries to remove a pod.
pub(super) const PAUSES: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(500), Duration::from_secs(2)];

/// Ends the container, removes network and cgroups, and unmounts the volumes, the secrets in memory among them; the pod's
/// directory with its log stays. Blocks for some 40 ms.
///
/// # Errors
/// The first step that failed, for a person; the others are done all the same.
pub(super) fn down(shared: &Shared, uid: &str) -> Result<(), String> {
    let path = shared.netns(uid);
    let network = || {
        // The plug-in gives the address back even where the namespace is no namespace any more, or gone.
        shared.network.release(uid, &path).map_err(|error| error.to_string())?;
        netns::delete(&path).map_err(|error| format!("network namespace: {error}"))
    };
    let (container, network) = thread::scope(|scope| {
        let network = scope.spawn(network);
        let directory = shared.pod_directory(uid);
        let container = shared.crun.delete(uid, &directory).map_err(|error| error.to_string());
        cgroup::remove(&shared.cgroups, uid);
        // Nobody else gets a device that the container may still have.
        if container.is_ok() {
            shared.devices.release(uid);
        }
        (container, network.join().unwrap_or_else(|_| Err("the network could not be taken down".to_owned())))
    });
    container.and(network).and(unmount(shared, uid))
}

/// Unmounts the volumes of a pod that has ended.
///
/// # Errors
/// What the kernel says, for a person.
pub(super) fn unmount(shared: &Shared, uid: &str) -> Result<(), String> {
    let volumes = shared.pod_directory(uid).join(VOLUMES);
    volumes::unmount_all(&volumes).map_err(|error| format!("volumes: {error}"))
}

/// Removes the pod's directory too.
///
/// # Errors
/// As [`down`].
pub(super) fn forget(shared: &Shared, uid: &str) -> Result<(), String> {
    down(shared, uid)?;
    let directory = shared.pod_directory(uid);
    volumes::remove(&directory.join(VOLUMES)).map_err(|error| format!("volumes: {error}"))?;
    remove_tree(&directory).map_err(|error| format!("pod directory: {error}"))
}
