//! What the parts say to each other: `api` and this program, and this program and its children.
//!
//! Each message is one packet: a line of JSON, and after it, where something is passed on, that as it is. Descriptors never
//! travel here. Of what a launcher says nothing is read in this program: `api` reads it, and does what has to be done with
//! foreign text.

use super::rules::Port;
use crate::plug::table::Holder;
use ferrovirt_sys::seqpacket::Connection;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

/// Most bytes of a packet between `api` and this program: an order and a line.
pub const MOST: usize = 160 * 1024;
/// Most bytes of a packet of a launcher: its events are far shorter.
pub const MOST_SAID: usize = 8 * 1024;
/// Queues of a TAP: with the other descriptors they are as many as one message can carry.
pub const QUEUES: std::ops::RangeInclusive<u32> = 1..=247;
/// Most ports of a guest: the answers to more rules would not fit a launcher's socket.
pub const MOST_PORTS: usize = 100;
/// Most bytes of a line.
const MOST_LINE: usize = 24 * 1024;

/// How the guest is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Binding {
    /// Behind a translation: everything, or these ports, reaches it.
    Masquerade {
        /// The ports.
        ports: Vec<Port>,
    },
    /// It takes the place of the pod's interface.
    Bridge,
}

/// A network that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    /// Queues of the TAP.
    pub queues: u32,
    /// How the guest is connected.
    pub binding: Binding,
    /// Longest packet, bytes; the pod's interface's own when there is none.
    pub mtu: Option<u32>,
    /// The addresses of the pod by its status: the namespace must have all of them, and one must be IPv4.
    pub addresses: Vec<IpAddr>,
}

/// What a pod's network is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Facts {
    /// The bridge, on which DHCP is to be served.
    pub bridge: String,
    /// The TAP.
    pub tap: String,
    /// Hardware address of the pod's interface before anything was done.
    pub mac: [u8; 6],
    /// Its address.
    pub address: Ipv4Addr,
    /// Of that, the prefix length.
    pub prefix: u8,
    /// Longest packet of the TAP and the bridge, bytes.
    pub mtu: u32,
    /// The pod's default gateway, **as its launcher's socket says**: no socket of our own can ask for routes of another
    /// namespace. It is fit for what that launcher's guest gets by DHCP, and for nothing else.
    pub gateway: Option<Ipv4Addr>,
}

/// `api` to this program. Each message names the link that it is about: what was decided for one is not for the next one,
/// which may be of another process, and is dropped when that link is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum FromApi {
    /// Make the network of a slot's pod. Once for each slot.
    Prepare {
        /// The slot.
        slot: String,
        /// The link.
        link: u64,
        /// What is wanted.
        wanted: Wanted,
    },
    /// What follows the line is for the launcher.
    Relay {
        /// The slot.
        slot: String,
        /// The link.
        link: u64,
    },
    /// End the link.
    End {
        /// The slot.
        slot: String,
        /// The link.
        link: u64,
    },
}

/// This program to `api`. Every connection begins with what there is: the node, and of each slot its holder, the network
/// that it has, the link, and what was said last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ToApi {
    /// The first message: what keeps every network of this node from being made, if anything does.
    Node {
        /// For an administrator.
        problem: Option<String>,
    },
    /// A pod holds a slot. The name of a slot is that of its directory: each `Allocate` brings a new one.
    Slot {
        /// The slot.
        slot: String,
        /// Who holds it.
        holder: Holder,
        /// Grows with each `Allocate` on the node.
        number: u64,
    },
    /// The slot has gone.
    Gone {
        /// The slot.
        slot: String,
    },
    /// A launcher has connected.
    Linked {
        /// The slot.
        slot: String,
        /// The link: no other one of this process has its number.
        link: u64,
        /// Its user, as the node numbers it.
        user: u32,
    },
    /// The link has ended.
    Ended {
        /// The slot.
        slot: String,
        /// The link; absent for one that was never heard.
        link: Option<u64>,
        /// Why, where it was this program that ended it.
        why: Option<String>,
    },
    /// What follows the line was said by the launcher.
    Said {
        /// The slot.
        slot: String,
        /// The link.
        link: u64,
    },
    /// The network is made.
    Ready {
        /// The slot.
        slot: String,
        /// What it is like.
        facts: Facts,
    },
    /// The network is not made, and why.
    Refused {
        /// The slot.
        slot: String,
        /// The link for which it was asked for.
        link: u64,
        /// For a person.
        why: String,
    },
    /// What serves the slot cannot be ended: it waits in the kernel for something that its launcher has sent. The slot
    /// serves nobody until that ends.
    Hung {
        /// The slot.
        slot: String,
    },
}

/// `api` to this program, on another socket: the first message of a connection that is to lead to a console of a guest. Then
/// comes [`Opened::Listening`], and once the launcher has been asked to connect there, and has, [`Opened::Connected`] and the
/// bytes of the console, in both directions and in messages of at most [`MOST_OF_STREAM`] bytes, whose borders mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Open {
    /// The slot.
    pub slot: String,
    /// The link.
    pub link: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Opened {
    /// Somebody listens for the launcher, for ten seconds.
    Listening {
        /// The name of the socket in the slot's directory.
        socket: String,
    },
    /// The launcher has connected: what comes now is the console.
    Connected,
    /// Nobody does.
    Refused {
        /// What kind of reason that is.
        kind: NotOpened,
        /// For a person.
        why: String,
    },
}

/// Why nobody listens for a launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NotOpened {
    /// There is no such link.
    Away,
    /// Its consoles are as many as may be open.
    Full,
    /// This program cannot.
    Failed,
}

/// Most bytes of a message of a console.
pub const MOST_OF_STREAM: usize = 16 * 1024;

/// To a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum ToChild {
    Prepare {
        wanted: Wanted,
    },
    /// The answer to [`FromChild::Enter`].
    Entered {
        refusal: Option<String>,
    },
    Relay,
}

/// From a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum FromChild {
    /// A launcher has connected, from this namespace.
    Linked {
        user: u32,
        cookie: u64,
    },
    Said,
    /// All checks have passed, and the namespace with this cookie is about to be changed.
    Enter {
        cookie: u64,
    },
    Ready {
        facts: Facts,
    },
    Refused {
        why: String,
    },
    /// It is about to end.
    Ending {
        why: String,
    },
}

/// One packet.
pub(crate) fn packet(head: &impl Serialize, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(head)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// Sends one packet.
pub(super) fn send(to: &Connection, head: &impl Serialize, body: &[u8]) -> io::Result<()> {
    to.send(&packet(head, body)?, &[])
}

/// What a packet says, and what follows the line.
///
/// # Errors
/// `InvalidData` for what is no such packet.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<(T, &[u8])> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let end = bytes.iter().take(MOST_LINE + 1).position(|byte| *byte == b'\n').ok_or_else(invalid)?;
    let (line, body) = bytes.split_at_checked(end).ok_or_else(invalid)?;
    let head =
        serde_json::from_slice(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((head, body.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_stays_as_it_is() {
        let head = FromApi::Relay { slot: "a".to_owned(), link: 7 };
        let bytes = packet(&head, b"{\"b\": 1,\n \"a\":2}\xff").unwrap();
        let (read, body) = read::<FromApi>(&bytes).unwrap();
        assert_eq!((read, body), (head, &b"{\"b\": 1,\n \"a\":2}\xff"[..]));
    }

    #[test]
    fn packets_of_another_form_are_refused() {
        let long = format!("{{\"end\":{{\"slot\":\"{}\",\"link\":1}}}}\n", "a".repeat(MOST_LINE));
        let more = "{\"end\":{\"slot\":\"a\",\"link\":1,\"b\":1}}\n";
        let cut_off = "{\"end\":{\"slot\":\"a\",\"link\":1}}";
        for text in ["", "\n", "{}\n", "{\"end\":{\"slot\":\"a\"}}\n", more, cut_off, &long] {
            assert!(read::<FromApi>(text.as_bytes()).is_err(), "{text:.60}");
        }
    }
}
