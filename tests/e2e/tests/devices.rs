//! A guest on the pod's own address, with a screen and a claim in block mode; and what its launcher says.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options};
use std::{
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
};

/// A loop device, given back on drop.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &std::path::Path) -> Result<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self(String::from_utf8(output.stdout)?.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

const MANIFEST: &str = r"
apiVersion: v1
kind: PersistentVolume
metadata: {name: device}
spec:
  capacity: {storage: 9Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: device
  volumeMode: Block
  hostPath: {path: DEVICE}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: device}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: device
  volumeMode: Block
  resources: {requests: {storage: 9Mi}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: devices}
spec:
  terminationGracePeriodSeconds: 5
  networks: [{name: default, pod: {}}]
  domain:
    memory: {guest: 256Mi}
    firmware:
      kernelBoot:
        container: {image: 'ferrovirt/guest-kernel', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}
        kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
    devices:
      interfaces: [{name: default, bridge: {}}]
      disks: [{name: raw, disk: {bus: virtio}}]
  volumes: [{name: raw, persistentVolumeClaim: {claimName: device}}]
";

#[test]
fn bridge_block_claim_screen_and_log_of_one_guest() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("ferrovirt-device-").tempdir()?;
    let file = directory.path().join("device");
    std::fs::File::create(&file)?.set_len(9 << 20)?;
    let device = Loop::new(&file)?;
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&MANIFEST.replace("DEVICE", &device.0.to_string_lossy()))?;
    let serial = cluster.wait_serial("default", "devices", "guest: ready")?;
    ensure!(serial.contains(&format!("guest: disk vda bytes={}", 9 << 20)), "no block claim:\n{serial}");
    let pods = cluster.json(&["get", "pods", "-l", "kubevirt.io=virt-launcher"])?;
    let pod = &pods["items"][0];
    let address = pod["status"]["podIP"].as_str().context("no address")?;
    ensure!(serial.contains(&format!("address={address}")), "the guest has not {address}:\n{serial}");
    // Only the guest can answer: the pod has given its address away.
    let ping = Command::new("busybox").args(["ping", "-c1", "-W5", address]).output()?;
    ensure!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));

    // A pod that was granted no huge pages can have none, where this node's cgroups can say so.
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let limit = format!("/sys/fs/cgroup/unified/ferrovirt-{uid}/hugetlb.2MB.max");
    let controllers =
        std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if controllers.contains("hugetlb") {
        ensure!(std::fs::read_to_string(&limit).context(limit)?.trim() == "0", "huge pages are not limited");
    }

    let mut vnc = cluster.ferrovirt(&["vnc", "devices"])?.stdout(Stdio::piped()).spawn()?;
    let screen = || -> Result<[u8; 4]> {
        let mut line = String::new();
        BufReader::new(vnc.stdout.take().context("no output")?).read_line(&mut line)?;
        let port = line.split([':', ' ']).find_map(|word| word.parse::<u16>().ok()).context(line.clone())?;
        let mut banner = [0; 4];
        TcpStream::connect(("127.0.0.1", port))?.read_exact(&mut banner)?;
        Ok(banner)
    };
    let banner = {
        let mut screen = screen;
        screen()
    };
    vnc.kill()?;
    vnc.wait()?;
    ensure!(&banner? == b"RFB ", "the screen does not speak RFB");

    let name = pod["metadata"]["name"].as_str().context("no name")?;
    let log = cluster.kubectl(&["logs", name])?;
    let stamped = cluster.kubectl(&["logs", "--timestamps", name])?;
    ensure!(!log.is_empty(), "the launcher says nothing");
    for (plain, stamped) in log.lines().zip(stamped.lines()) {
        let (time, text) = stamped.split_once(' ').context("no time")?;
        ensure!(text == plain && time.starts_with("20") && time.ends_with('Z'), "{stamped}");
    }
    let future = cluster.kubectl(&["logs", "--since-time=2999-01-01T00:00:00Z", name])?;
    ensure!(future.is_empty(), "from the future: {future}");
    let recent = cluster.kubectl(&["logs", "--since=1h", "--tail=1", name])?;
    ensure!(Some(recent.trim_end()) == log.lines().last(), "{recent}");
    cluster.stop()
}
