//! One pod from binding to its last trace.

use super::{
    Shared,
    accept::{self, Look, NOT_AS_RENDERED},
    exit::{self, Process},
    inbox::Receiver,
    pipeline::{self, Failure, Started},
    record::{self, Exit, Record},
    status::Known,
    teardown,
    writer::Writer,
};
use crate::{
    disk::remove_tree,
    events::Kind,
    machine::{
        conduct::{self, Conduct, Wrong},
        facts,
        link::Link,
        report::Reporter,
        status::Phase,
    },
    redacted::Redacted,
    selinux,
};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_model::{Bytes, PageSize};
use ferrovirt_plan::launcher_pod::untyped;
use ferrovirt_qemu::{
    order::{Backing, Tap},
    protocol::{Ending, Event, Purpose, Request, State},
    text,
};
use ferrovirt_sys::netns;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use rustix::io::Errno;
use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Pauses between tries to start a pod: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(120);
/// Pauses between tries to connect to a launcher, each of which asks the API server.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How long the API server may take to say what a pod is now. Processes that end and deadlines do not wait for it.
const READ: Duration = Duration::from_secs(5);
/// How long the end of a machine may take to be written before its pod's end is.
const SETTLE: Duration = Duration::from_secs(5);
/// Most requests to pause or run that wait for the launcher's answer.
const MOST_SWITCHES: usize = 64;
/// Most of the launcher's last state that is read.
const LAST_STATE: u64 = 64 << 10;

/// Reason of a machine's condition whose port cannot be admitted.
const NOT_CONNECTED: &str = "PodNetworkNotConnected";

/// Most messages of a launcher that are read after its end.
const MOST_LAST: usize = 64;

/// What a pod's task is told.
#[derive(Debug)]
pub(super) enum Message {
    /// The pod changed.
    Pod(Arc<Pod>),
    /// The pod is gone from the API.
    Gone,
    /// The machine changed.
    Machine(Arc<VirtualMachineInstance>),
    /// The pod has to go, for this reason.
    Evict(Redacted),
    /// Stop or run the vCPUs.
    Switch { pause: bool, answer: oneshot::Sender<Result<(), Refusal>> },
}

/// A machine that was not paused or unpaused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no running guest.
    #[error("VMI is not running")]
    NotRunning,
    /// The launcher said no.
    #[error("{0}")]
    Launcher(Redacted),
    /// The launcher says nothing.
    #[error("the launcher does not answer")]
    Silent,
    /// Too many others wait for the same.
    #[error("too many requests wait for this machine: try again later")]
    Busy,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    uid: String,
    messages: Receiver,
    writer: Writer,
    reporter: Option<Reporter>,
    gone: bool,
    /// False while the pod is not what was started.
    served: Arc<AtomicBool>,
    /// The last trouble, so that retries do not repeat it.
    trouble: String,
}

/// A running container.
struct Life {
    record: Record,
    process: Process,
    link: Option<Link>,
    /// The order was sent, or a launcher was seen that has one.
    ordered: bool,
    descriptors: Vec<(Purpose, OwnedFd)>,
    state: State,
    switches: VecDeque<(bool, oneshot::Sender<Result<(), Refusal>>)>,
    kill_at: Option<Instant>,
    grace: Option<i64>,
    /// Why it is evicted.
    evicted: Option<Redacted>,
    /// When to connect again, and the pause after it.
    retry: (Instant, Duration),
    conduct: Conduct,
    /// When its port is to be admitted (again), and the pause after a failure.
    connect: Option<(Instant, Duration)>,
    /// The launcher closed the last link.
    left: bool,
    /// Nobody listens to the launcher until then: it talked nonsense.
    closed_until: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        messages: Receiver,
        served: Arc<AtomicBool>,
    ) -> Self {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let writer = Writer::start(&shared, pod.clone());
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let reporter = pipeline::owner(&pod).map(|(name, uid)| {
            Reporter::start(Api::namespaced(shared.handler.client.0.clone(), &namespace), name, uid)
        });
        Self { shared, pod, uid, messages, writer, reporter, gone: false, served, trouble: String::new() }
    }

    /// Runs until the pod has left no trace on the node and in the API.
    pub(super) async fn run(mut self) {
        if let Some(life) = self.begin().await {
            self.live(life).await;
        }
        self.finish().await;
    }

    /// Takes over what an earlier agent started, or starts the pod; `None` when it will not run (again).
    async fn begin(&mut self) -> Option<Life> {
        let folder = self.shared.pod_folder(&self.uid);
        if let Some(record) = self.recorded(&folder).await {
            return self.adopt(record).await;
        }
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.clone());
        let ran = phase.as_deref() == Some("Running");
        if matches!(phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        if folder.exists() || self.shared.netns(&self.uid).exists() {
            // An earlier agent was interrupted before the guest could start: from the beginning.
            self.forget().await;
        }
        if ran {
            self.lost();
            return None;
        }
        if let Some(rejection) = self.shared.room.admit(&self.uid, &untyped(&self.pod)).await {
            self.reject("PodRejected", rejection.reason, &rejection.message);
            return None;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            if self.gone || self.deleted() {
                return None;
            }
            if self.shared.disk_pressure.load(Ordering::Relaxed) {
                self.complain(&short_of_disk());
                self.wait(Some(Instant::now() + FIRST_PAUSE)).await;
                continue;
            }
            match pipeline::start(&self.shared, &self.pod).await {
                Ok(started) => return self.started(started).await,
                Err(Failure { reason, message, rejected: true, .. }) => {
                    self.shared.room.release(&self.uid);
                    self.reject(reason, reason.to_owned(), &message);
                    return None;
                }
                Err(failure) => {
                    self.complain(&failure);
                    let until = failure.may_pass.then(|| Instant::now() + pause);
                    pause = (pause * 2).min(LAST_PAUSE);
                    self.wait(until).await;
                }
            }
        }
    }

    /// The pod's record; `None` when there is none. What cannot be read is read again: a moment's lack of memory must not
    /// end a guest. A damaged record of what does not run is none.
    async fn recorded(&mut self, folder: &Path) -> Option<Record> {
        let mut pause = FIRST_PAUSE;
        while !self.gone {
            let error = match Record::read(folder) {
                Ok(record) => return record,
                Err(error) => error,
            };
            if error.kind() == io::ErrorKind::InvalidData {
                let (shared, uid) = (self.shared.clone(), self.uid.clone());
                let state = spawn_blocking(move || shared.crun.state(&uid)).await;
                if matches!(&state, Ok(Ok(state)) if state.as_ref().is_none_or(|state| state.status == "stopped"))
                {
                    tracing::warn!(pod = self.name(), "{error}; its container has ended");
                    return None;
                }
            }
            tracing::warn!(
                pod = self.name(),
                "{error}; the pod is left alone until its record can be read: start the version that wrote it, or delete the pod by force"
            );
            self.listen(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        None
    }

    /// Takes messages for a while, also when the pod is deleted, until it is gone.
    async fn listen(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.gone {
            tokio::select! {
                message = self.messages.recv() => self.note(message),
                () = sleep_until(until) => return,
            }
        }
    }

    /// Waits until the time, or until the pod is deleted.
    async fn wait(&mut self, until: Option<Instant>) {
        while !self.gone && !self.deleted() {
            tokio::select! {
                message = self.messages.recv() => self.note(message),
                () = at(until) => return,
            }
        }
    }

    /// Takes a message when there is no guest.
    fn note(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.pod = pod,
            Message::Machine(vmi) => self.see(vmi),
            Message::Switch { answer, .. } => {
                // Nobody may be waiting any more.
                let _gone = answer.send(Err(Refusal::NotRunning));
            }
            // What has no container holds nothing.
            Message::Evict(_) => {}
            Message::Gone => self.gone = true,
        }
    }

    fn see(&self, vmi: Arc<VirtualMachineInstance>) {
        if let Some(reporter) = &self.reporter {
            reporter.see(vmi);
        }
    }

    fn deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    fn complain(&mut self, failure: &Failure) {
        let Failure { reason, message, .. } = failure;
        let redacted = self.shared.config.redacted(message);
        self.writer.write(Known::Waiting { reason, message: redacted.clone() });
        self.report(reason, reason, message, &redacted);
    }

    /// The pod ends without having run. `condition`: reason of the machine's condition.
    fn reject(&mut self, condition: &'static str, reason: String, message: &str) {
        let redacted = self.shared.config.redacted(message);
        self.report(condition, &reason, message, &redacted);
        self.writer.write(Known::Rejected { reason, message: redacted });
    }

    /// Says on pod and machine what is wrong: the message to the administrator's log, which has the paths, and what users
    /// are told of it.
    fn report(&mut self, condition: &'static str, reason: &str, message: &str, redacted: &Redacted) {
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| known.trouble = Some((condition, redacted.clone())));
        }
        if self.trouble != message {
            message.clone_into(&mut self.trouble);
            tracing::warn!(pod = self.name(), reason, "{message}");
            self.shared.node.events.tell(&self.pod_reference(), Kind::Warning, reason, redacted);
            if let Some(machine) = self.machine_reference() {
                self.shared.handler.events.tell(&machine, Kind::Warning, "SyncFailed", redacted);
            }
        }
    }

    fn name(&self) -> String {
        let data = &self.pod.metadata;
        format!(
            "{}/{}",
            data.namespace.as_deref().unwrap_or_default(),
            data.name.as_deref().unwrap_or_default()
        )
    }

    fn pod_reference(&self) -> ObjectReference {
        let data = &self.pod.metadata;
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: data.namespace.clone(),
            name: data.name.clone(),
            uid: data.uid.clone(),
            ..Default::default()
        }
    }

    fn machine_reference(&self) -> Option<ObjectReference> {
        let (name, uid) = pipeline::owner(&self.pod)?;
        Some(ObjectReference {
            api_version: Some("kubevirt.io/v1".to_owned()),
            kind: Some("VirtualMachineInstance".to_owned()),
            namespace: self.pod.metadata.namespace.clone(),
            name: Some(name),
            uid: Some(uid),
            ..Default::default()
        })
    }

    fn tell(&self, kind: Kind, reason: &str, message: &Redacted) {
        if let Some(machine) = self.machine_reference() {
            self.shared.handler.events.tell(&machine, kind, reason, message);
        }
    }

    /// The pod ran, and what was kept of it is gone or cannot be read. A launcher pod runs once.
    fn lost(&mut self) {
        let message = "the node has lost its record of this pod; the machine was ended";
        tracing::error!(pod = self.name(), "{message}");
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| {
                known.phase = Phase::Failed;
                known.reason = Some("LauncherDied".to_owned());
            });
        }
        let message = Redacted::ours(message);
        self.tell(Kind::Warning, "Stopped", &message);
        let exit = exit::exit(None, message);
        self.writer.write(Known::Ended { ip: None, started: exit.finished.clone(), exit });
    }

    async fn started(&mut self, started: Started) -> Option<Life> {
        let Started { record, descriptors } = started;
        let event = format!("Started container compute with address {}", record.address.ip);
        let event = self.shared.config.redacted(&event);
        self.shared.node.events.tell(&self.pod_reference(), Kind::Normal, "Started", &event);
        self.hold(record, descriptors).await
    }

    async fn adopt(&mut self, record: Record) -> Option<Life> {
        if let Some(exit) = record.exit.clone() {
            self.writer.write(ended(&record, exit));
            return None;
        }
        self.shared.room.hold(&self.uid, &untyped(&self.pod));
        let mut pause = FIRST_PAUSE;
        let state = loop {
            if self.gone {
                return None;
            }
            let (shared, uid) = (self.shared.clone(), self.uid.clone());
            match spawn_blocking(move || shared.crun.state(&uid)).await {
                Ok(Ok(state)) => break state,
                // Nobody knows whether the guest runs: it must not be ended for a moment's lack of memory.
                Ok(Err(error)) => tracing::warn!(pod = self.name(), "looking for its container: {error}"),
                Err(error) => tracing::warn!(pod = self.name(), "looking for its container: {error}"),
            }
            self.listen(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        };
        match state {
            Some(state) if state.status == "running" => {
                tracing::info!(pod = self.name(), "taking over a running launcher");
                let life = self.hold(Record { pid: state.pid, ..record }, Vec::new()).await?;
                Some(Life { connect: Some((Instant::now(), FIRST_PAUSE)), ..life })
            }
            _ => {
                self.over(record, None, None).await;
                None
            }
        }
    }

    /// Sees to it that bridge and rules know the port of a pod that was taken over: its guest reaches nobody without. What
    /// fails is tried again.
    async fn connect(&mut self, life: &mut Life) {
        let Some((_, pause)) = life.connect.take() else { return };
        let record = &life.record;
        if record.wired.is_empty() {
            return;
        }
        let (shared, uid, port) = (self.shared.clone(), self.uid.clone(), record.port.clone());
        let known = spawn_blocking(move || shared.network.adopt(&uid, &shared.netns(&uid), port)).await;
        let error = match known {
            Ok(Ok(())) => {
                if let Some(reporter) = &self.reporter {
                    reporter.update(|known| known.trouble = None);
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        let message = format!("the machine has no network: its port cannot be admitted: {error}");
        let redacted = self.shared.config.redacted(&message);
        self.report(NOT_CONNECTED, NOT_CONNECTED, &message, &redacted);
        life.connect = Some((Instant::now() + pause, (pause * 2).min(LAST_PAUSE)));
    }

    /// Takes hold of a container's process and tells that it runs.
    async fn hold(&mut self, record: Record, descriptors: Vec<(Purpose, OwnedFd)>) -> Option<Life> {
        let process = loop {
            let error = match Process::open(record.pid) {
                Ok(process) => break process,
                Err(error) => error,
            };
            tracing::warn!(pod = self.name(), "the container's process: {error}");
            let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOSPC];
            if self.gone || !short.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
                self.over(record, None, None).await;
                return None;
            }
            // Of a moment's lack of descriptors or memory no guest ends.
            self.listen(FIRST_PAUSE).await;
        };
        self.writer.write(Known::Running { ip: record.address.ip, started: record.started.clone() });
        if let Some(reporter) = &self.reporter {
            let order = &record.order;
            reporter.update(|known| {
                known.trouble = None;
                known.interfaces = facts::interfaces(order, &record.wired);
                known.memory = order.memory.bytes;
                known.topology = (order.sockets, order.cores, order.threads);
                known.machine_type.clone_from(&order.machine);
            });
        }
        Some(Life {
            record,
            process,
            link: None,
            ordered: false,
            descriptors,
            state: State::Waiting,
            switches: VecDeque::new(),
            kill_at: None,
            grace: None,
            evicted: None,
            retry: (Instant::now(), FIRST_RETRY),
            conduct: Conduct::default(),
            connect: None,
            left: false,
            closed_until: None,
        })
    }

    /// Runs a container until its first process has ended, and cleans up after it.
    async fn live(&mut self, mut life: Life) {
        if !life.descriptors.is_empty() || life.record.order.nics.is_empty() {
            // Fresh: the order goes out without waiting for the launcher's greeting.
            self.link(&mut life).await;
            if life.link.is_some() {
                self.order(&mut life).await;
            }
        }
        let code = loop {
            if life.link.is_none() {
                self.link(&mut life).await;
            }
            if self.gone {
                life.process.kill();
            } else if self.deleted() {
                self.stop(&mut life).await;
            }
            tokio::select! {
                code = life.process.ended() => break code,
                event = next(&life.link) => match event {
                    Ok(Some(event)) => self.event(&mut life, event).await,
                    end => {
                        life.left |= life.link.take().is_some();
                        if let Err(error) = end && error.kind() == io::ErrorKind::InvalidData {
                            life.left = false;
                            self.wrong(&mut life, &text::plain(&error.to_string(), text::REFUSAL));
                        }
                        sleep(Duration::from_millis(20)).await;
                    }
                },
                message = self.messages.recv() => match message {
                    Message::Switch { pause, answer } => self.switch(&mut life, pause, answer).await,
                    Message::Evict(message) => {
                        life.evicted = Some(message);
                        life.process.kill();
                    }
                    other => {
                        self.note(other);
                        self.compare(&mut life);
                    }
                },
                () = at(life.connect.map(|(due, _)| due)) => self.connect(&mut life).await,
                () = at(life.kill_at) => {
                    life.kill_at = None;
                    life.process.kill();
                }
            }
        };
        // What the launcher said last may still be in the socket.
        for _ in 0..MOST_LAST {
            let Ok(Ok(Some(event))) = timeout(Duration::from_millis(20), next(&life.link)).await else {
                break;
            };
            self.event(&mut life, event).await;
        }
        let end = match life.state.clone() {
            State::Ended { ending, message } => Some((ending, message)),
            _ => None,
        };
        match life.evicted.take() {
            Some(message) => self.evicted(life.record, message).await,
            None => self.over(life.record, code, end).await,
        }
    }

    /// The container was killed because its pod has to go. Its volumes go at once: they are what it is about.
    async fn evicted(&mut self, record: Record, message: Redacted) {
        self.shared.metrics.eviction();
        self.shared.node.events.tell(&self.pod_reference(), Kind::Warning, "Evicted", &message);
        let volumes = self.shared.pod_folder(&self.uid).join("volumes");
        let exit = Exit { evicted: true, ..exit::exit(Some(137), message) };
        self.end(record, exit, Phase::Failed, Some("Evicted")).await;
        if let Ok(Err(error)) = spawn_blocking(move || remove_tree(&volumes)).await {
            tracing::warn!(pod = self.name(), "removing the volumes of an evicted pod: {error}");
        }
    }

    /// Connects to the launcher of a pod that is still what was started.
    async fn link(&mut self, life: &mut Life) {
        let now = Instant::now();
        let (due, pause) = life.retry;
        if now < due || life.closed_until.is_some_and(|until| until > now) {
            return;
        }
        life.retry = (now + pause, (pause * 2).min(LAST_RETRY));
        if !self.is_as_accepted(life).await {
            return;
        }
        let folder = self.shared.pod_folder(&self.uid).join("sockets");
        match Link::connect(&folder) {
            Ok(link) => {
                life.link = Some(link);
                // It lives, so that it was no end that closed the last one. Each time costs as much as nonsense does.
                if std::mem::take(&mut life.left) {
                    self.wrong(life, "it closes its connection and takes another one");
                }
            }
            // Its end is about to be seen, or it is too busy: try again a little later.
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }

    /// Asks the API server. Otherwise the service to this pod ends. A pod that is deleted before it has its order gets none.
    async fn is_as_accepted(&mut self, life: &mut Life) -> bool {
        let look = tokio::select! {
            look = timeout(READ, accept::look(&self.shared, &self.pod, &life.record)) => {
                look.unwrap_or_else(|_| Look::Unknown("the API server does not answer".to_owned()))
            }
            // Both are seen again by the caller.
            () = life.process.over() => return false,
            () = at(life.kill_at) => return false,
        };
        match look {
            Look::Same { deleting: true } if !life.descriptors.is_empty() => {
                life.process.kill();
                false
            }
            Look::Same { .. } => {
                if !self.served.swap(true, Ordering::Relaxed)
                    && let Some(reporter) = &self.reporter
                {
                    reporter.update(|known| known.trouble = None);
                }
                true
            }
            Look::Differs(message) => {
                self.part(life, &message);
                false
            }
            Look::Unknown(why) => {
                tracing::warn!(pod = self.name(), "the launcher waits: {why}");
                false
            }
        }
    }

    /// Ends the service to a pod that is another one than was started.
    fn part(&mut self, life: &mut Life, message: &str) {
        life.link = None;
        self.served.store(false, Ordering::Relaxed);
        let redacted = self.shared.config.redacted(message);
        self.report(NOT_AS_RENDERED, NOT_AS_RENDERED, message, &redacted);
    }

    /// Looks at what the watch brought, which may know less than the API server, but comes by itself.
    fn compare(&mut self, life: &mut Life) {
        let Some(accepted) = &life.record.accepted else { return };
        match accept::compare(&self.shared, &untyped(&self.pod), accepted) {
            Some(message) => self.part(life, &message),
            None if !self.served.load(Ordering::Relaxed) => life.retry = (Instant::now(), FIRST_RETRY),
            None => {}
        }
    }

    /// Sends descriptors and order.
    async fn order(&mut self, life: &mut Life) {
        life.ordered = true;
        let Some(link) = &life.link else { return };
        let sent = async {
            link.pass(&life.descriptors).await?;
            link.send(&Request::Start { order: Box::new(life.record.order.clone()) }).await
        };
        if let Err(error) = sent.await {
            tracing::warn!(pod = self.name(), "sending the order: {error}");
            life.link = None;
            life.ordered = false;
        }
        life.descriptors.clear();
    }

    /// A launcher that waits although there is an order: an agent ended between container and order.
    async fn order_again(&mut self, life: &mut Life) {
        if !self.is_as_accepted(life).await || self.deleted() {
            // It says again that it waits when it is connected to again.
            life.link = None;
            return;
        }
        if !life.descriptors.is_empty() {
            return self.order(life).await;
        }
        let path = self.shared.netns(&self.uid);
        let record = life.record.clone();
        let nics: Vec<_> = record
            .order
            .nics
            .iter()
            .map(|nic| (nic.name.clone(), nic.queues, matches!(nic.tap, Tap::Passed)))
            .collect();
        let opened = spawn_blocking(move || {
            let namespace = netns::open(&path).map_err(|error| error.to_string())?;
            pipeline::descriptors(&namespace, &nics, record.user).map_err(|error| error.to_string())
        });
        match opened.await {
            Ok(Ok(descriptors)) => {
                life.descriptors = descriptors;
                self.order(life).await;
            }
            Ok(Err(error)) => {
                tracing::error!(pod = self.name(), "opening the guest's network again: {error}")
            }
            Err(error) => tracing::error!(pod = self.name(), "opening the guest's network again: {error}"),
        }
    }

    async fn event(&mut self, life: &mut Life, event: Event) {
        life.retry.1 = FIRST_RETRY;
        let state = match event {
            Event::Refused { message } => {
                match life.switches.pop_front() {
                    Some((_, answer)) => {
                        let message = self.shared.config.redacted_foreign(&message);
                        let _gone = answer.send(Err(Refusal::Launcher(message)));
                    }
                    None => self.wrong(life, &format!("it refuses what nobody asked for: {message}")),
                }
                return;
            }
            Event::State { state, .. } => state,
        };
        if let Some(why) = conduct::out_of_order(&life.state, &state) {
            return self.wrong(life, why);
        }
        if state == life.state && state != State::Waiting {
            return;
        }
        match &state {
            State::Waiting => {
                if !life.ordered {
                    self.order_again(life).await;
                }
                return;
            }
            State::Starting => life.ordered = true,
            State::Running | State::Paused => {
                life.ordered = true;
                let paused = state == State::Paused;
                if let Some(reporter) = &self.reporter {
                    let kernel = &self.shared.selinux;
                    let context = selinux::context_of(kernel, life.record.pid);
                    let enforced = selinux::enforcement(kernel, &self.pod, context.as_deref());
                    reporter.update(|known| {
                        known.enforced = Some(enforced);
                        known.selinux = context.unwrap_or_else(|| "none".to_owned());
                        known.phase = Phase::Running;
                        known.paused = paused;
                    });
                }
                if !life.record.ran {
                    life.record.ran = true;
                    if let Err(error) = life.record.write(&self.shared.pod_folder(&self.uid)) {
                        tracing::warn!(pod = self.name(), "recording the start: {error}");
                    }
                    self.tell(Kind::Normal, "Created", &Redacted::ours("VirtualMachineInstance defined."));
                    self.tell(Kind::Normal, "Started", &Redacted::ours("VirtualMachineInstance started."));
                } else if life.state == State::Paused && !paused {
                    self.tell(Kind::Normal, "Resumed", &Redacted::ours("VirtualMachineInstance resumed."));
                }
                if let Some(at) = life.switches.iter().position(|(pause, _)| *pause == paused)
                    && let Some((_, answer)) = life.switches.remove(at)
                {
                    let _gone = answer.send(Ok(()));
                }
            }
            State::ShuttingDown => {
                self.tell(Kind::Normal, "ShuttingDown", &Redacted::ours("The guest was asked to shut down."));
            }
            State::Ended { .. } => {}
        }
        life.state = state;
    }

    /// A message of the launcher makes no sense: it is counted and, now and then, logged. After too many of them nobody
    /// listens to the launcher for a while, and users are told.
    fn wrong(&mut self, life: &mut Life, what: &str) {
        let now = Instant::now();
        let pod = self.name();
        self.shared.metrics.misconduct();
        match life.conduct.wrong(now) {
            Wrong::Ignore => {}
            Wrong::Log { suppressed } => {
                tracing::warn!(pod, suppressed, "the launcher misbehaves: {what}")
            }
            Wrong::Close { until, suppressed } => {
                let seconds = until.duration_since(now).as_secs();
                tracing::warn!(
                    pod,
                    suppressed,
                    "the launcher misbehaves, and nobody listens to it for {seconds} s: {what}"
                );
                self.shared.metrics.closed();
                life.link = None;
                life.closed_until = Some(until);
                life.switches.clear();
                let message = Redacted::ours(
                    "The launcher keeps sending messages that make no sense, or closing its connection, and the node does not listen to it for a \
                     while. Its guest may have taken it over: look at the pod's log, and stop the machine.",
                );
                self.shared.node.events.tell(
                    &self.pod_reference(),
                    Kind::Warning,
                    "LauncherMisbehaves",
                    &message,
                );
                self.tell(Kind::Warning, "LauncherMisbehaves", &message);
            }
        }
    }

    async fn switch(&mut self, life: &mut Life, pause: bool, answer: oneshot::Sender<Result<(), Refusal>>) {
        let request = if pause { Request::Pause } else { Request::Unpause };
        let sent = match (&life.state, &life.link) {
            // A launcher may never answer.
            _ if life.switches.len() >= MOST_SWITCHES => {
                let _gone = answer.send(Err(Refusal::Silent));
                return;
            }
            (State::Running | State::Paused, Some(link)) => link.send(&request).await.is_ok(),
            _ => false,
        };
        if sent {
            life.switches.push_back((pause, answer));
        } else {
            let _gone = answer.send(Err(Refusal::NotRunning));
        }
    }

    /// Asks the guest to shut down within the pod's grace period; shorter ones that come later count.
    async fn stop(&mut self, life: &mut Life) {
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or_default().max(0);
        if life.grace.is_some_and(|known| known <= grace) {
            return;
        }
        life.grace = Some(grace);
        if grace == 0 {
            return life.process.kill();
        }
        life.kill_at = Some(earlier(life.kill_at, grace, Instant::now()));
        let Some(link) = &life.link else {
            life.grace = None;
            return;
        };
        // The launcher needs a moment of the pod's grace to end QEMU and to report.
        let limit = u32::try_from(grace).unwrap_or(u32::MAX);
        let grace_seconds = (limit < life.record.order.grace_seconds).then(|| limit.saturating_sub(1));
        if link.send(&Request::Shutdown { grace_seconds }).await.is_err() {
            life.grace = None;
            life.link = None;
        }
    }

    /// The container has ended: reports the machine's and the pod's end and takes down what it had on the node.
    async fn over(&mut self, record: Record, code: Option<i32>, end: Option<(Ending, String)>) {
        let end = end.or_else(|| last_state(&record));
        let exit = match &end {
            Some((ending, message)) => {
                let code = code.or(Some(i32::from(*ending != Ending::Shutdown)));
                exit::exit(code, self.shared.config.redacted_foreign(message))
            }
            None => exit::exit(code, self.shared.config.redacted_foreign(&self.last_words(code))),
        };
        let (phase, reason) = match end.as_ref().map(|(ending, _)| *ending) {
            Some(Ending::Shutdown) => (Phase::Succeeded, None),
            Some(Ending::Destroyed) => (Phase::Failed, Some("GuestDestroyed")),
            Some(Ending::Panicked) => (Phase::Failed, Some("GuestPanicked")),
            Some(Ending::Failed) => (Phase::Failed, Some("QEMUFailed")),
            None => (Phase::Failed, Some("LauncherDied")),
        };
        let message = self.explain(&record, exit.message.as_str());
        let exit = Exit { message: self.shared.config.redacted_foreign(&message), ..exit };
        self.end(record, exit, phase, reason).await;
    }

    /// Says of the machine how it ended.
    fn report_end(&self, exit: &Exit, phase: Phase, reason: Option<&'static str>) {
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| {
                known.phase = phase;
                known.reason = reason.map(str::to_owned);
                known.paused = false;
                if exit.evicted {
                    known.trouble = Some(("Evicted", exit.message.clone()));
                }
            });
        }
        let kind = if phase == Phase::Succeeded { Kind::Normal } else { Kind::Warning };
        let message = format!("The VirtualMachineInstance was shut down: {}", exit.message);
        self.tell(kind, "Stopped", &self.shared.config.redacted_foreign(&message));
    }

    async fn end(&mut self, mut record: Record, exit: Exit, phase: Phase, reason: Option<&'static str>) {
        self.report_end(&exit, phase, reason);
        record.exit = Some(exit.clone());
        if let Err(error) = record.write(&self.shared.pod_folder(&self.uid)) {
            tracing::warn!(pod = self.name(), "recording the end: {error}");
        }
        let reporter = self.reporter.take();
        let settle = async {
            let mut reporter = reporter;
            if let (Some(reporter), false) = (&mut reporter, self.gone) {
                reporter.settle(SETTLE).await;
            }
            reporter
        };
        let (shared, uid) = (self.shared.clone(), self.uid.clone());
        let down = spawn_blocking(move || teardown::down(&shared, &uid));
        let (reporter, down) = tokio::join!(settle, down);
        self.reporter = reporter;
        if let Ok(Err(error)) = down {
            tracing::warn!(pod = self.name(), "taking down: {error}");
        }
        self.shared.room.release(&self.uid);
        self.writer.write(ended(&record, exit));
    }

    /// The message of an end, with the remedy where it is a lack of huge pages.
    fn explain(&self, record: &Record, message: &str) -> String {
        let page = match &record.order.memory.backing {
            Backing::Anonymous => None,
            Backing::HugeMemfd { page_bytes } => PageSize::new(*page_bytes),
            Backing::HugeDirectory { .. } => PageSize::new(2 << 20),
        };
        let lack = message.contains("allocat") || message.contains("memory failed");
        let remedy = page
            .filter(|_| lack)
            .and_then(|page| facts::missing_huge_pages(Bytes(record.order.memory.bytes), page));
        match remedy {
            Some(remedy) => format!("{message} ({remedy})"),
            None => message.to_owned(),
        }
    }

    fn last_words(&self, code: Option<i32>) -> String {
        let log = record::log(&self.shared.pod_folder(&self.uid));
        let line = exit::last_line(&log).ok().filter(|line| !line.is_empty());
        let line = line.unwrap_or_else(|| "it wrote nothing".to_owned());
        match code {
            Some(137) => "the launcher was killed".to_owned(),
            Some(code) => format!("the launcher ended with code {code}: {line}"),
            None => format!("the launcher ended while no agent ran: {line}"),
        }
    }

    /// Waits until the pod is deleted, then removes the last traces.
    async fn finish(&mut self) {
        self.wait(None).await;
        self.writer.settle(SETTLE).await;
        self.forget().await;
        self.shared.room.release(&self.uid);
        if self.gone {
            return;
        }
        loop {
            let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
            let pods: Api<Pod> = Api::namespaced(self.shared.node.client.0.clone(), &namespace);
            let parameters = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
                ..Default::default()
            };
            let name = self.pod.metadata.name.clone().unwrap_or_default();
            match pods.delete(&name, &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => {
                    tracing::warn!(pod = self.name(), "deleting the pod: {error}");
                    sleep(FIRST_PAUSE).await;
                }
            }
        }
    }

    async fn forget(&mut self) {
        for pause in [Duration::from_millis(50), Duration::from_millis(500), FIRST_PAUSE] {
            let (shared, uid) = (self.shared.clone(), self.uid.clone());
            match spawn_blocking(move || teardown::forget(&shared, &uid)).await {
                Ok(Err(error)) => tracing::warn!(pod = self.name(), "taking down: {error}"),
                _ => return,
            }
            sleep(pause).await;
        }
    }
}

/// A pod that is bound waits for space: its failure would end its machine for good.
fn short_of_disk() -> Failure {
    let message = "the node is short of disk space and starts no machine: this one waits until space is free; \
                   remove machines or files from the node, or delete this machine to have it run elsewhere";
    Failure::new("NodeHasDiskPressure", message, true)
}

fn ended(record: &Record, exit: Exit) -> Known {
    Known::Ended { ip: Some(record.address.ip), started: record.started.clone(), exit }
}

/// What a launcher that ended while nobody listened left behind.
fn last_state(record: &Record) -> Option<(Ending, String)> {
    use rustix::fs::{Mode, OFlags};
    use std::io::Read;
    let path = "/var/run/kubevirt/ended.json";
    let fd = record.places.open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(LAST_STATE).read_to_end(&mut bytes).ok()?;
    match serde_json::from_slice::<Event>(&bytes).ok()?.plain() {
        Event::State { state: State::Ended { ending, message }, .. } => Some((ending, message)),
        _ => None,
    }
}

/// When to kill, `grace` seconds from now at the latest. A launcher that cannot be reached is asked again and again:
/// that must not put off its end.
fn earlier(known: Option<Instant>, grace: i64, now: Instant) -> Instant {
    // Longer than a century is never, and must not be more than a clock can say.
    let grace = Duration::from_secs(grace.clamp(0, u32::MAX.into()).unsigned_abs());
    known.map_or(now + grace, |known| known.min(now + grace))
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The next event of a connection; `None` when it is lost, or there is none.
async fn next(link: &Option<Link>) -> io::Result<Option<Event>> {
    match link {
        Some(link) => link.receive().await,
        None => {
            sleep(Duration::from_millis(20)).await;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_bound_to_a_node_without_space_waits() {
        let failure = short_of_disk();
        assert!(failure.may_pass && !failure.rejected);
    }

    #[test]
    fn asking_again_does_not_put_off_the_end() {
        let now = Instant::now();
        let end = earlier(None, 30, now);
        let later = now + Duration::from_secs(10);
        assert_eq!(earlier(Some(end), 30, later), end);
        assert_eq!(earlier(Some(end), 5, later), later + Duration::from_secs(5));
        assert!(earlier(None, i64::MAX, now) > end);
    }
}
