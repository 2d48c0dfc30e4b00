//! Every example of the repository on a real Kubernetes, in both profiles: its guest boots, and what no kubelet does for its
//! disks is said.
#![allow(clippy::indexing_slicing)]

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::{TIMEOUT, Test};
use ferrovirt_cluster::{Options, wait};
use ferrovirt_e2e::{host::Reserved, process::Process};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

/// Pages of 2 MiB of the example with huge pages.
const PAGES: u64 = 128;
/// The launcher's user.
const USER: u32 = 107;
/// The level of Pod Security, which is the namespace's name, too.
const RESTRICTED: &str = "restricted";
const PRIVILEGED: &str = "privileged";

/// An example by its name, as a person changes it for a cluster without a registry: names of images and places on the node.
fn manifest(name: &str, directory: &Path) -> Result<String> {
    let text = fs::read_to_string(ferrovirt_e2e::root().join("examples").join(name).with_extension("yaml"))?;
    Ok(text
        .replace("image: ferrovirt/", "image: localhost/ferrovirt/")
        .replace("/var/lib/", &format!("{}/", directory.display())))
}

/// Their names, so that one that is added is tried, too.
fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(ferrovirt_e2e::root().join("examples"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            names.push(path.file_stem().context("no name")?.to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    ensure!(names.len() >= 6, "{names:?}");
    Ok(names)
}

/// The images that `cargo xtask guest` has made, under names that lead to no registry.
fn images(test: &Test) -> Result<()> {
    let mut archives = Vec::new();
    for name in ["guest-kernel", "guest-disk"] {
        let made = ferrovirt_e2e::root().join("target/guest/images/ferrovirt").join(name);
        let copy = test.cluster.layout().path(name);
        ensure!(Command::new("cp").arg("-r").args([&made, &copy]).status()?.success(), "{made:?}");
        let index = copy.join("index.json");
        let mut content: Value = serde_json::from_slice(&fs::read(&index)?)?;
        let full = format!("localhost/ferrovirt/{name}:latest");
        content["manifests"][0]["annotations"] = json!({"io.containerd.image.name": full});
        fs::write(&index, content.to_string())?;
        let archive = copy.with_extension("tar");
        let packed = Command::new("tar").arg("-C").arg(&copy).arg("-cf").arg(&archive).arg(".").status()?;
        ensure!(packed.success(), "{archive:?}");
        archives.push(archive);
    }
    test.cluster.load(&archives)
}

fn configure(test: &Test, profile: &str) -> Result<()> {
    let gates = json!({"useEmulation": true, "featureGates": ["HostDisk"]});
    let patch =
        json!({"spec": {"configuration": {"privilegeProfile": profile, "developerConfiguration": gates}}});
    let patch = patch.to_string();
    test.cluster.output(&[
        "patch",
        "kubevirt",
        "kubevirt",
        "-n",
        "kubevirt",
        "--type=merge",
        "-p",
        &patch,
    ])?;
    wait("the controller to have seen it", TIMEOUT, || {
        let object = test.json("get kubevirt kubevirt -n kubevirt")?;
        Ok((object["status"]["observedGeneration"] == object["metadata"]["generation"]).then_some(()))
    })
    .with_context(|| test.log())
}

/// A cluster with a namespace for each level, and what the examples ask of a node.
struct Examples {
    test: Test,
    directory: tempfile::TempDir,
}

impl Examples {
    fn apply(&self, name: &str, namespace: &str) -> Result<PathBuf> {
        let file = self.test.cluster.layout().path(format!("{name}.yaml"));
        fs::write(&file, manifest(name, self.directory.path())?)?;
        self.test.kubectl(&format!("apply -n {namespace} -f {}", file.display()))?;
        Ok(file)
    }

    fn instance(&self, name: &str, namespace: &str) -> Result<Value> {
        self.test.json(&format!("get vmi {name} -n {namespace}"))
    }

    /// What keeps a machine from running.
    fn trouble(&self, name: &str, namespace: &str, reason: &str) -> Result<String> {
        wait(&format!("{reason} of {name}"), TIMEOUT, || {
            let vmi = self.instance(name, namespace).unwrap_or_default();
            let all = vmi["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = all.iter().find(|condition| condition["reason"] == reason);
            Ok(found.and_then(|found| found["message"].as_str()).map(str::to_owned))
        })
        .with_context(|| format!("{:#?}\n{}", self.instance(name, namespace), self.test.log()))
    }

    /// QEMU of a machine whose guest is up and has everything that was asked for.
    fn runs(&self, name: &str, namespace: &str) -> Result<Process> {
        let words = ["qemu-system-x86_64", &format!("{namespace}_{name}")];
        let guest = wait(&format!("QEMU of {name}"), TIMEOUT, || {
            if self.instance(name, namespace).is_ok_and(|vmi| vmi["status"]["phase"] == "Failed") {
                bail!("{name} has failed");
            }
            Ok(self.test.processes(&words).into_iter().next())
        })
        .with_context(|| format!("{:#?}\n{}", self.instance(name, namespace), self.test.log()))?;
        let serial = || {
            let path = PathBuf::from(format!("/proc/{}/root/var/run/kubevirt/serial.log", guest.pid));
            String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
        };
        let ready = || Ok(serial().contains("guest: ready").then_some(()));
        wait(&format!("{name} to be up"), TIMEOUT, ready).with_context(serial)?;
        if name == "multiqueue-hugepages" {
            for word in ["guest: cpus=4", "hello from cloud-init"] {
                let said = || Ok(serial().contains(word).then_some(()));
                wait(word, TIMEOUT, said).with_context(serial)?;
            }
            let maps = fs::read_to_string(format!("/proc/{}/numa_maps", guest.pid))?;
            ensure!(maps.lines().any(|line| line.contains(" huge ")), "its memory is not of huge pages");
        }
        wait("the phase Running", TIMEOUT, || {
            Ok((self.instance(name, namespace)?["status"]["phase"] == "Running").then_some(()))
        })?;
        Ok(guest)
    }

    /// Applies an example, and takes it away again when it has run.
    fn run(&self, name: &str, namespace: &str) -> Result<()> {
        let file = self.apply(name, namespace)?;
        if name == "hostdisk" {
            self.host_disk(name, namespace)?;
        }
        let guest = self.runs(name, namespace)?;
        if name == "hostdisk" {
            let disk = fs::metadata(self.disks().join("data.img"))?;
            ensure!((disk.len(), disk.uid()) == (64 << 20, USER), "{disk:?}");
        }
        self.test.kubectl(&format!("delete -n {namespace} -f {} --timeout=180s", file.display()))?;
        wait("the end of QEMU", TIMEOUT, || Ok((!guest.alive()).then_some(())))
    }

    fn disks(&self) -> PathBuf {
        self.directory.path().join("ferrovirt-disks")
    }

    /// The kubelet makes the directory for root alone: the launcher makes nothing there, and says what to change.
    fn host_disk(&self, name: &str, namespace: &str) -> Result<()> {
        if fs::metadata(self.disks()).is_ok_and(|found| found.uid() == USER) {
            return Ok(());
        }
        let said = self.trouble(name, namespace, "FilesNotReady")?;
        for word in ["hostDisk.path", "may not be used by user 107", "give the file to that user"] {
            ensure!(said.contains(word), "{word}: {said}");
        }
        Ok(chown(self.disks(), Some(USER), None)?)
    }
}

#[test]
fn every_example_runs_in_both_profiles() -> Result<()> {
    // Before the kubelet starts, which counts them once.
    let _pages = Reserved::new(PAGES)?;
    let test = Test::whole(Options { name: "examples".to_owned(), nodes: 1, ..Options::default() })?;
    images(&test)?;
    for level in [RESTRICTED, PRIVILEGED] {
        test.cluster.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {level}, labels: {{pod-security.kubernetes.io/enforce: \
             {level}}}}}}}"
        ))?;
        wait("the service account", TIMEOUT, || {
            Ok(test.kubectl(&format!("get serviceaccount default -n {level}")).ok())
        })?;
    }
    let directory = tempfile::Builder::new().prefix("ferrovirt-examples-").tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let claim = directory.path().join("ferrovirt-volumes/pvc-example");
    fs::create_dir_all(&claim)?;
    chown(&claim, Some(USER), None)?;
    let examples = Examples { test, directory };

    configure(&examples.test, "minimal")?;
    for name in names()? {
        if name == "hostdisk" {
            // A pod that names a path of the node.
            let file = examples.apply(&name, RESTRICTED)?;
            let refused = examples.trouble(&name, RESTRICTED, "FailedCreate")?;
            ensure!(refused.contains("hostPath") && refused.contains("restricted"), "{refused}");
            examples.test.kubectl(&format!("delete -n {RESTRICTED} -f {} --timeout=180s", file.display()))?;
            examples.run(&name, PRIVILEGED)?;
        } else {
            examples.run(&name, RESTRICTED)?;
        }
    }
    // Its pods have capabilities, and the device node of TAPs as a resource of its own.
    configure(&examples.test, "documented")?;
    names()?.iter().try_for_each(|name| examples.run(name, PRIVILEGED))
}
