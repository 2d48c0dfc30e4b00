//! A container through the real runtime: its rights are exactly the pod's, and nothing is left of it. Needs root.
#![allow(clippy::unwrap_used, clippy::panic)]

use ferrovirt_agent::container::{devices::devices, rootfs};
use ferrovirt_node::oci::{
    bundle::{self, Device, Mount, Node},
    cgroup::{self, HugeLimit, Layout},
    crun::Crun,
    granted::Granted,
    identity::Identity,
    sources::Sources,
};
use ferrovirt_sys::{netns, seqpacket::Listener};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// A container that goes away with the test, whatever happens.
struct Running {
    directory: tempfile::TempDir,
    crun: Crun,
    layout: Layout,
    id: String,
    pid: u32,
}

impl Running {
    /// Starts a shell line in place of the launcher.
    fn new(id: &str, security: Value, resources: Value, line: &str) -> Self {
        Self::with(id, security, resources, line, &Granted::default())
    }

    fn with(id: &str, security: Value, resources: Value, line: &str, granted: &Granted) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        rootfs::prepare(&root, "").unwrap();
        let layout = Layout::detect().unwrap();
        let crun = Crun::new(directory.path().join("crun"), layout.hide_v2());
        fs::create_dir(directory.path().join("crun")).unwrap();
        let bundle = directory.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        let netns = directory.path().join("netns");
        netns::create(&netns).unwrap();
        let container = json!({
            "name": "compute", "image": "x", "command": ["/usr/bin/busybox", "sh", "-c", line],
            "securityContext": security, "resources": resources,
        });
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": id}})).unwrap();
        let identity = Identity::of(&pod, &container, rootfs::IMAGE_ID).unwrap();
        let node = Node {
            rootfs: &root,
            sources: &Sources::default(),
            program: rootfs::program(Path::new("/bin/true")),
            own_ports: true,
            hostname: "p",
            granted,
            usr: Path::new("/usr"),
            netns: &netns,
            huge: layout.huge_limit(),
            seccomp: ferrovirt_plan::render::seccomp::profile(),
        };
        let devices = devices(&container).unwrap();
        let config = bundle::config(&pod, &container, &identity, &[], &devices, &node).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let listener = Listener::bind(&directory.path().join("sock")).unwrap();
        let mut running = Self { directory, crun, layout, id: id.to_owned(), pid: 0 };
        running.pid = match running.crun.run(id, &bundle, log, Some(listener.into())) {
            Ok(pid) => pid,
            Err(error) => panic!("{error}"),
        };
        running
    }

    fn status(&self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
        line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn log(&self, until: &str) -> String {
        for _ in 0..500 {
            let text = fs::read_to_string(self.directory.path().join("log")).unwrap();
            if text.contains(until) {
                return text;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no {until:?} in {}", fs::read_to_string(self.directory.path().join("log")).unwrap());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let bundle = self.directory.path().join("bundle");
        self.crun.delete(&self.id, &bundle).unwrap();
        cgroup::remove(&self.layout, &self.id);
        netns::delete(&self.directory.path().join("netns")).unwrap();
    }
}

fn restricted() -> Value {
    json!({
        "runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    })
}

#[test]
fn a_restricted_container_has_no_privilege_at_all() {
    let line = "id; ls -l /proc/self/fd/3; mount | head -1; (: > /x); mknod /dev/x c 1 3; unshare -n true; echo done; sleep 1000";
    let resources = json!({"limits": {"memory": "64Mi", "cpu": "500m"}, "requests": {"cpu": "100m"}});
    let running = Running::new("test-restricted", restricted(), resources, line);
    // The filter is put on in the last moment before the program starts.
    let log = running.log("done");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(running.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(running.status("NoNewPrivs"), "1");
    assert_eq!(running.status("Seccomp"), "2");
    assert_eq!(running.status("Uid"), "107 107 107 107");
    assert!(log.contains("socket:"), "descriptor 3 is the socket: {log}");
    assert!(log.contains("/x: Read-only file system"), "{log}");
    assert!(log.contains("mknod: /dev/x: Operation not permitted"), "{log}");
    assert!(log.contains("unshare"), "{log}");
    if let Some(memory) = running.layout.v1.get("memory") {
        let limit =
            memory.join(cgroup::path(&running.id).trim_start_matches('/')).join("memory.limit_in_bytes");
        assert_eq!(fs::read_to_string(limit).unwrap().trim(), (64 << 20).to_string());
    }
    let path = cgroup::path(&running.id);
    let places: Vec<PathBuf> =
        running.layout.v1.values().map(|root| root.join(path.trim_start_matches('/'))).collect();
    assert!(places.iter().any(|place| place.exists()), "no cgroup at {path}");
    let pid = running.pid;
    drop(running);
    assert!(!Path::new(&format!("/proc/{pid}/root/usr")).exists());
    assert!(places.iter().all(|place| !place.exists()));
}

#[test]
fn nobody_writes_to_the_root_that_all_containers_share() {
    let security = json!({"runAsUser": 0, "readOnlyRootFilesystem": false});
    let running = Running::new("test-root", security, json!({}), "(: > /planted); echo done; sleep 1000");
    let log = running.log("done");
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(!running.directory.path().join("rootfs/planted").exists());
}

#[test]
fn the_documented_capabilities_are_in_all_sets_and_no_others() {
    let mut security = restricted();
    security["capabilities"] = json!({"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "SYS_NICE"]});
    let resources = json!({"limits": {"devices.kubevirt.io/tun": "1"}});
    let line = "ls -ln /dev/net/tun; echo done; sleep 1000";
    let running = Running::new("test-documented", security, resources, line);
    let log = running.log("done");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(running.status(set), "0000000000803000", "{set}");
    }
    assert!(log.contains("crw-rw----") && log.contains("107      107"), "{log}");
}

#[test]
fn what_device_plug_ins_give_is_in_the_container() {
    let given = tempfile::tempdir().unwrap();
    fs::set_permissions(given.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(given.path().join("file"), "of the plug-in").unwrap();
    let granted = Granted {
        mounts: vec![Mount::bind(given.path().to_owned(), "/run/thing", true)],
        devices: vec![Device::of(Path::new("/dev/null"), "/dev/thing", true).unwrap()],
        variables: [("THING".to_owned(), "x1".to_owned())].into(),
        annotations: [("vendor.example/note".to_owned(), "y".to_owned())].into(),
    };
    let line = "cat /run/thing/file; (: > /run/thing/new); echo > /dev/thing && echo wrote; echo v=$THING; echo done; sleep 1000";
    let running = Running::with("test-granted", restricted(), json!({}), line, &granted);
    let log = running.log("done");
    for text in ["of the plug-in", "/run/thing/new: Read-only file system", "wrote", "v=x1"] {
        assert!(log.contains(text), "{text}: {log}");
    }
    let config = fs::read(running.directory.path().join("bundle/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["annotations"]["vendor.example/note"], "y");
}

#[test]
fn the_agent_limits_huge_pages_where_the_runtime_cannot() {
    if Layout::detect().unwrap().huge_limit() != HugeLimit::Agent {
        return;
    }
    let running = Running::new("test-huge", restricted(), json!({}), "echo done; sleep 1000");
    running.log("done");
    let limits = [(2 << 20, 64 << 20)].into();
    cgroup::limit_huge_pages(&running.id, running.pid, &limits).unwrap();
    let place = Path::new("/sys/fs/cgroup/unified").join(cgroup::name(&running.id));
    assert_eq!(fs::read_to_string(place.join("hugetlb.2MB.max")).unwrap().trim(), (64 << 20).to_string());
    let members = fs::read_to_string(place.join("cgroup.procs")).unwrap();
    assert!(members.split_whitespace().any(|pid| pid == running.pid.to_string()), "{members}");
    drop(running);
    assert!(!place.exists());
}

#[test]
fn a_container_name_is_used_once_and_a_refusal_says_why() {
    let running = Running::new("test-once", restricted(), json!({}), "sleep 1000");
    let bundle = running.directory.path().join("bundle");
    let again = running.crun.run(
        &running.id,
        &bundle,
        File::create(running.directory.path().join("log2")).unwrap(),
        Some(Listener::bind(&running.directory.path().join("sock2")).unwrap().into()),
    );
    assert!(again.unwrap_err().to_string().contains("already exists"));
    assert_eq!(running.crun.state(&running.id).unwrap().unwrap().status, "running");
    assert_eq!(running.crun.state("other").unwrap(), None);
}
