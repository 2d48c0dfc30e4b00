//! What pod and machine are said to be: conditions, statuses and events, in words that users may see.

use super::{pipeline, status::Known, worker::Worker};
use crate::machine::status::{NO_NETWORK, NOT_READY, Phase};
use crate::{events::Kind, labels, redacted::Redacted};
use ferrovirt_handler::machine::{accept::NOT_AS_RENDERED, notice::words};
use ferrovirt_plan::decide::life::{Notice, Wrong};
use k8s_openapi::api::core::v1::ObjectReference;
use std::sync::atomic::Ordering;

impl Worker {
    /// The pod waits, for this reason.
    pub(super) fn complain(&mut self, reason: &'static str, message: &str) {
        let redacted = self.shared.config.redacted(message);
        self.writer.write(Known::Waiting { reason, message: redacted.clone() });
        self.report(reason, reason, message, &redacted);
    }

    /// The pod is another one than was started.
    pub(super) fn not_as_rendered(&mut self, message: &str) {
        let redacted = self.shared.config.redacted(message);
        self.report(NOT_AS_RENDERED, NOT_AS_RENDERED, message, &redacted);
    }

    /// The launcher waits, because a disk is not ready: in its words.
    pub(super) fn not_ready(&mut self, message: &str) {
        let redacted = self.shared.config.redacted_foreign(message);
        self.report(NOT_READY, NOT_READY, message, &redacted);
    }

    /// A running machine has no network.
    pub(super) fn not_connected(&mut self, message: &str) {
        let redacted = self.shared.config.redacted(message);
        self.report(NO_NETWORK, NO_NETWORK, message, &redacted);
    }

    /// The pod ends without having run. `condition`: reason of the machine's condition.
    pub(super) fn reject(&mut self, condition: &'static str, reason: String, message: &str) {
        self.shared.room.release(&self.uid);
        let redacted = self.shared.config.redacted(message);
        self.report(condition, &reason, message, &redacted);
        self.writer.write(Known::Rejected { reason, message: redacted });
    }

    /// Says on pod and machine what is wrong: the message to the administrator's log, which has the paths, and what users
    /// read of it.
    fn report(&mut self, condition: &'static str, reason: &str, message: &str, redacted: &Redacted) {
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| known.trouble = Some((condition, redacted.clone())));
        }
        if self.trouble != message {
            message.clone_into(&mut self.trouble);
            tracing::warn!(pod = self.name(), reason, "{message}");
            self.shared.node.events.tell(&self.pod_reference(), Kind::Warning, reason, redacted);
            self.tell(Kind::Warning, "SyncFailed", redacted);
        }
    }

    /// Consoles ask whether the pod is what was started.
    pub(super) fn serve(&self, served: bool) {
        self.served.store(served, Ordering::Relaxed);
        if let (true, Some(reporter)) = (served, &self.reporter) {
            reporter.update(|known| known.trouble = None);
        }
    }

    /// The guest has vCPUs.
    pub(super) fn runs(&self, paused: bool) {
        let (Some(reporter), Some(record)) = (&self.reporter, &self.record) else { return };
        let kernel = &self.shared.selinux;
        let context = kernel.context_of(record.pid);
        let enforced = labels::enforcement(kernel, &self.pod, context.as_deref());
        reporter.update(|known| {
            known.enforced = Some(enforced);
            known.selinux = context.unwrap_or_else(|| "none".to_owned());
            known.phase = Phase::Running;
            known.paused = paused;
        });
    }

    pub(super) fn record_ran(&mut self) {
        let directory = self.shared.pod_directory(&self.uid);
        let Some(record) = &mut self.record else { return };
        record.ran = true;
        record.seeds = Vec::new();
        if let Err(error) = record.write(&directory) {
            tracing::warn!(pod = self.name(), "recording the start: {error}");
        }
    }

    pub(super) fn notice(&self, notice: Notice) {
        let (kind, reason, message) = words(notice);
        let message = Redacted::ours(message);
        if notice == Notice::Misbehaves {
            self.shared.node.events.tell(&self.pod_reference(), kind, reason, &message);
        }
        self.tell(kind, reason, &message);
    }

    /// Counts what a launcher did that makes no sense, and logs it now and then.
    pub(super) fn misbehaves(&self, what: &str, wrong: Wrong) {
        let pod = self.name();
        self.shared.metrics.misconduct();
        match wrong {
            Wrong::Ignore => {}
            Wrong::Log { suppressed } => {
                tracing::warn!(pod, suppressed, "the launcher misbehaves: {what}");
            }
            Wrong::Close { pause, suppressed } => {
                self.shared.metrics.closed();
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
    pub(super) fn tell(&self, kind: Kind, reason: &str, message: &Redacted) {
        if let Some(machine) = self.machine_reference() {
            self.shared.handler.events.tell(&machine, kind, reason, message);
        }
    }

    pub(super) fn name(&self) -> String {
        let data = &self.pod.metadata;
        format!(
            "{}/{}",
            data.namespace.as_deref().unwrap_or_default(),
            data.name.as_deref().unwrap_or_default()
        )
    }

    pub(super) fn pod_reference(&self) -> ObjectReference {
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
        let (name, uid) = pipeline::machine(&self.pod)?;
        Some(ObjectReference {
            api_version: Some("kubevirt.io/v1".to_owned()),
            kind: Some("VirtualMachineInstance".to_owned()),
            namespace: self.pod.metadata.namespace.clone(),
            name: Some(name),
            uid: Some(uid),
            ..Default::default()
        })
    }
}
