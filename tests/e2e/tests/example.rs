//! The example machine in both profiles, looked at from outside.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{
    Cluster, Options,
    cluster::TIMEOUT,
    host::{Host, Reserved, huge_pages},
    process::Process,
    wait_for,
};
use std::time::Duration;

const EXAMPLE: &str = "examples/multiqueue-hugepages.yaml";
const NAME: &str = "multiqueue-hugepages";
const PAGES: u64 = 128;

/// Boots the example in a namespace with the given labels and checks what both profiles have in common; the launcher
/// and QEMU. Nothing may be left on the host afterwards: `check` looks at the running machine.
fn boot(
    profile: &str,
    level: &str,
    check: impl FnOnce(&Cluster, &Process, &Process) -> Result<()>,
) -> Result<()> {
    let before = Host::look()?;
    let reserved = Reserved::new(PAGES)?;
    let free = huge_pages("HugePages_Free")?;
    {
        let mut cluster = Cluster::start(Options::default())?;
        let patch = format!(r#"{{"spec":{{"configuration":{{"privilegeProfile":"{profile}"}}}}}}"#);
        cluster.kubectl(&[
            "patch",
            "kubevirt",
            "kubevirt",
            "-n",
            "kubevirt",
            "--type=merge",
            "-p",
            &patch,
        ])?;
        cluster.kubectl(&["create", "namespace", "tenant"])?;
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        cluster.kubectl(&["label", "namespace", "tenant", &label])?;
        cluster.kubectl(&["apply", "-n", "tenant", "-f", EXAMPLE])?;
        let serial = cluster.wait_serial("tenant", NAME, "login:")?;
        ensure!(serial.contains("eth0 queues=4"), "the guest does not have 4 queues:\n{serial}");
        ensure!(serial.contains("guest: cpus=4"), "the guest does not have 4 vCPUs:\n{serial}");
        ensure!(serial.contains("eth0 address=10.0.2.2"), "the guest has no address:\n{serial}");
        let used = free.saturating_sub(huge_pages("HugePages_Free")?);
        ensure!(used == PAGES, "{used} huge pages are in use instead of {PAGES}");

        let machines = Process::qemu("tenant", NAME);
        ensure!(machines.len() == 1, "{} QEMU processes", machines.len());
        let qemu = machines.first().context("no QEMU")?;
        let launcher = qemu.parent()?;
        ensure!(launcher.arguments.iter().any(|word| word.ends_with("virt-launcher")), "{launcher:?}");
        for process in [qemu, &launcher] {
            ensure!(process.status("NoNewPrivs")? == "1", "{process:?} may gain privileges");
            ensure!(process.status("Seccomp")? == "2", "{process:?} has no system call filter");
            ensure!(!process.status("Uid")?.split_whitespace().any(|uid| uid == "0"), "{process:?} is root");
        }
        check(&cluster, &launcher, qemu)?;

        cluster.kubectl(&["delete", "-n", "tenant", "-f", EXAMPLE, "--wait", "--timeout=60s"])?;
        wait_for("the huge pages to be free again", Duration::from_secs(30), || {
            Ok((huge_pages("HugePages_Free")? == free).then_some(()))
        })?;
        cluster.stop()?;
    }
    drop(reserved);
    wait_for("the host to be as before", Duration::from_secs(30), || {
        let left = Host::look()?.added_since(&before);
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(Some(()))
    })
}

const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

#[test]
fn minimal_profile_has_no_capability_and_passes_restricted() -> Result<()> {
    boot("minimal", "restricted", |cluster, launcher, qemu| {
        for process in [launcher, qemu] {
            for set in SETS {
                let found = process.status(set)?;
                ensure!(found == "0000000000000000", "{set} of {process:?} is {found}");
            }
        }
        let pods = cluster.json(&["get", "pods", "-n", "tenant"])?;
        let scc = &pods["items"][0]["metadata"]["annotations"]["openshift.io/scc"];
        ensure!(scc == "restricted-v2", "admitted under {scc}");
        Ok(())
    })
}

#[test]
fn documented_profile_has_exactly_the_documented_capabilities() -> Result<()> {
    // NET_ADMIN is bit 12, NET_RAW bit 13, SYS_NICE bit 23.
    const DOCUMENTED: &str = "0000000000803000";
    boot("documented", "privileged", |cluster, launcher, qemu| {
        for process in [launcher, qemu] {
            let found = process.status("CapEff")?;
            ensure!(found == DOCUMENTED, "effective capabilities of {process:?} are {found}");
            let found = process.status("CapBnd")?;
            ensure!(found == DOCUMENTED, "bounding set of {process:?} is {found}");
        }
        let pods = cluster.json(&["get", "pods", "-n", "tenant"])?;
        let scc = &pods["items"][0]["metadata"]["annotations"]["openshift.io/scc"];
        ensure!(scc == "kubevirt-controller", "admitted under {scc}");
        Ok(())
    })
}

#[test]
fn documented_profile_is_refused_where_pod_security_is_restricted() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let patch = r#"{"spec":{"configuration":{"privilegeProfile":"documented"}}}"#;
    cluster.kubectl(&["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", patch])?;
    cluster.kubectl(&["create", "namespace", "tenant"])?;
    cluster.kubectl(&["label", "namespace", "tenant", "pod-security.kubernetes.io/enforce=restricted"])?;
    cluster.kubectl(&["apply", "-n", "tenant", "-f", EXAMPLE])?;
    wait_for("an event that names the level", TIMEOUT, || {
        let events = cluster.kubectl(&["get", "events", "-n", "tenant"])?;
        Ok((events.contains("FailedCreate") && events.contains("restricted")).then_some(()))
    })?;
    let pods = cluster.json(&["get", "pods", "-n", "tenant"])?;
    ensure!(pods["items"].as_array().is_some_and(Vec::is_empty), "a pod was made all the same");
    Ok(())
}
