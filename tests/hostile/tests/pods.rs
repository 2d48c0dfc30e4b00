//! Pods with the name and owner of a launcher pod that the controller did not make, or not like this: the node does nothing
//! for them, says which field it is, and machines start as ever.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_e2e::{Cluster, Options, Person, cluster::TIMEOUT, machine, process::Process, wait_for};
use ferrovirt_hostile::Users;
use ferrovirt_plan::{config::ClusterConfig, decide::accept::candidates};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path};

/// An instance whose pod the controller does not make yet: its claim is missing.
fn instance(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "domain": {
                "memory": {"guest": "64Mi"},
                "devices": {"autoattachGraphicsDevice": false, "disks": [{"name": "d", "disk": {"bus": "virtio"}}]},
            },
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "later"}}],
        },
    })
}

/// What the controller would make of it, as near as a user may come to it, bound to the node.
fn rendered(cluster: &Cluster, namespace: &str, name: &str) -> Result<Value> {
    let vmi: VirtualMachineInstance =
        serde_json::from_value(cluster.json(&["get", "vmi", name, "-n", namespace])?)?;
    let kubevirt = cluster.json(&["get", "kubevirt", "kubevirt", "-n", "kubevirt"])?;
    let config = ClusterConfig::from_kubevirt(&serde_json::from_value(kubevirt)?)?;
    let pods =
        candidates(&vmi, &config, &BTreeSet::new(), false).map_err(|causes| anyhow::anyhow!("{causes:?}"))?;
    let mut pod = pods.into_iter().next().context("no rendering")?;
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    // Who may not change the instance's finalizers may not set it.
    if let Some(owner) = pod.pointer_mut("/metadata/ownerReferences/0").and_then(Value::as_object_mut) {
        owner.remove("blockOwnerDeletion");
    }
    let node = cluster.json(&["get", "nodes"])?["items"][0]["metadata"]["name"].clone();
    pod["spec"]["nodeName"] = node;
    Ok(pod)
}

/// Makes an instance as the administrator and its pod as `maker`, changed; whether the API took the pod, and its name.
fn attack(
    cluster: &Cluster,
    maker: Option<&Person<'_>>,
    namespace: &str,
    name: &str,
    change: impl FnOnce(&mut Value),
) -> Result<(bool, String, String)> {
    cluster.apply(&instance(namespace, name).to_string())?;
    let mut pod = rendered(cluster, namespace, name)?;
    change(&mut pod);
    let own = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let (taken, said) = match maker {
        Some(person) => person.apply(&pod.to_string())?,
        None => match cluster.apply(&pod.to_string()) {
            Ok(said) => (true, said),
            Err(error) => (false, format!("{error:#}")),
        },
    };
    Ok((taken, said, own))
}

/// Waits until the pod has failed for this reason and an event of it says these words; nothing of it is on the node.
fn is_left_alone(cluster: &Cluster, namespace: &str, pod: &str, reason: &str, words: &[&str]) -> Result<()> {
    let status = wait_for(&format!("{pod} to be refused"), TIMEOUT, || {
        let found = cluster.json(&["get", "pod", pod, "-n", namespace])?;
        let uid = found["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        ensure!(!found["status"]["containerStatuses"].to_string().contains("running"), "it runs: {found}");
        Ok((found["status"]["phase"] == "Failed").then(|| (found["status"].clone(), uid)))
    });
    let (status, uid) = status.with_context(|| cluster.log())?;
    ensure!(status["reason"] == reason, "another reason than {reason}: {status}");
    for word in words {
        ensure!(status["message"].to_string().contains(word), "no {word} in {status}");
    }
    wait_for("its event", TIMEOUT, || {
        let events = cluster.json(&["get", "events", "-n", namespace])?;
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let reported = all.iter().any(|event| {
            event["involvedObject"]["name"] == pod
                && words.iter().all(|word| event["message"].as_str().is_some_and(|text| text.contains(word)))
        });
        Ok(reported.then_some(()))
    })?;
    for place in ["pods", "netns", "crun"] {
        let path = cluster.data().join("agent").join(place).join(&uid);
        ensure!(!path.exists(), "{} is there", path.display());
    }
    ensure!(
        Process::find(|arguments| arguments.iter().any(|a| a.contains(&uid))).is_empty(),
        "a process of {pod}"
    );
    Ok(())
}

/// An ordinary machine starts and runs.
fn machines_start(cluster: &Cluster, namespace: &str, name: &str) -> Result<String> {
    let mut manifest = machine(name, "Always", 0);
    manifest =
        manifest.replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, namespace: {namespace}}}"));
    cluster.apply(&manifest)?;
    cluster.wait_phase(namespace, name, "Running")?;
    let pods =
        cluster.json(&["get", "pods", "-n", namespace, "-l", &format!("vm.kubevirt.io/name={name}")])?;
    Ok(pods["items"][0]["metadata"]["name"].as_str().context("no pod")?.to_owned())
}

#[test]
fn a_pod_that_only_looks_like_a_launcher_pod_gets_nothing_from_the_node() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let alice = Some(&users.alice);
    let mark = format!("ferrovirt-hostile-{}", std::process::id());
    let container = |pod: &mut Value, field: &str, value: Value| pod["spec"]["containers"][0][field] = value;

    // Root on the node, by an operating system whose pods the constraints pass over.
    let root = |pod: &mut Value| {
        pod["spec"]["os"] = json!({"name": "windows"});
        pod["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": "/"}}]);
        pod["spec"]["securityContext"] = json!({"runAsUser": 0});
        container(pod, "command", json!(["bash", "-c", format!("echo x > /host/tmp/{mark}")]));
        container(pod, "volumeMounts", json!([{"name": "host", "mountPath": "/host"}]));
        container(pod, "securityContext", json!({"runAsUser": 0, "capabilities": {"add": ["SYS_ADMIN"]}}));
    };
    let (taken, said, _) = attack(&cluster, alice, "alpha", "windows", root)?;
    ensure!(!taken && said.contains("spec.os.name"), "{said}");
    let (taken, said, _) = attack(&cluster, alice, "alpha", "host", |pod| {
        root(pod);
        pod["spec"]["os"] = Value::Null;
    })?;
    ensure!(!taken && said.contains("hostPath"), "{said}");
    // Where no constraint is asked, the node says no by itself.
    let (taken, said, pod) = attack(&cluster, None, "kube-system", "host", |pod| {
        root(pod);
        pod["spec"]["os"] = json!({"name": "linux"});
    })?;
    ensure!(taken, "{said}");
    is_left_alone(&cluster, "kube-system", &pod, "NotAsRendered", &["spec.containers[0].command"])?;

    // A program, mounts and resources of one's own.
    let (taken, said, pod) = attack(&cluster, alice, "alpha", "program", |pod| {
        container(pod, "command", json!(["bash", "-c", format!("touch /tmp/{mark}")]));
    })?;
    ensure!(taken, "{said}");
    is_left_alone(&cluster, "alpha", &pod, "NotAsRendered", &["spec.containers[0].command[0]", "bash"])?;

    let destinations = [
        format!("/usr/local/share/{mark}/deep/er"),
        format!("/{mark}"),
        format!("/etc/{mark}"),
        format!("/lib/x86_64-linux-gnu/{mark}"),
        format!("/var/run/kubevirt-image-volume/kernel-boot-volume/{mark}"),
    ];
    let (taken, said, pod) = attack(&cluster, alice, "alpha", "mounts", |pod| {
        let volumes = pod["spec"]["volumes"].as_array_mut();
        let names = (0..destinations.len()).map(|n| json!({"name": format!("x{n}"), "emptyDir": {}}));
        volumes.into_iter().for_each(|list| list.extend(names.clone()));
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut();
        let added =
            destinations.iter().enumerate().map(|(n, to)| json!({"name": format!("x{n}"), "mountPath": to}));
        mounts.into_iter().for_each(|list| list.extend(added.clone()));
    })?;
    ensure!(taken, "{said}");
    is_left_alone(&cluster, "alpha", &pod, "NotAsRendered", &["spec.containers[0].volumeMounts["])?;

    let (taken, said, pod) = attack(&cluster, alice, "alpha", "large", |pod| {
        container(pod, "resources", json!({"requests": {"cpu": "500", "memory": "900Gi"}}));
    })?;
    ensure!(taken, "{said}");
    is_left_alone(&cluster, "alpha", &pod, "OutOfcpu", &["requested: 500000"])?;
    let (taken, said, pod) = attack(&cluster, alice, "alpha", "small", |pod| {
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("1m");
    })?;
    ensure!(taken, "{said}");
    is_left_alone(&cluster, "alpha", &pod, "NotAsRendered", &["spec.containers[0].resources.requests.cpu"])?;

    for path in [
        format!("/tmp/{mark}"),
        format!("/usr/local/share/{mark}"),
        format!("/{mark}"),
        format!("/etc/{mark}"),
    ] {
        ensure!(!Path::new(&path).exists(), "{path} was made on the host");
    }
    let found = std::process::Command::new("find")
        .arg(cluster.data())
        .args(["-name", &format!("*{mark}*")])
        .output()?;
    ensure!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    machines_start(&cluster, "alpha", "ordinary")?;
    cluster.stop()
}

#[test]
fn a_pod_is_not_started_for_a_machine_that_has_ended() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    // Refused once, so that the machine has failed.
    let change = |pod: &mut Value| pod["spec"]["containers"][0]["args"] = json!(["x"]);
    let (taken, said, pod) = attack(&cluster, Some(&users.alice), "alpha", "ended", change)?;
    ensure!(taken, "{said}");
    is_left_alone(&cluster, "alpha", &pod, "NotAsRendered", &["spec.containers[0].args"])?;
    cluster.wait_phase("alpha", "ended", "Failed")?;
    cluster.kubectl(&["delete", "pod", &pod, "-n", "alpha"])?;
    let again = rendered(&cluster, "alpha", "ended")?;
    let (taken, said) = users.alice.apply(&again.to_string())?;
    ensure!(taken, "{said}");
    is_left_alone(&cluster, "alpha", &pod, "MachineEnded", &["has ended"])?;
    cluster.stop()
}

#[test]
fn a_launcher_pod_that_is_changed_while_it_runs_is_left_alone_until_it_is_as_it_was() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let pod = machines_start(&cluster, "alpha", "changed")?;
    let synchronized = || -> Result<Value> {
        let instance = cluster.json(&["get", "vmi", "changed", "-n", "alpha"])?;
        let all = instance["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().find(|condition| condition["type"] == "Synchronized").unwrap_or_default())
    };
    let image = |image: &str| -> Result<()> {
        let output = users.alice.kubectl(&[
            "set",
            "image",
            "-n",
            "alpha",
            &format!("pod/{pod}"),
            &format!("compute={image}"),
        ])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let before = cluster.json(&["get", "pod", &pod, "-n", "alpha"])?;
    let own = before["spec"]["containers"][0]["image"].as_str().context("no image")?.to_owned();
    image("evil")?;
    wait_for("a condition that names the field", TIMEOUT, || {
        let condition = synchronized()?;
        let reported = condition["reason"] == "NotAsRendered"
            && condition.to_string().contains("spec.containers[0].image");
        Ok(reported.then_some(()))
    })?;
    // An agent that takes the launcher over looks, too.
    let agent = cluster.agent().context("no agent")?;
    agent.signal(rustix::process::Signal::KILL)?;
    wait_for("another agent", TIMEOUT, || {
        Ok(cluster.agent().filter(|other| other.pid != agent.pid && other.alive()).map(drop))
    })?;
    image(&own)?;
    wait_for("the condition to go", TIMEOUT, || {
        Ok((synchronized()?["reason"] != "NotAsRendered").then_some(()))
    })?;
    cluster.wait_phase("alpha", "changed", "Running")?;
    cluster.stop()
}
