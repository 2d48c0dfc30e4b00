//! Performs what is decided for one place: see [`ferrovirt_plan::decide::place`].

mod check;
mod report;

use super::{
    asks::Asks,
    inbox::{FromNet, News, Receiver},
    net::Net,
};
use crate::{
    machine::{
        accept::{Accepted, Reader},
        events::Recorder,
        facts,
        report::Reporter,
    },
    net::talk::{self, Binding, Facts, FromApi},
    plug::table::Holder,
};
use check::addresses;
use ferrovirt_model::machine;
use ferrovirt_netlink::mac::MacAddress;
use ferrovirt_plan::{
    decide::place::{Action, Event, Place, step},
    render::order::{claim_facts, order},
};
use ferrovirt_qemu::{
    order::Order,
    protocol::{self, MAX_MESSAGE, Request},
    text,
};
use k8s_openapi::api::core::v1::Pod;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

/// How long the API server may take to say what a pod is.
const READ: Duration = Duration::from_secs(15);
/// How long the end of a machine may take to be written when its place has gone.
const SETTLE: Duration = Duration::from_secs(5);

/// What every place's task shares.
pub(super) struct Shared {
    pub(super) reader: Reader,
    pub(super) events: Recorder,
    pub(super) net: Net,
    /// Some place serves another guest than before, or none.
    pub(super) changed: Notify,
}

/// A guest that is served to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Served {
    /// The machine's name.
    pub(super) machine: String,
    /// The launcher's connection.
    pub(super) link: u64,
    /// It has a serial console.
    pub(super) serial: bool,
    /// It has a screen.
    pub(super) graphics: bool,
}

/// A place that a pod holds.
pub(super) struct Worker {
    shared: Arc<Shared>,
    slot: String,
    holder: Holder,
    inbox: Receiver,
    /// The pod as the watch has it.
    pod: Option<Arc<Pod>>,
    /// The one pod that is ever served here.
    uid: Option<String>,
    accepted: Option<Accepted>,
    /// What the accepted pod's container was started from, once the kubelet says it.
    image_id: Option<String>,
    /// Of the launcher that is connected.
    user: u32,
    facts: Option<Facts>,
    reporter: Option<Reporter>,
    asks: Asks,
    served: watch::Sender<Option<Served>>,
    /// What was reported and logged last, so that retries do not repeat it.
    trouble: String,
    waits: String,
    /// Zero of this place's clock.
    zero: Instant,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        slot: String,
        holder: Holder,
        inbox: Receiver,
        served: watch::Sender<Option<Served>>,
        pod: Option<Arc<Pod>>,
    ) -> Self {
        Self {
            shared,
            slot,
            holder,
            inbox,
            pod,
            uid: None,
            accepted: None,
            image_id: None,
            user: 0,
            facts: None,
            reporter: None,
            asks: Asks::default(),
            served,
            trouble: String::new(),
            waits: String::new(),
            zero: Instant::now(),
        }
    }

    /// Runs until the place is gone.
    pub(super) async fn run(mut self) {
        let mut place = Place::default();
        let mut answers: VecDeque<Event> = VecDeque::new();
        loop {
            let event = match answers.pop_front() {
                Some(event) => event,
                None => match self.next(place.wake()).await {
                    Some(event) => event,
                    None => break,
                },
            };
            let (next, actions) = step(place, event, self.zero.elapsed());
            place = next;
            // Before people are answered.
            self.show(place.serves());
            for action in actions {
                answers.extend(self.perform(action).await);
            }
        }
        self.show(None);
        if let Some(reporter) = &mut self.reporter {
            reporter.settle(SETTLE).await;
        }
    }

    /// Waits for what happens next; `None` when the place is gone.
    async fn next(&mut self, wake: Option<Duration>) -> Option<Event> {
        loop {
            if let Some(left) = self.asks.left() {
                return Some(left);
            }
            let wake = wake.map(|at| self.zero + at);
            let news = tokio::select! {
                news = self.inbox.recv() => news,
                () = at(wake) => return Some(Event::Tick),
            };
            match news {
                News::Net(FromNet::Gone) => return None,
                News::Net(said) => return Some(self.heard(said)),
                News::Ask(asked) => {
                    if let Some(event) = self.asks.take(asked) {
                        return Some(event);
                    }
                }
                News::Machine(machine) => {
                    if let Some(reporter) = &self.reporter {
                        reporter.see(machine);
                    }
                }
                News::Pod(pod) => {
                    self.pod = pod;
                    return Some(Event::Pod(self.change()));
                }
            }
        }
    }

    /// Which guest people are given.
    fn show(&self, link: Option<u64>) {
        let served = link.zip(self.accepted.as_ref()).and_then(|(link, accepted)| {
            let devices = &accepted.machine.devices;
            let machine = accepted.vmi.metadata.name.clone()?;
            Some(Served { machine, link, serial: devices.serial_console, graphics: devices.graphics })
        });
        let changed = self.served.send_if_modified(|shown| {
            let before = std::mem::replace(shown, served);
            before != *shown
        });
        if changed {
            self.shared.changed.notify_waiters();
        }
    }

    fn heard(&mut self, said: FromNet) -> Event {
        match said {
            FromNet::Linked { link, user } => {
                self.user = user;
                Event::Linked(link)
            }
            FromNet::Ended { link, left } => Event::Ended { link, left },
            FromNet::Said { link, bytes } => match serde_json::from_slice::<protocol::Event>(&bytes) {
                Ok(said) => Event::Said(link, said.plain()),
                Err(error) => Event::Nonsense(link, text::plain(&error.to_string(), text::REFUSAL)),
            },
            FromNet::Made(facts) => {
                self.facts = Some(facts);
                Event::Made
            }
            FromNet::NotMade(why) => Event::NotMade(why),
            FromNet::Lost | FromNet::Gone => Event::Lost,
        }
    }

    /// Does it; its answer, where it has one.
    async fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Check(step) => return Some(Event::Checked(self.check(step).await)),
            Action::Prepare(link) => self.prepare(link).await,
            Action::Order(link) => return self.order(link).await.err().map(Event::NotOrdered),
            Action::End(link) => {
                let head = FromApi::End { slot: self.slot.clone(), link };
                self.shared.net.send(&head, &[]).await;
            }
            Action::Request { link, request } => self.request(link, &request).await,
            Action::Answer { ticket, answer } => self.asks.answer(ticket, answer),
            Action::Well => {
                self.trouble.clear();
                if let Some(reporter) = &self.reporter {
                    reporter.update(|known| known.trouble = None);
                }
            }
            Action::Trouble { reason, message } => self.report(reason, &message),
            Action::Waits(why) => {
                if self.waits != why {
                    tracing::info!(pod = self.name(), "waiting: {why}");
                    self.waits = why;
                }
            }
            Action::Runs { paused } => self.runs(paused),
            Action::Tell(notice) => self.notice(notice),
            Action::Misbehaves { what, wrong } => self.misbehaves(&what, wrong),
            Action::Over { ending, message } => self.over(ending, &message),
        }
        None
    }

    async fn prepare(&self, link: u64) {
        let Some(accepted) = &self.accepted else { return };
        let Some(nic) = accepted.machine.interfaces.first() else { return };
        let wanted = talk::Wanted {
            queues: nic.queues.max(1),
            binding: match nic.binding {
                machine::Binding::Masquerade => {
                    Binding::Masquerade { ports: nic.ports.iter().map(facts::forwarded).collect() }
                }
                machine::Binding::Bridge => Binding::Bridge,
            },
            mtu: None,
            addresses: addresses(&accepted.pod).collect(),
        };
        let head = FromApi::Prepare { slot: self.slot.clone(), link, wanted };
        self.shared.net.send(&head, &[]).await;
    }

    /// The launcher's order; the error is for a person.
    fn render(&self) -> Result<(Order, Vec<facts::Wired>), String> {
        let accepted = self.accepted.as_ref().ok_or("the pod was not looked at")?;
        let Accepted { pod, machine, config, block, claims, .. } = accepted;
        let hostname = facts::hostname(pod);
        let wired = self.facts.iter().zip(machine.interfaces.first()).map(|(made, nic)| {
            let pod = facts::PodInterface {
                mac: MacAddress(made.mac),
                address: made.address,
                prefix: made.prefix,
                gateway: made.gateway,
                mtu: made.mtu,
            };
            facts::wired(nic, &pod, &hostname)
        });
        let wired: Vec<_> = wired.collect();
        // The node offers /dev/kvm where it has it, and the pod asks for it unless guests are emulated.
        let kvm = !config.use_emulation;
        let claims = claims.iter().filter_map(|claim| Some((claim.metadata.name.clone()?, claim.clone())));
        let disks = claim_facts(machine, &claims.collect());
        let facts = facts::collect(machine, kvm, block.clone(), disks, &wired);
        let order = order(machine, config, &facts).map_err(|error| error.to_string())?;
        Ok((order, wired))
    }

    async fn order(&self, link: u64) -> Result<(), String> {
        let (order, wired) = self.render()?;
        self.describe(&order, &wired);
        let request = Request::Start { order: Box::new(order) };
        let bytes = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        if bytes.len() > MAX_MESSAGE {
            return Err(format!(
                "the machine's order has {} bytes, and a launcher takes {MAX_MESSAGE}: shorten its kernelArgs, or \
                 put its user data into a Secret",
                bytes.len()
            ));
        }
        let head = FromApi::Relay { slot: self.slot.clone(), link };
        self.shared.net.send(&head, &bytes).await;
        tracing::info!(pod = self.name(), "the launcher has its order");
        Ok(())
    }

    /// Says something short to the launcher.
    async fn request(&self, link: u64, request: &Request) {
        match serde_json::to_vec(request) {
            Ok(bytes) => {
                let head = FromApi::Relay { slot: self.slot.clone(), link };
                self.shared.net.send(&head, &bytes).await;
            }
            Err(error) => tracing::error!("a request cannot be written, please report this: {error}"),
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.holder.namespace, self.holder.pod)
    }
}

/// Waits for the time, if there is one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
