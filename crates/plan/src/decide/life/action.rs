//! What is done for a pod on its node.

use super::Wrong;
use ferrovirt_qemu::protocol::Ending;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read what an earlier agent has left: [`super::Event::Record`].
    ReadRecord,
    /// Ask the container runtime for the pod's container: [`super::Event::Container`]. What the pod asks for is the pod's again.
    FindContainer,
    /// Remove what an earlier agent left that was interrupted before the guest could start.
    Sweep,
    /// Give the pod what it asks for of the node: [`super::Event::Admitted`] or [`super::Event::NotAdmitted`].
    Admit,
    /// Start the pod: [`super::Event::Started`], [`super::Event::ShortOfDisk`] or [`super::Event::NotStarted`].
    Start,
    /// See to it that bridge and rules know the port of a pod that was taken over: [`super::Event::PortAdmitted`].
    AdmitPort,
    /// Take hold of the container's process and report that it runs: [`super::Event::Held`], [`super::Event::Runs`] or
    /// [`super::Event::NotHeld`].
    Hold,
    /// Compare the pod in the API server with what was accepted: [`super::Event::Checked`].
    Check,
    /// Connect to the launcher: [`super::Event::Connected`].
    Connect,
    /// Drop the connection, if there is one.
    Disconnect,
    /// Send descriptors and order: [`super::Event::Ordered`].
    Order,
    /// Open the guest's network again for an order that was not sent: [`super::Event::Opened`].
    OpenNetwork,
    /// Ask the guest to shut down: [`super::Event::NotAsked`] where that fails.
    Shutdown {
        /// Seconds; the order's own where there are none.
        grace_seconds: Option<u32>,
    },
    /// Ask the launcher to stop or run the vCPUs: [`super::Event::NotSwitched`] where that fails.
    Switch {
        /// Of the request.
        ticket: u64,
        /// Stop, rather than run.
        pause: bool,
    },
    /// Ask the container's first process to end.
    Terminate,
    /// End the container's first process, and with it everything in the container.
    Kill,
    /// Answer a request.
    Answer {
        /// Of the request.
        ticket: u64,
        /// The answer.
        answer: Answer,
    },
    /// The pod is what was started, or is not any more: consoles ask for it.
    Served(bool),
    /// Report on pod and machine what keeps the pod from running.
    Complain {
        /// A word in CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// Report that the launcher cannot make its disks ready, and waits.
    NotReady {
        /// What the launcher says.
        message: String,
    },
    /// Report that the pod runs, and is not served any more because it is another one than was started.
    Trouble {
        /// A sentence.
        message: String,
    },
    /// Report that the pod has ended without having run, and give back what it had of the node.
    Reject {
        /// Reason of the machine's condition.
        condition: &'static str,
        /// Reason of the pod's end.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// Report that the pod ran, and what was kept of it is lost.
    Lost,
    /// Report the end that the record has.
    ReportEnd,
    /// Report that the guest has vCPUs.
    Runs {
        /// They are stopped by request.
        paused: bool,
    },
    /// Keep in the record that the guest was seen to run.
    RecordRan,
    /// An event on the machine.
    Tell(Notice),
    /// A line in the log: the pod is not connected to its launcher, for this reason.
    Waits(String),
    /// Count, and now and then log, what the launcher did that makes no sense.
    Misbehaves {
        /// What it did.
        what: String,
        /// What follows.
        wrong: Wrong,
    },
    /// Report the machine's and the pod's end and take down what the pod had on the node.
    End {
        /// Exit code of the container's process, where anybody knows it.
        code: Option<i32>,
        /// What the launcher said last.
        end: Option<(Ending, String)>,
        /// It had to go.
        evicted: bool,
    },
    /// Remove the last traces of the pod from the node.
    Leave,
    /// Remove the pod from the API: [`super::Event::Deleted`].
    DeletePod,
}

/// Answer to a request to stop or run the vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// There is no running guest.
    NotRunning,
    /// The launcher answers none of many requests.
    Silent,
    /// The launcher refused, with this reason.
    Refused(String),
}

/// An event on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// QEMU has the guest.
    Created,
    /// The guest runs.
    Started,
    /// The guest runs again.
    Resumed,
    /// The guest was asked to shut down.
    ShuttingDown,
    /// The launcher sent so much nonsense that nobody listens to it for a while: also an event on the pod.
    Misbehaves,
}
