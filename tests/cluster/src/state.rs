//! What a cluster has made on this machine, on disk before it is made: `down` reads it, no matter who is gone in between.

use crate::{layout::Layout, process::Process};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The record of one cluster.
#[derive(Debug)]
pub struct State {
    file: PathBuf,
    /// The version of Kubernetes.
    pub kubernetes: String,
    /// How many nodes were asked for.
    pub nodes: u8,
    /// Processes that were started, the first one first.
    pub processes: Vec<Process>,
}

impl State {
    /// An empty record in the cluster's directory.
    pub fn new(layout: &Layout, kubernetes: &str, nodes: u8) -> Result<Self> {
        let state = Self {
            file: layout.path("state.json"),
            kubernetes: kubernetes.to_owned(),
            nodes,
            processes: Vec::new(),
        };
        state.save()?;
        Ok(state)
    }

    /// The record in `directory`, if there is one.
    pub fn load(directory: &Path) -> Result<Option<Self>> {
        let file = directory.join("state.json");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        let value: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        let processes = value.get("processes").and_then(Value::as_array);
        Ok(Some(Self {
            kubernetes: value.get("kubernetes").and_then(Value::as_str).unwrap_or_default().to_owned(),
            nodes: value.get("nodes").and_then(Value::as_u64).and_then(|n| n.try_into().ok()).unwrap_or(1),
            processes: processes.into_iter().flatten().filter_map(Process::from_json).collect(),
            file,
        }))
    }

    fn save(&self) -> Result<()> {
        let value = json!({
            "kubernetes": self.kubernetes,
            "nodes": self.nodes,
            "processes": self.processes.iter().map(Process::to_json).collect::<Vec<_>>(),
        });
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, serde_json::to_vec_pretty(&value)?)?;
        fs::rename(&fresh, &self.file).with_context(|| self.file.display().to_string())
    }

    /// Notes a process; one of the same description that has ended is forgotten.
    pub fn add_process(&mut self, process: Process) -> Result<()> {
        self.processes.retain(|other| other.what != process.what || other.alive());
        self.processes.push(process);
        self.save()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_again() {
        let base = tempfile::tempdir().unwrap();
        let mut state = State {
            file: base.path().join("state.json"),
            kubernetes: "v1".to_owned(),
            nodes: 2,
            processes: Vec::new(),
        };
        state.add_process(Process { what: "x".to_owned(), pid: 1, start: 2 }).unwrap();
        let loaded = State::load(base.path()).unwrap().unwrap();
        assert_eq!(loaded.processes, state.processes);
        assert_eq!((loaded.kubernetes.as_str(), loaded.nodes), ("v1", 2));
    }

    #[test]
    fn a_cluster_that_never_was_has_no_record_and_a_damaged_one_is_said() {
        let base = tempfile::tempdir().unwrap();
        assert!(State::load(base.path()).unwrap().is_none());
        fs::write(base.path().join("state.json"), "{").unwrap();
        assert!(State::load(base.path()).is_err());
    }
}
