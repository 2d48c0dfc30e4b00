//! `cargo xtask chaos`: SIGKILL and SIGSTOP of each of our processes, a full disk and a clock that jumps by hours, at random
//! moments, under write load and with machines that come and go. Afterwards every acknowledged write is there, no machine ever ran twice, and
//! nothing is left on the host.

mod load;

use anyhow::{Context, Result, ensure};
use clap::Args;
use ferrovirt_e2e::{Clock, Cluster, Options, host::Host, machine, process::Process, wait_for};
use load::Load;
use rustix::process::Signal;
use std::{
    fs,
    io::Write,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Machines that are started and stopped all the time.
const MACHINES: [&str; 2] = ["chaos-0", "chaos-1"];
/// MiB of the disk that everything is on.
const DISK: u32 = 600;
/// The clock differs from the right one by at most half as many hours.
const HOURS: u64 = 25;
/// The back-off of a machine that crashed may take up to its cap of 300 s.
const RUNS_AGAIN: Duration = Duration::from_secs(400);

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many times something is done to Ferrovirt
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// End after this many minutes at the latest, whatever is left of the rounds
    #[arg(long)]
    minutes: Option<u64>,
    /// What the moments and victims follow from; drawn and printed when absent
    #[arg(long)]
    seed: Option<u64>,
}

impl Arguments {
    /// As many rounds as there is time for, from a seed of their own.
    pub(crate) const fn for_minutes(minutes: u64) -> Self {
        Self { rounds: u32::MAX, minutes: Some(minutes), seed: None }
    }
}

/// A small generator: the moments and victims of a run follow from its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Runs it.
pub(crate) fn chaos(arguments: &Arguments) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // The generator stands still at 0.
    let seed = arguments.seed.unwrap_or(now.as_nanos() as u64).max(1);
    println!("chaos: seed {seed}");
    let before = Host::look()?;
    let disk = Disk::new()?;
    let told = run(arguments, &disk, seed).with_context(|| format!("seed {seed}"))?;
    drop(disk);
    let left = Host::look()?.added_since(&before);
    ensure!(left.is_empty(), "seed {seed}: left behind: {left:#?}");
    println!("chaos: {told}; nothing lost, nothing twice, nothing left behind");
    Ok(())
}

fn run(arguments: &Arguments, disk: &Disk, seed: u64) -> Result<String> {
    let mut dice = Dice(seed);
    let clock = Clock::new()?;
    let mut cluster = Cluster::start(Options {
        data: Some(disk.0.path().join("data")),
        environment: clock.environment(),
        ..Options::default()
    })?;
    for name in MACHINES {
        cluster.apply(&machine(name, "Always", 0))?;
    }
    let end = arguments.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let load = Load::start(&cluster, &MACHINES);
    let (mut rounds, mut hits) = (0, 0);
    let outcome = (|| {
        while rounds < arguments.rounds && end.is_none_or(|end| Instant::now() < end) {
            sleep(Duration::from_millis(dice.below(1500)));
            let hit = strike(&mut cluster, disk, &clock, &mut dice);
            hits += u32::from(hit.with_context(|| format!("round {rounds}"))?);
            cluster.wait_ready()?;
            if dice.below(4) == 0 {
                churn(&cluster, &mut dice);
            }
            rounds += 1;
            if rounds % 100 == 0 {
                println!("chaos: {rounds} rounds, {hits} hits");
            }
        }
        Ok::<_, anyhow::Error>(())
    })();
    let written = load.stop()?;
    outcome.with_context(|| cluster.log())?;
    ensure!(written.most <= 1, "{} QEMU processes of one machine at once", written.most);

    let found = cluster.json(&["get", "configmaps"])?;
    let found: Vec<&str> = found
        .get("items")
        .and_then(|items| items.as_array())
        .into_iter()
        .flatten()
        .filter_map(|map| map.pointer("/metadata/name")?.as_str())
        .collect();
    let lost: Vec<_> = written.acknowledged.iter().filter(|name| !found.contains(&name.as_str())).collect();
    ensure!(lost.is_empty(), "lost: {lost:?}");
    for name in MACHINES {
        wait_for("the start request to be taken", Duration::from_secs(60), || {
            let patch = r#"{"spec":{"runStrategy":"Always"}}"#;
            Ok(cluster.kubectl(&["patch", "vm", name, "--type=merge", "-p", patch]).ok())
        })?;
        wait_for(&format!("{name} to run"), RUNS_AGAIN, || {
            Ok((Process::qemu("default", name).len() == 1).then_some(()))
        })?;
    }
    cluster.stop()?;
    Ok(format!("{rounds} rounds, {hits} hits, {} acknowledged writes", written.acknowledged.len()))
}

/// Does one thing to Ferrovirt; false when its victim was not there, which is one of the moments too.
fn strike(cluster: &mut Cluster, disk: &Disk, clock: &Clock, dice: &mut Dice) -> Result<bool> {
    let victim = MACHINES.get(usize::try_from(dice.below(2))?).copied().unwrap_or_default();
    let qemu = || Process::qemu("default", victim).pop();
    Ok(match dice.below(9) {
        0 => {
            cluster.kill()?;
            cluster.launch()?;
            true
        }
        1 => signal(cluster.api(), Signal::KILL),
        2 => signal(cluster.agent(), Signal::KILL),
        3 => signal(qemu(), Signal::KILL),
        4 => signal(qemu().and_then(|qemu| qemu.parent().ok()), Signal::KILL),
        5 => hold(cluster.api(), dice),
        6 => hold(cluster.agent(), dice),
        7 => {
            clock.set(i64::try_from(dice.below(HOURS))? - i64::try_from(HOURS)? / 2)?;
            true
        }
        _ => {
            disk.fill()?;
            sleep(Duration::from_millis(dice.below(2000)));
            // A kill in the middle of it: what was answered is on disk all the same.
            if dice.below(2) == 0 {
                signal(cluster.api(), Signal::KILL);
            }
            disk.empty()?;
            true
        }
    })
}

fn signal(process: Option<Process>, signal: Signal) -> bool {
    process.is_some_and(|process| process.signal(signal).is_ok())
}

/// Stops a process and lets it run again.
fn hold(process: Option<Process>, dice: &mut Dice) -> bool {
    let Some(process) = process else { return false };
    let held = process.signal(Signal::STOP).is_ok();
    sleep(Duration::from_millis(dice.below(3000)));
    held && process.signal(Signal::CONT).is_ok()
}

/// Stops or starts a machine; it is refused now and then.
fn churn(cluster: &Cluster, dice: &mut Dice) {
    let name = MACHINES.get(usize::from(dice.below(2) == 1)).copied().unwrap_or_default();
    let strategy = if dice.below(2) == 0 { "Halted" } else { "Always" };
    let patch = format!(r#"{{"spec":{{"runStrategy":"{strategy}"}}}}"#);
    let _ = cluster.kubectl(&["patch", "vm", name, "--type=merge", "-p", &patch]);
}

/// The file system that everything is on.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ferrovirt-chaos-").tempdir()?;
        let size = format!("size={DISK}m");
        crate::run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()))?;
        Ok(Self(dir))
    }

    fn hog(&self) -> std::path::PathBuf {
        Path::join(self.0.path(), "hog")
    }

    fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.hog())?;
        let part = vec![1; 1 << 20];
        while file.write_all(&part).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.hog())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed is printed so that its run can be had again.
    #[test]
    fn dice_fall_the_same_for_one_seed_and_on_every_side() {
        let throws = |seed| {
            let mut dice = Dice(seed);
            (0..1000).map(|_| dice.below(9)).collect::<Vec<_>>()
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
        let seen: std::collections::BTreeSet<_> = throws(1).into_iter().collect();
        assert_eq!(seen, (0..9).collect());
    }
}
