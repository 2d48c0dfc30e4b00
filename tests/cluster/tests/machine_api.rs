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

/// Lets alice use an SCC in a namespace.
fn lend(test: &Test, namespace: &str, scc: &str) -> Result<()> {
    test.cluster.apply(&format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: lent, namespace: {namespace}}}
rules:
- {{apiGroups: [security.openshift.io], resources: [securitycontextconstraints], resourceNames: [{scc}], verbs: [use]}}
"
    ))?;
    test.kubectl(&format!("create rolebinding lent -n {namespace} --role=lent --user=alice")).map(drop)
}

/// What stands on a machine about rights is not the word of who writes it, also while nobody asks us.
fn records_are_not_made_up(test: &Test) -> Result<()> {
    let files = ["mutating", "validating"].map(|kind| {
        let path = test.cluster.layout().path(format!("{kind}.json"));
        (format!("{kind}webhookconfiguration"), path)
    });
    for (kind, path) in &files {
        let mut object = test.json(&format!("get {kind} kubevirt-api"))?;
        object["metadata"]["resourceVersion"] = Value::Null;
        object["metadata"]["uid"] = Value::Null;
        std::fs::write(path, object.to_string())?;
        test.kubectl(&format!("delete {kind} kubevirt-api"))?;
    }
    let noted = |name: &str, notes: &str| {
        let manifest = machine(name, "");
        manifest.replace("namespace: vms}", &format!("namespace: vms, annotations: {{{notes}}}}}"))
    };
    const SUBJECT: &str = "ferrovirt.io/scc-subject: user alice";
    wait("machines that nobody is asked about", TIMEOUT, || {
        Ok(test.cluster.create_as("alice", &machine("alone", "")).ok())
    })?;
    for notes in [
        format!("ferrovirt.io/scc: privileged, ferrovirt.io/pod-scc: privileged, {SUBJECT}"),
        "ferrovirt.io/pod-scc: privileged".to_owned(),
        // Which would bind the pod to none.
        "ferrovirt.io/pod-scc: ''".to_owned(),
        "ferrovirt.io/scc: '', ferrovirt.io/pod-scc: ''".to_owned(),
        "ferrovirt.io/scc: a, ferrovirt.io/pod-scc: a, ferrovirt.io/scc-subject: serviceaccount vms/default"
            .to_owned(),
    ] {
        let said = refused(test, &noted("forged", &notes))?;
        ensure!(said.contains("neither you nor the machine's service account may use"), "{notes}: {said}");
    }
    let words = ["patch", "vm", "alone", "-n", "vms", "--as=alice", "--type=merge", "-p"];
    let note = r#"{"metadata":{"annotations":{"ferrovirt.io/pod-scc":"privileged"}}}"#;
    let said = fails(test, &[&words[..], &[note]].concat())?;
    ensure!(said.contains("neither you nor the machine's service account may use"), "{said}");
    // Of who may use one it is taken, with the one alone.
    lend(test, "vms", "lent")?;
    let own = format!("ferrovirt.io/scc: lent, ferrovirt.io/pod-scc: lent, {SUBJECT}");
    wait("a record of what she may have", TIMEOUT, || {
        Ok(test.cluster.create_as("alice", &noted("lent", &own)).ok())
    })?;
    // It leads to nothing that the controller may use and she may not.
    let led = format!("ferrovirt.io/scc: lent, ferrovirt.io/pod-scc: kubevirt-controller, {SUBJECT}");
    let said = refused(test, &noted("forged", &led))?;
    ensure!(said.contains("neither you nor the machine's service account may use"), "{said}");
    test.kubectl("delete rolebinding lent -n vms")?;
    // What stays as it is was decided before; what it is about must not change.
    let label = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    let words = ["patch", "vm", "lent", "-n", "vms", "--as=alice", "--type=merge", "-p"];
    test.cluster.output(&[&words[..], &[label]].concat())?;
    let more = r#"{"spec":{"template":{"spec":{"hostname":"other"}}}}"#;
    let said = wait("the refusal of a change", TIMEOUT, || {
        Ok(test.cluster.output(&[&words[..], &[more]].concat()).err().map(|why| format!("{why:#}")))
    })?;
    ensure!(said.contains("neither you nor the machine's service account may use"), "{said}");
    test.kubectl("delete vm alone lent -n vms --timeout=120s").with_context(|| log(test))?;
    for (_, path) in &files {
        test.kubectl(&format!("create -f {}", path.display()))?;
    }
    available(test, "True")
}

/// Where there are constraints, a pod is bound to what was decided about its machine, with the rights of its author.
fn constraints(test: &Test) -> Result<()> {
    let deploy = ferrovirt_e2e::root().join("deploy");
    let apply = |file: &str| test.kubectl(&format!("apply -f {}", deploy.join(file).display()));
    apply("scc-definition.yaml")?;
    test.kubectl("wait --for=condition=Established crd --all --timeout=60s")?;
    apply("kubevirt-scc.yaml")?;
    apply("scc-webhook.yaml")?;
    test.kubectl("rollout status deployment/scc-webhook -n scc-webhook --timeout=180s")
        .with_context(|| log(test))?;
    let gates = r#"{"spec":{"configuration":{"developerConfiguration":{"featureGates":["HostDisk"]}}}}"#;
    test.cluster.output(&["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", gates])?;
    test.kubectl("create namespace lent")?;
    test.kubectl("label namespace lent pod-security.kubernetes.io/enforce=privileged")?;
    test.kubectl("create rolebinding alice -n lent --clusterrole=edit --user=alice")?;
    let manifest = |name: &str| {
        let disk = "volumes: [{name: root, hostDisk: {path: /srv/a.img, type: Disk}}], ";
        machine(name, "")
            .replace("namespace: vms", "namespace: lent")
            .replace("spec: {domain", &format!("spec: {{{disk}domain"))
            .replace("devices: {}", "devices: {disks: [{name: root}]}")
    };
    // Until the machine API sees gate and constraints.
    let said =
        wait("a refusal by rights", TIMEOUT, || match test.cluster.create_as("alice", &manifest("host")) {
            Ok(said) => bail!("{said}"),
            Err(error) => Ok(Some(format!("{error:#}")).filter(|said| said.contains("user \"alice\""))),
        })?;
    ensure!(said.contains("hostPath"), "{said}");
    lend(test, "lent", "kubevirt-controller")?;
    wait("her machine", TIMEOUT, || Ok(test.cluster.create_as("alice", &manifest("host")).ok()))?;
    test.cluster.create_as("alice", &machine("plain", "").replace("namespace: vms", "namespace: lent"))?;
    // Who has a user namespace gets the users of the same with one.
    let both =
        [("host", "kubevirt-controller", "kubevirt-controller"), ("plain", "restricted-v2", "restricted-v3")];
    for (name, scc, of_pod) in both {
        let vm = test.json(&format!("get vm {name} -n lent"))?;
        ensure!(vm["metadata"]["annotations"]["ferrovirt.io/pod-scc"] == scc, "{vm}");
        let pod = wait(&format!("the pod of {name}"), TIMEOUT, || {
            let pods = test.json(&format!("get pods -n lent -l vm.kubevirt.io/name={name}"))?;
            Ok(pods["items"].as_array().and_then(|all| all.first()).cloned())
        })
        .with_context(|| log(test))?;
        for key in ["openshift.io/required-scc", "openshift.io/scc"] {
            ensure!(pod["metadata"]["annotations"][key] == of_pod, "{name} {key}: {pod}");
        }
    }
    test.kubectl("delete vm --all -n lent --timeout=120s").with_context(|| log(test))?;
    test.kubectl(&format!("delete -f {}", deploy.join("scc-webhook.yaml").display())).map(drop)
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
    records_are_not_made_up(&test)?;
    nobody_answers(&test)?;
    constraints(&test)?;
    removal(&test)
}
