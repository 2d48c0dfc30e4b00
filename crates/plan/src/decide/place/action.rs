//! What is to be done about a place.

use super::{Answer, Notice, Step, Wrong};
use ferrovirt_qemu::protocol::{self, Ending};

/// Reason of a machine's condition whose network is not made.
pub const NO_NETWORK: &str = "PodNetworkNotConnected";
/// Reason of a machine whose launcher cannot make its files ready.
pub const NOT_READY: &str = "FilesNotReady";
/// Reason of a machine whose pod is not what the controller makes.
pub const NOT_AS_RENDERED: &str = "NotAsRendered";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Compare the pod in the API server: [`super::Event::Checked`].
    Check(Step),
    /// Ask `net` for the network.
    Prepare(u64),
    /// Send the order: [`super::Event::NotOrdered`] where it cannot be made.
    Order(u64),
    /// Have the connection ended.
    End(u64),
    /// Say this to the launcher.
    Request {
        /// On this connection.
        link: u64,
        /// What.
        request: protocol::Request,
    },
    /// Answer a request. A console that is connected is not answered: who asked for it sees it.
    Answer {
        /// Of the request.
        ticket: u64,
        /// The answer.
        answer: Answer,
    },
    /// The pod is what the controller makes, and nothing keeps its machine from running.
    Well,
    /// Report what keeps the machine from running, or from being served.
    Trouble {
        /// A word in CamelCase.
        reason: &'static str,
        /// A sentence; in words of the launcher where that says it.
        message: String,
    },
    /// A line in the log.
    Waits(String),
    /// Report that the guest has vCPUs.
    Runs {
        /// They are stopped by request.
        paused: bool,
    },
    /// An event on the machine.
    Tell(Notice),
    /// Count, and now and then log, what the launcher did that makes no sense.
    Misbehaves {
        /// What it did.
        what: String,
        /// What follows.
        wrong: Wrong,
    },
    /// Report the machine's end.
    Over {
        /// How it ended, by its launcher.
        ending: Ending,
        /// In its words.
        message: String,
    },
}
