//! The cluster's network: one bridge in the control plane's namespace, and a cable to each node. No namespace has a way
//! out, so nothing leaves the machine, and no address can be in use already.

use crate::layout::{CONTROL_PLANE, Layout};
use anyhow::{Context, Result, bail};
use std::{path::PathBuf, process::Command};

/// The file that stands for a network namespace.
pub fn file(namespace: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace)
}

/// The arguments of `ip`, in order.
fn commands(layout: &Layout) -> Vec<String> {
    let own = layout.namespace();
    let mut all = vec![
        format!("netns add {own}"),
        format!("-n {own} link set lo up"),
        format!("-n {own} link add nodes type bridge"),
        format!("-n {own} address add {CONTROL_PLANE}/24 dev nodes"),
        format!("-n {own} link set nodes up"),
    ];
    let nodes = layout.nodes();
    for node in &nodes {
        let (name, there, address) = (&node.name, &node.namespace, node.address);
        all.extend([
            format!("netns add {there}"),
            format!("-n {there} link set lo up"),
            format!("-n {own} link add {name} type veth peer name eth0 netns {there}"),
            format!("-n {own} link set {name} master nodes up"),
            format!("-n {there} address add {address}/24 dev eth0"),
            format!("-n {there} link set eth0 up"),
            // Programs of the node itself reach Services by it: a packet without a route is refused before nftables
            // sees it.
            format!("-n {there} route add default via {CONTROL_PLANE}"),
            // The API server calls webhooks and aggregated API servers at their pods' addresses.
            format!("-n {own} route add {} via {address}", node.pods()),
        ]);
    }
    for node in &nodes {
        for other in nodes.iter().filter(|other| *other != node) {
            all.push(format!("-n {} route add {} via {}", node.namespace, other.pods(), other.address));
        }
    }
    all
}

/// Makes it.
pub fn make(layout: &Layout) -> Result<()> {
    commands(layout).iter().try_for_each(|line| ip(line))
}

/// Removes every network namespace of the cluster; nobody may be in one.
pub fn remove(layout: &Layout) -> Result<()> {
    // `ip netns list` also tells numbers of namespaces; the directory is the list of names.
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Ok(()) };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if layout.owns_namespace(&name) {
            ip(&format!("netns delete {name}"))?;
        }
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    let output = Command::new("ip").args(line.split(' ')).output().context("ip is missing (iproute2)")?;
    if !output.status.success() {
        bail!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A program that runs in a network namespace and sees everything else as it is. `ip netns exec` would mount a /sys
/// without control groups.
pub fn command(namespace: &str, program: &std::path::Path) -> Command {
    let mut command = Command::new("setsid");
    command.arg("nsenter").arg(format!("--net={}", file(namespace).display())).arg("--").arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_reaches_the_pods_of_every_other() {
        let all = commands(&Layout::new("dev", 3).unwrap());
        for (from, to) in [(1, 2), (2, 1), (3, 1), (3, 2)] {
            let line = format!("-n fvc-dev-node{from} route add 10.244.{to}.0/24 via 172.30.0.1{to}");
            assert!(all.contains(&line), "{line}");
        }
        assert!(all.contains(&"-n fvc-dev route add 10.244.3.0/24 via 172.30.0.13".to_owned()));
        let own =
            |line: &String| line.contains("route add 10.244.1.0/24") && line.contains("-n fvc-dev-node1 ");
        assert!(!all.iter().any(own), "a node's own pods are behind its own bridge");
    }

    #[test]
    fn nothing_is_done_outside_the_clusters_own_namespaces() {
        let layout = Layout::new("dev", 2).unwrap();
        for line in commands(&layout) {
            let words: Vec<&str> = line.split(' ').collect();
            let named = if words[0] == "-n" { words[1] } else { words[2] };
            assert!(layout.owns_namespace(named), "{line}");
        }
    }
}
