//! Namespaces, TAP queues and sockets on the real kernel; needs root.
#![allow(clippy::unwrap_used)]

use ferrovirt_sys::{link, netns, tap, udp};
use std::{
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A network namespace that goes away with the test, whatever happens.
struct Namespace {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Namespace {
    fn new() -> (Self, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ns");
        netns::create(&path).unwrap();
        let open = netns::open(&path).unwrap();
        (Self { path, _directory: directory }, open)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}

fn interfaces() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned()).collect()
}

#[test]
fn a_namespace_is_empty_but_for_loopback_and_goes_away() {
    let (namespace, open) = Namespace::new();
    assert_eq!(netns::run_in(&open, || Ok(interfaces())).unwrap(), ["lo"]);
    assert!(netns::create(&namespace.path).is_err(), "a name is used once");
    let path = namespace.path.clone();
    drop(namespace);
    assert!(!path.exists());
    netns::delete(&path).unwrap();
}

#[test]
fn a_tap_has_its_queues_and_ends_with_them() {
    let (_namespace, open) = Namespace::new();
    for queues in [1, 4] {
        let fds = netns::run_in(&open, || {
            let fds = tap::create("tap0", queues, 107)?;
            link::set_mtu("tap0", 1400)?;
            link::up("tap0")?;
            assert_eq!(link::mtu("tap0")?, 1400);
            Ok(fds)
        })
        .unwrap();
        assert_eq!(fds.len(), queues as usize);
        let rx = netns::run_in(&open, || {
            let out = std::process::Command::new("ip").args(["-d", "link", "show", "tap0"]).output()?;
            Ok(String::from_utf8(out.stdout).unwrap())
        })
        .unwrap();
        assert_eq!(rx.contains("multi_queue"), queues > 1, "{rx}");
        assert!(rx.contains("vnet_hdr on") && rx.contains("user 107") && rx.contains("pi off"), "{rx}");
        drop(fds);
        // A child that another test starts meanwhile has copies of them until it executes its program.
        let deadline = Instant::now() + Duration::from_secs(60);
        while netns::run_in(&open, || Ok(interfaces())).unwrap() != ["lo"] {
            assert!(Instant::now() < deadline, "the TAP is still there");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_tap_joins_a_bridge_with_a_dhcp_socket() {
    let (_namespace, open) = Namespace::new();
    netns::run_in(&open, || {
        let made =
            std::process::Command::new("ip").args(["link", "add", "br0", "type", "bridge"]).status()?;
        assert!(made.success());
        let fds = tap::create("tap0", 1, 107)?;
        link::attach("br0", "tap0")?;
        link::up("br0")?;
        let out = std::process::Command::new("ip").args(["link", "show", "tap0"]).output()?;
        assert!(String::from_utf8(out.stdout).unwrap().contains("master br0"));
        let socket = udp::dhcp_server("br0")?;
        assert_eq!(link::attach("br0", "tap0").unwrap_err().kind(), std::io::ErrorKind::ResourceBusy);
        assert!(udp::dhcp_server("absent").is_err());
        drop((fds, socket));
        Ok(())
    })
    .unwrap();
}

#[test]
fn impossible_names_and_numbers_are_refused() {
    for name in ["", "sixteen-bytes-xx", "a/b", "a\0b"] {
        assert_eq!(link::up(name).unwrap_err().kind(), std::io::ErrorKind::InvalidInput, "{name:?}");
    }
    for queues in [0, 257] {
        assert_eq!(tap::create("tap0", queues, 107).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}
