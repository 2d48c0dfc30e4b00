//! The pod network: an address from CNI, the rules of the node's bridge, and behind it the bridge, TAP queues and
//! translation of each machine.

pub mod cni;
mod host;
pub mod pod;
mod ports;
mod rules;

pub use ferrovirt_handler::machine::mac;
pub use ports::{Network, Port};

use ferrovirt_netlink::{Socket, nft::BatchError};
use ferrovirt_sys::netlink::Protocol;
use serde::de::DeserializeOwned;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

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
    /// A pod's network that is not what was made.
    #[error(transparent)]
    Refused(#[from] ferrovirt_handler::net::Refusal),
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
    #[error("hardware address {mac} {why}: name another macAddress in the machine's interface, or none")]
    Hardware {
        /// The address.
        mac: mac::MacAddress,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file of the network that is there and of no use.
    #[error(
        "{}: {source}: start the version of virt-handler that wrote it, or stop every machine of this node, restart the \
         node and remove the file",
        file.display()
    )]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A machine that this version cannot connect.
    #[error("{0}")]
    Unsupported(&'static str),
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
