//! A user fills the history of changes: the watches of the node agent, which cannot read meanwhile, lose the revision that
//! they knew; watches of what the user does not change lose nothing.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{
    Cluster, Options, Person, cluster::TIMEOUT, machine, process::Process, raw::Server, wait_for,
};
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
    let agent = Stopped::new(cluster.agent().context("no agent")?)?;
    let start = Instant::now();
    // The server has ended every watch that the agent had: what it sent until then is the last that the agent knows.
    wait_for("the watches to end", Duration::from_secs(60), || {
        Ok((start.elapsed() > Duration::from_secs(2 * LONGEST_WATCH)).then_some(()))
    })?;
    // A pod and an instance change meanwhile, and these changes are forgotten: of what has not changed nothing is missed.
    cluster.kubectl(&["apply", "-n", "beta", "-f", &manifest(&cluster, "missed", "Always")?])?;
    wait_for("a pod", TIMEOUT, || {
        Ok((!cluster.kubectl(&["get", "pods", "-n", "beta", "-o", "name"])?.is_empty()).then_some(()))
    })?;
    cluster.kubectl(&["delete", "vm", "missed", "-n", "beta", "--wait=false"])?;
    flood(&cluster, &users.alice)?;
    drop(agent);

    for what in ["pods", "machines"] {
        let said = format!("missed changes of {what}, listing them again");
        wait_for(&said, TIMEOUT, || Ok(cluster.log().contains(&said).then_some(())))?;
    }
    cluster.kubectl(&["apply", "-n", "beta", "-f", &manifest(&cluster, "m", "Always")?])?;
    cluster.wait_phase("beta", "m", "Running")?;
    ensure!(Process::qemu("beta", "m").len() == 1, "no guest runs");
    cluster.kubectl(&["delete", "vm", "m", "-n", "beta", "--timeout=90s"])?;
    wait_for("the guest to be gone", TIMEOUT, || Ok(Process::qemu("beta", "m").is_empty().then_some(())))?;
    cluster.stop()
}

#[test]
fn a_watch_goes_on_from_an_old_revision_whatever_another_namespace_writes() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let machines = "/apis/kubevirt.io/v1/namespaces/beta/virtualmachines";
    let list = server.get(&users.bob.token, machines)?.json()?;
    let from = list["metadata"]["resourceVersion"].as_str().context("no revision")?.to_owned();
    flood(&cluster, &users.alice)?;
    let watch = |person: &Person<'_>, path: &str| -> Result<Vec<serde_json::Value>> {
        let path = format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={from}");
        let answer = server.get(&person.token, &path)?;
        ensure!(answer.code == 200, "{answer:?}");
        let events = serde_json::Deserializer::from_slice(&answer.body).into_iter::<serde_json::Value>();
        Ok(events.collect::<Result<_, _>>()?)
    };
    // Her own changes are forgotten.
    let hers = watch(&users.alice, "/api/v1/namespaces/alpha/configmaps")?;
    ensure!(hers.len() == 1 && hers[0]["type"] == "ERROR" && hers[0]["object"]["code"] == 410, "{hers:?}");
    cluster.kubectl(&["apply", "-n", "beta", "-f", &manifest(&cluster, "m", "Halted")?])?;
    let his = watch(&users.bob, machines)?;
    let first = his.first().context("nothing was seen")?;
    ensure!(first["type"] == "ADDED" && first["object"]["metadata"]["name"] == "m", "{his:?}");
    ensure!(his.iter().all(|event| event["type"] != "ERROR"), "{his:?}");
    drop(users);
    cluster.stop()
}

/// Alice writes in alpha until the server has forgotten what was before.
fn flood(cluster: &Cluster, alice: &Person<'_>) -> Result<()> {
    let file = cluster.data().join("large.json");
    for number in 1..=6 {
        let (name, text) = (format!("large-{number}"), format!("{number}").repeat(900 * 1024));
        let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "alpha"}, "data": {"text": text}});
        fs::write(&file, object.to_string())?;
        let made = alice.kubectl(&["create", "-f", &file.to_string_lossy()])?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let gone = alice.kubectl(&["delete", "configmap", &name, "-n", "alpha"])?;
        ensure!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    }
    Ok(())
}

fn manifest(cluster: &Cluster, name: &str, strategy: &str) -> Result<String> {
    let path = cluster.data().join(format!("{name}.yaml"));
    fs::write(&path, machine(name, strategy, 0))?;
    Ok(path.to_string_lossy().into_owned())
}
