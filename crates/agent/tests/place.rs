//! A launcher in a place: the real one, in a container as this node makes it for an ordinary pod. The test is its handler.
//! Needs root.
#![allow(clippy::unwrap_used, clippy::panic)]

use ferrovirt_agent::container::rootfs;
use ferrovirt_node::oci::{
    bundle::{self, Device, Mount, Node},
    cgroup::{self, Layout},
    crun::Crun,
    granted::Granted,
    identity::Identity,
    sources::Sources,
};
use ferrovirt_plan::render::seccomp;
use ferrovirt_qemu::protocol::{Event, MAX_MESSAGE, Request, State};
use ferrovirt_sys::{
    netns,
    seqpacket::{self, Connection, Listener},
};
use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process, test_kill_process},
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(60);
const USER: u32 = 107;

/// The launcher's program beside the agent's.
fn program() -> PathBuf {
    let made = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--package", "ferrovirt-launcher"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(made.unwrap().success());
    Path::new(env!("CARGO_BIN_EXE_virt-handler")).with_file_name("virt-launcher")
}

/// A container that goes away with the test, whatever happens.
struct Running {
    directory: tempfile::TempDir,
    crun: Crun,
    layout: Layout,
    id: &'static str,
}

impl Running {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn new(id: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["crun", "bundle", "slot", "public"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let layout = Layout::detect().unwrap();
        let crun = Crun::new(directory.path().join("crun"), layout.hide_v2());
        let running = Self { directory, crun, layout, id };
        chown(running.path("public"), Some(USER), Some(USER)).unwrap();
        rootfs::prepare(&running.path("rootfs"), "nameserver 192.0.2.1\n").unwrap();
        netns::create(&running.path("netns")).unwrap();
        running
    }

    /// Its first process.
    fn start(&self, launcher: &Path, seccomp: Value) -> Pid {
        let container = json!({
            "name": "compute", "image": "x", "command": ["/usr/bin/virt-launcher", "--slot", "/run/ferrovirt"],
            "securityContext": {
                "runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            },
        });
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": self.id}})).unwrap();
        let identity = Identity::of(&pod, &container, USER).unwrap();
        let granted = Granted {
            mounts: vec![Mount::bind(self.path("slot"), "/run/ferrovirt", true)],
            devices: vec![Device::of(Path::new("/dev/net/tun"), "/dev/net/tun", true).unwrap()],
            ..Granted::default()
        };
        let node = Node {
            rootfs: &self.path("rootfs"),
            sources: &Sources::default(),
            program: rootfs::program(launcher),
            usr: Path::new("/usr"),
            netns: &self.path("netns"),
            own_ports: true,
            hostname: "p",
            granted: &granted,
            huge: self.layout.huge_limit(),
            seccomp,
        };
        let volumes = [Mount::bind(self.path("public"), "/var/run/kubevirt", false)];
        let config = bundle::config(&pod, &container, &identity, &volumes, &[], &node).unwrap();
        fs::write(self.path("bundle/config.json"), config.to_string()).unwrap();
        let log = File::create(self.path("log")).unwrap();
        let pid = self.crun.run(self.id, &self.path("bundle"), log, None).unwrap();
        Pid::from_raw(pid.cast_signed()).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.crun.delete(self.id, &self.path("bundle")).unwrap();
        cgroup::remove(&self.layout, self.id);
        netns::delete(&self.path("netns")).unwrap();
    }
}

fn readable(file: impl AsFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(&file, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap() == 1
}

fn next(link: &Connection) -> (Event, usize) {
    assert!(readable(link, LIMIT), "it says nothing");
    let message = link.recv(MAX_MESSAGE).unwrap().unwrap();
    (serde_json::from_slice(&message.bytes).unwrap(), message.fds.len())
}

#[test]
fn a_launcher_without_a_capability_connects_opens_what_a_network_is_made_of_and_ends_when_asked() {
    let launcher = program();
    let running = Running::new("test-place");
    let socket = running.path("slot/machine.sock");
    let listener = Listener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let pid = running.start(&launcher, seccomp::profile_in_place());
    assert!(readable(&listener, LIMIT), "it does not connect: {}", running.log());
    let link = listener.accept().unwrap();
    assert_eq!(seqpacket::peer_user(link.as_fd()).unwrap(), USER);
    assert_eq!(next(&link), (Event::State { state: State::Waiting, qemu_pid: None }, 0));
    link.send(&serde_json::to_vec(&Request::Network { queues: 2 }).unwrap(), &[]).unwrap();
    let (event, descriptors) = next(&link);
    assert_eq!((&event, descriptors), (&Event::Network, 5), "{}", running.log());
    kill_process(pid, Signal::TERM).unwrap();
    let begin = Instant::now();
    while test_kill_process(pid).is_ok() && fs::read(running.path("public/ended.json")).is_err() {
        assert!(begin.elapsed() < LIMIT, "it does not end: {}", running.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(running.log().contains("ended before an order came"), "{}", running.log());
}

/// The filter of launchers that are met by the agent lets nobody out.
#[test]
fn a_launcher_under_the_filter_of_those_without_a_place_cannot_connect() {
    let launcher = program();
    let running = Running::new("test-no-place");
    let socket = running.path("slot/machine.sock");
    let listener = Listener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    running.start(&launcher, seccomp::profile());
    // It tries several times in that time.
    assert!(!readable(&listener, Duration::from_secs(1)), "it has connected");
}
