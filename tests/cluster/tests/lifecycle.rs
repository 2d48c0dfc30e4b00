//! From nothing to pods that talk to each other across nodes, and back to nothing.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_cluster::{
    Cluster, Options,
    images::TOOLS,
    layout::{BASE, Layout},
    shared::MOUNT_POINTS,
    wait,
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(120);

/// A pod that says where it is, to anyone who asks on port 8080 and in its log, and a Service before it.
fn pod(node: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: on-{node}, labels: {{on: {node}}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  containers:
  - name: c
    image: {TOOLS}
    imagePullPolicy: Never
    command: [sh, -c, "echo started on {node}; echo served by {node} > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
---
apiVersion: v1
kind: Service
metadata: {{name: to-{node}}}
spec:
  selector: {{on: {node}}}
  ports: [{{port: 80, targetPort: 8080}}]
"#
    )
}

/// What a cluster could leave behind, by names that only clusters have.
fn left_of(name: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with(&format!("fvc-{name}")) {
            found.insert(format!("network namespace {file}"));
        }
    }
    groups(Path::new("/sys/fs/cgroup"), name, 0, &mut found);
    let own = Path::new(BASE).join(name);
    if own.exists() {
        found.insert(own.display().to_string());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(mounts.lines().filter(|line| line.contains(&own.display().to_string())).map(str::to_owned));
    let inside = own.display().to_string();
    let running =
        ferrovirt_e2e::process::Process::find(|words| words.iter().any(|word| word.contains(&inside)));
    found.extend(running.into_iter().map(|process| format!("process {process:?}")));
    Ok(found)
}

fn groups(directory: &Path, name: &str, depth: u8, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth > 2 || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.path().ends_with(Path::new("ferrovirt-cluster").join(name)) {
            found.insert(format!("control group {}", entry.path().display()));
        }
        groups(&entry.path(), name, depth + 1, found);
    }
}

fn mount_points() -> Vec<PathBuf> {
    MOUNT_POINTS.iter().map(PathBuf::from).filter(|path| path.exists()).collect()
}

fn phase(cluster: &Cluster, pod: &str, wanted: &str) -> Result<()> {
    let found = wait(&format!("{pod} to be {wanted}"), TIMEOUT, || {
        let pod = cluster.json(&["get", "pod", pod])?;
        Ok((pod["status"]["phase"] == wanted).then_some(()))
    });
    found.with_context(|| cluster.output(&["describe", "pod", pod]).unwrap_or_default())
}

/// What a pod gets from an address.
fn ask(cluster: &Cluster, from: &str, address: &str) -> Result<String> {
    let line = format!("echo 'GET /index.html HTTP/1.0'; echo; }} | nc -w 5 {address}");
    cluster.output(&["exec", from, "--", "sh", "-c", &format!("{{ {line}")])
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_nothing_is_left_of_their_cluster() -> Result<()> {
    let points = mount_points();
    let options = Options { name: "lifecycle".to_owned(), ..Options::default() };
    // What an earlier, killed run of this test left.
    Cluster::down(&options.name)?;
    failed_start(&options)?;
    ensure!(mount_points() == points, "a start that failed left {:?}", mount_points());

    let cluster = Cluster::up(&options)?;
    let looked = pods(&cluster);
    ensure!(!left_of(&options.name)?.is_empty(), "the look finds nothing of a cluster that runs");
    Cluster::down(&options.name)?;
    looked?;
    let left = left_of(&options.name)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    ensure!(mount_points() == points, "mount points were {points:?} and are {:?}", mount_points());
    Ok(())
}

/// A network namespace is in the way.
fn failed_start(options: &Options) -> Result<()> {
    let layout = Layout::new(&options.name, options.nodes)?;
    let last = layout.nodes().pop().context("no node")?.namespace;
    ensure!(std::process::Command::new("ip").args(["netns", "add", &last]).status()?.success());
    let error = Cluster::up(options).err().context("it started")?;
    ensure!(format!("{error:#}").contains(&format!("ip netns add {last}")), "{error:#}");
    let left = left_of(&options.name)?;
    ensure!(left.is_empty(), "a start that failed left {left:#?}");
    Ok(())
}

fn pods(cluster: &Cluster) -> Result<()> {
    let nodes = ["node1", "node2"];
    for node in nodes {
        cluster.apply(&pod(node))?;
    }
    for node in nodes {
        phase(cluster, &format!("on-{node}"), "Running")?;
        let pod = cluster.json(&["get", "pod", &format!("on-{node}")])?;
        ensure!(pod["spec"]["nodeName"] == node, "{pod}");
    }
    for (from, to) in [("node1", "node2"), ("node2", "node1"), ("node1", "node1")] {
        let service = cluster.json(&["get", "service", &format!("to-{to}")])?;
        let address = service["spec"]["clusterIP"].as_str().context("no address")?;
        let said = wait(&format!("an answer of {to} to {from}"), TIMEOUT, || {
            ask(cluster, &format!("on-{from}"), &format!("{address} 80")).map(Some)
        })?;
        ensure!(said.contains(&format!("served by {to}")), "{from} to {to}: {said}");
    }
    for node in nodes {
        let name = format!("on-{node}");
        let log = cluster.output(&["logs", &name])?;
        ensure!(log == format!("started on {node}\n"), "{log}");
        // A pod's host name is its own, and it runs in the node's processes.
        let said = cluster.output(&["exec", &name, "--", "hostname"])?;
        ensure!(said.trim() == name, "{said}");
    }
    Ok(())
}
