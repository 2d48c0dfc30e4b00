//! The pod network: an address from CNI, and the rules of the node's bridge.

pub mod cni;
mod host;
mod ports;
mod rules;

pub use ports::{Network, Port};

use ferrovirt_netlink::{Socket, mac::MacAddress, nft::BatchError};
use ferrovirt_sys::netlink::Protocol;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// What pods reach. The names of its fields are those of files that an earlier version has written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Which pods reach each other.
    pub isolation: Isolation,
    /// TCP ports of the node that pods reach at their gateway's address.
    pub tcp: BTreeSet<u16>,
    /// UDP ports likewise.
    pub udp: BTreeSet<u16>,
}

/// Which pods reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// Those of one namespace.
    #[default]
    Namespace,
    /// All pods of the node.
    None,
}

/// A failed step of a pod's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that is not there.
    #[error("cannot start {program}: {source}; install the package `{package}`")]
    Start {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that said no.
    #[error("{program}: {message}")]
    Failed {
        /// The program.
        program: &'static str,
        /// Its last words.
        message: String,
    },
    /// A link or an address that the kernel refused.
    #[error("{what}: {source}")]
    Link {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: ferrovirt_netlink::Error,
    },
    /// Rules that the kernel refused.
    #[error(transparent)]
    Rules(#[from] BatchError),
    /// The kernel said no.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// An answer of a CNI plug-in that makes no sense.
    #[error("CNI plug-in answered {0}")]
    Answer(String),
    /// A hardware address that would be somebody else's.
    #[error("hardware address {mac} {why}: name another one, or none")]
    Hardware {
        /// The address.
        mac: MacAddress,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file of the network that is there and of no use.
    #[error(
        "{}: {source}: start the version of the node's agent that wrote it, or delete every pod of this node, restart \
         the node and remove the file",
        file.display()
    )]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A port of the bridge that is not the pod's.
    #[error("{0}")]
    Port(&'static str),
}

/// Reads a file of the network; `None` when there is none.
fn read<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, Error> {
    let read = match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    read.map_err(|source| Error::File { file: file.to_owned(), source })
}

/// What an exchange with the kernel about links was for.
fn link(what: &'static str) -> impl FnOnce(ferrovirt_netlink::Error) -> Error {
    move |source| Error::Link { what, source }
}

/// Opens netlink sockets in the calling thread's network namespace: for links and addresses, and for rules.
fn sockets() -> Result<(Socket, Socket), ferrovirt_netlink::Error> {
    Ok((Socket::open(Protocol::Route)?, Socket::open(Protocol::Netfilter)?))
}
