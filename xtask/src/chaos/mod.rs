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
    collections::BTreeSet,
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
    /// The generator would stand still at 0.
    fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

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
    let seed = arguments.seed.unwrap_or(now.as_nanos() as u64);
    println!("chaos: seed {seed}");
    let before = Host::look()?;
    let disk = Disk::new()?;
    let report = run(arguments, &disk, seed).with_context(|| format!("seed {seed}"))?;
    drop(disk);
    let left = Host::look()?.added_since(&before);
    ensure!(left.is_empty(), "seed {seed}: left behind: {left:#?}");
    println!("chaos: {report}; nothing lost, nothing twice, nothing left behind");
    Ok(())
}

fn run(arguments: &Arguments, disk: &Disk, seed: u64) -> Result<String> {
    let mut dice = Dice::new(seed);
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
    let lost = lost(&written.acknowledged, &found);
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

/// What was answered and is not in the list.
fn lost<'a>(acknowledged: &'a [String], list: &serde_json::Value) -> Vec<&'a str> {
    let items = list.get("items").and_then(serde_json::Value::as_array).into_iter().flatten();
    let found: BTreeSet<&str> = items.filter_map(|map| map.pointer("/metadata/name")?.as_str()).collect();
    acknowledged.iter().map(String::as_str).filter(|name| !found.contains(name)).collect()
}

/// By how many hours the clock is wrong: as often too early as too late.
fn hours(dice: &mut Dice) -> Result<i64> {
    Ok(i64::try_from(dice.below(HOURS))? - i64::try_from(HOURS)? / 2)
}

/// Does one thing to Ferrovirt; false when its victim was not there, which is one of the moments too.
fn strike(cluster: &mut Cluster, disk: &Disk, clock: &Clock, dice: &mut Dice) -> Result<bool> {
    let victim = MACHINES.get(usize::try_from(dice.below(2))?).copied().unwrap_or_default();
    let qemu = || Process::qemu("default", victim).pop();
    Ok(match dice.below(10) {
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
        7 => signal(cluster.plug(), Signal::KILL),
        8 => {
            clock.set(hours(dice)?)?;
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
            let mut dice = Dice::new(seed);
            (0..1000).map(|_| dice.below(9)).collect::<Vec<_>>()
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
        let seen: BTreeSet<_> = throws(1).into_iter().collect();
        assert_eq!(seen, (0..9).collect());
    }

    /// A generator that stands still would do the same thing to the same victim in every round.
    #[test]
    fn no_seed_makes_the_dice_stand_still() {
        for seed in [0, 1, u64::MAX, 1 << 63] {
            let mut dice = Dice::new(seed);
            let throws: BTreeSet<_> = (0..1000).map(|_| dice.below(1000)).collect();
            assert!(throws.len() > 500, "seed {seed}: {} different of 1000", throws.len());
        }
    }

    /// Both machines, and both halves of each choice, are met after any other throw: no side depends on the one before.
    #[test]
    fn each_thing_is_done_to_each_machine() {
        let mut dice = Dice::new(11);
        let met: BTreeSet<_> = (0..1000).map(|_| (dice.below(2), dice.below(9), dice.below(2))).collect();
        assert_eq!(met.len(), 2 * 9 * 2);
    }

    /// The clock goes both ways, equally far, and is right now and then.
    #[test]
    fn the_clock_is_wrong_both_ways() {
        let mut dice = Dice::new(3);
        let seen: BTreeSet<i64> = (0..2000).map(|_| hours(&mut dice).unwrap()).collect();
        let (first, last) = (*seen.first().unwrap(), *seen.last().unwrap());
        assert_eq!(first, -last);
        assert!(
            seen.contains(&0) && seen.len() as u64 == HOURS && last.unsigned_abs() == HOURS / 2,
            "{seen:?}"
        );
    }

    /// What was acknowledged and is gone is named; what is there without an acknowledgement is no loss. A list that is none has
    /// lost everything.
    #[test]
    fn what_was_acknowledged_and_is_gone_is_lost() {
        let acknowledged = ["kept-0", "kept-1", "kept-10"].map(str::to_owned);
        let list = |names: &[&str]| {
            let items: Vec<_> =
                names.iter().map(|name| serde_json::json!({"metadata": {"name": name}})).collect();
            serde_json::json!({"kind": "List", "items": items})
        };
        let none: [&str; 0] = [];
        assert_eq!(
            lost(&acknowledged, &list(&["kept-10", "kube-root-ca.crt", "kept-0", "kept-1", "kept-2"])),
            none
        );
        assert_eq!(lost(&acknowledged, &list(&["kept-0", "kept-10"])), ["kept-1"]);
        assert_eq!(lost(&acknowledged, &list(&["kept-1", "kept-100"])), ["kept-0", "kept-10"]);
        assert_eq!(lost(&acknowledged, &list(&[])).len(), 3);
        assert_eq!(lost(&acknowledged, &serde_json::json!({"kind": "Status", "message": "kept-0"})).len(), 3);
        assert_eq!(lost(&[], &list(&[])), none);
    }

    /// The run of all tests ends by its time, whatever the number of rounds; a person's has rounds of its own.
    #[test]
    fn a_run_ends_by_rounds_or_by_time() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let read = |words: &[&str]| {
            let words = ["chaos"].iter().chain(words);
            <Line as clap::Parser>::try_parse_from(words).map(|line| line.arguments)
        };
        let plain = read(&[]).unwrap();
        assert!(plain.rounds > 0 && plain.minutes.is_none() && plain.seed.is_none());
        let given = read(&["--rounds", "1000", "--minutes", "7", "--seed", "18446744073709551615"]).unwrap();
        assert_eq!((given.rounds, given.minutes, given.seed), (1000, Some(7), Some(u64::MAX)));
        assert!(read(&["--seed", "-1"]).is_err());
        let timed = Arguments::for_minutes(5);
        assert!(timed.minutes == Some(5) && timed.rounds > 1_000_000);
    }
}
