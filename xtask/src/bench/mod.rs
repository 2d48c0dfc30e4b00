//! `cargo xtask bench`: how fast and how large, beside bare QEMU in the same run.
//!
//! Medians; the rounds of both sides are interleaved, so that what else the machine does hits both alike. Both sides
//! are looked at in the same way, and with as little work as possible: one open watch, and the file of the serial port.

mod bare;
mod hostile;

use crate::guest::Guest;
use anyhow::{Context, Result, bail, ensure};
use bare::Bare;
use ferrovirt_e2e::{Cluster, Options, process::Process, wait_for};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

const TIMEOUT: Duration = Duration::from_secs(300);
/// Between two looks at a serial port's file.
const LOOK: Duration = Duration::from_millis(5);
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

/// Median, least and most, in milliseconds; of an even number the slower of the two in the middle.
fn spread(mut all: Vec<Duration>) -> (f64, f64, f64) {
    all.sort();
    let at = |index: usize| all.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    (at(all.len() / 2), at(0), at(all.len().saturating_sub(1)))
}

/// The time that so many of a hundred are under, or the longest.
fn percentile(mut all: Vec<Duration>, percent: usize) -> Option<Duration> {
    all.sort();
    let last = all.len().checked_sub(1)?;
    all.get((all.len() * percent / 100).min(last)).copied()
}

/// Milliseconds of processor time for each round.
fn share(after: Duration, before: Duration, rounds: usize) -> f64 {
    after.saturating_sub(before).as_secs_f64() * 1e3 / rounds.max(1) as f64
}

fn row(what: &str, all: Vec<Duration>) -> f64 {
    let count = all.len();
    let (median, least, most) = spread(all);
    println!("| {what} | {median:.0} ms | {least:.0} to {most:.0} ms | {count} |");
    median
}

/// Runs everything and prints Markdown tables.
pub(crate) fn bench(guest: &Guest, rounds: usize, crowd: usize, hostile: bool) -> Result<()> {
    if hostile {
        return hostile::bench(rounds);
    }
    println!("| what | median | range | n |\n|---|---|---|---|");
    start_up(rounds)?;
    let mut cluster = Cluster::start(Options::default())?;
    let up = cluster.api().context("no API server")?;
    let agent = cluster.agent().context("no agent")?;
    let idle = (up.resident_kib()?, agent.resident_kib()?);
    let one = one_machine(&cluster, guest, rounds)?;
    crowds(&cluster, &one.bare, crowd)?;
    println!("\n| CPU time for one machine, start to removal | ms |\n|---|---|");
    println!("| API server and controllers | {:.0} |", one.cpu.0);
    println!("| node agent with the programs that it starts | {:.0} |", one.cpu.1);
    println!("\n| memory | KiB |\n|---|---|");
    println!("| API server and controllers, idle, resident | {} |", idle.0);
    println!("| node agent, idle, resident | {} |", idle.1);
    println!("| launcher, private | {} |", one.launcher);
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
        wait_for("readyz", TIMEOUT, || Ok(cluster.answers().then_some(())))?;
        ready.push(start.elapsed());
        cluster.wait_ready()?;
        node.push(start.elapsed());
        cluster.stop()?;
    }
    row("`ferrovirt up` to /readyz", ready);
    row("`ferrovirt up` to a ready node", node);
    Ok(())
}

/// What the rounds with one machine at a time found beside their times.
struct One {
    /// Arguments of the bare QEMU.
    bare: Vec<String>,
    /// Private memory of a launcher, KiB.
    launcher: u64,
    /// Milliseconds of CPU time for each machine: control plane, agent with its children.
    cpu: (f64, f64),
}

fn one_machine(cluster: &Cluster, guest: &Guest, rounds: usize) -> Result<One> {
    let mut watch = Watch::start(cluster)?;
    // The first machine of an image waits for its layers; it also shows that the watch is connected.
    let first = Round::ours(cluster, &mut watch, "bench-first")?;
    let arguments = bare::arguments(&first.qemu, guest)?;
    let up = cluster.api().context("no API server")?;
    let agent = cluster.agent().context("no agent")?;
    let before = (up.cpu()?, agent.cpu()?);
    let (mut ours, mut userspace, mut alone, mut unchanged) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        ours.push(Round::ours(cluster, &mut watch, &format!("bench-{round}"))?);

        let start = Instant::now();
        let one = Bare::start(&arguments)?;
        userspace.push(until(one.serial(), "guest: userspace")? - start);
        drop(one);

        let start = Instant::now();
        cluster.kubectl(&["version", "--client"])?;
        alone.push(start.elapsed());
        let file = write("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bench, namespace: default}\n")?;
        cluster.kubectl(&["apply", "--validate=false", "-f", &file.path().to_string_lossy()])?;
        let start = Instant::now();
        cluster.kubectl(&["apply", "--validate=false", "-f", &file.path().to_string_lossy()])?;
        unchanged.push(start.elapsed());
    }
    let cpu = (share(up.cpu()?, before.0, rounds), share(agent.cpu()?, before.1, rounds));
    let launcher = ours.iter().map(|round| round.launcher).max().unwrap_or_default();
    let all = |time: fn(&Round) -> Duration| ours.iter().map(time).collect();
    row("`kubectl version --client`: what kubectl takes to start", alone);
    row("`kubectl apply` of what is unchanged: what kubectl takes in all", unchanged);
    row("`kubectl apply` of a machine, until kubectl ends", all(|round| round.applied));
    row("`kubectl apply` to a running QEMU, seen by a watch", all(|round| round.running));
    row("the same, first machine of an image", vec![first.running]);
    let ours_userspace = row("`kubectl apply` to guest userspace", all(|round| round.userspace));
    let bare_userspace = row("bare QEMU to guest userspace", userspace);
    row("QEMU's end to the instance's removal", all(|round| round.removed));
    println!("\nGuest userspace, ours to bare QEMU: {:.2}\n", ours_userspace / bare_userspace);
    Ok(One { bare: arguments, launcher, cpu })
}

/// One machine of ours, from `kubectl apply` to its removal. Times count from the start of kubectl, the last from
/// QEMU's end.
struct Round {
    applied: Duration,
    running: Duration,
    userspace: Duration,
    removed: Duration,
    launcher: u64,
    qemu: Vec<String>,
}

impl Round {
    fn ours(cluster: &Cluster, watch: &mut Watch, name: &str) -> Result<Self> {
        let file = write(&manifest(name))?;
        let start = Instant::now();
        cluster.kubectl(&["apply", "--validate=false", "-f", &file.path().to_string_lossy()])?;
        let applied = start.elapsed();
        let running = watch.wait(name, |words| words.contains(&"Running"))? - start;
        let qemu = Process::qemu("default", name).pop().context("no QEMU")?;
        // The launcher's file, through its own root: asking the API would take processor time from the guest.
        let log = PathBuf::from(format!("/proc/{}/root/var/run/kubevirt/serial.log", qemu.pid));
        let userspace = until(&log, "guest: userspace")? - start;
        let launcher = qemu.parent()?.private_kib()?;
        let arguments = qemu.arguments.clone();
        cluster.kubectl(&["delete", "vm", name, "--wait=false"])?;
        let deadline = Instant::now() + TIMEOUT;
        while qemu.alive() {
            ensure!(Instant::now() < deadline, "QEMU did not end");
            std::thread::sleep(LOOK);
        }
        let down = Instant::now();
        let removed = watch.wait(name, |words| words.first() == Some(&"DELETED"))?;
        let removed = removed.saturating_duration_since(down);
        Ok(Self { applied, running, userspace, removed, launcher, qemu: arguments })
    }
}

/// A `kubectl get vmi -w` that is open all the time, and when each of its lines came.
struct Watch {
    child: Child,
    lines: mpsc::Receiver<(Instant, String)>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut command = cluster.command(&["get", "vmi", "-w", "--output-watch-events", "--no-headers"]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// When the next line came that is about the machine and has what is wanted.
    fn wait(&mut self, name: &str, wanted: impl Fn(&[&str]) -> bool) -> Result<Instant> {
        loop {
            let Ok((time, line)) = self.lines.recv_timeout(TIMEOUT) else {
                bail!("the watch says nothing more about {name}");
            };
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.contains(&name) && wanted(&words) {
                return Ok(time);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn crowds(cluster: &Cluster, bare: &[String], crowd: usize) -> Result<()> {
    let start = Instant::now();
    let machines = (0..crowd).map(|_| Bare::start(bare)).collect::<Result<Vec<_>>>()?;
    for machine in &machines {
        until(machine.serial(), "guest: ready")?;
    }
    let bare = start.elapsed();
    drop(machines);

    let all: Vec<String> = (0..crowd).map(|index| manifest(&format!("crowd-{index}"))).collect();
    let file = write(&all.join("---"))?;
    let start = Instant::now();
    cluster.kubectl(&["apply", "-f", &file.path().to_string_lossy()])?;
    for index in 0..crowd {
        let name = format!("crowd-{index}");
        let find = || Ok(Process::qemu("default", &name).pop());
        let qemu = wait_for("a QEMU", TIMEOUT, find)?;
        until(format!("/proc/{}/root/var/run/kubevirt/serial.log", qemu.pid).as_ref(), "guest: ready")?;
    }
    let ours = start.elapsed();
    println!("| {crowd} machines at once, to ready guests | seconds |\n|---|---|");
    println!("| bare QEMU | {:.1} |\n| Ferrovirt | {:.1} |", bare.as_secs_f64(), ours.as_secs_f64());
    println!("\nRatio: {:.2}", ours.as_secs_f64() / bare.as_secs_f64());
    cluster.kubectl(&["delete", "vm", "--all"])?;
    Ok(())
}

/// When a file was first seen to hold the text.
fn until(path: &Path, text: &str) -> Result<Instant> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes())) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < deadline, "waited {TIMEOUT:?} for `{text}` in {}", path.display());
        std::thread::sleep(LOOK);
    }
}

fn write(text: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_does_not_depend_on_the_order_of_the_rounds() {
        let of = |all: &[u64]| spread(all.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(of(&[30, 10, 20]), (20.0, 10.0, 30.0));
        assert_eq!(of(&[40, 10, 30, 20]), (30.0, 10.0, 40.0));
        assert_eq!(of(&[7]), (7.0, 7.0, 7.0));
        let (median, least, most) = of(&[]);
        assert!(median.is_nan() && least.is_nan() && most.is_nan());
    }

    #[test]
    fn a_text_is_found_once_it_is_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"\xff\0guest: userspace\n").unwrap();
        assert!(until(file.path(), "guest: userspace").is_ok());
    }

    /// The machine of the benchmark is one for our API, and its options are the kernel's alone.
    #[test]
    fn the_manifest_is_a_machine() {
        let machine: serde_json::Value = serde_saphyr::from_str(&manifest("bench-1")).unwrap();
        let at = |path: &str| machine.pointer(path).unwrap();
        assert_eq!(at("/metadata/name"), "bench-1");
        assert_eq!(at("/spec/template/spec/domain/memory/guest"), "128Mi");
        assert_eq!(at("/spec/template/spec/domain/firmware/kernelBoot/kernelArgs"), KERNEL);
    }

    /// Manifests of many machines are one file of as many documents, each with a name of its own.
    #[test]
    fn a_crowd_is_as_many_machines() {
        let all: Vec<String> = (0..12).map(|index| manifest(&format!("crowd-{index}"))).collect();
        let read: Vec<serde_json::Value> = serde_saphyr::from_multiple(&all.join("---")).unwrap();
        let names: std::collections::BTreeSet<_> =
            read.iter().map(|machine| machine["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!((read.len(), names.len()), (12, 12));
    }

    /// A watch with the lines that kubectl would have written, and when each came.
    fn watch(lines: &[&str]) -> (Watch, Vec<Instant>) {
        let (sender, receiver) = mpsc::channel();
        let start = Instant::now();
        let mut times = Vec::new();
        for (number, line) in (1u64..).zip(lines) {
            let time = start + Duration::from_secs(number);
            times.push(time);
            sender.send((time, (*line).to_owned())).unwrap();
        }
        let child = std::process::Command::new("true").spawn().unwrap();
        (Watch { child, lines: receiver }, times)
    }

    /// The time is that of the line that says it about this machine, not of another one whose name begins the same.
    #[test]
    fn a_watch_waits_for_its_own_machine() {
        let (mut watch, times) = watch(&[
            "ADDED      bench-1    1s   Scheduled        True",
            "MODIFIED   bench-10   1s   Running   10.1.0.2   node   True",
            "MODIFIED   bench-2    1s   Running   10.1.0.3   node   True",
            "MODIFIED   bench-1    2s   Running   10.1.0.4   node   True",
            "DELETED    bench-10   2s   Running   10.1.0.2   node   True",
            "DELETED    bench-1    3s   Running   10.1.0.4   node   True",
        ]);
        let running = |words: &[&str]| words.contains(&"Running");
        let deleted = |words: &[&str]| words.first() == Some(&"DELETED");
        assert_eq!(watch.wait("bench-1", running).unwrap(), times[3]);
        assert_eq!(watch.wait("bench-1", deleted).unwrap(), times[5]);
        let error = watch.wait("bench-1", deleted).unwrap_err().to_string();
        assert!(error.contains("bench-1"), "{error}");
    }

    #[test]
    fn a_percentile_is_a_time_that_so_many_are_under() {
        let times = |count: u64| (1..=count).map(Duration::from_millis).collect::<Vec<_>>();
        let of = |count: u64, percent| percentile(times(count), percent).map(|time| time.as_millis() as u64);
        assert_eq!(of(1000, 99), Some(991));
        assert_eq!(of(100, 99), Some(100));
        assert_eq!(of(10, 50), Some(6));
        assert_eq!((of(1, 99), of(3, 0), of(3, 100)), (Some(1), Some(1), Some(3)));
        assert_eq!(of(0, 99), None);
        let mixed = [3, 1, 2].map(Duration::from_millis).to_vec();
        assert_eq!(
            percentile(mixed, 100),
            Some(Duration::from_millis(3)),
            "the order of measuring is no matter"
        );
    }

    /// Time that went to a process before the rounds is not the machines', and no round is no division by zero.
    #[test]
    fn processor_time_is_divided_among_the_rounds() {
        let seconds = Duration::from_secs;
        assert_eq!(share(seconds(5), seconds(3), 10), 200.0);
        assert_eq!(share(seconds(5), seconds(3), 0), 2000.0);
        // A process that was started again counts from nothing.
        assert_eq!(share(seconds(1), seconds(3), 10), 0.0);
    }
}
