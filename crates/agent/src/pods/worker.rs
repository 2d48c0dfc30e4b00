//! Performs what the life of one pod decides, from binding to its last trace: see [`ferrovirt_plan::decide::life`].

use super::{
    Shared, accept,
    exit::Process,
    inbox::{Message, Receiver, Refusal},
    pipeline,
    record::Record,
    writer::Writer,
};
use crate::{machine::link::Link, machine::report::Reporter, redacted::Redacted};
use ferrovirt_plan::{
    decide::accept::untyped,
    decide::life::{Action, Answer, Change, Event, Life, PodPhase, step},
};
use ferrovirt_qemu::{
    protocol::{self, Purpose, Request},
    text,
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::Api;
use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

/// How long the end of a machine may take to be written before its pod's end is.
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// Most messages of a launcher that are read after its end, and how long each may take to come.
const MOST_LAST: usize = 64;
const LAST: Duration = Duration::from_millis(20);

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: Arc<Pod>,
    pub(super) uid: String,
    messages: Receiver,
    pub(super) writer: Writer,
    pub(super) reporter: Option<Reporter>,
    pub(super) gone: bool,
    /// False while the pod is not what was started.
    pub(super) served: Arc<AtomicBool>,
    /// The last trouble, so that retries do not repeat it.
    pub(super) trouble: String,
    /// Why it has to go.
    pub(super) evicted: Option<Redacted>,
    /// What is kept of a pod that was started.
    pub(super) record: Option<Record>,
    /// Descriptors for the order of a container that was just started.
    pub(super) fresh: Option<Vec<(Purpose, OwnedFd)>>,
    pub(super) container: Option<Container>,
    switches: HashMap<u64, oneshot::Sender<Result<(), Refusal>>>,
    /// Number of the next request.
    ticket: u64,
    /// Zero of this pod's clock.
    zero: Instant,
    /// The deletion that was last seen, and what of its grace was left then.
    deletion: Option<(Deletion, i64)>,
}

/// What the API says of a pod's deletion: when the pod is to be gone, and the seconds that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deletion {
    end: Timestamp,
    grace: i64,
}

impl Deletion {
    fn of(pod: &Pod) -> Option<Self> {
        let data = &pod.metadata;
        let end = data.deletion_timestamp.as_ref()?.0;
        Some(Self { end, grace: data.deletion_grace_period_seconds.unwrap_or_default().max(0) })
    }

    /// Seconds that are left of the grace. It counts from the request, also where no agent ran meanwhile. Never more than was
    /// given, where the clock was set back, and one is left where any was given: so long the container is asked.
    fn left(self, now: Timestamp) -> i64 {
        let left = self.end.duration_since(now).as_secs();
        left.clamp(self.grace.min(1), self.grace)
    }
}

/// A running container.
pub(super) struct Container {
    pub(super) process: Process,
    pub(super) link: Option<Link>,
    pub(super) descriptors: Vec<(Purpose, OwnedFd)>,
    /// Its process has ended with this code, and so many messages may still be in the socket.
    pub(super) ended: Option<(Option<i32>, usize)>,
}

/// What was waited for.
enum News {
    Died(Option<i32>),
    Link(io::Result<Option<protocol::Event>>),
    Message(Message),
    Time,
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
        let reporter = pipeline::machine(&pod).map(|(name, uid)| {
            Reporter::start(Api::namespaced(shared.handler.client.0.clone(), &namespace), name, uid)
        });
        Self {
            shared,
            pod,
            uid,
            messages,
            writer,
            reporter,
            gone: false,
            served,
            trouble: String::new(),
            evicted: None,
            record: None,
            fresh: None,
            container: None,
            switches: HashMap::new(),
            ticket: 0,
            zero: Instant::now(),
            deletion: None,
        }
    }

    /// Runs until the pod has left no trace on the node and in the API.
    pub(super) async fn run(mut self) {
        let deletion = self.deletion();
        let mut life = Life::new(self.phase(), deletion);
        let mut answers = VecDeque::from([Event::Bound]);
        while !life.is_over() || !answers.is_empty() {
            let event = match answers.pop_front() {
                Some(event) => event,
                None => self.next(life.wake()).await,
            };
            let (next, actions) = step(life, event, self.zero.elapsed());
            life = next;
            for action in actions {
                answers.extend(self.perform(action, life.kill_at()).await);
            }
        }
    }

    fn phase(&self) -> PodPhase {
        PodPhase::of(self.pod.status.as_ref().and_then(|status| status.phase.as_deref()))
    }

    /// What was left of the pod's grace when its deletion was first seen as it is.
    fn deletion(&mut self) -> Option<i64> {
        let deletion = Deletion::of(&self.pod)?;
        let known = self.deletion.filter(|(known, _)| *known == deletion);
        let (_, left) =
            *self.deletion.insert(known.unwrap_or_else(|| (deletion, deletion.left(Timestamp::now()))));
        Some(left)
    }

    /// A time of the life's clock on tokio's.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.zero + at
    }

    /// Waits for what happens next.
    async fn next(&mut self, wake: Option<Duration>) -> Event {
        let wake = wake.map(|at| self.instant(at));
        let Self { messages, container, .. } = self;
        let Some(container) = container else {
            let news = tokio::select! {
                message = messages.recv() => News::Message(message),
                () = at(wake) => News::Time,
            };
            return self.event(news);
        };
        if let Some((code, left)) = &mut container.ended {
            // What the launcher said last may still be in the socket.
            if let (Some(link), 1..) = (&container.link, *left) {
                *left -= 1;
                if let Ok(Ok(Some(said))) = timeout(LAST, link.receive()).await {
                    return Event::Said(said);
                }
            }
            return Event::Died { code: *code };
        }
        let link = &container.link;
        let other = async {
            tokio::select! {
                news = receive(link) => News::Link(news),
                message = messages.recv() => News::Message(message),
                () = at(wake) => News::Time,
            }
        };
        let news = tokio::select! {
            biased;
            code = container.process.ended() => News::Died(code),
            news = other => news,
        };
        if let News::Died(code) = news {
            container.ended = Some((code, MOST_LAST));
            return Box::pin(self.next(None)).await;
        }
        self.event(news)
    }

    fn event(&mut self, news: News) -> Event {
        match news {
            News::Died(code) => Event::Died { code },
            News::Time => Event::Tick,
            News::Link(Ok(Some(said))) => Event::Said(said),
            News::Link(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Event::Nonsense(text::plain(&error.to_string(), text::REFUSAL))
            }
            News::Link(_) => Event::Closed,
            News::Message(Message::Pod(pod)) => {
                self.pod = pod;
                self.looked_at()
            }
            News::Message(Message::Machine(vmi)) => {
                if let Some(reporter) = &self.reporter {
                    reporter.see(vmi);
                }
                self.looked_at()
            }
            News::Message(Message::Switch { pause, answer }) => {
                self.ticket = self.ticket.wrapping_add(1);
                self.switches.insert(self.ticket, answer);
                Event::Switch { ticket: self.ticket, pause }
            }
            News::Message(Message::Evict(why)) => {
                self.evicted = Some(why);
                Event::Evict
            }
            News::Message(Message::Gone) => {
                self.gone = true;
                Event::Gone
            }
        }
    }

    /// The pod as the watch has it, compared with what was accepted.
    fn looked_at(&mut self) -> Event {
        let accepted = self.record.as_ref().and_then(|record| record.accepted.as_ref());
        let change = match accepted.filter(|_| self.container.is_some()) {
            None => Change::Unknown,
            Some(accepted) => accept::compare(&self.shared, &untyped(&self.pod), accepted)
                .map_or(Change::Same, Change::Differs),
        };
        let deletion = self.deletion();
        Event::Pod { phase: self.phase(), deletion, change }
    }

    /// Does it; its answer, where it has one.
    async fn perform(&mut self, action: Action, kill_at: Option<Duration>) -> Option<Event> {
        match action {
            Action::ReadRecord => return Some(self.read_record().await),
            Action::FindContainer => return Some(self.find_container().await),
            Action::Sweep => self.sweep().await,
            Action::Admit => return Some(self.admit().await),
            Action::Start => return Some(self.start().await),
            Action::AdmitPort => return Some(self.admit_port().await),
            Action::Hold => return Some(self.hold()),
            Action::Check => return Some(self.check(kill_at).await),
            Action::Connect => return Some(self.connect()),
            Action::Disconnect => self.disconnect(),
            Action::Order => return Some(self.order().await),
            Action::OpenNetwork => return Some(self.open_network().await),
            Action::Shutdown { grace_seconds } => {
                let sent = self.ask(&Request::Shutdown { grace_seconds }).await;
                return (!sent).then_some(Event::NotAsked);
            }
            Action::Switch { ticket, pause } => {
                let sent = self.ask(if pause { &Request::Pause } else { &Request::Unpause }).await;
                return (!sent).then_some(Event::NotSwitched { ticket });
            }
            Action::Terminate => {
                if let Some(container) = &self.container {
                    container.process.terminate();
                }
            }
            Action::Kill => {
                if let Some(container) = &self.container {
                    container.process.kill();
                }
            }
            Action::Answer { ticket, answer } => self.answer(ticket, answer),
            Action::Served(served) => self.serve(served),
            Action::Complain { reason, message } => self.complain(reason, &message),
            Action::NotReady { message } => self.not_ready(&message),
            Action::Trouble { message } => self.not_as_rendered(&message),
            Action::Reject { condition, reason, message } => self.reject(condition, reason, &message),
            Action::Lost => self.lost(),
            Action::ReportEnd => self.report_known_end().await,
            Action::Runs { paused } => self.runs(paused),
            Action::RecordRan => self.record_ran(),
            Action::Tell(notice) => self.notice(notice),
            Action::Waits(why) => tracing::warn!(pod = self.name(), "the launcher waits: {why}"),
            Action::Misbehaves { what, wrong } => self.misbehaves(&what, wrong),
            Action::End { code, end, evicted } => self.end(code, end, evicted).await,
            Action::Leave => self.leave().await,
            Action::DeletePod => return Some(self.delete_pod().await),
        }
        None
    }

    fn answer(&mut self, ticket: u64, answer: Answer) {
        let answer = match answer {
            Answer::Done => Ok(()),
            Answer::NotRunning => Err(Refusal::NotRunning),
            Answer::Silent => Err(Refusal::Silent),
            Answer::Refused(message) => Err(Refusal::Launcher(self.shared.config.redacted_foreign(&message))),
        };
        if let Some(requester) = self.switches.remove(&ticket) {
            // It may have stopped waiting.
            let _gone = requester.send(answer);
        }
    }
}

/// The next message of a connection, if there is one.
async fn receive(link: &Option<Link>) -> io::Result<Option<protocol::Event>> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

/// Waits for the time, if there is one.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_grace_of_a_deletion_counts_from_its_request() {
        let of = |grace: i64| {
            let data =
                json!({"deletionTimestamp": "2026-12-01T10:00:30Z", "deletionGracePeriodSeconds": grace});
            Deletion::of(&serde_json::from_value(json!({"metadata": data})).unwrap()).unwrap()
        };
        let at = |text: &str| text.parse().unwrap();
        // Asked for at 10:00:00.
        for (now, left) in [
            ("2026-12-01T10:00:00Z", 30),
            ("2026-12-01T10:00:20.5Z", 9),
            // Its time is over.
            ("2026-12-01T10:00:30Z", 1),
            ("2026-12-01T11:00:00Z", 1),
            // The clock was set back.
            ("2026-12-01T09:00:00Z", 30),
        ] {
            assert_eq!(of(30).left(at(now)), left, "{now}");
        }
        assert_eq!(of(0).left(at("2026-12-01T10:00:00Z")), 0);
        assert_eq!(Deletion::of(&Pod::default()), None);
    }
}
