//! Performs what is decided for one place: see [`ferrovirt_plan::decide::place`].

use super::{
    asks::Asks,
    inbox::{FromNet, News, Receiver},
    net::Net,
};
use crate::{
    machine::{
        accept::{Accepted, Asked, Lasts, Reader, Refusal, owner, stranger},
        events::{Kind, Recorder},
        facts, notice,
        redacted::Redacted,
        report::Reporter,
        status::{NO_NETWORK, NOT_AS_RENDERED, NOT_READY, Phase},
    },
    net::talk::{self, Binding, Facts, FromApi},
    plug::table::Holder,
};
use ferrovirt_model::machine;
use ferrovirt_netlink::mac::MacAddress;
use ferrovirt_plan::{
    decide::accept::{Holds, untyped},
    decide::{
        life::{self, Outcome},
        place::{Action, Check, Event, Network, Notice, Place, Step, Wrong, step},
    },
    render::order::{claim_facts, order},
};
use ferrovirt_qemu::{
    order::Order,
    protocol::{self, Ending, MAX_MESSAGE, Request},
    text,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Api;
use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
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

    /// How the pod of the watch differs from what was accepted.
    fn change(&mut self) -> Option<String> {
        let accepted = self.accepted.as_ref()?;
        let Some(pod) = self.pod.clone() else {
            return Some("the pod is gone from the API server".to_owned());
        };
        if pod.metadata.uid != self.uid {
            return Some("another pod has its name".to_owned());
        }
        let differs = self.shared.reader.changes(&untyped(&pod), &accepted.essence);
        differs.or_else(|| self.holds(&pod))
    }

    /// What is wrong with the pod beside its rendering.
    fn holds(&mut self, pod: &Pod) -> Option<String> {
        let holds = Holds {
            node: &self.shared.reader.node,
            container: &self.holder.container,
            user: self.user,
            image_id: self.image_id.as_deref(),
        };
        let wrong = holds.refuse(pod);
        if wrong.is_none() && self.image_id.is_none() {
            self.image_id = Holds::image_id(pod).map(str::to_owned);
        }
        wrong
    }

    /// Compares the pod in the API server.
    async fn check(&mut self, step: Step) -> Check {
        let Some(shown) = self.pod.clone() else {
            return Check::Unknown("no launcher pod of its name is known to be on this node".to_owned());
        };
        let uid = self.uid.get_or_insert_with(|| shown.metadata.uid.clone().unwrap_or_default()).clone();
        if shown.metadata.uid.as_deref() != Some(&uid) {
            return Check::Unknown("another pod has the name of the one that holds the place".to_owned());
        }
        let Some(owner) = owner(&shown.metadata) else {
            let Refusal { reason, message, .. } = stranger();
            return Check::Unfit(reason, message);
        };
        if self.reporter.is_none() {
            let api = Api::namespaced(self.shared.reader.machines.clone(), &self.holder.namespace);
            self.reporter = Some(Reporter::start(api, owner.name.clone(), owner.uid.clone()));
        }
        let (namespace, name) = (self.holder.namespace.clone(), self.holder.pod.clone());
        let asked = Asked { namespace: &namespace, name: &name, uid: Some(&uid), owner: Some(&owner) };
        let look = async {
            match &self.accepted {
                Some(accepted) if step == Step::Serve => {
                    let actual = self.shared.reader.fresh(&asked).await.map_err(Check::Unknown)?;
                    if let Some(text) = self.shared.reader.changes(&actual, &accepted.essence) {
                        return Err(Check::Differs(text));
                    }
                    let pod = serde_json::from_value(actual);
                    let pod =
                        pod.map_err(|error| Check::Differs(format!("the pod cannot be read: {error}")))?;
                    Ok(Accepted { pod: Arc::new(pod), ..accepted.clone() })
                }
                // What runs here cannot see the node's policy. A label that the controller has recorded is asked for.
                _ => {
                    let knows = |_| async { Ok(true) };
                    self.shared.reader.accept(&asked, step, knows).await.map_err(refused)
                }
            }
        };
        let found = match timeout(READ, look).await {
            Err(_) => return Check::Unknown("the API server does not answer".to_owned()),
            Ok(Err(check)) => return check,
            Ok(Ok(accepted)) => accepted,
        };
        if let Some(wrong) = self.holds(&found.pod) {
            return Check::Differs(wrong);
        }
        let phase = found.vmi.status.as_ref().and_then(|status| status.phase.as_deref());
        let check = Check::Same { network: needs(&found), ran: phase == Some("Running") };
        self.accepted = Some(found);
        check
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

    fn runs(&self, paused: bool) {
        tracing::info!(pod = self.name(), paused, "the guest runs");
        if let Ok((order, wired)) = self.render() {
            self.describe(&order, &wired);
        }
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| (known.phase, known.paused) = (Phase::Running, paused));
        }
    }

    /// Says of the machine what its order says.
    fn describe(&self, order: &Order, wired: &[facts::Wired]) {
        let Some(reporter) = &self.reporter else { return };
        reporter.update(|known| {
            known.interfaces = facts::interfaces(order, wired);
            known.memory = order.memory.bytes;
            known.topology = (order.sockets, order.cores, order.threads);
            known.machine_type.clone_from(&order.machine);
        });
    }

    fn over(&self, ending: Ending, message: &str) {
        tracing::info!(pod = self.name(), ?ending, "the guest has ended: {message}");
        let (kind, phase, reason) = match life::outcome(Some(ending)) {
            Outcome::Succeeded => (Kind::Normal, Phase::Succeeded, None),
            Outcome::Failed(reason) => (Kind::Warning, Phase::Failed, Some(reason)),
        };
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| {
                known.phase = phase;
                known.reason = reason.map(str::to_owned);
                known.paused = false;
            });
        }
        let message = format!("The VirtualMachineInstance was shut down: {message}");
        self.tell(kind, "Stopped", &Redacted::foreign(&message, &[]));
    }

    /// Says on pod and machine what is wrong.
    fn report(&mut self, reason: &'static str, message: &str) {
        // In these are words of the launcher.
        let foreign = [NOT_READY, NO_NETWORK].contains(&reason);
        let redacted = if foreign { Redacted::foreign(message, &[]) } else { Redacted::new(message, &[]) };
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| known.trouble = Some((reason, redacted.clone())));
        }
        if self.trouble != message {
            message.clone_into(&mut self.trouble);
            tracing::warn!(pod = self.name(), reason, "{message}");
            if let Some(pod) = self.pod_reference() {
                self.shared.events.tell(&pod, Kind::Warning, reason, &redacted);
            }
            let machine = if reason == NOT_AS_RENDERED { reason } else { "SyncFailed" };
            self.tell(Kind::Warning, machine, &redacted);
        }
    }

    fn notice(&self, notice: Notice) {
        let (kind, reason, message) = notice::words(notice);
        let message = Redacted::ours(message);
        if notice == Notice::Misbehaves
            && let Some(pod) = self.pod_reference()
        {
            self.shared.events.tell(&pod, kind, reason, &message);
        }
        self.tell(kind, reason, &message);
    }

    fn misbehaves(&self, what: &str, wrong: Wrong) {
        let pod = self.name();
        match wrong {
            Wrong::Ignore => {}
            Wrong::Log { suppressed } => tracing::warn!(pod, suppressed, "the launcher misbehaves: {what}"),
            Wrong::Close { pause, suppressed } => {
                let seconds = pause.as_secs();
                tracing::warn!(
                    pod,
                    suppressed,
                    "the launcher misbehaves, and nobody listens to it for {seconds} s: {what}"
                );
            }
        }
    }

    /// An event on the machine.
    fn tell(&self, kind: Kind, reason: &str, message: &Redacted) {
        let owner = self.pod.as_ref().and_then(|pod| owner(&pod.metadata));
        let Some(owner) = owner else { return };
        let machine = ObjectReference {
            api_version: Some("kubevirt.io/v1".to_owned()),
            kind: Some("VirtualMachineInstance".to_owned()),
            namespace: Some(self.holder.namespace.clone()),
            name: Some(owner.name),
            uid: Some(owner.uid),
            ..Default::default()
        };
        self.shared.events.tell(&machine, kind, reason, message);
    }

    fn pod_reference(&self) -> Option<ObjectReference> {
        Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.holder.namespace.clone()),
            name: Some(self.holder.pod.clone()),
            uid: Some(self.uid.clone()?),
            ..Default::default()
        })
    }

    fn name(&self) -> String {
        format!("{}/{}", self.holder.namespace, self.holder.pod)
    }
}

fn refused(Refusal { reason, message, lasts }: Refusal) -> Check {
    match lasts {
        Lasts::Now => Check::Unknown(message),
        Lasts::Ever if reason == NOT_AS_RENDERED => Check::Differs(message),
        Lasts::Ever | Lasts::ThisPod => Check::Unfit(reason, message),
    }
}

/// The pod's addresses, by the kubelet.
fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    addresses.filter_map(|address| address.ip.parse().ok())
}

/// What the machine's network needs.
fn needs(accepted: &Accepted) -> Network {
    let v4 = addresses(&accepted.pod).any(|address| address.is_ipv4());
    match addresses(&accepted.pod).next() {
        _ if accepted.machine.interfaces.is_empty() => Network::None,
        None => Network::NoAddress,
        Some(_) if v4 => Network::Ready,
        Some(_) => Network::OnlyIpv6,
    }
}

/// Waits for the time, if there is one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
