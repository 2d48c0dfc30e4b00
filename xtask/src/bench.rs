//! `cargo xtask bench`: how fast and how large, beside bare QEMU in the same run.
//!
//! Medians; the rounds of both sides are interleaved, so that what else the machine does hits both alike.

use crate::guest::Guest;
use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, process::Process, wait_for};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(300);
const MEMORY_MIB: u32 = 128;
/// Kernel options that a person with bare QEMU would use as well.
const KERNEL: &str = "console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000 random.trust_cpu=on cryptomgr.notests \
                      mitigations=off nokaslr rcupdate.rcu_expedited=1 8250.nr_uarts=1 i8042.noaux i8042.nokbd i8042.nopnp";

fn manifest(name: &str) -> String {
    format!(
        r"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}}}
spec:
  runStrategy: Always
  template:
    spec:
      terminationGracePeriodSeconds: 0
      domain:
        memory: {{guest: {MEMORY_MIB}Mi}}
        firmware:
          kernelBoot:
            container: {{image: 'ferrovirt/guest-kernel', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
            kernelArgs: {KERNEL}
        devices: {{autoattachGraphicsDevice: false, autoattachMemBalloon: false}}
"
    )
}

/// A QEMU started by hand with the kernel and the options of the machine above.
struct Bare {
    child: Child,
    serial: tempfile::NamedTempFile,
}

impl Bare {
    fn start(guest: &Guest) -> Result<Self> {
        let serial = tempfile::NamedTempFile::new()?;
        let child = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-accel",
                "tcg,tb-size=32",
                "-cpu",
                "max",
            ])
            .args(["-M", "q35,hpet=off", "-m", &MEMORY_MIB.to_string(), "-bios", "/usr/share/qemu/qboot.rom"])
            .arg("-kernel")
            .arg(&guest.kernel)
            .arg("-initrd")
            .arg(&guest.initrd)
            .args(["-append", KERNEL, "-netdev", "user,id=n0,restrict=on"])
            .args(["-device", "virtio-net-pci,netdev=n0,romfile="])
            .arg("-serial")
            .arg(format!("file:{}", serial.path().display()))
            .stdin(Stdio::null())
            .spawn()
            .context("qemu-system-x86_64")?;
        Ok(Self { child, serial })
    }

    fn says(&self, text: &str) -> Result<bool> {
        Ok(String::from_utf8_lossy(&fs::read(self.serial.path())?).contains(text))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn milliseconds(mut all: Vec<Duration>) -> (f64, f64, f64) {
    all.sort();
    let at = |index: usize| all.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    (at(all.len() / 2), at(0), at(all.len().saturating_sub(1)))
}

fn row(what: &str, all: Vec<Duration>) -> f64 {
    let n = all.len();
    let (median, least, most) = milliseconds(all);
    println!("| {what} | {median:.0} ms | {least:.0} to {most:.0} ms | {n} |");
    median
}

/// Runs everything and prints Markdown tables.
pub(crate) fn bench(guest: &Guest, rounds: usize, crowd: usize) -> Result<()> {
    println!("| what | median | range | n |\n|---|---|---|---|");
    start_up(rounds)?;
    let mut cluster = Cluster::start(Options::default())?;
    let up = cluster.up()?;
    let agent = cluster.agent().context("no agent")?;
    let idle = (up.resident_kib()?, agent.resident_kib()?);
    let launcher = one_machine(&cluster, guest, rounds)?;
    crowds(&cluster, guest, crowd)?;
    println!("\n| memory | KiB |\n|---|---|");
    println!("| API server and controllers, idle, resident | {} |", idle.0);
    println!("| node agent, idle, resident | {} |", idle.1);
    println!("| launcher, private | {launcher} |");
    println!("| API server and controllers, after the benchmark, resident | {} |", up.resident_kib()?);
    println!("| node agent, after the benchmark, resident | {} |", agent.resident_kib()?);
    cluster.stop()
}

/// From exec of `ferrovirt up` to /readyz, and to a ready node.
fn start_up(rounds: usize) -> Result<()> {
    let mut ready = Vec::new();
    let mut node = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        let mut cluster = Cluster::start_without_waiting(Options::default())?;
        wait_for("readyz", PATIENCE, || Ok(cluster.answers().then_some(())))?;
        ready.push(start.elapsed());
        cluster.wait_ready()?;
        node.push(start.elapsed());
        cluster.stop()?;
    }
    row("`ferrovirt up` to /readyz", ready);
    row("`ferrovirt up` to a ready node", node);
    Ok(())
}

fn one_machine(cluster: &Cluster, guest: &Guest, rounds: usize) -> Result<u64> {
    let (mut running, mut ours, mut bare, mut teardown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut launcher = 0;
    for round in 0..rounds {
        let name = format!("bench-{round}");
        let file = write(&manifest(&name))?;
        let mut watch = cluster
            .command(&["get", "vmi", "-w", "--output-watch-events", "--no-headers"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
        let start = Instant::now();
        cluster.kubectl(&["apply", "--validate=false", "-f", &file.path().to_string_lossy()])?;
        for line in &mut lines {
            if line?.split_whitespace().any(|word| word == "Running") {
                break;
            }
        }
        running.push(start.elapsed());
        let userspace = wait_for("userspace", PATIENCE, || {
            Ok(cluster
                .serial("default", &name)
                .is_ok_and(|text| text.contains("guest: userspace"))
                .then(Instant::now))
        })?;
        ours.push(userspace - start);
        let qemu = Process::qemu("default", &name).pop().context("no QEMU")?;
        launcher = launcher.max(qemu.parent()?.private_kib()?);
        let pods = cluster.json(&["get", "pods"])?;
        ensure!(pods.pointer("/items/0").is_some(), "no pod");
        cluster.kubectl(&["delete", "vm", &name, "--wait=false"])?;
        wait_for("QEMU's end", PATIENCE, || Ok((!qemu.alive()).then_some(())))?;
        let down = Instant::now();
        for line in &mut lines {
            if line?.starts_with("DELETED") {
                break;
            }
        }
        teardown.push(down.elapsed());
        watch.kill()?;
        watch.wait()?;

        let start = Instant::now();
        let one = Bare::start(guest)?;
        wait_for("userspace of bare QEMU", PATIENCE, || Ok(one.says("guest: userspace")?.then_some(())))?;
        bare.push(start.elapsed());
    }
    row("`kubectl apply` to a running QEMU, seen by a watch", running);
    let ours = row("`kubectl apply` to guest userspace", ours);
    let bare = row("bare QEMU to guest userspace", bare);
    row("QEMU's end to the instance's removal", teardown);
    println!("\nGuest userspace, ours to bare QEMU: {:.2}\n", ours / bare);
    Ok(launcher)
}

fn crowds(cluster: &Cluster, guest: &Guest, crowd: usize) -> Result<()> {
    let start = Instant::now();
    let mut machines = (0..crowd).map(|_| Bare::start(guest)).collect::<Result<Vec<_>>>()?;
    wait_for("every bare guest", PATIENCE, || {
        let mut all = true;
        for machine in &machines {
            all &= machine.says("guest: ready")?;
        }
        Ok(all.then_some(()))
    })?;
    let bare = start.elapsed();
    machines.clear();

    let all: Vec<String> = (0..crowd).map(|index| manifest(&format!("crowd-{index}"))).collect();
    let file = write(&all.join("---"))?;
    let start = Instant::now();
    cluster.kubectl(&["apply", "-f", &file.path().to_string_lossy()])?;
    let mut logs = Vec::new();
    for index in 0..crowd {
        let name = format!("crowd-{index}");
        logs.push(wait_for("a serial log", PATIENCE, || Ok(cluster.serial_path("default", &name).ok()))?);
    }
    wait_for("every guest", PATIENCE, || Ok(logs.iter().all(|log| says(log, "guest: ready")).then_some(())))?;
    let ours = start.elapsed();
    println!("| {crowd} machines at once, to ready guests | seconds |\n|---|---|");
    println!("| bare QEMU | {:.1} |\n| Ferrovirt | {:.1} |", bare.as_secs_f64(), ours.as_secs_f64());
    println!("\nRatio: {:.2}", ours.as_secs_f64() / bare.as_secs_f64());
    cluster.kubectl(&["delete", "vm", "--all"])?;
    Ok(())
}

fn says(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
}

fn write(text: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(file)
}
