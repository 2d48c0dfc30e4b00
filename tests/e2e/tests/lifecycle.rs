//! Start, stop, pause, restart, the console, and what happens when a guest or QEMU ends.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, process::Process, wait_for};
use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

fn status(cluster: &Cluster, name: &str) -> Result<String> {
    let vm = cluster.json(&["get", "vm", name])?;
    Ok(vm["status"]["printableStatus"].as_str().unwrap_or_default().to_owned())
}

fn wait_status(cluster: &Cluster, name: &str, wanted: &str) -> Result<()> {
    wait_for(&format!("{name} to be {wanted}"), TIMEOUT, || {
        let found = status(cluster, name)?;
        ensure!(found == wanted, "it is {found}");
        Ok(Some(()))
    })
}

fn subresource(cluster: &Cluster, verb: &str, name: &str) -> Result<String> {
    let output = cluster.ferrovirt(&[verb, name])?.output()?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{verb} {name}: {text}");
    Ok(text)
}

#[test]
fn start_pause_restart_and_stop_by_subresource() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("manual", "Manual", 20))?;
    wait_status(&cluster, "manual", "Stopped")?;
    subresource(&cluster, "start", "manual")?;
    cluster.wait_serial("default", "manual", "guest: ready")?;
    wait_status(&cluster, "manual", "Running")?;
    let first = cluster.json(&["get", "vmi", "manual"])?["metadata"]["uid"].clone();

    subresource(&cluster, "pause", "manual")?;
    wait_status(&cluster, "manual", "Paused")?;
    subresource(&cluster, "unpause", "manual")?;
    wait_status(&cluster, "manual", "Running")?;

    subresource(&cluster, "restart", "manual")?;
    wait_for("another instance", TIMEOUT, || {
        let second = cluster.json(&["get", "vmi", "manual"])?["metadata"]["uid"].clone();
        Ok((second != first).then_some(()))
    })?;
    cluster.wait_phase("default", "manual", "Running")?;
    ensure!(Process::qemu("default", "manual").len() == 1, "two QEMU processes");

    subresource(&cluster, "stop", "manual")?;
    wait_status(&cluster, "manual", "Stopped")?;
    wait_for("QEMU to be gone", TIMEOUT, || Ok(Process::qemu("default", "manual").is_empty().then_some(())))?;
    let again = cluster.ferrovirt(&["stop", "manual"])?.output()?;
    ensure!(!again.status.success(), "a stopped machine was stopped again");
    cluster.stop()
}

/// `ferrovirt console` with a person's hands and eyes.
struct Console {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    seen: String,
}

impl Console {
    fn attach(cluster: &Cluster, name: &str) -> Result<Self> {
        let mut child =
            cluster.ferrovirt(&["console", name])?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = child.stdout.take().context("no output")?;
        Ok(Self { child, input, output, seen: String::new() })
    }

    /// Reads until the text appears; what was read before it is forgotten.
    fn until(&mut self, text: &str) -> Result<()> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            let count = self.output.read(&mut chunk)?;
            ensure!(count > 0, "the console ended before `{text}`:\n{}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(chunk.get(..count).unwrap_or_default()));
        }
    }

    fn type_line(&mut self, line: &str) -> Result<()> {
        Ok(self.input.write_all(format!("{line}\r").as_bytes())?)
    }

    fn log_in(&mut self) -> Result<()> {
        self.until("login:")?;
        self.type_line("root")?;
        self.until("# ")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn console_reaches_a_shell_in_the_guest() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("talk", "Always", 20))?;
    cluster.wait_phase("default", "talk", "Running")?;
    let mut console = Console::attach(&cluster, "talk")?;
    console.log_in()?;
    console.type_line("echo answer $((6 * 7))")?;
    console.until("answer 42")?;
    drop(console);
    cluster.stop()
}

#[test]
fn dead_qemu_is_a_failed_machine_with_a_reason() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("victim", "RerunOnFailure", 20))?;
    cluster.wait_serial("default", "victim", "guest: ready")?;
    let first = cluster.json(&["get", "vmi", "victim"])?["metadata"]["uid"].clone();
    let qemu = Process::qemu("default", "victim").pop().context("no QEMU")?;
    qemu.signal(rustix::process::Signal::KILL)?;
    wait_for("another instance after the failure", TIMEOUT, || {
        let second = cluster.json(&["get", "vmi", "victim"])?["metadata"]["uid"].clone();
        Ok((second != first && second.is_string()).then_some(()))
    })?;
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=victim"])?;
    ensure!(events.contains("signal"), "no event says how QEMU ended:\n{events}");
    cluster.stop()
}

#[test]
fn guest_that_powers_off_leaves_a_succeeded_instance() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("once", "Once", 20))?;
    cluster.wait_phase("default", "once", "Running")?;
    let mut console = Console::attach(&cluster, "once")?;
    console.log_in()?;
    console.type_line("poweroff -f")?;
    cluster.wait_phase("default", "once", "Succeeded")?;
    drop(console);
    cluster.stop()
}

/// The pod that was made for a machine's instance.
fn launcher(cluster: &Cluster, vmi: &serde_json::Value) -> Result<Option<serde_json::Value>> {
    let uid = vmi["metadata"]["uid"].as_str().unwrap_or_default();
    let pods = cluster.json(&["get", "pods", "-l", &format!("kubevirt.io/created-by={uid}")])?;
    Ok(pods["items"].as_array().and_then(|pods| pods.first().cloned()))
}

#[test]
fn a_machine_is_what_its_pod_was_made_with_whatever_the_configuration_says_later() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    // Nobody comes to the pod before the configuration is another one.
    let agent = cluster.agent().context("no agent")?;
    agent.signal(rustix::process::Signal::STOP)?;
    cluster.apply(&machine("kept", "Always", 20))?;
    let (vmi, pod) = wait_for("a recorded pod on the node", TIMEOUT, || {
        let vmi = cluster.json(&["get", "vmi", "kept"])?;
        let pod = launcher(&cluster, &vmi)?;
        let pod = pod.filter(|pod| pod["spec"]["nodeName"].is_string());
        let recorded =
            |pod: &serde_json::Value| vmi["status"]["launcherPod"]["uid"] == pod["metadata"]["uid"];
        Ok(pod.filter(recorded).map(|pod| (vmi, pod)))
    })?;
    let documented = r#"{"spec":{"configuration":{"privilegeProfile":"documented"}}}"#;
    cluster.kubectl(&[
        "patch",
        "kubevirt",
        "kubevirt",
        "-n",
        "kubevirt",
        "--type=merge",
        "-p",
        documented,
    ])?;
    agent.signal(rustix::process::Signal::CONT)?;
    // Its queues are made by the agent, as its pod needs it, and not by the launcher.
    cluster.wait_serial("default", "kept", "guest: ready")?;
    wait_status(&cluster, "kept", "Running")?;
    let guest = Process::qemu("default", "kept").pop().context("no QEMU")?;

    // Another agent serves it as well.
    agent.signal(rustix::process::Signal::KILL)?;
    wait_for("another agent", TIMEOUT, || {
        Ok(cluster.agent().filter(|other| other.pid != agent.pid).map(|_| ()))
    })?;
    cluster.wait_ready()?;
    // It answers before it has found the machine again.
    wait_for("a pause by the other agent", TIMEOUT, || subresource(&cluster, "pause", "kept").map(Some))?;
    wait_status(&cluster, "kept", "Paused")?;
    subresource(&cluster, "unpause", "kept")?;
    wait_status(&cluster, "kept", "Running")?;
    ensure!(guest.alive(), "the guest is another one");
    let after = cluster.json(&["get", "vmi", "kept"])?;
    let conditions = after["status"]["conditions"].as_array().cloned().unwrap_or_default();
    ensure!(conditions.iter().all(|condition| condition["type"] != "Synchronized"), "{conditions:#?}");
    ensure!(after["status"]["launcherPod"]["uid"] == pod["metadata"]["uid"], "{after:#}");

    // What starts again is made as the configuration says.
    subresource(&cluster, "restart", "kept")?;
    let added = "/spec/containers/0/securityContext/capabilities/add";
    ensure!(pod.pointer(added).is_none(), "{pod:#}");
    wait_for("a pod of the documented profile", TIMEOUT, || {
        let other = cluster.json(&["get", "vmi", "kept"])?;
        let pod = launcher(&cluster, &other)?.filter(|_| other["metadata"]["uid"] != vmi["metadata"]["uid"]);
        Ok(pod.filter(|pod| pod.pointer(added).is_some()).map(|_| ()))
    })?;
    cluster.wait_phase("default", "kept", "Running")?;
    cluster.stop()
}
