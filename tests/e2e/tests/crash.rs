//! SIGKILL at random moments: no acknowledged object is lost, and no machine ever runs twice.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, process::Process, wait_for};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const MACHINE: &str = r"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: NAME}
spec:
  runStrategy: Always
  template:
    spec:
      terminationGracePeriodSeconds: 0
      domain:
        memory: {guest: 96Mi}
        firmware:
          kernelBoot:
            container: {image: 'ferrovirt/guest-kernel', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}
            kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
        devices: {autoattachGraphicsDevice: false}
";

const ROUNDS: usize = 20;

/// A small generator: the moments and victims of a run follow from its seed, which a failure names.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn killed_at_random_points_nothing_is_lost_and_nothing_runs_twice() -> Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 | 1;
    rounds(seed).with_context(|| format!("seed {seed}"))
}

fn rounds(seed: u64) -> Result<()> {
    let mut dice = Dice(seed);
    let mut cluster = Cluster::start(Options::default())?;
    let watched: Vec<String> = (0..2).map(|index| format!("crash-{index}")).collect();
    for name in &watched {
        cluster.apply(&MACHINE.replace("NAME", name))?;
    }

    // Looks all the time, from outside, for two QEMU processes of one machine.
    let done = Arc::new(AtomicBool::new(false));
    let most = Arc::new(AtomicUsize::new(0));
    let watcher = thread::spawn({
        let (done, most, names) = (Arc::clone(&done), Arc::clone(&most), watched.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                for name in &names {
                    most.fetch_max(Process::qemu("default", name).len(), Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    });

    let outcome = (|| {
        let mut acknowledged = BTreeSet::new();
        let mut hits = 0;
        for round in 0..ROUNDS {
            let name = format!("kept-{round}");
            if cluster.kubectl(&["create", "configmap", &name, "--from-literal=round=1"]).is_ok() {
                acknowledged.insert(name);
            }
            // The moment is drawn, so that over the rounds every step of start and restart is hit.
            thread::sleep(Duration::from_millis(dice.below(1500)));
            match dice.below(4) {
                0 => {
                    cluster.kill()?;
                    cluster.launch()?;
                    hits += 1;
                }
                1 => hits += kill(cluster.agent()),
                2 => hits += kill(Process::qemu("default", "crash-0").pop()),
                _ => {
                    hits +=
                        kill(Process::qemu("default", "crash-1").pop().and_then(|qemu| qemu.parent().ok()))
                }
            }
            cluster.wait_ready()?;
        }
        // A victim may be missing because it was killed just before; most rounds have to hit something.
        ensure!(hits >= ROUNDS / 2, "only {hits} of {ROUNDS} rounds killed anything");
        let maps = cluster.json(&["get", "configmaps"])?;
        let found: BTreeSet<String> = maps["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|map| Some(map["metadata"]["name"].as_str()?.to_owned()))
            .collect();
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        ensure!(lost.is_empty(), "lost: {lost:?}");
        // The back-off after crashes may take up to its cap of 300 s; a start request is not needed, only time.
        for name in &watched {
            wait_for(&format!("{name} to run again"), Duration::from_secs(400), || {
                let running = cluster.json(&["get", "vm", name])?["status"]["printableStatus"] == "Running";
                Ok((running && Process::qemu("default", name).len() == 1).then_some(()))
            })?;
        }
        cluster.stop()
    })();
    done.store(true, Ordering::Relaxed);
    watcher.join().map_err(|_| anyhow::anyhow!("the watcher failed"))?;
    let log = cluster.log();
    outcome.with_context(|| log)?;
    ensure!(
        most.load(Ordering::Relaxed) == 1,
        "{} QEMU processes of one machine at once",
        most.load(Ordering::Relaxed)
    );
    Ok(())
}

/// Kills it if it is there; it may be gone already, which is one of the moments.
fn kill(process: Option<Process>) -> usize {
    usize::from(process.is_some_and(|process| process.signal(rustix::process::Signal::KILL).is_ok()))
}
