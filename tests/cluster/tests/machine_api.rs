//! The machine API on a real Kubernetes: machines get their defaults, what is wrong with them is refused with the field, nobody
//! but us writes their status; and what happens while nobody answers.
#![allow(clippy::indexing_slicing)]

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::{TIMEOUT, Test};
use ferrovirt_cluster::wait;
use serde_json::Value;

const ACCOUNT: &str = "system:serviceaccount:kubevirt:kubevirt-api";

/// What is said to `alice`, who may edit the namespace, about a manifest that is refused.
fn refused(test: &Test, manifest: &str) -> Result<String> {
    match test.cluster.create_as("alice", manifest) {
        Ok(said) => bail!("{said} {manifest}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// What is said to a kubectl that is refused.
fn fails(test: &Test, words: &[&str]) -> Result<String> {
    match test.cluster.output(words) {
        Ok(said) => bail!("{words:?}: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// What all parts say.
fn log(test: &Test) -> String {
    let words = "logs -n kubevirt -l kubevirt.io --all-containers --tail=-1 --prefix";
    let pods = test.kubectl("describe pods -A").unwrap_or_default();
    format!("{pods}\n{}", test.kubectl(words).unwrap_or_default())
}

fn scale(test: &Test, replicas: u8) -> Result<()> {
    test.kubectl(&format!("scale deployment/kubevirt-api -n kubevirt --replicas={replicas}"))?;
    wait(&format!("{replicas} replicas"), TIMEOUT, || {
        let pods = test.json("get pods -n kubevirt -l kubevirt.io=kubevirt-api")?;
        let is = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        let ready =
            |pod: &Value| pod["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(is));
        let pods = pods["items"].as_array().context("no list")?;
        Ok((pods.len() == usize::from(replicas) && pods.iter().all(ready)).then_some(()))
    })
    .with_context(|| log(test))
}

fn available(test: &Test, status: &str) -> Result<()> {
    let words =
        format!("wait kubevirt/kubevirt -n kubevirt --for=condition=Available={status} --timeout=180s");
    test.kubectl(&words).map(drop).with_context(|| log(test))
}

/// A machine of the namespace vms.
fn machine(name: &str, more: &str) -> String {
    format!(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}, namespace: vms}}
spec:
  runStrategy: Once
  template:
    spec: {{domain: {{memory: {{guest: 64Mi}}, devices: {{}}{more}}}}}
"
    )
}

/// Somebody with the role edit makes a machine, which gets what it does not say; its status is not theirs.
fn machines(test: &Test) -> Result<()> {
    test.kubectl("create rolebinding alice -n vms --clusterrole=edit --user=alice")?;
    test.cluster.create_as("alice", &machine("first", "")).with_context(|| log(test))?;
    let vm = test.json("get vm first -n vms")?;
    let uuid = vm["spec"]["template"]["spec"]["domain"]["firmware"]["uuid"].as_str().unwrap_or_default();
    ensure!(uuid.len() == 36, "it has no identity: {vm}");
    let instance = wait("the instance", TIMEOUT, || Ok(test.json("get vmi first -n vms").ok()))
        .with_context(|| log(test))?;
    ensure!(instance["spec"]["domain"]["devices"]["interfaces"][0]["name"] == "default", "{instance}");
    ensure!(instance["spec"]["networks"][0]["pod"].is_object(), "{instance}");
    wait("the phase that the controller writes", TIMEOUT, || {
        let instance = test.json("get vmi first -n vms")?;
        Ok((instance["status"]["phase"] == "Scheduling" || instance["status"]["phase"] == "Scheduled")
            .then_some(()))
    })
    .with_context(|| log(test))?;
    // In the object of the instance it is dropped, as upstream does; by itself it is nobody's but ours.
    let patch = r#"{"status":{"phase":"Running"}}"#;
    test.cluster.output(&[
        "patch",
        "vmi",
        "first",
        "-n",
        "vms",
        "--as=alice",
        "--type=merge",
        "-p",
        patch,
    ])?;
    ensure!(test.json("get vmi first -n vms")?["status"]["phase"] != "Running", "her phase was taken");
    let words =
        ["patch", "vm", "first", "-n", "vms", "--subresource=status", "--as=alice", "--type=merge", "-p"];
    let said = fails(test, &[&words[..], &[r#"{"status":{"ready":true}}"#]].concat())?;
    ensure!(said.contains("resource \"virtualmachines/status\""), "{said}");
    // What an instance is stays as it is.
    let patch = r#"{"spec":{"domain":{"memory":{"guest":"128Mi"}}}}"#;
    let words = ["patch", "vmi", "first", "-n", "vms", "--as=alice", "--type=merge", "-p", patch];
    let said = fails(test, &words)?;
    ensure!(said.contains("update of VMI object is restricted"), "{said}");
    Ok(())
}

/// What is wrong is named with its field. (kubectl shows the causes alone; the whole text is compared with the embedded
/// server's elsewhere.)
fn refusals(test: &Test) -> Result<()> {
    let said = refused(test, &machine("bad", ", cpu: {cores: 2, model: 'a b'}"))?;
    ensure!(said.contains("spec.template.spec.domain.cpu.model"), "{said}");
    let said = refused(
        test,
        &machine("bad", "").replace("runStrategy: Once", "running: true\n  runStrategy: Once"),
    )?;
    ensure!(said.contains("Running and RunStrategy are mutually exclusive"), "{said}");
    let again = "{apiVersion: kubevirt.io/v1, kind: KubeVirt, metadata: {name: other, namespace: kubevirt}, spec: {}}";
    let Err(error) = test.cluster.apply(again) else { bail!("two installations") };
    let said = format!("{error:#}");
    ensure!(said.contains("Kubevirt is already created"), "{said}");
    let patch = r#"{"spec":{"configuration":{"privilegeProfile":"huge"}}}"#;
    let words = ["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", patch];
    let said = fails(test, &words)?;
    ensure!(said.contains("privilegeProfile"), "{said}");
    // Nothing is stored, and it is complete all the same.
    let file = test.cluster.layout().path("dry.yaml");
    std::fs::write(&file, machine("dry", ""))?;
    let dry = test.json(&format!("apply -f {} --dry-run=server", file.display()))?;
    ensure!(dry["spec"]["template"]["spec"]["domain"]["firmware"]["uuid"].is_string(), "{dry}");
    ensure!(test.kubectl("get vm dry -n vms").is_err(), "it was stored");
    Ok(())
}

/// Nobody answers: no machine is made or changed, states are written, and what goes can go.
fn nobody_answers(test: &Test) -> Result<()> {
    test.cluster.create_as("alice", &machine("second", ""))?;
    scale(test, 0)?;
    available(test, "False")?;
    let message = test.kubectl("get kubevirt kubevirt -n kubevirt -o jsonpath={.status.conditions}")?;
    ensure!(message.contains("no replica of kubevirt-api is available"), "{message}");
    let said = refused(test, &machine("third", ""))?;
    ensure!(said.contains("failed calling webhook \"virtualmachines-mutator.kubevirt.io\""), "{said}");
    // Metadata alone, of nothing that is decided.
    test.kubectl(
        "patch vm second -n vms --type=merge -p {\"metadata\":{\"finalizers\":[\"example.com/a\"]}}",
    )?;
    test.kubectl("patch vm second -n vms --type=merge -p {\"metadata\":{\"finalizers\":null}}")?;
    // The controllers write states, remove finalizers, and end what is deleted.
    test.kubectl("delete vm first -n vms --timeout=120s").with_context(|| log(test))?;
    wait("the end of the instance and its pod", TIMEOUT, || {
        let all = test.json("get vmi,pods -n vms")?;
        let of =
            |object: &Value| object["metadata"]["name"].as_str().is_some_and(|name| name.contains("first"));
        Ok(all["items"].as_array().is_some_and(|all| !all.iter().any(of)).then_some(()))
    })
    .with_context(|| log(test))?;
    scale(test, 2)?;
    available(test, "True")?;
    test.cluster.create_as("alice", &machine("third", "")).map(drop)
}

/// Its pods have what the table says, and are what an ordinary namespace admits.
fn pods(test: &Test) -> Result<()> {
    let pods = test.json("get pods -n kubevirt -l kubevirt.io=kubevirt-api")?;
    let pod = pods["items"].as_array().and_then(|all| all.first()).context("no pod")?;
    let strict = |field: &str| &pod["spec"]["containers"][0]["securityContext"][field];
    ensure!(
        strict("capabilities")["drop"][0] == "ALL" && *strict("allowPrivilegeEscalation") == false,
        "{pod}"
    );
    test.kubectl("create namespace strict")?;
    test.kubectl("label namespace strict pod-security.kubernetes.io/enforce=restricted")?;
    let mut own = pod.clone();
    own["metadata"] = serde_json::json!({"name": "own", "namespace": "strict"});
    own["spec"]["serviceAccountName"] = "default".into();
    own["spec"]["serviceAccount"] = Value::Null;
    own["spec"]["nodeName"] = Value::Null;
    own["status"] = Value::Null;
    own["spec"]["priorityClassName"] = Value::Null;
    own["spec"]["priority"] = Value::Null;
    let volumes = own["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    ensure!(volumes.len() == 1, "{volumes:?}");
    wait("the service account of strict", TIMEOUT, || {
        Ok(test.kubectl("get serviceaccount default -n strict").ok())
    })?;
    let file = test.cluster.layout().path("own.json");
    std::fs::write(&file, own.to_string())?;
    test.kubectl(&format!("create -f {} --dry-run=server", file.display()))?;
    for words in ["create pods", "get secrets -n vms", "delete virtualmachines", "list virtualmachines"] {
        let may = test.kubectl(&format!("auth can-i {words} --as={ACCOUNT}"));
        ensure!(may.is_err(), "{words}: {may:?}");
    }
    Ok(())
}

/// It is removed while nobody answers, and nothing is left.
fn removal(test: &Test) -> Result<()> {
    scale(test, 0)?;
    test.kubectl("delete vm --all -n vms --timeout=120s").with_context(|| log(test))?;
    let file = ferrovirt_e2e::root().join("deploy/ferrovirt.yaml");
    test.kubectl(&format!("delete -f {} --timeout=180s", file.display())).with_context(|| log(test))?;
    let kinds =
        "crd,clusterrole,clusterrolebinding,validatingwebhookconfiguration,mutatingwebhookconfiguration";
    let left = test.kubectl(&format!("get {kinds} -o name"))?;
    ensure!(!left.contains("kubevirt"), "{left}");
    Ok(())
}

#[test]
fn machines_are_completed_and_checked_and_nothing_of_ours_waits_for_who_does_it() -> Result<()> {
    let test = Test::start("machineapi")?;
    machines(&test)?;
    refusals(&test)?;
    pods(&test)?;
    nobody_answers(&test)?;
    removal(&test)
}
