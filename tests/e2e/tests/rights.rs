//! Whose rights count: an ordinary user of an ordinary namespace, and what their machines' pods run under.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, Person, cluster::TIMEOUT, wait_for};

const MACHINE: &str = r"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: NAME, namespace: shop}
spec:
  runStrategy: Always
  template:
    spec:
      terminationGracePeriodSeconds: 5
      domain:
        memory: {guest: 128Mi}
        firmware:
          kernelBoot:
            container: {image: ferrovirt/guest-kernel, kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}
            kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
        devices:
          autoattachGraphicsDevice: false
          disks: DISKS
      volumes: VOLUMES
";

fn machine(name: &str, host: Option<&str>) -> String {
    let (disks, volumes) = match host {
        Some(path) => (
            "[{name: host, disk: {bus: virtio}}]".to_owned(),
            format!("[{{name: host, hostDisk: {{path: '{path}', type: DiskOrCreate, capacity: 5Mi}}}}]"),
        ),
        None => ("[]".to_owned(), "[]".to_owned()),
    };
    MACHINE.replace("NAME", name).replace("DISKS", &disks).replace("VOLUMES", &volumes)
}

/// The SCC of the machine's pod, as kubectl shows it.
fn scc_of_pod(cluster: &Cluster, machine: &str) -> Result<String> {
    let selector = format!("vm.kubevirt.io/name={machine}");
    wait_for("the launcher pod", TIMEOUT, || {
        let path = r"jsonpath={.items[*].metadata.annotations.openshift\.io/scc}";
        let scc = cluster.kubectl(&["get", "pods", "-n", "shop", "-l", &selector, "-o", path])?;
        Ok((!scc.is_empty()).then_some(scc))
    })
}

#[test]
fn machines_get_what_their_user_may_have() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let host = tempfile::Builder::new().prefix("ferrovirt-host-").tempdir()?;
    let path = host.path().join("disk.img").to_string_lossy().into_owned();
    let gate = r#"{"spec":{"configuration":{"developerConfiguration":{"featureGates":["HostDisk"]}}}}"#;
    cluster.kubectl(&["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", gate])?;
    for namespace in ["shop", "people"] {
        cluster.kubectl(&["create", "namespace", namespace])?;
    }
    let alice = Person::new(&cluster, "people", "alice")?;
    alice.may("kubevirt.io:edit", "shop")?;

    let (ok, said) = alice.apply(&machine("plain", None))?;
    ensure!(ok, "{said}");
    cluster.wait_phase("shop", "plain", "Running")?;
    ensure!(scc_of_pod(&cluster, "plain")? == "restricted-v2", "another SCC");

    let (ok, said) = alice.apply(&machine("disk", Some(&path)))?;
    ensure!(!ok, "admitted: {said}");
    for wanted in ["scc allowHostDirVolumePlugin=true", ".spec.volumes[", "kubevirt-controller"] {
        ensure!(said.contains(wanted), "`{wanted}` is not in: {said}");
    }
    ensure!(!host.path().join("disk.img").exists(), "the node's file was made for a refused machine");

    let role = "--clusterrole=system:openshift:scc:kubevirt-controller";
    let bind = ["create", "rolebinding", "host", "-n", "shop", role, "--serviceaccount=people:alice"];
    cluster.kubectl(&bind)?;
    let (ok, said) = alice.apply(&machine("disk", Some(&path)))?;
    ensure!(ok, "{said}");
    cluster.wait_phase("shop", "disk", "Running")?;
    ensure!(scc_of_pod(&cluster, "disk")? == "kubevirt-controller", "another SCC");
    ensure!(host.path().join("disk.img").exists(), "the disk is not there");
    let vm = cluster.json(&["get", "vm", "disk", "-n", "shop"])?;
    let subject =
        vm["metadata"]["annotations"]["ferrovirt.io/scc-subject"].as_str().context("not recorded")?;
    ensure!(subject == "user system:serviceaccount:people:alice", "{subject}");
    cluster.stop()
}
