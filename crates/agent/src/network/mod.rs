//! The pod network: an address from CNI, the rules of the node's bridge, and behind it the bridge, TAP queues and
//! translation of each machine.

pub mod cni;
mod host;
pub mod mac;
pub mod pod;
mod ports;
mod rules;

pub use ports::{Network, Port};

use serde::de::DeserializeOwned;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
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

/// Runs a program to its end with `input` on its standard input; on the calling thread's network namespace.
fn run(program: &'static str, package: &'static str, args: &[&str], input: &str) -> Result<String, Error> {
    let start = |source| Error::Start { program, package, source };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on its standard error.
        let _closed = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Failed { program, message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
