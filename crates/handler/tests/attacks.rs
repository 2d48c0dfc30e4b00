//! What a launcher can try with the descriptors that it sends, each for real in network namespaces of the test's own.
//! Needs root.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "attacks/descriptors.rs"]
mod descriptors;
#[path = "attacks/devices.rs"]
mod devices;
#[path = "attacks/namespaces.rs"]
mod namespaces;
#[path = "attacks/pods.rs"]
mod pods;

use ferrovirt_handler::net::descriptors::{Descriptors, sort};
use ferrovirt_sys::{
    netlink::{self, Protocol},
    netns,
    seqpacket::Connection,
    tap,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
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

    /// What a launcher of this namespace opens: without a capability.
    fn launcher(&self, queues: usize) -> Vec<OwnedFd> {
        self.inside(|| {
            let none = rustix::thread::CapabilitySet::empty();
            let none = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, none).unwrap();
            let mut all = vec![
                udp(),
                netlink::open(Protocol::Route).unwrap(),
                netlink::open(Protocol::Netfilter).unwrap(),
            ];
            all.extend((0..queues).map(|_| tun()));
            all
        })
    }

    fn sent(&self, queues: usize) -> Descriptors {
        sort(self.launcher(queues), queues).unwrap()
    }

    /// A launcher's link: its end and ours.
    fn link(&self) -> (Connection, Connection) {
        self.inside(|| Connection::pair().unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}

fn udp() -> OwnedFd {
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap()
}

fn tun() -> OwnedFd {
    tap::open_node("/dev/net/tun").unwrap().into()
}
