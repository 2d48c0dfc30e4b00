//! Disks that are full, stores that are empty or damaged: nothing acknowledged is lost, and no guest ends.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, process::Process, wait_for};
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// A file system of some MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u32) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ferrovirt-disk-").tempdir()?;
        let size = format!("size={mib}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status()?;
        ensure!(mounted.success(), "mount: {mounted}; this test needs root");
        Ok(Self(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Fills what is left.
    fn fill(&self, name: &str) -> Result<()> {
        let mut file = fs::File::create(self.path(name))?;
        let part = vec![1u8; 64 << 10];
        while file.write_all(&part).is_ok() {}
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{value: {value}}}\n")
}

fn config_maps(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let maps = cluster.json(&["get", "configmaps"])?;
    let names = maps["items"].as_array().context("no list")?.iter();
    Ok(names.filter_map(|map| Some(map["metadata"]["name"].as_str()?.to_owned())).collect())
}

fn is_ready(cluster: &Cluster) -> bool {
    cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok()
}

fn guest(name: &str) -> Result<Process> {
    let wait = || Ok(Process::qemu("default", name).pop());
    wait_for("the guest to run", TIMEOUT, wait)
}

#[test]
fn a_full_disk_takes_deletions_loses_nothing_and_is_written_again_when_there_is_space() -> Result<()> {
    let disk = SmallDisk::new(400)?;
    let mut cluster = Cluster::start(Options { data: Some(disk.path("data")), ..Options::default() })?;
    cluster.apply(&machine("ends", "Always", 0))?;
    guest("ends")?;
    cluster.apply(&config_map("goes", "x"))?;
    disk.fill("hog")?;

    let mut stored = BTreeSet::from(["goes".to_owned()]);
    let value = "x".repeat(700 << 10);
    let mut refusal = None;
    for number in 0..60 {
        let name = format!("kept-{number}");
        // kubectl names it in its messages.
        let file = std::env::temp_dir().join(format!("ferrovirt-object-{}.yaml", std::process::id()));
        fs::write(&file, config_map(&name, &value))?;
        let made = cluster.kubectl(&["create", "-f", &file.to_string_lossy()]);
        fs::remove_file(&file)?;
        match made {
            Ok(_) => stored.insert(name),
            Err(error) => {
                refusal = Some(format!("{error:#}"));
                break;
            }
        };
    }
    let refusal = refusal.context("the disk is not full")?;
    ensure!(refusal.contains("disk") && refusal.contains("full") && refusal.contains("free"), "{refusal}");
    ensure!(!refusal.contains(&disk.0.path().to_string_lossy().into_owned()), "{refusal}");
    ensure!(!is_ready(&cluster), "/readyz says nothing");
    cluster.kubectl(&["get", "--raw", "/livez"])?;
    ensure!(stored.is_subset(&config_maps(&cluster)?), "reads go on");

    cluster.kubectl(&["delete", "configmap", "goes"])?;
    stored.remove("goes");
    cluster.kubectl(&["delete", "vm", "ends", "--timeout=60s"])?;
    wait_for("the guest to end", TIMEOUT, || Ok(Process::qemu("default", "ends").is_empty().then_some(())))?;

    fs::remove_file(disk.path("hog"))?;
    wait_for("the store to be ready", Duration::from_secs(30), || Ok(is_ready(&cluster).then_some(())))?;
    cluster.apply(&config_map("after", "x"))?;
    stored.insert("after".to_owned());
    let check = |cluster: &Cluster| -> Result<()> {
        let found: BTreeSet<String> =
            config_maps(cluster)?.into_iter().filter(|name| name != "kube-root-ca.crt").collect();
        ensure!(found == stored, "{found:?} and not {stored:?}");
        Ok(())
    };
    check(&cluster)?;
    cluster.kill()?;
    cluster.launch()?;
    cluster.wait_ready()?;
    check(&cluster)?;
    cluster.stop()
}

/// Starts it, which it has to refuse, and waits for its end; what it said.
fn refuses(cluster: &mut Cluster, why: &str) -> Result<()> {
    let before = cluster.log().len();
    cluster.launch()?;
    let up = cluster.up()?;
    wait_for("ferrovirt up to end", TIMEOUT, || Ok((!up.alive()).then_some(())))?;
    let log = cluster.log();
    let said = log.get(before..).unwrap_or_default();
    ensure!(said.contains(why), "{said}");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(done.success(), "cp: {done}");
    Ok(())
}

#[test]
fn a_store_that_is_empty_or_of_another_cluster_is_refused_and_no_guest_ends() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("stays", "Always", 0))?;
    let guest = guest("stays")?;
    cluster.wait_phase("default", "stays", "Running")?;
    cluster.interrupt()?;
    let (store, keys) = (cluster.data().join("api/store.redb"), cluster.data().join("api/pki"));
    let backup = tempfile::tempdir()?;
    copy(&store, backup.path())?;
    copy(&keys, backup.path())?;

    fs::write(&store, "")?;
    refuses(&mut cluster, "missing or empty")?;
    fs::remove_file(&store)?;
    refuses(&mut cluster, "missing or empty")?;
    ensure!(guest.alive() && !store.exists());
    // A new cluster altogether, on the node of the old one.
    fs::rename(&keys, keys.with_extension("old"))?;
    refuses(&mut cluster, "holds machines of the cluster")?;
    ensure!(guest.alive());

    fs::remove_dir_all(&keys)?;
    copy(&backup.path().join("store.redb"), &store)?;
    copy(&backup.path().join("pki"), &keys)?;
    cluster.launch()?;
    cluster.wait_ready()?;
    cluster.wait_phase("default", "stays", "Running")?;
    let guests: Vec<i32> = Process::qemu("default", "stays").iter().map(|process| process.pid).collect();
    ensure!(guest.alive() && guests == [guest.pid], "the guest {} goes on: {guests:?}", guest.pid);
    cluster.stop()
}

#[test]
fn a_damaged_object_is_named_never_served_and_removed_on_demand_alone() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&config_map("damaged", "a-value-to-damage"))?;
    cluster.apply(&config_map("intact", "another-value"))?;
    cluster.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=a=a-secret-value"])?;
    cluster.interrupt()?;
    let store = cluster.data().join("api/store.redb");
    let mut bytes = fs::read(&store)?;
    let at = |bytes: &[u8], text: &str| -> Vec<usize> {
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect()
    };
    // Of a-secret-value in base64.
    ensure!(at(&bytes, "YS1zZWNyZXQtdmFsdWU").is_empty(), "a Secret is in the store in plain text");
    let found = at(&bytes, "a-value-to-damage");
    ensure!(!found.is_empty());
    for at in found {
        bytes[at] ^= 1;
    }
    fs::write(&store, &bytes)?;
    refuses(&mut cluster, "//configmaps/default/damaged")?;
    refuses(&mut cluster, "drop-damaged")?;

    let data = cluster.data().to_string_lossy().into_owned();
    let removed = cluster.ferrovirt(&["store", "drop-damaged", "--data-dir", &data])?.output()?;
    let said = String::from_utf8_lossy(&removed.stdout).into_owned();
    ensure!(removed.status.success() && said.contains("removed //configmaps/default/damaged"), "{removed:?}");
    cluster.launch()?;
    cluster.wait_ready()?;
    let maps = config_maps(&cluster)?;
    ensure!(maps.contains("intact") && !maps.contains("damaged"), "{maps:?}");
    cluster.kubectl(&["get", "secret", "hidden"])?;
    cluster.stop()
}
