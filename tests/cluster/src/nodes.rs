//! A node: its first process and the files that it reads.
//!
//! A node is a namespace of processes, mounts, host name and network. When its first process ends, kubelet, containerd
//! and all pods end with it, which is what a machine without power looks like.

use crate::{
    layout::{Layout, Node},
    network,
    shared::MOUNT_POINTS,
};
use anyhow::Result;
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};

/// The pause image's name in containerd.
pub const PAUSE: &str = "localhost/pause:1";

/// The directory of the node's own that it binds over a mount point.
fn own(node: &Node, point: &str) -> std::path::PathBuf {
    node.directory.join(point.trim_start_matches('/').replace('/', "-"))
}

fn kubelet(layout: &Layout, node: &Node) -> Value {
    let pki = |name: &str| layout.path("pki").join(name);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "address": node.address.to_string(),
        "tlsCertFile": pki(&format!("{}-serving.crt", node.name)),
        "tlsPrivateKeyFile": pki(&format!("{}-serving.key", node.name)),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failCgroupV1": false,
        "failSwapOn": false,
        // Lowering it needs a capability that a container's root often lacks.
        "oomScoreAdj": 0,
        // All nodes share this machine's disk, which a developer may have filled: nothing is thrown out for that.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        // The cluster has no way out, so there is no name server to ask.
        "resolvConf": "",
        "clusterDomain": "cluster.local",
    })
}

fn kube_proxy(layout: &Layout, node: &Node) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name,
        "clusterCIDR": "10.244.0.0/16",
        "clientConnection": {"kubeconfig": layout.path("kube-proxy.kubeconfig")},
        // The table of connections is the whole machine's; its size is not ours to change.
        "conntrack": {"maxPerCore": 0, "min": 0},
    })
}

fn cni(node: &Node) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "cluster",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.pods()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables"},
        ],
    })
}

/// containerd's configuration, version 3.
fn containerd(programs: &Path) -> String {
    let programs = programs.display();
    format!(
        "version = 3
root = '/var/lib/containerd'
state = '/run/containerd'

[grpc]
address = '/run/containerd/containerd.sock'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
# Without it a pod that is not root cannot open its claims in block mode.
device_ownership_from_security_context = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{programs}']
conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{programs}/runc'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE}'
"
    )
}

/// The node's first process: it makes the node's view of the machine, then keeps its three programs running as a
/// service manager does, and takes note of the end of orphans.
fn init(layout: &Layout, node: &Node) -> String {
    let mut script = format!(
        "set -eu\nexport PATH={bin}:/usr/sbin:/usr/bin:/sbin:/bin\n\
         mount --make-rslave /\nhostname {name}\nmount -t proc proc /proc\n\
         echo 1 > /proc/sys/net/ipv4/ip_forward\n",
        bin = layout.path("bin").display(),
        name = node.name,
    );
    for point in MOUNT_POINTS {
        script.push_str(&format!("mount --bind {} {point}\n", own(node, point).display()));
    }
    let (directory, address) = (node.directory.display(), node.address);
    let kubeconfig = layout.path(format!("{}.kubeconfig", node.name));
    script.push_str(&format!(
        "# Volumes that a pod mounts for others are seen by the kubelet, and the other way round.
mount --make-rshared /var/lib/kubelet
mount -t tmpfs -o mode=755 run /run
mount --make-rshared /run
# /sys of this network namespace, with the control groups of before; without the tree of version 2 where version 1
# has the controllers, because runtimes refuse to meet both.
mkdir /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
mount --make-rslave /run/cgroup
mount -t sysfs sys /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount -R /run/cgroup
rmdir /run/cgroup
if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
mount --make-rshared /sys
# As udev makes it: anybody who has the node may open it, and needs a capability to do something with it.
if [ -d /dev/net ]; then
    mount -t tmpfs -o mode=755 net /dev/net
    mknod -m 666 /dev/net/tun c 10 200
fi

keep() {{
    name=$1; shift
    while :; do
        \"$@\" >> {directory}/$name.log 2>&1 || true
        echo \"$name ended and is started again\" >> {directory}/$name.log
        sleep 1
    done
}}
keep containerd containerd --config {directory}/containerd.toml &
keep kubelet kubelet --config={directory}/kubelet.json --kubeconfig={kubeconfig} --hostname-override={name} --node-ip={address} &
keep kube-proxy kube-proxy --config={directory}/kube-proxy.json &
while :; do wait; done
",
        kubeconfig = kubeconfig.display(),
        name = node.name,
    ));
    script
}

/// Writes the node's files and its own directories.
pub fn write(layout: &Layout, node: &Node) -> Result<()> {
    for point in MOUNT_POINTS {
        fs::create_dir_all(own(node, point))?;
    }
    let file = |name: &str| node.directory.join(name);
    fs::write(file("kubelet.json"), kubelet(layout, node).to_string())?;
    fs::write(file("kube-proxy.json"), kube_proxy(layout, node).to_string())?;
    fs::write(file("containerd.toml"), containerd(&layout.path("bin")))?;
    fs::write(own(node, "/etc/cni/net.d").join("10-cluster.conflist"), cni(node).to_string())?;
    Ok(fs::write(file("init"), init(layout, node))?)
}

/// The command whose only child is the node's first process; that one ends with it.
pub fn command(node: &Node) -> Command {
    let mut command = network::command(&node.namespace, Path::new("unshare"));
    command
        .args(["--mount", "--pid", "--uts", "--fork", "--kill-child=KILL", "--propagation", "slave", "sh"])
        .arg(node.directory.join("init"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (Layout, Vec<Node>) {
        let layout = Layout::new("dev", 2).unwrap();
        let nodes = layout.nodes();
        (layout, nodes)
    }

    #[test]
    fn what_a_node_keeps_is_its_own() {
        let (layout, nodes) = two();
        for point in MOUNT_POINTS {
            assert_ne!(own(&nodes[0], point), own(&nodes[1], point));
            let line = format!("mount --bind {} {point}\n", own(&nodes[1], point).display());
            assert!(init(&layout, &nodes[1]).contains(&line), "{line}");
        }
        let all: std::collections::BTreeSet<_> =
            MOUNT_POINTS.iter().map(|point| own(&nodes[0], point)).collect();
        assert_eq!(all.len(), MOUNT_POINTS.len());
    }

    #[test]
    fn mounts_go_no_way_but_into_the_node() {
        let (layout, nodes) = two();
        let text = init(&layout, &nodes[0]);
        let slave = text.find("mount --make-rslave /\n").unwrap();
        assert!(slave < text.find("--bind").unwrap() && slave < text.find("make-rshared").unwrap());
        let command = command(&nodes[0]);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(words.windows(2).any(|pair| pair == ["--propagation", "slave"]), "{words:?}");
        assert!(words.contains(&"--kill-child=KILL".to_owned()));
    }

    #[test]
    fn the_kubelet_asks_the_api_server_who_may_do_what() {
        let (layout, nodes) = two();
        let config = kubelet(&layout, &nodes[1]);
        assert_eq!(config.pointer("/authentication/anonymous/enabled").unwrap(), false);
        assert_eq!(config.pointer("/authorization/mode").unwrap(), "Webhook");
        assert_eq!(config.get("cgroupRoot").unwrap(), "/ferrovirt-cluster/dev/node2");
        assert_eq!(config.get("address").unwrap(), "172.30.0.12");
    }

    #[test]
    fn pods_have_addresses_of_their_node() {
        let (_, nodes) = two();
        let subnet = |node| cni(node).pointer("/plugins/0/ipam/ranges/0/0/subnet").unwrap().clone();
        assert_eq!(subnet(&nodes[0]), "10.244.1.0/24");
        assert_eq!(subnet(&nodes[1]), "10.244.2.0/24");
    }
}
