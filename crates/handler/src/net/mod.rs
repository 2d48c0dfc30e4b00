//! A machine's network, made through descriptors that its launcher has opened in the namespace of its pod and sent.
//!
//! The launcher needs no capability for that, and anyone who has the descriptors needs no right over namespaces: they stay
//! bound to the one in which they were opened, and the kernel asks for the capability of who uses them. But they are a
//! stranger's. Each line of this module closes an attack that works otherwise:
//!
//! 1. [`descriptors`]: how many there are and what each of them is, before anything is asked of it that could wait,
//!    destroy something or act on another kind of file.
//! 2. [`namespace`]: that all of them and the link belong to one network namespace, which is neither the host's nor our
//!    own nor that of another launcher.
//! 3. [`view`]: what the pod has, read over a socket of our own; nothing that decides is read over theirs.
//! 4. [`tap`]: that a device is new, and the one that was asked for.
//! 5. [`child`]: that a descriptor whose closing never ends holds up nobody else.
//!
//! `stream` carries the bytes of a console, in a process of its own for the same reason.
//!
//! [`program`] is `virt-handler net`, which does this for every slot, and [`talk`] what it says to the part `api`.
//! [`pod`] is what is made then, with the rules of [`rules`]: the same for a node agent that opens the sockets itself.

pub mod child;
pub mod descriptors;
pub mod namespace;
pub mod pod;
mod probe;
pub mod program;
pub mod rules;
mod server;
mod stream;
pub mod talk;
pub mod tap;
pub mod view;
mod worker;

use std::io;

/// Why a launcher's descriptors are not used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Another number than was asked for, or a message that lost some on the way.
    #[error("the launcher sent {0}")]
    Count(String),
    /// A descriptor of another kind.
    #[error("descriptor {place} of the launcher is no {wanted}: {found}")]
    Kind {
        /// Which one, from 0.
        place: usize,
        /// What it should be.
        wanted: descriptors::Kind,
        /// What gives it away.
        found: &'static str,
    },
    /// A TUN descriptor that is a queue of some device already.
    #[error("descriptor {0} of the launcher is a queue of a device already")]
    Attached(usize),
    /// Descriptors of several network namespaces.
    #[error("{0} is of another network namespace than the launcher's link")]
    Elsewhere(&'static str),
    /// The namespace of the host, or of this process.
    #[error("the launcher's network namespace is {0}: pods of machines have their own")]
    Forbidden(&'static str),
    /// The namespace of another launcher.
    #[error("the launcher's network namespace belongs to the slot {0}")]
    Taken(String),
    /// Another namespace than the slot has had.
    #[error("the launcher's network namespace is another than the one in which the slot's network was made")]
    Moved,
    /// Nobody has said which namespace the host's is.
    #[error(
        "it is not known yet which network namespace is the node's: no kubelet is connected to virt-handler plug, or this \
         kernel is older than Linux 5.14"
    )]
    Unknown,
    /// A device that is there before it is made.
    #[error(
        "the pod has a network device {0} already: remove what makes it; where that was virt-handler before it was started again, \
         delete the pod"
    )]
    Present(String),
    /// A device that is not what was made.
    #[error("the pod's network device {name} is not the one that was made: its {what} is another")]
    Changed {
        /// Its name.
        name: String,
        /// What differs.
        what: &'static str,
    },
    /// An address that the pod should have.
    #[error("the pod's namespace has no address {0}")]
    Address(std::net::IpAddr),
    /// A pod's interface that cannot be what the machine asks for.
    #[error("{0}")]
    Interface(&'static str),
    /// Rules that the kernel refuses.
    #[error(transparent)]
    Rules(#[from] ferrovirt_netlink::nft::BatchError),
    /// What the kernel says.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// What netlink says.
    #[error("{what}: {source}")]
    Netlink {
        /// What was tried.
        what: &'static str,
        /// Its error.
        source: ferrovirt_netlink::Error,
    },
}

fn kernel<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Refusal {
    move |error| Refusal::Kernel { what, source: error.into() }
}

fn netlink(what: &'static str) -> impl FnOnce(ferrovirt_netlink::Error) -> Refusal {
    move |source| Refusal::Netlink { what, source }
}
