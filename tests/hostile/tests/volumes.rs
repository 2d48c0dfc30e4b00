//! Volumes that somebody fills, and volumes that are gone.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, wait_for};
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

/// The directory of a machine's launcher pod on the node.
fn pod_directory(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let serial = cluster.serial_path("default", name)?;
    let pods = cluster.data().join("agent/pods");
    let uid = serial.strip_prefix(&pods)?.components().next().context("no pod directory")?;
    Ok(pods.join(uid))
}

/// Writes a file of this size where a launcher can write, as its user: what a launcher that a guest has taken over does.
fn fill(pod: &Path, bytes: usize) -> Result<()> {
    let volume = pod.join("volumes/public");
    let file = volume.join("filler");
    fs::write(&file, vec![7; bytes])?;
    Ok(chown(&file, Some(107), Some(107))?)
}

/// Waits until the machine is evicted; the pod's message.
fn evicted(cluster: &Cluster, name: &str, pod: &Path) -> Result<String> {
    let instance = cluster.wait_phase("default", name, "Failed")?;
    ensure!(instance["status"]["reason"] == "Evicted", "{}", instance["status"]);
    let conditions = instance["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let says = conditions.iter().any(|c| c["type"] == "Synchronized" && c["reason"] == "Evicted");
    ensure!(says, "no condition says that {name} was evicted: {conditions:?}");
    let status = wait_for("the pod to have failed", TIMEOUT, || {
        let all = cluster.json(&["get", "pods", "-n", "default"])?;
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let uid = pod.file_name().map(|uid| uid.to_string_lossy().into_owned());
        let own = items.into_iter().find(|item| item["metadata"]["uid"].as_str() == uid.as_deref());
        Ok(own.map(|item| item["status"].clone()).filter(|status| status["phase"] == "Failed"))
    })?;
    ensure!(status["reason"] == "Evicted", "{status}");
    let target = status["conditions"].as_array().cloned().unwrap_or_default();
    ensure!(target.iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True"), "{status}");
    wait_for("the space to be free", TIMEOUT, || Ok((!pod.join("volumes").exists()).then_some(())))?;
    Ok(status["message"].as_str().unwrap_or_default().to_owned())
}

/// An instance without a VirtualMachine that would start it again.
fn instance(name: &str) -> String {
    let text = machine(name, "Always", 0);
    let spec = text.split_once("    spec:\n").map(|(_, spec)| spec).unwrap_or_default();
    let spec: String = spec.lines().map(|line| format!("{}\n", line.get(4..).unwrap_or_default())).collect();
    format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: {name}}}\nspec:\n{spec}"
    )
}

#[test]
fn a_machine_that_overfills_its_scratch_space_is_evicted_and_others_live() -> Result<()> {
    let arguments = ["--handler-option", "scratch-limit=64Mi"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start(Options { arguments, ..Options::default() })?;
    for name in ["filler", "other"] {
        cluster.apply(&instance(name))?;
    }
    for name in ["filler", "other"] {
        cluster.wait_phase("default", name, "Running")?;
    }
    let (pod, other) = (pod_directory(&cluster, "filler")?, pod_directory(&cluster, "other")?);
    // What is allowed is left alone.
    fill(&other, 32 << 20)?;
    fill(&pod, 80 << 20)?;
    let said = evicted(&cluster, "filler", &pod)?;
    ensure!(said == "Usage of EmptyDir volume \"public\" exceeds the limit \"64Mi\". ", "{said}");
    let other = cluster.json(&["get", "vmi", "other", "-n", "default"])?;
    ensure!(other["status"]["phase"] == "Running", "the other machine is {}", other["status"]);
    cluster.stop()
}

/// A file system of its own, so that the test fills nobody else's.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(size: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ferrovirt-full-").tempdir()?;
        let options = std::ffi::CString::new(format!("size={size}"))?;
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, options.as_c_str())?;
        Ok(Self(directory))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_node_that_is_short_of_disk_evicts_who_fills_it_and_takes_no_new_machine() -> Result<()> {
    let disk = Mounted::new("512m")?;
    let arguments = [
        "--handler-option",
        "eviction-hard=nodefs.available<200Mi",
        "--handler-option",
        "eviction-pressure-transition-period=20",
        "--handler-option",
        "scratch-limit=100%",
    ];
    let arguments = arguments.map(str::to_owned).to_vec();
    let data = Some(disk.0.path().join("data"));
    let mut cluster = Cluster::start(Options { arguments, data, ..Options::default() })?;
    for name in ["filler", "other"] {
        cluster.apply(&instance(name))?;
    }
    for name in ["filler", "other"] {
        cluster.wait_phase("default", name, "Running")?;
    }
    let pod = pod_directory(&cluster, "filler")?;
    let free = rustix::fs::statvfs(disk.0.path())?;
    let free = usize::try_from(free.f_bavail * free.f_frsize)?;
    ensure!(free > 235 << 20, "only {free} bytes are free before the test begins");
    // Others have filled the disk nearly; what the launcher adds is within the limit of its volume, and too much for the node.
    fs::write(disk.0.path().join("others"), vec![7; free - (235 << 20)])?;
    fill(&pod, 45 << 20)?;
    let node = wait_for("the node to say that it is short", TIMEOUT, || {
        let node = cluster.json(&["get", "nodes"])?["items"][0].clone();
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let tainted = taints.iter().any(|taint| taint["key"] == "node.kubernetes.io/disk-pressure");
        Ok(tainted.then_some(node))
    })?;
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    ensure!(
        conditions.iter().any(|c| c["type"] == "DiskPressure" && c["status"] == "True"),
        "{conditions:?}"
    );
    cluster.apply(&instance("late"))?;
    let said = evicted(&cluster, "filler", &pod)?;
    ensure!(
        said.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: 200Mi"),
        "{said}"
    );
    let other = cluster.json(&["get", "vmi", "other", "-n", "default"])?;
    ensure!(other["status"]["phase"] == "Running", "the other machine is {}", other["status"]);
    wait_for("the scheduler to say why the new machine waits", TIMEOUT, || {
        let events = cluster.json(&["get", "events", "-n", "default"])?;
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let says = |event: &serde_json::Value| {
            event["reason"] == "FailedScheduling"
                && event["message"].as_str().unwrap_or_default().contains("disk-pressure")
        };
        Ok(all.iter().any(says).then_some(()))
    })?;
    // When it is over, the machine starts.
    cluster.wait_phase("default", "late", "Running")?;
    cluster.stop()
}

#[test]
fn a_claim_whose_volume_is_gone_is_no_empty_disk() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let host = tempfile::Builder::new().prefix("ferrovirt-claim-").tempdir()?;
    let volume = host.path().join("volume");
    cluster.apply(&format!(
        r"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: volume}}
spec:
  capacity: {{storage: 7Mi}}
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  hostPath: {{path: '{}', type: DirectoryOrCreate}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: claim}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  resources: {{requests: {{storage: 7Mi}}}}
",
        volume.display()
    ))?;
    let disk = "      disks: [{name: d, disk: {bus: virtio}}]\n";
    let manifest = instance("m").replace("    devices:\n", &format!("    devices:\n{disk}"))
        + "  volumes: [{name: d, persistentVolumeClaim: {claimName: claim}}]\n";
    let start = || -> Result<()> {
        cluster.apply(&manifest)?;
        Ok(())
    };
    let stop = || cluster.kubectl(&["delete", "vmi", "m", "-n", "default", "--wait", "--timeout=90s"]);
    start()?;
    cluster.wait_phase("default", "m", "Running")?;
    ensure!(volume.join("disk.img").is_file(), "the first use makes the directory and its disk");
    stop()?;
    for (gone, words) in [(volume.join("disk.img"), "the file disk.img"), (volume.clone(), "the directory")] {
        if gone.is_dir() {
            fs::remove_dir_all(&gone)?;
        } else {
            fs::remove_file(&gone)?;
        }
        start()?;
        let said = wait_for("the machine to say what is missing", TIMEOUT, || {
            let instance = cluster.json(&["get", "vmi", "m", "-n", "default"])?;
            let all = instance["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = all.iter().find(|c| c["type"] == "Synchronized" && c["status"] == "False");
            Ok(found.and_then(|condition| Some(condition["message"].as_str()?.to_owned())))
        })?;
        ensure!(said.contains(words) && said.contains("mount or restore it there"), "{said}");
        ensure!(!gone.exists(), "{} was made again", gone.display());
        let events = cluster.json(&["get", "events", "-n", "default"])?;
        ensure!(events.to_string().contains("mount or restore it there"), "no event says what to do");
        stop()?;
    }
    cluster.stop()
}
