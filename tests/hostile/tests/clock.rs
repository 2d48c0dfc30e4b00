//! The clock of the machine is hours ahead at the first start, is set back, and jumps forwards, while everybody else's is
//! right.
#![allow(clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use ferrovirt_e2e::{Clock, Cluster, Options, cluster::TIMEOUT, machine, process::Process, wait_for};

/// A machine starts, and nothing is left of it after it was deleted.
fn a_machine_starts_and_stops(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.apply(&machine(name, "Always", 0))?;
    cluster.wait_phase("default", name, "Running")?;
    ensure!(Process::qemu("default", name).len() == 1, "no guest of {name} runs");
    cluster.kubectl(&["delete", "vm", name, "--timeout=90s"])?;
    wait_for("the guest to be gone", TIMEOUT, || Ok(Process::qemu("default", name).is_empty().then_some(())))
}

#[test]
fn machines_start_and_stop_whatever_happens_to_the_clock_by_hours() -> Result<()> {
    let clock = Clock::new()?;
    clock.set(3)?;
    // kubectl has the right time, and accepts certificates that were made three hours ahead of it.
    let mut cluster = Cluster::start(Options { environment: clock.environment(), ..Options::default() })?;
    a_machine_starts_and_stops(&cluster, "ahead")?;
    for (offset, said, name) in [(-3, "jumped by -6h 0m", "back"), (18, "jumped by +21h 0m", "forwards")] {
        clock.set(offset)?;
        wait_for(said, TIMEOUT, || Ok(cluster.log().contains(said).then_some(())))?;
        a_machine_starts_and_stops(&cluster, name)?;
    }
    cluster.stop()
}
