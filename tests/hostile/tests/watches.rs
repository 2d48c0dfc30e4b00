//! A user fills the history of changes while the node agent cannot read: its watches lose the revision that they knew.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, process::Process, wait_for};
use ferrovirt_hostile::Users;
use rustix::process::Signal;
use std::{
    fs,
    time::{Duration, Instant},
};

/// Seconds after which the server ends a watch in this test.
const LONGEST_WATCH: u64 = 2;

/// Lets a stopped process go on, also when the test fails.
struct Stopped(Process);

impl Stopped {
    fn new(process: Process) -> Result<Self> {
        process.signal(Signal::STOP)?;
        Ok(Self(process))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal::CONT);
    }
}

#[test]
fn machines_start_and_stop_after_a_user_made_every_watch_of_the_node_agent_expire() -> Result<()> {
    let arguments = vec!["--longest-watch".to_owned(), LONGEST_WATCH.to_string()];
    let mut cluster = Cluster::start(Options { arguments, ..Options::default() })?;
    let users = Users::new(&cluster)?;
    let file = cluster.data().join("large.json");
    let fill = |number: usize| -> Result<()> {
        let text = format!("{number}").repeat(900 * 1024);
        let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("large-{number}"), "namespace": "alpha"}, "data": {"text": text}});
        fs::write(&file, object.to_string())?;
        let made = users.alice.kubectl(&["create", "-f", &file.to_string_lossy()])?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let name = format!("large-{number}");
        let gone = users.alice.kubectl(&["delete", "configmap", &name, "-n", "alpha"])?;
        ensure!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
        Ok(())
    };

    let agent = Stopped::new(cluster.agent().context("no agent")?)?;
    let start = Instant::now();
    // The server has ended every watch that the agent had: what it sent until then is the last that the agent knows.
    wait_for("the watches to end", Duration::from_secs(60), || {
        Ok((start.elapsed() > Duration::from_secs(2 * LONGEST_WATCH)).then_some(()))
    })?;
    for number in 1..=6 {
        fill(number)?;
    }
    drop(agent);

    for what in ["pods", "machines"] {
        let said = format!("missed changes of {what}, listing them again");
        wait_for(&said, TIMEOUT, || Ok(cluster.log().contains(&said).then_some(())))?;
    }
    cluster.kubectl(&["apply", "-n", "beta", "-f", &manifest(&cluster)?])?;
    cluster.wait_phase("beta", "m", "Running")?;
    ensure!(Process::qemu("beta", "m").len() == 1, "no guest runs");
    cluster.kubectl(&["delete", "vm", "m", "-n", "beta", "--timeout=90s"])?;
    wait_for("the guest to be gone", TIMEOUT, || Ok(Process::qemu("beta", "m").is_empty().then_some(())))?;
    cluster.stop()
}

fn manifest(cluster: &Cluster) -> Result<String> {
    let path = cluster.data().join("m.yaml");
    fs::write(&path, machine("m", "Always", 0))?;
    Ok(path.to_string_lossy().into_owned())
}
