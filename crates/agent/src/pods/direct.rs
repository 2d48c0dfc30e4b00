//! What is done here for a launcher that asks for no place and is met by its node's agent itself: its disks, its side of the
//! pod's network, its order. For a pod that asks for a place, others do all of this.

use super::{
    Shared,
    accept::Accepted,
    pipeline::{Connected, Failure, admit, attached, unusable},
};
use crate::machine::{
    disks, facts, huge_pages,
    network::{self, Wired},
};
use ferrovirt_model::{Profile, machine::Binding};
use ferrovirt_node::network::cni::Attachment;
use ferrovirt_plan::render::order::{DiskFacts, order};
use ferrovirt_qemu::{order::Order, protocol::Purpose, seed};
use ferrovirt_sys::netns;
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    thread,
    time::Instant,
};
use tokio::sync::oneshot;
use tracing::debug;

/// The files of the machine's seeds, once it is clear that its guest can begin.
pub(super) fn seeds(fetched: &Accepted) -> Result<Vec<seed::File>, Failure> {
    let memory = &fetched.machine.memory;
    if let Some(message) = memory.huge_pages.and_then(|page| huge_pages::missing(memory.guest, page)) {
        return Err(Failure::new("InsufficientHugePages", message, true));
    }
    disks::seeds(&fetched.machine, &fetched.objects).map_err(unusable)
}

/// The guest's network. What needs the pod's address comes last: the plug-in that finds one is the slowest part. The
/// pod's port is in the rules before any order can go out.
pub(super) fn connect(
    shared: &Shared,
    pod: &Pod,
    fetched: &Accepted,
    attachment: oneshot::Receiver<Option<Attachment>>,
    user: u32,
) -> Result<Connected, Failure> {
    let begin = Instant::now();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let namespace = netns::open(&shared.netns(&uid)).map_err(Failure::node)?;
    let interfaces = &fetched.machine.interfaces;
    network::prepare(&namespace, interfaces).map_err(Failure::node)?;
    let passed = fetched.config.profile == Profile::Minimal;
    let queues: Vec<_> = interfaces.iter().map(|nic| (nic.name.clone(), nic.queues, passed)).collect();
    let open = || descriptors(&namespace, &queues, user).map_err(Failure::node);
    let early = interfaces.iter().all(|nic| nic.binding == Binding::Masquerade);
    let opened = early.then(open).transpose()?;
    debug!(elapsed = ?begin.elapsed(), "guest network");
    let attachment = attached(attachment)?;
    let hostname = facts::hostname(pod);
    let (wired, admitted) = thread::scope(|scope| {
        let admitted = scope.spawn(|| admit(shared, pod, fetched, &attachment));
        let wired = network::wire(&namespace, interfaces, &attachment, &hostname);
        (wired, admitted.join())
    });
    debug!(elapsed = ?begin.elapsed(), "rules");
    let port = admitted.map_err(|_| Failure::node("the pod's port could not be put into the rules"))??;
    let wired = wired.map_err(Failure::node)?;
    Ok(Connected { port, wired, descriptors: opened.map_or_else(open, Ok)? })
}

/// The order of a launcher.
pub(super) fn order_of(
    shared: &Shared,
    fetched: &Accepted,
    disks: BTreeMap<String, DiskFacts>,
    wired: &[Wired],
) -> Result<Order, Failure> {
    let block = fetched.objects.claims.iter().filter(|(_, claim)| claim.block).map(|(name, _)| name.clone());
    let block: BTreeSet<String> = block.collect();
    let kvm = shared.kvm && !fetched.config.use_emulation;
    let facts = facts::collect(&fetched.machine, kvm, block, disks, wired);
    order(&fetched.machine, &fetched.config, &facts)
        .map_err(|error| Failure::new("CreateContainerConfigError", error, false))
}

/// Opens what goes with an order: for each interface its queues, where they are passed, and its DHCP socket.
pub(super) fn descriptors(
    namespace: &OwnedFd,
    nics: &[(String, u32, bool)],
    user: u32,
) -> Result<Vec<(Purpose, OwnedFd)>, network::Error> {
    let mut all = Vec::new();
    for (nic, queues, passed) in nics {
        if *passed {
            let fds = network::queues(namespace, *queues, user)?;
            all.extend(fds.into_iter().map(|fd| (Purpose::TapQueue { nic: nic.clone() }, fd)));
        }
        all.push((Purpose::Dhcp { nic: nic.clone() }, network::dhcp(namespace)?));
    }
    Ok(all)
}
