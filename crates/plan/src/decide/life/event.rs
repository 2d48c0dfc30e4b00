//! What happens to a pod on its node.

use ferrovirt_qemu::protocol;

/// What happened. Those of the second half answer an [`super::Action`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The machine of states was made: the first event of each life.
    Bound,
    /// The pod as the watch has it now.
    Pod {
        /// How far the API says that it got.
        phase: PodPhase,
        /// Its deletion was asked for, with so many seconds of grace, of which so many were left when that was first seen.
        deletion: Option<i64>,
        /// Whether it is still what was accepted.
        change: Change,
    },
    /// The pod is gone from the API.
    Gone,
    /// The pod has to go, whatever its guest does.
    Evict,
    /// Somebody asks to stop or to run the vCPUs.
    Switch {
        /// Names the request in its [`super::Action::Answer`].
        ticket: u64,
        /// Stop, rather than run.
        pause: bool,
    },
    /// Time has passed.
    Tick,
    /// The launcher says something.
    Said(protocol::Event),
    /// The launcher sent what is no message.
    Nonsense(String),
    /// The connection to the launcher is lost.
    Closed,
    /// The container's first process has ended, and everything that it said was passed on.
    Died {
        /// Its exit code, where anybody knows it.
        code: Option<i32>,
    },

    /// Of [`super::Action::ReadRecord`].
    Record(Record),
    /// Of [`super::Action::FindContainer`].
    Container(Container),
    /// Of [`super::Action::Admit`]: there is room.
    Admitted,
    /// Of [`super::Action::Admit`]: there is none, or the pod is not for this node.
    NotAdmitted {
        /// A word in CamelCase.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// Of [`super::Action::Start`]: its container runs.
    Started,
    /// Of [`super::Action::Start`]: the node has too little disk space to start anything.
    ShortOfDisk,
    /// Of [`super::Action::Start`]: it could not be started, and nothing of it is on the node.
    NotStarted {
        /// A word in CamelCase.
        reason: &'static str,
        /// What to do about it.
        message: String,
        /// What becomes of it.
        then: Then,
    },
    /// Of [`super::Action::Hold`].
    Held(Hold),
    /// Of [`super::Action::Hold`], for a pod that asks for a place: it is served elsewhere.
    Runs {
        /// Its container was just started.
        fresh: bool,
    },
    /// Of [`super::Action::Hold`].
    NotHeld {
        /// The node lacks memory or descriptors: another try can succeed.
        short: bool,
    },
    /// Of [`super::Action::AdmitPort`]: whether they know it.
    PortAdmitted(bool),
    /// Of [`super::Action::Check`].
    Checked(Check),
    /// Of [`super::Action::Connect`]: whether there is a connection.
    Connected(bool),
    /// Of [`super::Action::Order`]: whether the order was sent.
    Ordered(bool),
    /// Of [`super::Action::OpenNetwork`]: whether the descriptors are there.
    Opened(bool),
    /// Of [`super::Action::Switch`] that could not be sent.
    NotSwitched {
        /// Of the request.
        ticket: u64,
    },
    /// Of [`super::Action::Shutdown`] that could not be sent.
    NotAsked,
    /// Of [`super::Action::DeletePod`]: whether the pod is gone.
    Deleted(bool),
}

/// How far the API says that a pod got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// It has not run.
    #[default]
    Pending,
    /// A container of it was started.
    Running,
    /// It has ended.
    Final,
}

impl PodPhase {
    /// From `status.phase`.
    pub fn of(phase: Option<&str>) -> Self {
        match phase {
            Some("Running") => Self::Running,
            Some("Succeeded" | "Failed") => Self::Final,
            _ => Self::Pending,
        }
    }
}

/// Whether a pod of the watch is what was accepted. The watch may know less than the API server, but comes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// There is nothing to compare it with.
    #[default]
    Unknown,
    /// It is.
    Same,
    /// It is not; the sentence says which fields.
    Differs(String),
}

/// What an earlier agent has left of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Nothing.
    None,
    /// The pod ran, and its end is known.
    Ended,
    /// The pod was started.
    Started,
    /// There is something that cannot be read now.
    Unreadable,
}

/// What the container runtime says of a pod's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// It runs.
    Runs,
    /// It does not, or there is none.
    Ended,
    /// The runtime could not say.
    Unknown,
}

/// What becomes of a pod that could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Another try can succeed.
    Again,
    /// No try can succeed without a new pod.
    Wait,
    /// It has ended, as one that a kubelet does not admit.
    Reject,
}

/// A container whose first process is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// It was just started: its launcher has no order yet.
    pub fresh: bool,
    /// Descriptors for the order are at hand.
    pub descriptors: bool,
    /// Its guest was seen to run, and users were informed.
    pub ran: bool,
    /// Seconds that its order gives a shutdown.
    pub grace_seconds: u32,
}

/// Whether a pod is, in the API server and not in a cache, still what was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is.
    Same {
        /// Its deletion was asked for.
        deleting: bool,
    },
    /// It is not; the sentence says which fields.
    Differs(String),
    /// Nobody knows now.
    Unknown(String),
    /// Something was due before an answer came.
    Interrupted,
}
