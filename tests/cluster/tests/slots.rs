//! Places for machines on a real kubelet: `virt-handler plug` offers them, pods of any namespace get the directory of
//! theirs, and they keep it whatever is started again.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_cluster::{
    Options, Own,
    images::{self, TOOLS},
    layout::Node,
    network, wait,
};
use ferrovirt_e2e::process::Process;
use ferrovirt_plan::render;
use ferrovirt_sys::netns;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    os::{
        fd::AsFd as _,
        unix::{fs::MetadataExt as _, net::UnixDatagram},
    },
    path::PathBuf,
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(120);
const IMAGE: &str = concat!("localhost/ferrovirt/virt-handler:", env!("CARGO_PKG_VERSION"));
const RESOURCE: &str = "devices.ferrovirt.io/machine";

const NAMESPACES: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: kubevirt, labels: {pod-security.kubernetes.io/enforce: privileged}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: kubevirt-handler, namespace: kubevirt}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: vms, labels: {pod-security.kubernetes.io/enforce: restricted}}}
";

/// The DaemonSet that is installed, with fewer places and shorter timeouts.
fn plug() -> String {
    let mut manifest = render::handler::daemon_set(IMAGE, "none", Default::default(), None);
    // Nobody reads machines here.
    manifest["spec"]["template"]["spec"]["containers"].as_array_mut().map(Vec::pop);
    let arguments = manifest["spec"]["template"]["spec"]["containers"][0]["args"].as_array_mut();
    for argument in arguments.into_iter().flatten() {
        if argument == "--slots=110" {
            *argument = json!("--slots=5");
        } else if argument == "--offer=kvm" {
            *argument = json!("--keep-seconds=5");
        }
    }
    manifest.to_string()
}

/// What an ordinary user may make in a namespace of level restricted.
fn pod(name: &str, slots: u8) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: vms}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: compute
    image: {TOOLS}
    imagePullPolicy: Never
    command: [sleep, "86400"]
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
    resources: {{limits: {{{RESOURCE}: {slots}}}}}
"#
    )
}

struct Test {
    cluster: Own,
    node: Node,
}

impl Test {
    /// A file of the plug's own directory, as the node sees it.
    fn own(&self, below: &str) -> PathBuf {
        self.node.directory.join("var-lib-ferrovirt/plug").join(below)
    }

    fn allocatable(&self, slots: &str) -> Result<()> {
        wait(&format!("{slots} slots"), TIMEOUT, || {
            let node = self.cluster.json(&["get", "node", &self.node.name])?;
            Ok((node["status"]["allocatable"][RESOURCE] == slots).then_some(()))
        })
        .with_context(|| self.log().unwrap_or_default())
    }

    fn log(&self) -> Result<String> {
        self.cluster.output(&["logs", "-n", "kubevirt", "-l", "kubevirt.io=virt-handler", "--tail=-1"])
    }

    fn state(&self, pod: &str) -> Result<Value> {
        Ok(self.cluster.json(&["get", "pod", "-n", "vms", pod])?["status"].clone())
    }

    fn running(&self, pod: &str) -> Result<()> {
        wait(&format!("{pod} to run"), TIMEOUT, || Ok((self.state(pod)?["phase"] == "Running").then_some(())))
            .with_context(|| self.cluster.output(&["describe", "pod", "-n", "vms", pod]).unwrap_or_default())
    }

    fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        self.cluster.output(&[&["exec", "-n", "vms", pod, "--"], words].concat())
    }

    /// The directories, by the pod that holds each.
    fn held(&self) -> Result<BTreeMap<String, String>> {
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(self.own("records"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // One that is just being written or removed.
            let Ok(text) = fs::read(self.own("records").join(&name)) else { continue };
            let Ok(record) = serde_json::from_slice::<Value>(&text) else { continue };
            let holder = &record["state"]["held"];
            if let Some(pod) = holder["pod"].as_str() {
                let whole = json!({"namespace": "vms", "pod": pod, "container": "compute"});
                ensure!(*holder == whole, "{record}");
                held.insert(pod.to_owned(), name);
            }
        }
        Ok(held)
    }

    fn directory_of(&self, pod: &str) -> Result<String> {
        wait(&format!("the slot of {pod}"), TIMEOUT, || Ok(self.held()?.remove(pod)))
            .with_context(|| self.log().unwrap_or_default())
    }

    /// The process of the cluster's only node with these words in its command line.
    fn process(&self, words: &[&str]) -> Result<Process> {
        let group = format!("{}/", self.node.cgroup);
        let found = Process::find(|arguments| {
            words.iter().all(|word| arguments.iter().any(|argument| argument == word))
        });
        let mut here = found.into_iter().filter(|process| {
            let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
            words.first() == Some(&"kubelet") || groups.contains(&group)
        });
        here.next().with_context(|| format!("no process {words:?}"))
    }
}

/// A pod without any right gets the directory of its slot, read-only; two slots are refused in our words.
fn pods(test: &Test) -> Result<()> {
    test.cluster.apply(&pod("one", 1))?;
    test.cluster.apply(&pod("two", 2))?;
    test.running("one")?;
    let mounts = test.exec("one", &["cat", "/proc/mounts"])?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/run/ferrovirt"));
    let mount = mount.with_context(|| mounts.clone())?;
    ensure!(mount.split(' ').nth(3).is_some_and(|flags| flags.starts_with("ro,")), "{mount}");
    let directory = test.directory_of("one")?;
    fs::write(test.own("slots").join(&directory).join("mark"), "of one")?;
    ensure!(test.exec("one", &["cat", "/run/ferrovirt/mark"])? == "of one", "another directory");
    let written = test.exec("one", &["sh", "-c", "echo x > /run/ferrovirt/x"]);
    ensure!(written.is_err(), "a pod writes into its slot's directory");

    let refused = wait("the refusal of two slots", TIMEOUT, || {
        let state = test.state("two")?;
        Ok((state["phase"] == "Failed").then_some(state))
    })?;
    ensure!(refused["reason"] == "UnexpectedAdmissionError", "{refused}");
    let message = refused["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("a container can have one devices.ferrovirt.io/machine, and it asks for 2"),
        "{message}"
    );
    Ok(())
}

/// The namespace that the plug-in has read off the kubelet's connection is the node's.
fn namespace(test: &Test) -> Result<()> {
    let opened = netns::open(&network::file(&test.node.namespace))?;
    let cookie = netns::run_in(&opened, || netns::cookie(UnixDatagram::unbound()?.as_fd()))?;
    let host: Value = serde_json::from_slice(&fs::read(test.own("host"))?)?;
    ensure!(host["networkNamespace"] == cookie, "{host} instead of {cookie}");
    Ok(())
}

/// What the process holds, as the kernel says it.
fn rights(test: &Test) -> Result<()> {
    let plug = test.process(&["plug", "--slots=5"])?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(plug.status(set)?.bytes().all(|byte| byte == b'0'), "{set}: {}", plug.status(set)?);
    }
    ensure!(plug.status("NoNewPrivs")? == "1" && plug.status("Seccomp")? == "2", "it is not confined");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", plug.pid))?;
    let flags = |path: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(path));
        line.and_then(|line| line.split(' ').nth(3)?.split(',').next()).map(str::to_owned)
    };
    for (path, wanted) in [
        ("/", "ro"),
        ("/var/lib/kubelet/device-plugins", "ro"),
        ("/var/lib/kubelet/pod-resources", "ro"),
        ("/var/lib/ferrovirt/plug", "rw"),
    ] {
        ensure!(flags(path).as_deref() == Some(wanted), "{path} is {:?}: {mounts}", flags(path));
    }
    ensure!(flags("/var/run/secrets/kubernetes.io/serviceaccount").is_none(), "it has a token");
    Ok(())
}

fn kubelet_restarts(test: &Test) -> Result<()> {
    let taken = |log: &str| log.matches("the kubelet has taken devices.ferrovirt.io/machine").count();
    let before = taken(&test.log()?);
    let config = format!("--config={}/kubelet.json", test.node.directory.display());
    test.process(&["kubelet", &config])?.signal(Signal::KILL)?;
    wait("another registration", TIMEOUT, || {
        // Logs come from the kubelet, which is away for a while.
        Ok(test.log().ok().filter(|log| taken(log) > before).map(drop))
    })?;
    test.allocatable("5")?;
    test.cluster.apply(&pod("three", 1))?;
    test.running("three")
}

fn plug_restarts(test: &Test) -> Result<()> {
    test.directory_of("three")?;
    let before = test.held()?;
    ensure!(before.keys().map(String::as_str).eq(["one", "three"]), "{before:?}");
    // Written when the kubelet listens, and removed at each start.
    let written =
        || fs::metadata(test.own("host")).ok().map(|file| (file.ino(), file.ctime(), file.ctime_nsec()));
    let old = written().context("the kubelet does not listen")?;
    test.process(&["plug", "--slots=5"])?.signal(Signal::KILL)?;
    wait("another plug", TIMEOUT, || Ok(written().filter(|new| *new != old)))?;
    test.allocatable("5")?;
    // It knows more than it has kept: a pod that comes now.
    test.cluster.apply(&pod("four", 1))?;
    test.running("four")?;
    test.directory_of("four")?;
    let mut after = test.held()?;
    after.remove("four");
    ensure!(after == before, "{after:?} were {before:?}");
    ensure!(test.exec("one", &["cat", "/run/ferrovirt/mark"])? == "of one", "its directory is another one");
    Ok(())
}

fn pod_goes(test: &Test) -> Result<()> {
    let held = test.held()?;
    test.cluster.output(&["delete", "pod", "-n", "vms", "one"])?;
    let there = |pod: &str| test.own("slots").join(&held[pod]).exists();
    wait("the end of the directory of one", TIMEOUT, || Ok((!there("one")).then_some(())))
        .with_context(|| test.log().unwrap_or_default())?;
    ensure!(there("three") && there("four"), "directories of running pods are gone");
    ensure!(!test.own("records").join(&held["one"]).exists(), "something is still known of it");
    Ok(())
}

#[test]
fn pods_get_the_directory_of_their_slot_and_keep_it_whatever_is_started_again() -> Result<()> {
    let program = ferrovirt_e2e::Cluster::binaries()?.join("virt-handler");
    let cluster = Own::with(Options { name: "slots".to_owned(), nodes: 1, ..Options::default() })?;
    let archive = cluster.layout().path("virt-handler.tar");
    images::program(IMAGE, &program)?.write(&archive)?;
    cluster.load(&[archive])?;
    let node = cluster.layout().nodes().pop().context("no node")?;
    let test = Test { cluster, node };
    test.cluster.apply(NAMESPACES)?;
    test.cluster.apply(&plug())?;
    test.allocatable("5")?;
    // Until the controller manager has made it, every pod is refused.
    wait("the service account of vms", TIMEOUT, || {
        Ok(test.cluster.output(&["get", "serviceaccount", "default", "-n", "vms"]).ok())
    })?;
    pods(&test)?;
    namespace(&test)?;
    rights(&test)?;
    kubelet_restarts(&test)?;
    plug_restarts(&test)?;
    pod_goes(&test)
}
