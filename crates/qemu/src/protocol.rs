//! Messages between the node agent and a launcher.
//!
//! The socket is `SOCK_SEQPACKET`: one JSON message to a packet, at most [`MAX_MESSAGE`] bytes. The agent creates
//! and binds it (mode 0600, owned by the launcher's user) and hands the listening descriptor to the launcher as
//! file descriptor 3, so that an agent that starts again finds it by path. Descriptors travel as SCM_RIGHTS with
//! the message that names them. A launcher with a slot (`--slot DIR`) listens nowhere: it connects to the handler's
//! socket in that directory, again whenever the link ends, and takes orders from there alone. Every connection gets an [`Event::State`] at once and another at each change.

use crate::{order::Order, seed, text};
use serde::{Deserialize, Serialize};

/// Largest message in bytes; a longer one ends the connection.
pub const MAX_MESSAGE: usize = 128 * 1024;
/// Most descriptors in one message (the kernel's SCM_MAX_FD is 253); more queues travel in further
/// [`Request::Descriptors`] messages before the order.
pub const MAX_DESCRIPTORS: usize = 250;
/// The listening descriptor of a launcher.
pub const LISTEN_FD: i32 = 3;

/// Agent to launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Descriptors for the order that follows, one purpose for each, in the order of SCM_RIGHTS.
    Descriptors {
        /// What each descriptor is.
        purposes: Vec<Purpose>,
    },
    /// Open what a TAP is made with, in the launcher's own network namespace, and send copies of it with
    /// [`Event::Network`]. Of a launcher with a slot alone, and before the order. What was opened before is closed.
    Network {
        /// How many queues the TAP shall have.
        queues: u32,
    },
    /// A piece of a seed's file for the order that follows.
    Piece {
        /// The piece.
        piece: seed::File,
    },
    /// Start the guest. A second one, whatever it says, is refused: a launcher runs one guest in its life.
    Start {
        /// The guest.
        order: Box<Order>,
    },
    /// Ask the guest to shut down; end QEMU when the seconds are over.
    Shutdown {
        /// Seconds; the order's own when absent, none means at once.
        grace_seconds: Option<u32>,
    },
    /// Connect to this stream socket in the slot's directory, on which somebody waits for a console of the guest. Of a
    /// launcher with a slot alone.
    Console {
        /// The socket's name.
        socket: String,
        /// Which console.
        console: Console,
    },
    /// Stop the vCPUs.
    Pause,
    /// Run the vCPUs again.
    Unpause,
}

/// A console of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Console {
    /// The serial port: one client at a time, the latest.
    Serial,
    /// The graphics adapter, by the protocol of VNC.
    Vnc,
}

/// What a passed descriptor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Purpose {
    /// One queue of the TAP of this interface.
    TapQueue {
        /// Name of the interface.
        nic: String,
    },
    /// UDP socket on port 67 of the pod's bridge, for the interface's DHCP answers.
    Dhcp {
        /// Name of the interface.
        nic: String,
    },
}

/// Launcher to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// Where the guest is.
    State {
        /// The state.
        state: State,
        /// QEMU's process, as the container numbers it.
        qemu_pid: Option<i32>,
    },
    /// Descriptors come with this: a UDP socket of IPv4, sockets for NETLINK_ROUTE and NETLINK_NETFILTER, and one of the
    /// TUN driver for each queue, in this order.
    Network,
    /// A request could not be carried out.
    Refused {
        /// Why, for a person.
        message: String,
        /// Of [`Request::Console`], its socket's name. Launchers of before this field never say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        console: Option<String>,
    },
    /// A disk of the order cannot be made ready now. No guest was started, what came with the order is gone, and the
    /// launcher waits for the order again.
    NotReady {
        /// Why, for a person.
        message: String,
    },
}

impl Event {
    /// The event with its text as data: cut, and without characters that act on whatever shows it. The agent takes no
    /// other text of a launcher.
    pub fn plain(self) -> Self {
        match self {
            Self::Refused { message, console } => Self::Refused {
                message: text::plain(&message, text::REFUSAL),
                console: console.map(|socket| text::plain(&socket, text::REFUSAL)),
            },
            Self::NotReady { message } => Self::NotReady { message: text::plain(&message, text::LAST_WORDS) },
            Self::State { state: State::Ended { ending, message }, qemu_pid } => {
                let message = text::plain(&message, text::LAST_WORDS);
                Self::State { state: State::Ended { ending, message }, qemu_pid }
            }
            Self::State { state, qemu_pid } => Self::State { state, qemu_pid },
            Self::Network => Self::Network,
        }
    }
}

/// Where a guest is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// No order yet.
    Waiting,
    /// QEMU is starting.
    Starting,
    /// vCPUs run.
    Running,
    /// vCPUs are stopped by request.
    Paused,
    /// The guest was asked to shut down.
    ShuttingDown,
    /// QEMU is gone. The launcher exits once this is sent: with 0 for [`Ending::Shutdown`], with 1 otherwise.
    Ended {
        /// How.
        ending: Ending,
        /// For a person: QEMU's last words or the reason of the shutdown.
        message: String,
    },
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ending {
    /// The guest shut itself down, by itself or when asked.
    Shutdown,
    /// Ended by the launcher because the grace period was over or none was given.
    Destroyed,
    /// The guest panicked.
    Panicked,
    /// QEMU could not be started or died.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_an_earlier_launcher_is_understood_and_an_earlier_agent_understands_this_one() {
        let text = r#"{"refused":{"message":"no"}}"#;
        let refused = Event::Refused { message: "no".to_owned(), console: None };
        assert_eq!(serde_json::from_str::<Event>(text).unwrap(), refused);
        assert_eq!(serde_json::to_string(&refused).unwrap(), text);
    }

    #[test]
    fn texts_of_a_launcher_are_cut_and_escaped() {
        let message = format!("a\nforged line\u{1b}[2J{}", "x".repeat(100_000));
        let refused = Event::Refused { message: message.clone(), console: Some(message.clone()) };
        let Event::Refused { message: shown, console: Some(socket) } = refused.plain() else {
            panic!("another event")
        };
        assert_eq!(shown, socket);
        assert!(shown.starts_with("a\\nforged line\\u{1b}[2Jxxx") && shown.chars().count() < 250, "{shown}");
        let state = State::Ended { ending: Ending::Failed, message };
        let Event::State { state: State::Ended { message: shown, .. }, qemu_pid: Some(7) } =
            (Event::State { state, qemu_pid: Some(7) }).plain()
        else {
            panic!("another event")
        };
        assert!(!shown.contains('\n') && shown.chars().count() < 600, "{shown}");
    }
}
