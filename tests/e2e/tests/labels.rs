//! SELinux labels of launcher pods, with `labelPods: Always` on a host whose SELinux is off: they are there, each machine
//! has a level of its own, and everything says that nothing enforces them.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, wait_for};
use serde_json::Value;

/// The pod of the instance of this name that is not on its way down.
fn pod(cluster: &Cluster, name: &str) -> Result<Value> {
    wait_for(&format!("a running pod of {name}"), TIMEOUT, || {
        let pods = cluster.json(&["get", "pods", "-l", &format!("vm.kubevirt.io/name={name}")])?;
        let pods = pods["items"].as_array().context("no list")?;
        let found = pods.iter().find(|pod| {
            pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
        });
        Ok(found.cloned())
    })
}

fn label(pod: &Value) -> (String, String) {
    let options = &pod["spec"]["securityContext"]["seLinuxOptions"];
    let text = |field: &str| options[field].as_str().unwrap_or_default().to_owned();
    (text("type"), text("level"))
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

#[test]
fn each_machine_has_its_type_and_a_level_of_its_own() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let patch = r#"{"spec":{"configuration":{"selinux":{"labelPods":"Always"}}}}"#;
    cluster.kubectl(&["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", patch])?;
    let mut labels = Vec::new();
    for name in ["one", "two"] {
        cluster.apply(&machine(name, "Always", 0))?;
        let vmi = cluster.wait_phase("default", name, "Running")?;
        let pod = pod(&cluster, name)?;
        let (kind, level) = label(&pod);
        ensure!(kind.starts_with("virt_machine.") && kind.ends_with("_tap"), "the type is {kind}");
        ensure!(vmi["status"]["selinuxLevel"] == level.as_str(), "{level} is not the recorded level: {vmi}");
        let scc = &pod["metadata"]["annotations"]["openshift.io/scc"];
        ensure!(scc == "kubevirt-machine", "admitted under {scc}");
        let enforced = condition(&vmi, "SELinuxEnforced").context("no condition SELinuxEnforced")?;
        ensure!(enforced["status"] == "False" && enforced["reason"] == "Disabled", "{enforced}");
        let message = enforced["message"].as_str().unwrap_or_default();
        ensure!(message.contains(&format!("{kind}:{level}")), "{message}");
        ensure!(vmi["status"]["selinuxContext"] == "none", "{vmi}");
        labels.push((kind, level));
    }
    let [one, two] = &labels[..] else { unreachable!() };
    ensure!(one.0 == two.0 && one.1 != two.1, "{one:?} and {two:?}");

    let nodes = cluster.json(&["get", "nodes"])?;
    let node = &nodes["items"][0];
    ensure!(node["metadata"]["labels"]["ferrovirt.io/selinux"] == "disabled", "{node}");
    let policy = condition(node, "SELinuxPolicy").context("no condition SELinuxPolicy")?;
    ensure!(policy["status"] == "False" && policy["reason"] == "Disabled", "{policy}");

    // A machine keeps its level when controllers and agent are killed, and when it starts again.
    cluster.kill()?;
    cluster.launch()?;
    cluster.wait_ready()?;
    let before = pod(&cluster, "one")?;
    ensure!(label(&before) == *one, "{:?}", label(&before));
    let output = cluster.ferrovirt(&["restart", "one"])?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("a second pod", TIMEOUT, || {
        let after = pod(&cluster, "one")?;
        ensure!(after["metadata"]["uid"] != before["metadata"]["uid"], "the first pod still runs");
        ensure!(label(&after) == *one, "{:?} became {:?}", one, label(&after));
        Ok(Some(()))
    })?;

    // Where Pod Security refuses types of one's own, the machine says what to do.
    cluster.kubectl(&["create", "namespace", "tenant"])?;
    cluster.kubectl(&["label", "namespace", "tenant", "pod-security.kubernetes.io/enforce=restricted"])?;
    let third = machine("third", "Always", 0).replace("{name: third}", "{name: third, namespace: tenant}");
    cluster.apply(&third)?;
    wait_for("an event that says what to do", TIMEOUT, || {
        let events = cluster.kubectl(&["get", "events", "-n", "tenant"])?;
        Ok((events.contains("FailedCreate") && events.contains("labelPods")).then_some(()))
    })?;
    cluster.stop()
}
