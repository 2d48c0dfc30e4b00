//! What the agent is told on its command line, and where it keeps things.

use crate::redacted::Redacted;
use std::path::PathBuf;

/// Paths and names.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub node: String,
    /// The agent's own directory.
    pub data: PathBuf,
    /// Socket that the API server connects to.
    pub socket: PathBuf,
    /// Images of this node.
    pub images: PathBuf,
    /// The launcher's program.
    pub launcher: PathBuf,
    /// What is `/usr` in containers: the node's own, or the copy of [`crate::oci::programs`].
    pub usr: PathBuf,
}

/// The one image that this node runs; its files come from the node itself.
pub const LAUNCHER_IMAGE: &str = concat!("ferrovirt/virt-launcher:", env!("CARGO_PKG_VERSION"));

impl Config {
    /// A text as users may see it.
    pub fn redacted(&self, text: &str) -> Redacted {
        Redacted::new(text, self)
    }

    /// A launcher's text, or one with some of it, as users may see it.
    pub fn redacted_foreign(&self, text: &str) -> Redacted {
        Redacted::foreign(text, self)
    }

    /// Directories of pods.
    pub fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// Network namespaces.
    pub fn netns(&self) -> PathBuf {
        self.data.join("netns")
    }

    /// State of the runtime.
    pub fn crun(&self) -> PathBuf {
        self.data.join("crun")
    }

    /// Read-only copies of the directories that all pods share.
    pub fn sources(&self) -> PathBuf {
        self.data.join("sources")
    }

    /// Copies of QEMU.
    pub fn programs(&self) -> PathBuf {
        self.data.join("programs")
    }

    /// Marks of claims that were in use.
    pub fn claims(&self) -> PathBuf {
        self.data.join("claims")
    }

    /// Unpacked images.
    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }
}
