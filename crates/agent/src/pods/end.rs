//! The end of a pod's life: what pod and machine say of it, and what goes from the node and from the API.

use super::{
    exit,
    record::{self, Exit, Record, VOLUMES},
    status::Known,
    teardown,
    worker::{SETTLE, Worker},
};
use crate::{
    events::Kind,
    machine::{huge_pages, status::Phase},
    redacted::Redacted,
};
use ferrovirt_model::{Bytes, PageSize};
use ferrovirt_node::volumes;
use ferrovirt_plan::decide::life::{self, Outcome};
use ferrovirt_qemu::{
    order::Backing,
    protocol::{Ending, Event, State},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use tokio::task::spawn_blocking;

/// Most of the launcher's last state that is read.
const LAST_STATE: u64 = 64 << 10;
/// Most of a log that a kubelet has in a pod's status.
const LAST_WORDS: usize = 2048;
const LAST_LINES: usize = 80;

impl Worker {
    /// The container has ended: reports the machine's and the pod's end and takes down what it had on the node.
    pub(super) async fn end(&mut self, code: Option<i32>, end: Option<(Ending, String)>, evicted: bool) {
        self.container = None;
        let Some(record) = self.record.take() else { return };
        match self.evicted.take() {
            Some(message) if evicted => self.end_evicted(record, message).await,
            _ => self.over(record, code, end).await,
        }
    }

    /// The container was killed because its pod has to go. Its volumes go at once: they are what it is about.
    async fn end_evicted(&mut self, record: Record, message: Redacted) {
        self.shared.metrics.eviction();
        self.shared.node.events.tell(&self.pod_reference(), Kind::Warning, "Evicted", &message);
        let volumes = self.shared.pod_directory(&self.uid).join(VOLUMES);
        let exit = Exit { evicted: true, ..exit::exit(Some(137), message) };
        self.take_down(record, exit, Outcome::Failed("Evicted")).await;
        if let Ok(Err(error)) = spawn_blocking(move || volumes::remove(&volumes)).await {
            tracing::warn!(pod = self.name(), "removing the volumes of an evicted pod: {error}");
        }
    }

    async fn over(&mut self, record: Record, code: Option<i32>, end: Option<(Ending, String)>) {
        if record.order.is_none() {
            return self.ordinary_over(record, code).await;
        }
        let end = end.or_else(|| last_state(&record));
        let ending = end.as_ref().map(|(ending, _)| *ending);
        let message = end.map_or_else(|| self.last_words(code), |(_, message)| message);
        let message = match missing_pages(&record, ending) {
            Some(remedy) => format!("{message} ({remedy})"),
            None => message,
        };
        let exit = exit::exit(life::exit_code(code, ending), self.shared.config.redacted_foreign(&message));
        self.take_down(record, exit, life::outcome(ending)).await;
    }

    /// The end of a pod that others serve, in a kubelet's words. Where an earlier agent started its container nobody has seen
    /// how it ended; what it left behind says more than nothing.
    async fn ordinary_over(&mut self, record: Record, code: Option<i32>) {
        let end = if code.is_none() { last_state(&record) } else { None };
        let code = life::exit_code(code, end.as_ref().map(|(ending, _)| *ending));
        let message = match (code, end) {
            (Some(0), _) => String::new(),
            (_, Some((_, message))) => message,
            // terminationMessagePolicy: FallbackToLogsOnError
            _ => {
                let log = record::log(&self.shared.pod_directory(&self.uid));
                exit::last_lines(&log, LAST_WORDS, LAST_LINES).unwrap_or_default()
            }
        };
        let exit = exit::exit(code, self.shared.config.redacted_foreign(&message));
        self.take_down(record, exit, life::outcome(None)).await;
    }

    /// What the record of an earlier agent says of the end. That agent may have been ended before it had unmounted the volumes.
    pub(super) async fn report_known_end(&mut self) {
        let (shared, uid) = (self.shared.clone(), self.uid.clone());
        if let Ok(Err(error)) = spawn_blocking(move || teardown::unmount(&shared, &uid)).await {
            tracing::warn!(pod = self.name(), "taking down: {error}");
        }
        if let Some(record) = &self.record
            && let Some(exit) = record.exit.clone()
        {
            self.writer.write(ended(record, exit));
        }
    }

    /// The pod ran, and what was kept of it is gone or cannot be read. A launcher pod runs once.
    pub(super) fn lost(&mut self) {
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

    /// Says of the machine how it ended.
    fn report_end(&self, exit: &Exit, outcome: Outcome) {
        let (kind, phase, reason) = match outcome {
            Outcome::Succeeded => (Kind::Normal, Phase::Succeeded, None),
            Outcome::Failed(reason) => (Kind::Warning, Phase::Failed, Some(reason)),
        };
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
        let message = format!("The VirtualMachineInstance was shut down: {}", exit.message);
        self.tell(kind, "Stopped", &self.shared.config.redacted_foreign(&message));
    }

    async fn take_down(&mut self, mut record: Record, exit: Exit, outcome: Outcome) {
        self.report_end(&exit, outcome);
        record.exit = Some(exit.clone());
        record.seeds = Vec::new();
        if let Err(error) = record.write(&self.shared.pod_directory(&self.uid)) {
            tracing::warn!(pod = self.name(), "recording the end: {error}");
        }
        let gone = self.gone;
        let reporter = self.reporter.take();
        let settle = async {
            let mut reporter = reporter;
            if let (Some(reporter), false) = (&mut reporter, gone) {
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

    fn last_words(&self, code: Option<i32>) -> String {
        let log = record::log(&self.shared.pod_directory(&self.uid));
        let line = exit::last_line(&log).ok().filter(|line| !line.is_empty());
        let line = line.unwrap_or_else(|| "it wrote nothing".to_owned());
        match code {
            Some(137) => "the launcher was killed".to_owned(),
            Some(code) => format!("the launcher ended with code {code}: {line}"),
            None => format!("the launcher ended while no agent ran: {line}"),
        }
    }

    /// Removes the last traces from the node once the pod's end is written.
    pub(super) async fn leave(&mut self) {
        self.writer.settle(SETTLE).await;
        self.forget().await;
        self.shared.room.release(&self.uid);
    }

    /// Removes the pod from the API.
    pub(super) async fn delete_pod(&mut self) -> life::Event {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.shared.node.client.0.clone(), &namespace);
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..Default::default()
        };
        let name = self.pod.metadata.name.clone().unwrap_or_default();
        life::Event::Deleted(match pods.delete(&name, &parameters).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                tracing::warn!(pod = self.name(), "deleting the pod: {error}");
                false
            }
        })
    }
}

fn ended(record: &Record, exit: Exit) -> Known {
    Known::Ended { ip: Some(record.address.ip), started: record.started.clone(), exit }
}

/// What to say and do where an end is a lack of huge pages.
fn missing_pages(record: &Record, ending: Option<Ending>) -> Option<String> {
    let memory = &record.order.as_ref()?.memory;
    let page = match &memory.backing {
        Backing::Anonymous => None,
        Backing::HugeMemfd { page_bytes } => PageSize::new(*page_bytes),
        Backing::HugeDirectory { .. } => PageSize::new(2 << 20),
    };
    let page = page.filter(|_| life::may_lack_pages(ending, record.ran))?;
    huge_pages::missing(Bytes(memory.bytes), page)
}

/// What a launcher that ended while no agent listened left behind.
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
