//! Start, stop, pause, restart, the console, and what happens when a guest or QEMU ends.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::PATIENCE, process::Process, wait_for};
use std::{
    io::{Read, Write},
    process::Stdio,
};

fn machine(name: &str, strategy: &str) -> String {
    format!(
        r"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}}}
spec:
  runStrategy: {strategy}
  template:
    spec:
      terminationGracePeriodSeconds: 20
      domain:
        memory: {{guest: 192Mi}}
        firmware:
          kernelBoot:
            container: {{image: 'ferrovirt/guest-kernel', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
            kernelArgs: console=ttyS0 quiet
        devices:
          autoattachGraphicsDevice: false
          interfaces: [{{name: default, masquerade: {{}}}}]
      networks: [{{name: default, pod: {{}}}}]
"
    )
}

fn status(cluster: &Cluster, name: &str) -> Result<String> {
    let vm = cluster.json(&["get", "vm", name])?;
    Ok(vm["status"]["printableStatus"].as_str().unwrap_or_default().to_owned())
}

fn wait_status(cluster: &Cluster, name: &str, wanted: &str) -> Result<()> {
    wait_for(&format!("{name} to be {wanted}"), PATIENCE, || {
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
    cluster.apply(&machine("manual", "Manual"))?;
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
    wait_for("another instance", PATIENCE, || {
        let second = cluster.json(&["get", "vmi", "manual"])?["metadata"]["uid"].clone();
        Ok((second != first).then_some(()))
    })?;
    cluster.wait_phase("default", "manual", "Running")?;
    ensure!(Process::qemu("default", "manual").len() == 1, "two QEMU processes");

    subresource(&cluster, "stop", "manual")?;
    wait_status(&cluster, "manual", "Stopped")?;
    wait_for("QEMU to be gone", PATIENCE, || {
        Ok(Process::qemu("default", "manual").is_empty().then_some(()))
    })?;
    let again = cluster.ferrovirt(&["stop", "manual"])?.output()?;
    ensure!(!again.status.success(), "a stopped machine was stopped again");
    cluster.stop()
}

#[test]
fn console_reaches_a_shell_in_the_guest() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("talk", "Always"))?;
    cluster.wait_serial("default", "talk", "login:")?;
    let mut console = cluster
        .ferrovirt(&["console", "talk"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut input = console.stdin.take().context("no input")?;
    let mut output = console.stdout.take().context("no output")?;
    let mut seen = String::new();
    let mut until = |text: &str| -> Result<()> {
        let mut chunk = [0; 4096];
        while !seen.contains(text) {
            let count = output.read(&mut chunk)?;
            ensure!(count > 0, "the console ended before `{text}`:\n{seen}");
            seen.push_str(&String::from_utf8_lossy(chunk.get(..count).unwrap_or_default()));
        }
        Ok(())
    };
    until("login:")?;
    input.write_all(b"root\r")?;
    until("# ")?;
    input.write_all(b"echo answer $((6 * 7))\r")?;
    until("answer 42")?;
    console.kill()?;
    console.wait()?;
    cluster.stop()
}

#[test]
fn dead_qemu_is_a_failed_machine_with_a_reason() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("victim", "RerunOnFailure"))?;
    cluster.wait_serial("default", "victim", "guest: ready")?;
    let first = cluster.json(&["get", "vmi", "victim"])?["metadata"]["uid"].clone();
    let qemu = Process::qemu("default", "victim").pop().context("no QEMU")?;
    qemu.signal(rustix::process::Signal::KILL)?;
    wait_for("another instance after the failure", PATIENCE, || {
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
    cluster.apply(&machine("once", "Once"))?;
    cluster.wait_serial("default", "once", "login:")?;
    let mut console =
        cluster.ferrovirt(&["console", "once"])?.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut input = console.stdin.take().context("no input")?;
    input.write_all(b"root\r")?;
    input.write_all(b"poweroff -f\r")?;
    cluster.wait_phase("default", "once", "Succeeded")?;
    drop(input);
    console.kill()?;
    console.wait()?;
    cluster.stop()
}
