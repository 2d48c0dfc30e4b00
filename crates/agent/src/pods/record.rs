//! What is kept on disk of a pod that was started, so that an agent that starts again takes it over.

use crate::{machine::network::Wired, redacted::Redacted};
use ferrovirt_node::{
    network::{Port, cni::Address},
    volumes::{Places, Written},
};
use ferrovirt_qemu::{order::Order, seed};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const FILE: &str = "record.json";
/// Directory of a pod's volumes, in its own.
pub(super) const VOLUMES: &str = "volumes";

/// A started pod. Written before its guest is started: where there is none, there is no guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// UID of the pod, and name of its container.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// User of the launcher.
    pub user: u32,
    /// Its group.
    #[serde(default)]
    pub group: u32,
    /// The pod as it was accepted, to compare it with later; absent in records of agents that did not compare.
    #[serde(default)]
    pub accepted: Option<serde_json::Value>,
    /// The container's first process.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub started: String,
    /// Address of the pod.
    pub address: Address,
    /// Its port on the node's bridge; absent in records of agents that kept it in the file of ports alone.
    #[serde(default)]
    pub port: Option<Port>,
    /// What the guest's interfaces are connected to, where its launcher is met here.
    #[serde(default)]
    pub wired: Vec<Wired>,
    /// Where paths of the container are.
    pub places: Places,
    /// Claims that a pod with a place writes to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<Written>,
    /// The order; none of a pod with a place, which others serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The files of its seeds, until its guest runs: a restarted agent may have to send them. Absent in records of
    /// agents that made the seeds themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<seed::File>,
    /// Bytes of the machine's emptyDisk volumes; absent in records of agents that did not count them.
    #[serde(default)]
    pub declared: Option<u64>,
    /// The guest was seen to run, and users were informed.
    #[serde(default)]
    pub ran: bool,
    /// How the container ended.
    pub exit: Option<Exit>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 and the signal's number for a signal.
    pub code: i32,
    /// For a person.
    pub message: Redacted,
    /// When, RFC 3339.
    pub finished: String,
    /// It was evicted.
    #[serde(default)]
    pub evicted: bool,
}

impl Record {
    /// Reads the record of the pod whose directory is `directory`; `None` when there is none.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` when it is no record of this version.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        let file = directory.join(FILE);
        let named = |kind, error: &dyn std::fmt::Display| {
            io::Error::new(kind, format!("{}: {error}", file.display()))
        };
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| named(io::ErrorKind::InvalidData, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(named(error.kind(), &error)),
        }
    }

    /// The record of a pod that has not ended; one that cannot be read now is logged and `None`, for those that only look.
    pub fn alive(directory: &Path) -> Option<Self> {
        let read =
            Self::read(directory).inspect_err(|error| tracing::warn!("reading the record of a pod: {error}"));
        read.ok().flatten().filter(|record| record.exit.is_none())
    }

    /// Writes it, whole or not at all. Nothing is forced to the disk: a machine that loses power loses its guests too.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let part = directory.join("record.part");
        // Seeds may be secrets.
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(part, directory.join(FILE))
    }
}

/// The directories of pods, by UID.
pub(super) fn directories(pods: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(pods) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect()
}

/// Where a pod marks the images that it uses.
pub(super) fn marks(directory: &Path) -> PathBuf {
    directory.join("images")
}

/// The log of a pod's container.
pub(super) fn log(directory: &Path) -> PathBuf {
    directory.join("compute.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_record_that_does_not_exist_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(directory.path()).unwrap(), None);
        fs::write(directory.path().join(FILE), "").unwrap();
        assert_eq!(Record::read(directory.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::remove_file(directory.path().join(FILE)).unwrap();
        fs::create_dir(directory.path().join(FILE)).unwrap();
        Record::read(directory.path()).unwrap_err();
    }
}
