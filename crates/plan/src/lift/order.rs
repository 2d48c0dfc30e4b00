//! What an order lets QEMU open and what the launcher does with interfaces.

use crate::paths;
use ferrovirt_privilege::{Access, NetworkStep, Right};
use ferrovirt_qemu::order::{Backing, Order, Tap};
use std::collections::BTreeSet;

/// Every file and interface of the order. A file counts as its volume: the last directory that a mount of the pod
/// can be.
pub fn lift(order: &Order) -> BTreeSet<Right<String>> {
    let mut out = BTreeSet::new();
    let mut open = |path: &str, access| out.insert(Right::Open { path: volume(path), access });
    for disk in &order.disks {
        // An overlay leaves the file itself unwritten.
        let access = if disk.read_only || disk.overlay { Access::Read } else { Access::ReadWrite };
        open(&disk.path, access);
    }
    for file in order.kernel.iter().flat_map(|kernel| [&kernel.kernel, &kernel.initrd]).flatten() {
        open(file, Access::Read);
    }
    match &order.memory.backing {
        Backing::Anonymous | Backing::HugeMemfd { .. } => {}
        Backing::HugeDirectory { path } => {
            open(path, Access::ReadWrite);
        }
    }
    for nic in &order.nics {
        let (one, more) = match nic.tap {
            // Who opened the queues of the latter, and the socket for DHCP, was the launcher itself: they are ready all the
            // same.
            Tap::Passed | Tap::Opened { .. } => (NetworkStep::ReceiveQueue, NetworkStep::ReceiveMoreQueues),
            Tap::Created { .. } => (NetworkStep::CreateTap, NetworkStep::CreateMoreQueues),
        };
        let mut step = |step| out.insert(Right::Network { nic: nic.name.clone(), step });
        step(one);
        if nic.queues > 1 {
            step(more);
        }
        if nic.dhcp.is_some() {
            step(NetworkStep::ReceiveDhcpSocket);
        }
    }
    out
}

/// The directory or device of the pod's volume that a path is in; the path itself when it is in none.
fn volume(path: &str) -> String {
    let roots = [format!("{}/", paths::IMAGES), format!("{}/vmi-disks/", paths::PRIVATE)];
    for root in roots {
        let Some(rest) = path.strip_prefix(&root) else { continue };
        // A path that climbs out is in no volume.
        if rest.split('/').any(|part| part == "..") {
            break;
        }
        if let Some(name) = rest.split('/').next() {
            return format!("{root}{name}");
        }
    }
    path.to_owned()
}
