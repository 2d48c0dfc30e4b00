//! All places of the node: what `net` and the watches tell of them, and one task for each.

use super::{
    inbox::{FromNet, News, Sender, inbox},
    net::{Heard, Outgoing},
    worker::{Served, Shared, Worker},
};
use crate::{machine::accept::owner, net::talk::ToApi, plug::table::Holder};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_plan::decide::NODE_LABEL;
use ferrovirt_watch::follow;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::watcher::{self, Event},
};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Marks launcher pods.
const LAUNCHERS: &str = "kubevirt.io=virt-launcher";
/// Objects of a list that are read at once: one can have a megabyte and more.
const PAGE: u32 = 20;
/// How long `net` may take, after a connection, to tell of a place that was known before.
const TELL: Duration = Duration::from_secs(5);

/// How long after its start this program may not know every machine of its node.
const FINDING: Duration = Duration::from_secs(15);

/// Namespace and name.
type Name = (String, String);

struct Handle {
    holder: Holder,
    number: u64,
    sender: Sender,
    /// The guest that is served to people.
    served: watch::Receiver<Option<Served>>,
    /// The connection on which `net` has named it.
    named: u64,
}

#[derive(Default)]
struct Known {
    slots: HashMap<String, Handle>,
    pods: HashMap<Name, Arc<Pod>>,
    /// Number of the connection to `net`.
    connection: u64,
    /// What keeps every network of this node from being made.
    problem: Option<String>,
}

/// A machine, as far as people may have it.
#[derive(Debug)]
pub(super) enum Found {
    /// Its guest runs.
    Served(Target),
    /// It has a pod here, and no guest that is served.
    NotServed,
    /// It is not here.
    Nowhere,
}

/// A guest that is served.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) slot: String,
    pub(super) link: u64,
    pub(super) serial: bool,
    pub(super) graphics: bool,
    pub(super) sender: Sender,
}

/// The places of the node.
pub(super) struct Node {
    begun: Instant,
    shared: Arc<Shared>,
    known: Mutex<Known>,
}

impl Node {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), shared, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place whose task the test plays.
    #[cfg(test)]
    pub(super) fn place(
        &self,
        slot: &str,
        namespace: &str,
        served: Option<Served>,
    ) -> super::inbox::Receiver {
        let (sender, receiver) = inbox();
        let holder = Holder { namespace: namespace.into(), pod: slot.into(), container: "compute".into() };
        let (_, served) = watch::channel(served);
        let handle = Handle { holder, number: 1, sender, served, named: 0 };
        self.known().slots.insert(slot.into(), handle);
        self.shared.changed.notify_waiters();
        receiver
    }

    /// Hears and watches for ever.
    pub(super) async fn run(self: Arc<Self>, socket: &Path, outgoing: Outgoing) {
        let hear = {
            let node = self.clone();
            super::net::run(socket, outgoing, move |heard| node.hear(heard))
        };
        tokio::join!(hear, self.watch_pods(), self.watch_machines());
    }

    /// The machine of this name now. An earlier pod of it may still be ending.
    fn machine(&self, namespace: &str, name: &str) -> Found {
        let known = self.known();
        let mut found = Found::Nowhere;
        for (slot, handle) in known.slots.iter().filter(|(_, handle)| handle.holder.namespace == namespace) {
            if let Some(served) = handle.served.borrow().as_ref().filter(|served| served.machine == name) {
                let Served { link, serial, graphics, .. } = *served;
                let (slot, sender) = (slot.clone(), handle.sender.clone());
                return Found::Served(Target { slot, link, serial, graphics, sender });
            }
            let pod = known.pods.get(&(namespace.to_owned(), handle.holder.pod.clone()));
            if pod.and_then(|pod| owner(&pod.metadata)).is_some_and(|owner| owner.name == name) {
                found = Found::NotServed;
            }
        }
        found
    }

    /// The machine of this name as it is at the deadline, or as soon as its guest is served. The cluster's API asks for what runs,
    /// and after a start of this program the launchers are found one by one.
    pub(super) async fn served(&self, namespace: &str, name: &str, deadline: Instant) -> Found {
        loop {
            // Before the look, so that no change between the two is missed.
            let changed = self.shared.changed.notified();
            let found = self.machine(namespace, name);
            let missing = matches!(found, Found::Nowhere) && self.begun.elapsed() > FINDING;
            if missing || matches!(found, Found::Served(_)) || timeout_at(deadline, changed).await.is_err() {
                return found;
            }
        }
    }

    fn hear(self: &Arc<Self>, heard: Heard) {
        match heard {
            Heard::Connected => {
                let connection = {
                    let mut known = self.known();
                    known.connection += 1;
                    known.connection
                };
                let node = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(TELL).await;
                    node.forget_unnamed(connection);
                });
            }
            Heard::Lost => {
                for handle in self.known().slots.values() {
                    handle.sender.send(News::Net(FromNet::Lost));
                }
            }
            Heard::Said(head, body) => self.heard(head, body),
        }
    }

    /// Places that went while nobody was connected to `net`.
    fn forget_unnamed(&self, connection: u64) {
        let mut known = self.known();
        if known.connection != connection {
            return;
        }
        known.slots.retain(|_, handle| {
            let named = handle.named == connection;
            if !named {
                handle.sender.send(News::Net(FromNet::Gone));
            }
            named
        });
    }

    fn heard(self: &Arc<Self>, head: ToApi, body: Vec<u8>) {
        let (slot, said) = match head {
            ToApi::Node { problem } => {
                if let Some(problem) = &problem {
                    tracing::error!("no machine of this node gets a network: {problem}");
                }
                self.known().problem = problem;
                return;
            }
            ToApi::Slot { slot, holder, number } => return self.held(slot, holder, number),
            ToApi::Hung { slot } => {
                tracing::error!(slot, "what serves this place cannot be ended: see docs/install.md");
                return;
            }
            ToApi::Gone { slot } => {
                let handle = self.known().slots.remove(&slot);
                if let Some(handle) = handle {
                    handle.sender.send(News::Net(FromNet::Gone));
                }
                return;
            }
            ToApi::Linked { slot, link, user } => (slot, FromNet::Linked { link, user }),
            ToApi::Ended { slot, link, why } => {
                if let Some(why) = &why {
                    tracing::warn!(slot, "the connection of a launcher was ended: {why}");
                }
                // A connection that was never reported was refused by `net`.
                let Some(link) = link else { return };
                (slot, FromNet::Ended { link, left: why.is_none() })
            }
            ToApi::Said { slot, link } => (slot, FromNet::Said { link, bytes: body }),
            ToApi::Ready { slot, facts, .. } => (slot, FromNet::Made(facts)),
            ToApi::Refused { slot, why, .. } => (slot, FromNet::NotMade(why)),
        };
        if let Some(handle) = self.known().slots.get(&slot) {
            handle.sender.send(News::Net(said));
        }
    }

    /// A pod holds a place: the one that is known, or another `Allocate`.
    fn held(self: &Arc<Self>, slot: String, holder: Holder, number: u64) {
        let mut known = self.known();
        let connection = known.connection;
        if let Some(handle) = known.slots.get_mut(&slot) {
            if handle.holder == holder && handle.number == number {
                handle.named = connection;
                return;
            }
            handle.sender.send(News::Net(FromNet::Gone));
        }
        let (sender, receiver) = inbox();
        let pod = known.pods.get(&(holder.namespace.clone(), holder.pod.clone())).cloned();
        let (shows, served) = watch::channel(None);
        let worker = Worker::new(self.shared.clone(), slot.clone(), holder.clone(), receiver, shows, pod);
        known.slots.insert(slot, Handle { holder, number, sender, served, named: connection });
        tokio::spawn(worker.run());
    }

    async fn watch_pods(&self) {
        let api: Api<Pod> = Api::all(self.shared.reader.pods.clone());
        let config = watcher::Config::default()
            .labels(LAUNCHERS)
            .fields(&format!("spec.nodeName={}", self.shared.reader.node))
            .page_size(PAGE);
        let mut listed: BTreeSet<Name> = BTreeSet::new();
        let mut stream = Box::pin(follow(api, config, "pods".to_owned()));
        while let Some(event) = stream.next().await {
            match event {
                Event::Init => listed.clear(),
                Event::InitApply(pod) => {
                    listed.insert(name(&pod));
                    self.show(name(&pod), Some(pod));
                }
                Event::InitDone => {
                    let gone: Vec<Name> =
                        self.known().pods.keys().filter(|name| !listed.contains(name)).cloned().collect();
                    for name in gone {
                        self.show(name, None);
                    }
                }
                Event::Apply(pod) => self.show(name(&pod), Some(pod)),
                Event::Delete(pod) => self.show(name(&pod), None),
            }
        }
    }

    /// A pod is this now.
    fn show(&self, name: Name, pod: Option<Pod>) {
        let pod = pod.map(|mut pod| {
            pod.metadata.managed_fields = None;
            Arc::new(pod)
        });
        let mut known = self.known();
        let has_place = |known: &Known| {
            known
                .slots
                .values()
                .any(|handle| (&handle.holder.namespace, &handle.holder.pod) == (&name.0, &name.1))
        };
        match &pod {
            // Anybody can have a node refuse any number of large pods with this label.
            Some(pod) if is_over(pod) && !has_place(&known) => drop(known.pods.remove(&name)),
            Some(pod) => drop(known.pods.insert(name.clone(), pod.clone())),
            None => drop(known.pods.remove(&name)),
        }
        let (namespace, name) = &name;
        let of = |handle: &&Handle| handle.holder.namespace == *namespace && handle.holder.pod == *name;
        for handle in known.slots.values().filter(of) {
            handle.sender.send(News::Pod(pod.clone()));
        }
    }

    async fn watch_machines(&self) {
        let api: Api<VirtualMachineInstance> = Api::all(self.shared.reader.machines.clone());
        let config = watcher::Config::default()
            .labels(&format!("{NODE_LABEL}={}", self.shared.reader.node))
            .page_size(PAGE);
        let mut stream = Box::pin(follow(api, config, "machines".to_owned()));
        while let Some(event) = stream.next().await {
            if let Event::Apply(machine) | Event::InitApply(machine) = event {
                let machine = Arc::new(machine);
                let known = self.known();
                let is_of = |handle: &&Handle| {
                    let pod = known.pods.get(&(handle.holder.namespace.clone(), handle.holder.pod.clone()));
                    let owner = pod.and_then(|pod| owner(&pod.metadata));
                    owner.is_some_and(|owner| machine.metadata.uid.as_deref() == Some(&owner.uid))
                };
                for handle in known.slots.values().filter(is_of) {
                    handle.sender.send(News::Machine(machine.clone()));
                }
            }
        }
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn name(pod: &Pod) -> Name {
    let data = &pod.metadata;
    (data.namespace.clone().unwrap_or_default(), data.name.clone().unwrap_or_default())
}
