//! Against the kernel, in network namespaces of their own. Needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "kernel/links.rs"]
mod links;
#[path = "kernel/rules.rs"]
mod rules;
#[path = "kernel/shared.rs"]
mod shared;

use ferrovirt_sys::netns;
use std::{os::fd::OwnedFd, path::PathBuf, process::Command};

/// A network namespace that goes away with the test.
struct Namespace {
    path: PathBuf,
    open: OwnedFd,
    _directory: tempfile::TempDir,
}

impl Namespace {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ns");
        netns::create(&path).unwrap();
        let open = netns::open(&path).unwrap();
        Self { path, open, _directory: directory }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.open, || Ok(work())).unwrap()
    }

    /// What a line of the shell prints, which works.
    fn sh(&self, line: &str) -> String {
        let out = self.inside(|| Command::new("sh").args(["-c", line]).output().unwrap());
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{line}: {said}{}", String::from_utf8_lossy(&out.stderr));
        said
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}
