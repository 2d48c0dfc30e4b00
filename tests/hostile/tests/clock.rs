//! The clock of the machine is hours ahead at the first start, is set back, and jumps forwards, while everybody else's is
//! right.
#![allow(clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::PATIENCE, machine, process::Process, wait_for};
use std::{fs, path::Path};

/// Shows a process another time, as far as it asks the C library; which it does not where it measures how much passed.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A machine starts, and nothing is left of it after it was deleted.
fn a_machine_starts_and_stops(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.apply(&machine(name, "Always", 0))?;
    cluster.wait_phase("default", name, "Running")?;
    ensure!(Process::qemu("default", name).len() == 1, "no guest of {name} runs");
    cluster.kubectl(&["delete", "vm", name, "--timeout=90s"])?;
    wait_for("the guest to be gone", PATIENCE, || Ok(Process::qemu("default", name).is_empty().then_some(())))
}

#[test]
fn machines_start_and_stop_whatever_happens_to_the_clock_by_hours() -> Result<()> {
    ensure!(Path::new(LIBRARY).exists(), "{LIBRARY} is missing: run `cargo xtask setup`");
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("offset");
    // Whole or not at all, and for every user: the API server's process reads it, too.
    let set = |offset: &str| -> Result<()> {
        let fresh = directory.path().join("fresh");
        fs::write(&fresh, format!("{offset}\n"))?;
        Ok(fs::rename(&fresh, &file)?)
    };
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    set("+3h")?;
    let path: &'static str = Box::leak(file.to_string_lossy().into_owned().into_boxed_str());
    let environment = vec![
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", path),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DISABLE_SHM", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    // kubectl has the right time, and accepts certificates that were made three hours ahead of it.
    let mut cluster = Cluster::start(Options { environment, ..Options::default() })?;
    a_machine_starts_and_stops(&cluster, "ahead")?;
    for (offset, said, name) in
        [("-3h", "jumped by -6h 0m", "back"), ("+18h", "jumped by +21h 0m", "forwards")]
    {
        set(offset)?;
        wait_for(said, PATIENCE, || Ok(cluster.log().contains(said).then_some(())))?;
        a_machine_starts_and_stops(&cluster, name)?;
    }
    cluster.stop()
}
