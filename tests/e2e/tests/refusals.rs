//! Bad input, missing rights and missing things: a clear word for each, and nothing half made.
#![allow(clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, wait_for};

const PLAIN: &str = r"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: NAME}
spec:
  domain:
    memory: {guest: 128Mi}
    firmware:
      kernelBoot:
        container: {image: IMAGE, kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}
        kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
    devices: {autoattachGraphicsDevice: false}
";

fn plain(name: &str, image: &str) -> String {
    PLAIN.replace("NAME", name).replace("IMAGE", image)
}

fn refused(cluster: &Cluster, manifest: &str, wanted: &[&str]) -> Result<()> {
    let error = match cluster.apply(manifest) {
        Ok(answer) => anyhow::bail!("accepted: {answer}"),
        Err(error) => format!("{error:#}"),
    };
    for text in wanted {
        ensure!(error.contains(text), "`{text}` is not in: {error}");
    }
    Ok(())
}

#[test]
fn manifests_are_refused_with_the_field_at_fault() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let good = plain("refused", "ferrovirt/guest-kernel");
    refused(&cluster, &good.replace("memory:", "memroy:"), &["memroy"])?;
    refused(&cluster, &good.replace("128Mi", "[1]"), &["guest"])?;
    refused(
        &cluster,
        &good.replace("{guest: 128Mi}", "{guest: 129Mi, hugepages: {pageSize: 2Mi}}"),
        &["multiple of the page size"],
    )?;
    refused(
        &cluster,
        &good.replace("{guest: 128Mi}", "{guest: 128Mi, hugepages: {pageSize: '0'}}"),
        &["pageSize"],
    )?;
    refused(
        &cluster,
        &good.replace("devices: {", "devices: {gpus: [{name: g, deviceName: d}], "),
        &["not supported yet", "gpus"],
    )?;
    let left = cluster.json(&["get", "vmi,pods"])?;
    ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "something was stored: {left}");
    cluster.stop()
}

#[test]
fn missing_image_is_an_event_and_a_condition() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&plain("lost", "nowhere/at-all:1"))?;
    wait_for("an event about the image", TIMEOUT, || {
        let events = cluster.kubectl(&["get", "events", "-o", "wide"])?;
        ensure!(events.contains("nowhere/at-all"), "{events}");
        Ok(Some(()))
    })?;
    let instance = cluster.json(&["get", "vmi", "lost"])?;
    ensure!(instance["status"]["phase"] != "Running", "it runs without an image");
    ensure!(
        instance["status"]["conditions"].to_string().contains("nowhere/at-all"),
        "no condition: {instance}"
    );
    cluster.stop()
}

#[test]
fn a_file_that_an_image_lacks_keeps_the_machine_waiting_and_is_an_event_and_a_condition() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&plain("waits", "ferrovirt/guest-kernel").replace("/boot/initrd", "/boot/none"))?;
    let words = "there is no regular file \"boot/none\" in it";
    wait_for("a condition about the file", TIMEOUT, || {
        let instance = cluster.json(&["get", "vmi", "waits"])?;
        let conditions = instance["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let says = |c: &serde_json::Value| {
            c["type"] == "Synchronized"
                && c["reason"] == "FilesNotReady"
                && c["message"].as_str().unwrap_or_default().contains(words)
        };
        ensure!(instance["status"]["phase"] != "Failed", "it does not wait: {instance}");
        Ok(conditions.iter().any(says).then_some(()))
    })?;
    wait_for("an event about the file", TIMEOUT, || {
        let events = cluster.kubectl(&["get", "events", "-o", "wide"])?;
        Ok((events.contains("SyncFailed") && events.contains(words)).then_some(()))
    })?;
    // There is no guest whose shutdown the deletion would wait for.
    cluster.kubectl(&["delete", "vmi", "waits", "--wait", "--timeout=20s"])?;
    cluster.stop()
}

#[test]
fn too_few_huge_pages_are_counted_in_a_condition() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let huge = plain("hungry", "ferrovirt/guest-kernel")
        .replace("{guest: 128Mi}", "{guest: 4Gi, hugepages: {pageSize: 2Mi}}");
    cluster.apply(&huge)?;
    wait_for("a condition about huge pages", TIMEOUT, || {
        let instance = cluster.json(&["get", "vmi", "hungry"])?;
        let conditions = instance["status"]["conditions"].to_string();
        ensure!(conditions.contains("2048") && conditions.contains("nr_hugepages"), "{conditions}");
        Ok(Some(()))
    })?;
    cluster.stop()
}

#[test]
fn a_verb_taken_from_the_controller_fails_the_step_that_needs_it() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let mut role = cluster.json(&["get", "clusterrole", "kubevirt-controller"])?;
    if let Some(rules) = role["rules"].as_array_mut() {
        for rule in rules.iter_mut() {
            let pods = rule["resources"].as_array().is_some_and(|all| all.iter().any(|name| name == "pods"));
            if let (true, Some(verbs)) = (pods, rule["verbs"].as_array_mut()) {
                verbs.retain(|verb| verb != "create");
            }
        }
    }
    let mut file = tempfile::NamedTempFile::with_suffix(".json")?;
    std::io::Write::write_all(&mut file, role.to_string().as_bytes())?;
    cluster.kubectl(&["replace", "-f", &file.path().to_string_lossy()])?;
    cluster.apply(&plain("denied", "ferrovirt/guest-kernel"))?;
    wait_for("an event about the refusal", TIMEOUT, || {
        let events = cluster.kubectl(&["get", "events", "-o", "wide"])?;
        let reported =
            events.contains("kubevirt-controller") && events.contains("cannot create resource \"pods\"");
        ensure!(reported, "{events}");
        Ok(Some(()))
    })?;
    cluster.stop()
}
