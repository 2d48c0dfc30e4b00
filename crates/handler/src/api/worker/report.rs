//! What is said of a machine: in its status, in events and in the log.

use super::Worker;
use crate::machine::{
    accept::owner,
    events::Kind,
    facts, notice,
    redacted::Redacted,
    status::{NO_NETWORK, NOT_AS_RENDERED, NOT_READY, Phase},
};
use ferrovirt_plan::decide::{
    life::{self, Outcome},
    place::{Notice, Wrong},
};
use ferrovirt_qemu::{order::Order, protocol::Ending};
use k8s_openapi::api::core::v1::ObjectReference;

impl Worker {
    pub(super) fn runs(&self, paused: bool) {
        tracing::info!(pod = self.name(), paused, "the guest runs");
        if let Ok((order, wired)) = self.render() {
            self.describe(&order, &wired);
        }
        if let Some(reporter) = &self.reporter {
            reporter.update(|known| (known.phase, known.paused) = (Phase::Running, paused));
        }
    }

    /// Says of the machine what its order says.
    pub(super) fn describe(&self, order: &Order, wired: &[facts::Wired]) {
        let Some(reporter) = &self.reporter else { return };
        reporter.update(|known| {
            known.interfaces = facts::interfaces(order, wired);
            known.memory = order.memory.bytes;
            known.topology = (order.sockets, order.cores, order.threads);
            known.machine_type.clone_from(&order.machine);
        });
    }

    pub(super) fn over(&self, ending: Ending, message: &str) {
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
    pub(super) fn report(&mut self, reason: &'static str, message: &str) {
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

    pub(super) fn notice(&self, notice: Notice) {
        let (kind, reason, message) = notice::words(notice);
        let message = Redacted::ours(message);
        if notice == Notice::Misbehaves
            && let Some(pod) = self.pod_reference()
        {
            self.shared.events.tell(&pod, kind, reason, &message);
        }
        self.tell(kind, reason, &message);
    }

    pub(super) fn misbehaves(&self, what: &str, wrong: Wrong) {
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
}
