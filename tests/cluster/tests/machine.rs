//! Machines on a real Kubernetes: what a person applies runs by itself, with a network, and is reported; no matter which of ours is
//! started again takes it over, also with another configuration; people have its consoles; a pod that is changed afterwards is
//! not served; what stops, stops orderly, and starts again.
//!
//! The guest is a kernel of Debian's with busybox, which says on its serial line what it sees. Nothing plays a part of ours.
#![allow(clippy::indexing_slicing)]

#[path = "machine/commands.rs"]
mod commands;
mod common;
#[path = "machine/consoles.rs"]
mod consoles;
#[path = "machine/virtctl.rs"]
mod virtctl;

use anyhow::{Context, Result, ensure};
use common::{TIMEOUT, Test};
use ferrovirt_cluster::{
    Options, images,
    oci::{Entry, Image},
    wait,
};
use ferrovirt_e2e::process::Process;
use ferrovirt_privilege::{
    Scenario,
    scenario::{registered, verbs, witnessed},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

const KERNEL: &str = "localhost/guest:1";
/// The launcher under another name: what a pod is changed to.
const OTHER: &str = "localhost/other/virt-launcher:1";

fn manifest(name: &str, kernel: &str) -> String {
    format!(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}, namespace: vms}}
spec:
  runStrategy: Always
  template:
    spec:
      terminationGracePeriodSeconds: 60
      domain:
        cpu: {{cores: 2}}
        memory: {{guest: 128Mi}}
        firmware:
          kernelBoot:
            kernelArgs: console=ttyS0
            container: {{image: {KERNEL}, kernelPath: {kernel}, initrdPath: /boot/initrd}}
        devices:
          networkInterfaceMultiqueue: true
          interfaces: [{{name: default, masquerade: {{}}}}]
      networks: [{{name: default, pod: {{}}}}]
"
    )
}

/// A machine's instance, until it is what is looked for.
fn instance<T>(test: &Test, name: &str, what: &str, look: impl Fn(&Value) -> Option<T>) -> Result<T> {
    let get = || test.json(&format!("get vmi {name} -n vms"));
    wait(&format!("{what} of {name}"), TIMEOUT, || Ok(get().ok().as_ref().and_then(&look)))
        .with_context(|| format!("{:#}\n{}", get().unwrap_or_default(), test.log()))
}

fn running(test: &Test, name: &str) -> Result<Value> {
    instance(test, name, "the phase Running", |vmi| match vmi["status"]["phase"].as_str() {
        Some("Running") => Some(Ok(vmi.clone())),
        Some("Failed") => Some(Err(anyhow::anyhow!("{}: {vmi:#}", test.log()))),
        _ => None,
    })?
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// The condition that says what keeps a machine from running.
fn trouble(test: &Test, name: &str, reason: &str) -> Result<String> {
    instance(test, name, reason, |vmi| {
        let condition = condition(vmi, "Synchronized")?;
        (condition["reason"] == reason).then(|| condition["message"].as_str().unwrap_or_default().to_owned())
    })
}

fn pod(test: &Test, instance: &Value) -> Result<Value> {
    let uid = instance["metadata"]["uid"].as_str().context("no UID")?;
    let pods = test.json(&format!("get pods -n vms -l kubevirt.io/created-by={uid}"))?;
    ensure!(pods["items"].as_array().is_some_and(|pods| pods.len() == 1), "{pods}");
    Ok(pods["items"][0].clone())
}

/// QEMU of a machine.
fn guests(test: &Test, name: &str) -> Vec<Process> {
    test.processes(&["qemu-system-x86_64", &format!("vms_{name}")])
}

fn api(test: &Test) -> Result<Process> {
    wait("the part api", TIMEOUT, || {
        Ok(test.processes(&["virt-handler", "--net-socket="]).into_iter().next())
    })
    .with_context(|| test.log())
}

/// What the part says, of this container or of the one before it.
fn log(test: &Test, previous: bool) -> Result<String> {
    let previous = if previous { " --previous" } else { "" };
    test.kubectl(&format!("logs -n kubevirt -l kubevirt.io=virt-handler -c api --tail=-1{previous}"))
}

/// What a guest has said on its serial line.
fn serial(guest: &Process) -> String {
    let path = PathBuf::from(format!("/proc/{}/root/var/run/kubevirt/serial.log", guest.pid));
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn boots(test: &Test, name: &str) -> Result<Process> {
    let guest = wait("QEMU", TIMEOUT, || Ok(guests(test, name).into_iter().next()))?;
    wait(&format!("{name} to be up"), TIMEOUT, || Ok(serial(&guest).contains("guest: ready").then_some(())))
        .with_context(|| serial(&guest))?;
    Ok(guest)
}

/// A machine that a person applies runs, is reachable by the pod's address, and says so.
fn runs(test: &Test) -> Result<()> {
    test.cluster.apply(&manifest("guest", "/boot/vmlinuz"))?;
    let vmi = running(test, "guest")?;
    let pod = pod(test, &vmi)?;
    let status = &vmi["status"];
    ensure!(status["nodeName"] == test.node.name.as_str(), "{status}");
    let nic = &status["interfaces"][0];
    ensure!(nic["ipAddress"] == pod["status"]["podIP"] && nic["queueCount"] == 2, "{status:#}");
    ensure!(nic["mac"].as_str().is_some_and(|mac| mac.starts_with("02:")), "{nic}");
    ensure!(status["memory"]["guestAtBoot"] == "128Mi", "{status:#}");
    let guest = boots(test, "guest")?;
    let said = serial(&guest);
    for word in ["guest: cpus=2", "guest: eth0 address=10.0.2.2", nic["mac"].as_str().unwrap_or_default()] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    let ready = condition(&vmi, "Ready").context("no condition Ready")?;
    ensure!(ready["status"] == "True", "{ready}");
    let vm = test.json("get vm guest -n vms")?;
    ensure!(vm["status"]["printableStatus"] == "Running", "{}", vm["status"]);
    // Nobody writes it in the handler's name who cannot say from which node: the part itself has just done it.
    let handler = "system:serviceaccount:kubevirt:kubevirt-handler";
    let forged = test.kubectl(&format!(
        "patch vmi guest -n vms --type=merge -p {{\"status\":{{\"phase\":\"Failed\"}}}} --as={handler}"
    ));
    let refused = forged.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refused.contains("machines of its own node alone"), "{refused}");
    Ok(())
}

/// The part has no right on the node, and one that follows a killed one takes the machine over.
fn takeover(test: &Test) -> Result<()> {
    let before = api(test)?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(u64::from_str_radix(&before.status(set)?, 16)? == 0, "{set}");
    }
    ensure!(before.status("NoNewPrivs")? == "1" && before.status("Seccomp")? == "2", "it is not confined");
    ensure!(before.status("Uid")?.split_whitespace().all(|uid| uid == "64107"), "{}", before.status("Uid")?);
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", before.pid))?;
    ensure!(!mounts.contains("/var/lib/kubelet/") && !mounts.contains("/var/lib/ferrovirt"), "{mounts}");
    ensure!(log(test, false)?.contains("the launcher has its order"), "{}", log(test, false)?);

    let guest = guests(test, "guest").into_iter().next().context("no QEMU")?;
    let vmi = running(test, "guest")?;
    before.signal(Signal::KILL)?;
    wait("another part api", TIMEOUT, || {
        let other = test.processes(&["virt-handler", "--net-socket="]).into_iter().next();
        Ok(other.filter(|other| other.pid != before.pid && other.alive()))
    })?;
    wait("the machine to be taken over", TIMEOUT, || {
        Ok(log(test, false)?.contains("the guest runs").then_some(()))
    })
    .with_context(|| test.log())?;
    ensure!(!log(test, false)?.contains("the launcher has its order"), "{}", log(test, false)?);
    ensure!(guest.alive() && guests(test, "guest").len() == 1, "the guest is another one");
    let after = running(test, "guest")?;
    ensure!(after["metadata"]["uid"] == vmi["metadata"]["uid"], "the instance is another one");
    ensure!(after["status"]["interfaces"] == vmi["status"]["interfaces"], "{}", after["status"]);
    ensure!(condition(&after, "Synchronized").is_none(), "{after:#}");
    Ok(())
}

/// As the handler of the node itself, with the token that its pod could have.
fn as_handler(test: &Test, patch: &str) -> Result<()> {
    let pods = test.json("get pods -n kubevirt -l kubevirt.io=virt-handler")?;
    let pod = &pods["items"][0]["metadata"];
    let (name, uid) = (pod["name"].as_str().context("no name")?, pod["uid"].as_str().context("no UID")?);
    let token = test.kubectl(&format!(
        "create token kubevirt-handler -n kubevirt --bound-object-kind=Pod --bound-object-name={name} \
         --bound-object-uid={uid}"
    ))?;
    let mut own = test.json("config view --raw --minify")?;
    own["users"][0]["user"] = json!({"token": token.trim()});
    let file = test.cluster.layout().path("handler.kubeconfig");
    fs::write(&file, own.to_string())?;
    let words = ["patch", "vmi", "guest", "-n", "vms", "--type=merge", "--dry-run=server", "-p", patch];
    let output = test.cluster.kubectl_as(&file, &words).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The configuration is another one, and so is what the controller makes now; who runs stays what they are.
fn reconfigured(test: &Test) -> Result<()> {
    let before = running(test, "guest")?;
    let record = &before["status"]["launcherPod"];
    ensure!(record["uid"] == pod(test, &before)?["metadata"]["uid"], "{record}");
    // No node says what its pods are held against.
    as_handler(test, r#"{"status":{"qosClass":"another"}}"#)?;
    for field in ["launcherPod", "selinuxLevel"] {
        let value = if field == "launcherPod" { json!({"digest": "x"}) } else { json!("s0:c1,c2") };
        let refused = as_handler(test, &json!({"status": {field: value}}).to_string());
        let refused = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refused.contains("recorded by the controller alone"), "{field}: {refused}");
    }
    let patch = r#"{"spec":{"configuration":{"developerConfiguration":{"memoryOvercommit":300}}}}"#;
    test.cluster.output(&["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", patch])?;
    another_api(test)?;
    wait("the machine to be taken over", TIMEOUT, || {
        Ok(log(test, false)?.contains("the guest runs").then_some(()))
    })
    .with_context(|| test.log())?;
    let after = running(test, "guest")?;
    ensure!(condition(&after, "Synchronized").is_none(), "{after:#}");
    ensure!(after["status"]["launcherPod"] == *record, "{after:#}");
    Ok(())
}

/// Anyone who may change pods has the kubelet start another container in the place: it gets no order.
fn changed(test: &Test) -> Result<()> {
    test.cluster.apply(&manifest("changed", "/boot/vmlinuz"))?;
    let vmi = running(test, "changed")?;
    let pod = pod(test, &vmi)?;
    ensure!(vmi["status"]["launcherPod"]["uid"] == pod["metadata"]["uid"], "no record: {vmi:#}");
    let name = pod["metadata"]["name"].as_str().context("no name")?.to_owned();
    // The machine is not started again when its pod has ended.
    test.cluster.output(&[
        "patch",
        "vm",
        "changed",
        "-n",
        "vms",
        "--type=merge",
        "-p",
        r#"{"spec":{"runStrategy":"Once"}}"#,
    ])?;
    test.kubectl(&format!("set image pod/{name} compute={OTHER} -n vms"))?;
    let message = trouble(test, "changed", "NotAsRendered")?;
    ensure!(message.contains("spec.containers[0].image") && message.contains(OTHER), "{message}");
    wait("the other container", TIMEOUT, || {
        let pod = test.json(&format!("get pod {name} -n vms"))?;
        let container = &pod["status"]["containerStatuses"][0];
        let runs = container["state"]["running"].is_object();
        Ok((runs && container["restartCount"] == 1).then_some(()))
    })
    .with_context(|| test.log())?;
    wait("its refusal", TIMEOUT, || {
        let message = trouble(test, "changed", "NotAsRendered")?;
        Ok(message.contains("restartCount").then_some(()))
    })
    .with_context(|| test.log())?;
    ensure!(guests(test, "changed").is_empty(), "QEMU runs in a container that nobody rendered");
    let events = test.kubectl("get events -n vms --field-selector reason=NotAsRendered")?;
    ensure!(
        events.contains("VirtualMachineInstance/changed")
            || events.contains("virtualmachineinstance/changed"),
        "{events}"
    );
    test.kubectl("delete vm changed -n vms --wait=true --timeout=180s").map(drop)
}

/// A kernel that the image has not.
fn not_ready(test: &Test) -> Result<()> {
    test.cluster.apply(&manifest("lacking", "/boot/nothing"))?;
    let message = trouble(test, "lacking", "FilesNotReady")?;
    ensure!(message.contains("boot/nothing"), "{message}");
    ensure!(guests(test, "lacking").is_empty());
    test.kubectl("delete vm lacking -n vms --wait=true --timeout=180s").map(drop)
}

/// What is stopped shuts down, and starts again as another pod.
fn stops_and_starts(test: &Test) -> Result<()> {
    let first = running(test, "guest")?;
    let memory = |pod: &Value| pod["spec"]["containers"][0]["resources"]["requests"]["memory"].clone();
    let earlier = memory(&pod(test, &first)?);
    let guest = guests(test, "guest").into_iter().next().context("no QEMU")?;
    let strategy = |strategy: &str| {
        let patch = json!({"spec": {"runStrategy": strategy}}).to_string();
        test.cluster.output(&["patch", "vm", "guest", "-n", "vms", "--type=merge", "-p", &patch])
    };
    strategy("Halted")?;
    wait("the end of QEMU", TIMEOUT, || Ok((!guest.alive()).then_some(())))?;
    wait("the machine to be stopped", TIMEOUT, || {
        let vm = test.json("get vm guest -n vms")?;
        let gone = test.kubectl("get vmi guest -n vms").is_err();
        Ok((gone && vm["status"]["printableStatus"] == "Stopped").then_some(()))
    })
    .with_context(|| test.log())?;
    let uid = first["metadata"]["uid"].as_str().context("no UID")?;
    let events = test.json(&format!("get events -n vms --field-selector involvedObject.uid={uid}"))?;
    let said = |reason: &str, word: &str| {
        events["items"].as_array().into_iter().flatten().any(|event| {
            event["reason"] == reason && event["message"].as_str().is_some_and(|text| text.contains(word))
        })
    };
    ensure!(said("Started", "started") && said("ShuttingDown", "asked"), "{events:#}");
    // By itself, when it was asked.
    ensure!(said("Stopped", "the guest shut down"), "{events:#}");
    strategy("Always")?;
    let second = running(test, "guest")?;
    ensure!(memory(&pod(test, &second)?) != earlier, "it is made as before the configuration was changed");
    ensure!(second["metadata"]["uid"] != first["metadata"]["uid"], "the instance is the same");
    ensure!(second["status"]["interfaces"][0]["mac"].is_string(), "{second:#}");
    test.kubectl("delete vmi guest -n vms --wait=true --timeout=180s")?;
    let third = running(test, "guest")?;
    ensure!(third["metadata"]["uid"] != second["metadata"]["uid"], "the instance is the same");
    boots(test, "guest").map(drop)
}

#[test]
fn a_machine_that_is_applied_runs_by_itself() -> Result<()> {
    let test = Test::whole(Options { name: "machine".to_owned(), nodes: 1, ..Options::default() })?;
    let guest = ferrovirt_e2e::root().join("target/guest");
    let mut kernel = Image { name: KERNEL.to_owned(), ..Image::default() };
    for file in ["vmlinuz", "initrd"] {
        kernel.entries.insert(format!("boot/{file}"), Entry::File(guest.join(file), 0o644));
    }
    let programs = ferrovirt_e2e::Cluster::binaries()?;
    let mut other = images::program(OTHER, &programs.join("virt-launcher"))?;
    images::add_qemu(&mut other)?;
    let mut archives = Vec::new();
    for (name, image) in [("guest.tar", kernel), ("other.tar", other)] {
        let archive = test.cluster.layout().path(name);
        image.write(&archive)?;
        archives.push(archive);
    }
    test.cluster.load(&archives)?;
    runs(&test)?;
    takeover(&test)?;
    reconfigured(&test)?;
    consoles::serve(&test)?;
    virtctl::serve(&test)?;
    commands::serve(&test)?;
    not_ready(&test)?;
    changed(&test)?;
    stops_and_starts(&test)?;
    rights_are_missed(&test)
}

/// The account's rights without these verbs on resources.
fn without(test: &Test, gone: &[(&str, &str)]) -> Result<()> {
    // What everybody may do, the part may too; the machine API has no other right to read the configuration.
    let others =
        json!({"subjects": [{"kind": "ServiceAccount", "name": "kubevirt-api", "namespace": "kubevirt"}]});
    let binding = ["patch", "clusterrolebinding", "kubevirt.io:default", "--type=merge", "-p"];
    test.cluster.output(&[&binding[..], &[&others.to_string()]].concat())?;
    for role in [&["clusterrole", "kubevirt-handler"][..], &["role", "kubevirt-handler", "-n", "kubevirt"]] {
        let full = serde_json::from_str::<Value>(
            &test.cluster.output(&[&["get"], role, &["-o", "json"]].concat())?,
        )?;
        let mut rules = Vec::new();
        for rule in full["rules"].as_array().into_iter().flatten() {
            for resource in rule["resources"].as_array().into_iter().flatten() {
                let lost = |verb: &Value| gone.iter().any(|(one, other)| resource == one && verb == other);
                let verbs: Vec<_> =
                    rule["verbs"].as_array().into_iter().flatten().filter(|verb| !lost(verb)).collect();
                if !verbs.is_empty() {
                    let mut rule = rule.clone();
                    (rule["resources"], rule["verbs"]) = (json!([resource]), json!(verbs));
                    rules.push(rule);
                }
            }
        }
        let patch = json!({"rules": rules}).to_string();
        test.cluster.output(&[&["patch"], role, &["--type=merge", "-p", &patch]].concat())?;
    }
    Ok(())
}

/// Runs with less until the part has said of each verb that it was refused; then it has everything again.
fn missed(test: &Test, gone: &[(&str, &str)], begin: impl FnOnce() -> Result<()>) -> Result<()> {
    without(test, gone)?;
    begin()?;
    for (resource, verb) in gone {
        let words = format!("cannot {verb} resource \"{resource}\"");
        wait(&words, TIMEOUT, || Ok(log(test, false)?.contains(&words).then_some(())))
            .with_context(|| log(test, false).unwrap_or_default())?;
        // The next one is asked for when this one is there.
        let left: Vec<_> =
            gone.iter().skip_while(|one| **one != (*resource, *verb)).skip(1).copied().collect();
        test.kubectl(&format!("apply -f {}", test.file().display()))?;
        without(test, &left)?;
    }
    Ok(())
}

fn another_api(test: &Test) -> Result<()> {
    test.kubectl("delete pod -n kubevirt -l kubevirt.io=virt-handler --wait=true --timeout=180s")?;
    test.kubectl("rollout status daemonset/virt-handler -n kubevirt --timeout=180s")?;
    api(test).map(drop)
}

/// A claim whose volume is a directory of the node.
const CLAIM: &str = "
apiVersion: v1
kind: PersistentVolume
metadata: {name: witness}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: none
  hostPath: {path: /tmp/witness, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: witness, namespace: vms}
spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Mi}}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: witness, namespace: vms}
spec:
  runStrategy: Always
  template:
    spec:
      domain:
        memory: {guest: 64Mi}
        devices: {disks: [{name: data, disk: {bus: virtio}}]}
      volumes: [{name: data, persistentVolumeClaim: {claimName: witness}}]
";

/// Each verb that the account has is taken away, and named by anyone who misses it.
fn rights_are_missed(test: &Test) -> Result<()> {
    let mut tried: Vec<(&str, &str)> = Vec::new();
    let (pods, machines) = ("pods", "virtualmachineinstances");
    for verb in ["list", "watch"] {
        let gone = [(pods, verb), (machines, verb)];
        missed(test, &gone, || another_api(test))?;
        tried.extend(gone);
        // What is asked for once is asked for again.
        another_api(test)?;
    }
    let gone = [
        (pods, "get"),
        ("namespaces", "get"),
        (machines, "get"),
        ("kubevirts", "get"),
        ("persistentvolumeclaims", "get"),
    ];
    missed(test, &gone, || test.cluster.apply(CLAIM).map(drop))?;
    tried.extend(gone);
    // Of a machine that starts there is something to say.
    let gone = [(machines, "patch"), ("events", "create")];
    missed(test, &gone, || test.kubectl("delete vmi guest -n vms --wait=false").map(drop))?;
    tried.extend(gone);
    let all = registered(Scenario::Machine).filter_map(witnessed).flat_map(verbs);
    let mut all: Vec<_> = all.map(|(_, resource, verb)| (resource, verb)).collect();
    all.sort_unstable();
    tried.sort_unstable();
    ensure!(all == tried, "{all:?}");
    Ok(())
}
