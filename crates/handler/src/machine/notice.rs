//! What users read about a guest, in words.

use super::events::Kind;
use ferrovirt_plan::decide::life::Notice;

/// Kind, reason and message of the event.
pub fn words(notice: Notice) -> (Kind, &'static str, &'static str) {
    match notice {
        Notice::Created => (Kind::Normal, "Created", "VirtualMachineInstance defined."),
        Notice::Started => (Kind::Normal, "Started", "VirtualMachineInstance started."),
        Notice::Resumed => (Kind::Normal, "Resumed", "VirtualMachineInstance resumed."),
        Notice::ShuttingDown => (Kind::Normal, "ShuttingDown", "The guest was asked to shut down."),
        Notice::Misbehaves => (
            Kind::Warning,
            "LauncherMisbehaves",
            "The launcher keeps sending messages that make no sense, or closing its connection, and the node does not listen \
             to it for a while. Its guest may have taken it over: look at the pod's log, and stop the machine.",
        ),
    }
}
