//! Images whose author means harm.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, wait_for};
use ferrovirt_hostile::image::{Images, Layer};
use std::{fs, path::Path};

/// A machine with a container disk of this image, beside the kernel of the test guest.
fn with_disk(name: &str, image: &str) -> String {
    machine(name, "Always", 0)
        .replace(
            "        devices:\n",
            "        devices:\n          disks: [{name: d, disk: {bus: virtio}}]\n",
        )
        .replace(
            "      networks:",
            &format!("      volumes: [{{name: d, containerDisk: {{image: '{image}'}}}}]\n      networks:"),
        )
}

/// What the machine's condition says about why it does not start.
fn refusal(cluster: &Cluster, name: &str) -> Result<String> {
    wait_for(&format!("{name} to be refused"), TIMEOUT, || {
        let instance = cluster.json(&["get", "vmi", name, "-n", "alpha"])?;
        let all = instance["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|c| c["type"] == "Synchronized" && c["status"] == "False");
        Ok(found.and_then(|condition| Some(condition["message"].as_str()?.to_owned())))
    })
}

fn cached(cluster: &Cluster) -> Result<Vec<String>> {
    let entries = fs::read_dir(cluster.data().join("agent/cache"))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

#[test]
fn an_image_that_asks_for_too_much_leaves_nothing_and_other_machines_start() -> Result<()> {
    let images = Images::new()?;
    images.write("name", &Layer::default().long_name(300 << 20))?;
    images.write("records", &Layer::default().records(300 << 20))?;
    images.write("pattern", &Layer::default().file("disk/d", &vec![7; 64 << 20]))?;
    images
        .write("many", &(0..3000).fold(Layer::default(), |layer, n| layer.file(&format!("disk/{n}"), b"")))?;
    let arguments = ["--handler-option", "image-max-entries=2000"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start(Options { arguments, ..Options::default() })?;
    cluster.kubectl(&["create", "namespace", "alpha"])?;
    for kind in ["name", "records", "pattern", "many"] {
        let file = cluster.data().join("manifest.yaml");
        fs::write(&file, with_disk(kind, &images.reference(kind)))?;
        cluster.kubectl(&["apply", "-n", "alpha", "-f", &file.to_string_lossy()])?;
    }
    for (name, words) in [
        ("name", "more than 65536"),
        ("records", "more than 65536"),
        ("pattern", "layers unpack to over"),
        ("many", "over 2000 files"),
    ] {
        let said = refusal(&cluster, name)?;
        ensure!(said.contains(words), "{name}: {said}");
    }
    cluster.apply(&machine("plain", "Always", 0))?;
    cluster.wait_phase("default", "plain", "Running")?;
    // The kernel of the machine that runs, and nothing of the others, but for the moment of another try.
    wait_for("nothing to be left of them", TIMEOUT, || {
        let cached = cached(&cluster)?;
        Ok((cached.len() == 1 && !cached[0].ends_with("part")).then_some(()))
    })?;
    let agent = cluster.agent().expect("an agent");
    let resident = agent.resident_kib()?;
    ensure!(resident < 200 << 10, "the agent holds {resident} KiB");
    cluster.stop()
}

#[test]
fn a_disk_directory_that_is_a_link_says_nothing_about_the_node() -> Result<()> {
    let images = Images::new()?;
    let node = tempfile::Builder::new().prefix("ferrovirt-host-").tempdir()?;
    fs::write(node.path().join("a-name-of-the-node"), "secret")?;
    images.write("one", &Layer::default().symlink("disk", node.path()))?;
    images.write("etc", &Layer::default().symlink("disk", Path::new("/etc")))?;
    let mut cluster = Cluster::start(Options::default())?;
    cluster.kubectl(&["create", "namespace", "alpha"])?;
    for kind in ["one", "etc"] {
        let file = cluster.data().join("manifest.yaml");
        fs::write(&file, with_disk(kind, &images.reference(kind)))?;
        cluster.kubectl(&["apply", "-n", "alpha", "-f", &file.to_string_lossy()])?;
        let said = refusal(&cluster, kind)?;
        ensure!(said.contains("no /disk directory"), "{said}");
        ensure!(!said.contains("a-name-of-the-node") && !said.contains("files in"), "{said}");
    }
    cluster.stop()
}
