//! The beginning of a pod's life: what an earlier agent left of it, the start of its container, the hold on its process.

use super::{
    exit::Process,
    pipeline::{self, Failure, Started},
    record::Record,
    status::Known,
    teardown,
    worker::{Container, Worker},
};
use crate::{events::Kind, machine::facts};
use ferrovirt_plan::{
    decide::accept::untyped,
    decide::life::{self, Event, Hold, Then},
};
use rustix::io::Errno;
use std::{io, sync::atomic::Ordering};
use tokio::task::spawn_blocking;

impl Worker {
    /// Reads the pod's record. A damaged record of what does not run is none.
    pub(super) async fn read_record(&mut self) -> Event {
        let error = match Record::read(&self.shared.pod_directory(&self.uid)) {
            Ok(record) => {
                self.record = record;
                return Event::Record(match &self.record {
                    None => life::Record::None,
                    Some(Record { exit: Some(_), .. }) => life::Record::Ended,
                    Some(_) => life::Record::Started,
                });
            }
            Err(error) => error,
        };
        if error.kind() == io::ErrorKind::InvalidData {
            let (shared, uid) = (self.shared.clone(), self.uid.clone());
            let state = spawn_blocking(move || shared.crun.state(&uid)).await;
            if matches!(&state, Ok(Ok(state)) if state.as_ref().is_none_or(|state| state.status == "stopped"))
            {
                tracing::warn!(pod = self.name(), "{error}; its container has ended");
                return Event::Record(life::Record::None);
            }
        }
        tracing::warn!(
            pod = self.name(),
            "{error}; the pod is left alone until its record can be read: start the version that wrote it, or delete the pod by force"
        );
        Event::Record(life::Record::Unreadable)
    }

    /// Asks the runtime for the container that an earlier agent started.
    pub(super) async fn find_container(&mut self) -> Event {
        self.shared.room.hold(&self.uid, &untyped(&self.pod));
        let (shared, uid) = (self.shared.clone(), self.uid.clone());
        let state = spawn_blocking(move || shared.crun.state(&uid)).await;
        let state = state.map_err(|error| error.to_string());
        let state = state.and_then(|state| state.map_err(|error| error.to_string()));
        Event::Container(match state {
            Ok(Some(state)) if state.status == "running" => {
                tracing::info!(pod = self.name(), "taking over a running launcher");
                if let Some(record) = &mut self.record {
                    record.pid = state.pid;
                }
                life::Container::Runs
            }
            Ok(_) => life::Container::Ended,
            // Whether the guest runs is not known: it must not be ended for a moment's lack of memory.
            Err(error) => {
                tracing::warn!(pod = self.name(), "looking for its container: {error}");
                life::Container::Unknown
            }
        })
    }

    /// Removes what an earlier agent left that was interrupted before the guest could start.
    pub(super) async fn sweep(&mut self) {
        if self.shared.pod_directory(&self.uid).exists() || self.shared.netns(&self.uid).exists() {
            self.forget().await;
        }
    }

    pub(super) async fn admit(&mut self) -> Event {
        match self.shared.room.admit(&self.uid, &untyped(&self.pod)).await {
            None => Event::Admitted,
            Some(rejection) => Event::NotAdmitted { reason: rejection.reason, message: rejection.message },
        }
    }

    pub(super) async fn start(&mut self) -> Event {
        if self.shared.disk_pressure.load(Ordering::Relaxed) {
            return Event::ShortOfDisk;
        }
        match pipeline::start(&self.shared, &self.pod, &self.writer).await {
            Ok(Started { record, descriptors }) => {
                let event = format!("Started container compute with address {}", record.address.ip);
                let event = self.shared.config.redacted(&event);
                self.shared.node.events.tell(&self.pod_reference(), Kind::Normal, "Started", &event);
                self.record = Some(record);
                self.fresh = Some(descriptors);
                Event::Started
            }
            Err(Failure { reason, message, may_pass, rejected }) => {
                let then = match (rejected, may_pass) {
                    (true, _) => Then::Reject,
                    (false, true) => Then::Again,
                    (false, false) => Then::Wait,
                };
                Event::NotStarted { reason, message, then }
            }
        }
    }

    /// Sees to it that bridge and rules know the port of a pod that was taken over: its guest reaches nobody without.
    pub(super) async fn admit_port(&mut self) -> Event {
        // Where a guest is met here, one without an interface needs none.
        let needed = |record: &&Record| record.order.is_none() || !record.wired.is_empty();
        let Some(record) = self.record.as_ref().filter(needed) else {
            return Event::PortAdmitted(true);
        };
        let (shared, uid, port) = (self.shared.clone(), self.uid.clone(), record.port.clone());
        let known = spawn_blocking(move || shared.network.adopt(&uid, &shared.netns(&uid), port)).await;
        let known = known.map_err(|error| error.to_string());
        match known.and_then(|known| known.map_err(|error| error.to_string())) {
            Ok(()) => {
                if let Some(reporter) = &self.reporter {
                    reporter.update(|known| known.trouble = None);
                }
                Event::PortAdmitted(true)
            }
            Err(error) => {
                let message = format!("the machine has no network: its port cannot be admitted: {error}");
                self.not_connected(&message);
                Event::PortAdmitted(false)
            }
        }
    }

    /// Takes hold of a container's process and reports that it runs.
    pub(super) fn hold(&mut self) -> Event {
        let Some(record) = &self.record else { return Event::NotHeld { short: false } };
        let process = match Process::open(record.pid) {
            Ok(process) => process,
            Err(error) => {
                tracing::warn!(pod = self.name(), "the container's process: {error}");
                let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOSPC];
                let short = short.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
                return Event::NotHeld { short };
            }
        };
        self.writer.write(Known::Running { ip: record.address.ip, started: record.started.clone() });
        let fresh = self.fresh.is_some();
        let descriptors = self.fresh.take().unwrap_or_default();
        let Some(order) = &record.order else {
            self.container = Some(Container { process, link: None, descriptors, ended: None });
            return Event::Runs { fresh };
        };
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| {
                known.trouble = None;
                known.interfaces = facts::interfaces(order, &record.wired);
                known.memory = order.memory.bytes;
                known.topology = (order.sockets, order.cores, order.threads);
                known.machine_type.clone_from(&order.machine);
            });
        }
        let hold = Hold {
            fresh,
            descriptors: !descriptors.is_empty(),
            ran: record.ran,
            grace_seconds: order.grace_seconds,
        };
        self.container = Some(Container { process, link: None, descriptors, ended: None });
        Event::Held(hold)
    }

    /// Removes the pod from the node; what fails is tried again for a short while.
    pub(super) async fn forget(&mut self) {
        for pause in teardown::PAUSES {
            let (shared, uid) = (self.shared.clone(), self.uid.clone());
            match spawn_blocking(move || teardown::forget(&shared, &uid)).await {
                Ok(Err(error)) => tracing::warn!(pod = self.name(), "taking down: {error}"),
                _ => return,
            }
            tokio::time::sleep(pause).await;
        }
    }
}
