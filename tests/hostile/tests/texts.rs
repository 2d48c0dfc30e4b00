//! What others write, a launcher or a user, where people read it: in logs, events, conditions; and guests and agents that
//! do what they should not.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, process::Process, wait_for};
use ferrovirt_hostile::Users;
use rustix::process::Signal;
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

/// A program in the place of the launcher: it answers everybody who connects with refusals that nobody asked for, with a
/// line of the log inside, for as long as somebody reads.
const RUDE: &str = r#"#!/usr/bin/python3
import json, socket
listener = socket.socket(fileno=3)
listener.setblocking(True)
text = "x\n2026-01-01T00:00:00Z ERROR forged by a launcher\x1b[2J" + "y" * 60000
message = json.dumps({"refused": {"message": text}}).encode()
while True:
    connection, _ = listener.accept()
    connection.setblocking(True)
    try:
        while True:
            connection.send(message)
    except OSError:
        connection.close()
"#;

/// One that talks sense, and hangs up after each word.
const RESTLESS: &str = r#"#!/usr/bin/python3
import json, socket
listener = socket.socket(fileno=3)
listener.setblocking(True)
message = json.dumps({"state": {"state": "starting", "qemu_pid": None}}).encode()
while True:
    connection, _ = listener.accept()
    try:
        connection.send(message)
    except OSError:
        pass
    connection.close()
"#;

/// A Ferrovirt with this program in the place of the launcher, and a machine.
fn with_launcher(program: &str) -> Result<(Cluster, tempfile::TempDir)> {
    let programs = tempfile::tempdir()?;
    fs::copy(Cluster::binaries()?.join("virt-handler"), programs.path().join("virt-handler"))?;
    let launcher = programs.path().join("virt-launcher");
    fs::write(&launcher, program)?;
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(programs.path(), fs::Permissions::from_mode(0o755))?;
    let arguments = vec!["--program-dir".to_owned(), programs.path().to_string_lossy().into_owned()];
    let cluster = Cluster::start(Options { arguments, ..Options::default() })?;
    cluster.apply(&machine("rude", "Always", 5))?;
    Ok((cluster, programs))
}

/// The events of everybody, once users were informed that a launcher misbehaves.
fn events_of_misbehaviour(cluster: &Cluster) -> Result<String> {
    let events = wait_for("users to be informed", TIMEOUT, || {
        let events = cluster.kubectl(&["get", "events", "-o", "json"])?;
        Ok(events.contains("LauncherMisbehaves").then_some(events))
    });
    events.with_context(|| format!("the log:\n{}", cluster.log()))
}

#[test]
fn a_launcher_that_takes_connection_after_connection_is_not_listened_to() -> Result<()> {
    let (mut cluster, _programs) = with_launcher(RESTLESS)?;
    events_of_misbehaviour(&cluster)?;
    let log = cluster.log();
    let lines = log.lines().filter(|line| line.contains("takes another one")).count();
    ensure!((1..20).contains(&lines), "{lines} lines of a launcher:\n{log}");
    cluster.stop()
}

#[test]
fn a_launcher_that_floods_its_link_fills_no_log_and_forges_nothing() -> Result<()> {
    let (mut cluster, _programs) = with_launcher(RUDE)?;
    let events = events_of_misbehaviour(&cluster)?;
    ensure!(!events.contains("forged"), "the launcher's words are in an event:\n{events}");
    let log = cluster.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("forged")).collect();
    ensure!(!lines.is_empty() && lines.len() < 20, "{} lines of a launcher:\n{log}", lines.len());
    for line in lines {
        ensure!(line.len() < 600, "a line of {} bytes", line.len());
        ensure!(line.contains("the launcher misbehaves"), "a forged line: {line}");
    }
    ensure!(!log.contains('\u{1b}'), "an escape sequence is in the log");
    cluster.stop()
}

#[test]
fn a_guest_that_powers_off_at_once_is_not_started_without_a_pause() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let manifest = machine("brief", "Always", 5);
    ensure!(manifest.contains("kernelArgs: "), "the machine boots a kernel with arguments");
    let manifest = manifest.replace("kernelArgs: ", "kernelArgs: rdinit=/bin/busybox -- poweroff -f #");
    cluster.apply(&manifest)?;
    let failure = wait_for("the machine to be put off", TIMEOUT, || {
        let vm = cluster.json(&["get", "vm", "brief"])?;
        let status = &vm["status"];
        ensure!(status["printableStatus"] == "CrashLoopBackOff", "it is {}", status["printableStatus"]);
        Ok(Some(status["startFailure"].clone()))
    })?;
    ensure!(failure["consecutiveFailCount"].as_i64().is_some_and(|count| count >= 1), "{failure}");
    ensure!(
        failure["retryAfterTimestamp"].is_string() && failure["lastFailedVMIUID"].is_string(),
        "{failure}"
    );
    cluster.kubectl(&["delete", "vm", "brief", "--wait=true", "--timeout=60s"])?;
    cluster.stop()
}

/// A machine of each kind that cannot start, with the word that its message must have.
const BROKEN: [(&str, &str); 3] = [
    ("image", "containerDisk: {image: no-such-image}"),
    ("secret", "cloudInitNoCloud: {secretRef: {name: no-such-secret}}"),
    ("claim", "persistentVolumeClaim: {claimName: gone}"),
];

#[test]
fn users_learn_what_to_change_and_no_path_of_the_node() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let gone = cluster.data().join("a-directory-that-is-not-there");
    cluster.apply(&format!(
        "---\n{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: gone}}, spec: {{capacity: {{storage: 1Gi}}, \
         accessModes: [ReadWriteOnce], storageClassName: '', claimRef: {{namespace: alpha, name: gone}}, \
         hostPath: {{path: '{}', type: Directory}}}}}}",
        gone.display()
    ))?;
    let claim = "---\n{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: gone, namespace: alpha}, spec: \
        {accessModes: [ReadWriteOnce], storageClassName: '', volumeName: gone, resources: {requests: {storage: 1Gi}}}}";
    let (ok, said) = users.alice.apply(claim)?;
    ensure!(ok, "{said}");
    for (name, source) in BROKEN {
        let vmi = format!(
            "---\n{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: {name}, namespace: alpha}}, \
             spec: {{domain: {{memory: {{guest: 64Mi}}, devices: {{disks: [{{name: d, disk: {{bus: virtio}}}}]}}}}, \
             volumes: [{{name: d, {source}}}]}}}}"
        );
        let (ok, said) = users.alice.apply(&vmi)?;
        ensure!(ok, "{name}: {said}");
    }
    let data = cluster.data().to_string_lossy().into_owned();
    for (name, _) in BROKEN {
        wait_for(&format!("{name} to say what is wrong"), TIMEOUT, || {
            let vmi = cluster.json(&["get", "vmi", name, "-n", "alpha"])?;
            let conditions = vmi["status"]["conditions"].as_array().cloned().unwrap_or_default();
            Ok(conditions.iter().any(|c| c["type"] == "Synchronized" && c["status"] == "False").then_some(()))
        })?;
    }
    for what in ["vmi", "pods", "events"] {
        let seen = users.alice.kubectl(&["get", what, "-n", "alpha", "-o", "yaml"])?;
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        for secret in
            [data.as_str(), "/agent/pods", "guest/images", "/proc/self/fd", "a-directory-that-is-not-there"]
        {
            ensure!(!seen.contains(secret), "`{secret}` is in the {what} of a user:\n{seen}");
        }
    }
    cluster.stop()
}

#[test]
fn a_stopped_agent_ends_requests_and_its_machines_are_not_ready_until_it_goes_on() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("m", "Always", 5))?;
    cluster.wait_phase("default", "m", "Running")?;
    let agents = Process::find(|arguments| {
        arguments.first().is_some_and(|program| program.ends_with("virt-handler"))
            && arguments.iter().any(|argument| argument.contains(&*cluster.data().to_string_lossy()))
    });
    ensure!(!agents.is_empty(), "no agent");
    let ready = || -> Result<(String, String)> {
        let vmi = cluster.json(&["get", "vmi", "m"])?;
        let conditions = vmi["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
        let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason")))
    };
    wait_for("the machine to be ready", TIMEOUT, || Ok((ready()?.0 == "True").then_some(())))?;
    let pods = cluster.json(&["get", "pods"])?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().context("no pod")?.to_owned();
    agents.iter().try_for_each(|agent| agent.signal(Signal::STOP))?;
    let stopped = || -> Result<()> {
        let output = cluster.try_kubectl(&["logs", &pod])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("did not answer"), "{said}");
        wait_for("the machine to be not ready", TIMEOUT, || {
            let (status, reason) = ready()?;
            Ok((status == "False" && reason == "NodeNotReady").then_some(()))
        })
    };
    let result = stopped();
    agents.iter().try_for_each(|agent| agent.signal(Signal::CONT))?;
    result?;
    wait_for("the machine to be ready again", Duration::from_secs(90), || {
        Ok((ready()?.0 == "True").then_some(()))
    })?;
    cluster.stop()
}
