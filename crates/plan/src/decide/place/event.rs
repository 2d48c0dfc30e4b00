//! What happens to a place.

use super::Ask;
use ferrovirt_qemu::protocol;

/// What happened. The last two answer an [`super::Action`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A launcher has connected, by this number: each connection has a higher one.
    Linked(u64),
    /// The connection has ended. `left`: the launcher has closed it, as far as anybody knows.
    Ended {
        /// The connection.
        link: u64,
        /// Nobody else did.
        left: bool,
    },
    /// The part `net` is gone, and every connection with it.
    Lost,
    /// The launcher says something.
    Said(u64, protocol::Event),
    /// The launcher sent what is no message.
    Nonsense(u64, String),
    /// The network is made, on this connection or an earlier one.
    Made,
    /// The network is not made, for this reason.
    NotMade(String),
    /// The pod as a watch shows it now: [`Some`] sentence where it is not what was accepted any more.
    Pod(Option<String>),
    /// Somebody asks for something of the guest.
    Ask {
        /// Names the request in its [`super::Action::Answer`].
        ticket: u64,
        /// What for.
        ask: Ask,
    },
    /// Who asked does not wait for the answer any more.
    Left {
        /// The request.
        ticket: u64,
    },
    /// Time has passed.
    Tick,
    /// Of [`super::Action::Check`].
    Checked(Check),
    /// Of [`super::Action::Order`], which could not be made, for this reason.
    NotOrdered(String),
}

/// Whether a pod is, in the API server and not in a cache, what the controller makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is.
    Same {
        /// What its network needs.
        network: Network,
        /// The machine was reported as running.
        ran: bool,
    },
    /// It is not; the sentence says which fields.
    Differs(String),
    /// It is of no use as it is: reason and sentence.
    Unfit(&'static str, String),
    /// Nobody knows now.
    Unknown(String),
}

/// What the network of a machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It has no interface.
    None,
    /// It can be made.
    Ready,
    /// The kubelet has not reported the pod's address yet.
    NoAddress,
    /// The pod has no IPv4 address, and will have none.
    OnlyIpv6,
}
