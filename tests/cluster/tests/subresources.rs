//! The subresources of machines through the API server of a real Kubernetes: start, stop and restart for who may, and nobody
//! who is not named by it.
#![allow(clippy::indexing_slicing)]

mod common;

use anyhow::{Context, Result, bail, ensure};
use common::{TIMEOUT, Test};
use ferrovirt_clients::Recorded;
use ferrovirt_cluster::{Options, network, wait};
use ferrovirt_privilege::{
    Scenario,
    scenario::{registered, verbs, witnessed},
};
use serde_json::{Value, json};
use std::path::Path;

const ROOT: &str = "/apis/subresources.kubevirt.io/v1";
const SERVICES: [&str; 2] = ["v1.subresources.kubevirt.io", "v1alpha3.subresources.kubevirt.io"];
const ROLE: &str = "kubevirt-api";

/// What is said to somebody who sends a body to a path, through the cluster's API server.
fn put(test: &Test, user: &str, path: &str, body: &str) -> Result<String> {
    let file = test.cluster.layout().path("body.json");
    std::fs::write(&file, body)?;
    let file = file.display().to_string();
    test.cluster.output(&["replace", "--raw", path, "-f", &file, &format!("--as={user}")])
}

/// The document at a path.
fn get(test: &Test, path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&test.kubectl(&format!("get --raw {path} --as=alice"))?)?)
}

fn refused(answer: Result<String>) -> Result<String> {
    match answer {
        Ok(said) => bail!("it was not refused: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn on_machine(name: &str, verb: &str) -> String {
    format!("{ROOT}/namespaces/vms/virtualmachines/{name}/{verb}")
}

fn machine(name: &str, strategy: &str) -> String {
    format!(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}, namespace: vms}}
spec:
  runStrategy: {strategy}
  template:
    spec: {{terminationGracePeriodSeconds: 1, domain: {{memory: {{guest: 64Mi}}, devices: {{}}}}}}
"
    )
}

fn instance(test: &Test, name: &str) -> Result<Value> {
    wait(&format!("the instance {name}"), TIMEOUT, || Ok(test.json(&format!("get vmi {name} -n vms")).ok()))
        .with_context(|| test.log())
}

/// The API server forwards requests for the group, and finds there what clients look for.
fn registered_with_the_cluster(test: &Test) -> Result<()> {
    for service in SERVICES {
        test.kubectl(&format!("wait apiservice/{service} --for=condition=Available --timeout=180s"))
            .with_context(|| test.log())?;
    }
    let resources = get(test, ROOT)?;
    let has = |name: &str| {
        resources["resources"].as_array().is_some_and(|all| all.iter().any(|row| row["name"] == name))
    };
    ensure!(has("virtualmachines/start") && has("virtualmachineinstances/console"), "{resources}");
    let version = get(test, &format!("{ROOT}/version"))?;
    ensure!(version["gitVersion"].as_str().is_some_and(|version| version.starts_with('v')), "{version}");
    // Aggregated discovery has the group too.
    let all = test.kubectl("api-versions")?;
    ensure!(all.lines().any(|line| line == "subresources.kubevirt.io/v1"), "{all}");
    Ok(())
}

fn runs(test: &Test) -> Result<()> {
    test.kubectl("create rolebinding alice -n vms --clusterrole=edit --user=alice")?;
    test.kubectl("create rolebinding victor -n vms --clusterrole=view --user=victor")?;
    test.cluster.create_as("alice", &machine("first", "Halted"))?;
    let strategy =
        || Ok::<_, anyhow::Error>(test.json("get vm first -n vms")?["spec"]["runStrategy"].clone());
    for (user, verb) in [("victor", "start"), ("stranger", "start"), ("victor", "stop")] {
        let said = refused(put(test, user, &on_machine("first", verb), "{}"))?;
        ensure!(said.contains("orbidden") && said.contains(&format!("virtualmachines/{verb}")), "{said}");
    }
    ensure!(strategy()? == "Halted", "somebody who may only look has started it");
    put(test, "alice", &on_machine("first", "start"), "{}").with_context(|| test.log())?;
    ensure!(strategy()? == "Always", "it was not started");
    let first = instance(test, "first")?;
    let said = refused(put(test, "alice", &on_machine("first", "start"), "{}"))?;
    ensure!(
        said.contains("VM is already running") || said.contains("does not support manual start"),
        "{said}"
    );
    // While the controller writes the same machine.
    put(test, "alice", &on_machine("first", "restart"), "{}").with_context(|| test.log())?;
    wait("another instance", TIMEOUT, || {
        let Ok(now) = test.json("get vmi first -n vms") else { return Ok(None) };
        Ok((now["metadata"]["uid"] != first["metadata"]["uid"]).then_some(()))
    })
    .with_context(|| test.log())?;
    put(test, "alice", &on_machine("first", "stop"), r#"{"gracePeriod":0}"#).with_context(|| test.log())?;
    ensure!(strategy()? == "Halted", "it was not stopped");
    wait("the end of the instance", TIMEOUT, || {
        Ok(test.kubectl("get vmi first -n vms").is_err().then_some(()))
    })
    .with_context(|| test.log())?;
    let said = refused(put(test, "alice", &on_machine("nobody", "start"), "{}"))?;
    ensure!(said.contains("\"nobody\" not found"), "{said}");
    let whole = test.kubectl(&format!("get --raw {}", on_machine("first", "expand-spec")))?;
    let whole: Value = serde_json::from_str(&whole)?;
    ensure!(whole["kind"] == "VirtualMachine" && whole["metadata"]["name"] == "first", "{whole}");
    Ok(())
}

/// What virtctl sends for what needs no guest that runs.
fn virtctl(test: &Test) -> Result<()> {
    let (virtctl, server) = (Recorded::virtctl()?, test.server()?);
    let run = |command: &str, code: u16, words: &str| -> Result<()> {
        let answer = virtctl.run(&server, command)?.expect(code);
        let answer = answer.with_context(|| format!("{command}\n{}", test.log()))?;
        ensure!(answer.message().contains(words), "{command}: {}", answer.text);
        Ok(())
    };
    let strategy =
        || Ok::<_, anyhow::Error>(test.json("get vm guest -n vms")?["spec"]["runStrategy"].clone());
    // The same numbers as its own, or it warns at each error.
    let answer = virtctl.run(&server, "version")?.expect(200)?;
    let version = answer.body["gitVersion"].as_str().unwrap_or_default();
    ensure!(version.split('.').take(2).eq(virtctl.version.split('.').take(2)), "{version}");
    test.cluster.create_as("alice", &machine("guest", "Halted"))?;
    run("stop guest", 409, "VM is not running")?;
    run("start guest --dry-run", 202, "")?;
    ensure!(strategy()? == "Halted", "a dry run has started it");
    run("start guest", 202, "")?;
    ensure!(strategy()? == "Always", "it was not started");
    instance(test, "guest")?;
    run("start guest", 409, "VM is already running")?;
    run("expose vmi guest --name=guest-http --port=80", 201, "")?;
    let service = test.json("get service guest-http -n vms")?;
    ensure!(service["spec"]["ports"][0]["port"] == 80, "{service}");
    run("expand --vm guest", 200, "")?;
    run("expand --file vm.yaml", 200, "")?;
    run("stop guest --grace-period=0 --force", 202, "")?;
    ensure!(strategy()? == "Halted", "it was not stopped");
    wait("the end of the instance", TIMEOUT, || {
        Ok(test.kubectl("get vmi guest -n vms").is_err().then_some(()))
    })
    .with_context(|| test.log())?;
    for command in ["start nobody", "stop nobody", "console nobody", "pause vmi nobody", "expand --vm nobody"]
    {
        run(command, 404, "\"nobody\" not found")?;
    }
    Ok(())
}

/// Anybody who goes to a pod directly is nobody, whatever the headers say; with the front proxy's own certificate it is the same
/// request that works.
fn forged(test: &Test) -> Result<()> {
    // One that has just been started has no certificate yet.
    test.kubectl("rollout status deployment/kubevirt-api -n kubevirt --timeout=180s")?;
    let pods = test.json("get pods -n kubevirt -l kubevirt.io=kubevirt-api")?;
    let address = pods["items"][0]["status"]["podIP"].as_str().context("no address")?.to_owned();
    let url = format!("https://{address}:8443{ROOT}/version");
    let layout = test.cluster.layout();
    let pki = |file: &str| layout.path("pki").join(file).display().to_string();
    let ask = |more: &[&str]| -> Result<(String, String)> {
        let mut command = network::command(&layout.namespace(), Path::new("curl"));
        command.args([
            "-sSk",
            "--max-time",
            "60",
            "-w",
            "\n%{http_code}",
            "-H",
            "X-Remote-User: kubernetes-admin",
        ]);
        command.args(["-H", "X-Remote-Group: system:masters"]).args(more).arg(&url);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let (body, code) = text.rsplit_once('\n').context("no code")?;
        Ok((code.to_owned(), body.to_owned()))
    };
    let with = |name: &str| -> Result<(String, String)> {
        ask(&["--cert", &pki(&format!("{name}.crt")), "--key", &pki(&format!("{name}.key"))])
    };
    for (what, (code, said)) in [
        ("no certificate", ask(&[])?),
        ("an administrator's", with("admin")?),
        ("a kubelet's", with("kubelet-client")?),
    ] {
        ensure!(code == "401" && said.contains("\"Unauthorized\""), "{what}: {code} {said}");
    }
    let (code, said) = with("front-proxy-client")?;
    ensure!(code == "200" && said.contains("gitVersion"), "{code} {said}");
    Ok(())
}

/// What it writes is whether machines run, whatever its role would allow.
fn writes_nothing_else(test: &Test) -> Result<()> {
    const ACCOUNT: &str = "--as=system:serviceaccount:kubevirt:kubevirt-api";
    test.cluster.create_as("alice", &machine("held", "Always"))?;
    instance(test, "held")?;
    // A kubectl that patches a status reads it before.
    test.kubectl("create role status -n vms --verb=get --resource=virtualmachines.kubevirt.io/status")?;
    test.kubectl("create rolebinding status -n vms --role=status --serviceaccount=kubevirt:kubevirt-api")?;
    let patch = |kind: &str, more: &[&str], patch: &str| {
        let words = ["patch", kind, "held", "-n", "vms", ACCOUNT, "--type=merge", "-p", patch];
        test.cluster.output(&[&words[..], more].concat())
    };
    let disk = r#"{"name":"d","emptyDisk":{"capacity":"1Mi"}}"#;
    let volumes = format!(r#"{{"spec":{{"template":{{"spec":{{"volumes":[{disk}]}}}}}}}}"#);
    let status = &["--subresource=status"][..];
    for (kind, more, change, words) in [
        ("vm", &[][..], volumes.as_str(), "only whether it runs"),
        (
            "vm",
            &[],
            r#"{"spec":{"runStrategy":"Manual","template":{"metadata":{"labels":{"a":"b"}}}}}"#,
            "only whether it runs",
        ),
        ("vm", &[], r#"{"metadata":{"annotations":{"a":"b"}}}"#, "no metadata"),
        ("vm", &[], r#"{"metadata":{"finalizers":null}}"#, "no metadata"),
        ("vm", status, r#"{"status":{"ready":true,"printableStatus":"Other"}}"#, "only whether it runs"),
        ("vmi", &[], r#"{"status":{"phase":"Failed"}}"#, "only how long its end may take"),
        ("vmi", &[], r#"{"spec":{"domain":{"memory":{"guest":"96Mi"}}}}"#, "only how long its end may take"),
    ] {
        let said = refused(patch(kind, more, change)).with_context(|| format!("{kind} {change}"))?;
        ensure!(said.contains("orbidden") && said.contains(words), "{kind} {change}: {said}");
    }
    patch("vmi", &[], r#"{"spec":{"terminationGracePeriodSeconds":1}}"#)?;
    patch("vm", &[], r#"{"spec":{"runStrategy":"Halted"}}"#).map(drop)
}

/// What only a cluster can miss: without it the authority is not written, and its absence is named.
fn verbs_are_missed(test: &Test) -> Result<()> {
    let full = test.json(&format!("get clusterrole {ROLE}"))?;
    let all: Vec<_> = registered(Scenario::Subresources).filter_map(witnessed).flat_map(verbs).collect();
    ensure!(all.len() == 12, "{all:?}");
    for gone in ["get", "patch"] {
        let mut lesser = full["rules"].as_array().cloned().unwrap_or_default();
        // Those of Secrets: below.
        for rule in lesser.iter_mut().filter(|rule| rule["resources"] == json!(["apiservices"])) {
            if let Some(verbs) = rule["verbs"].as_array_mut() {
                verbs.retain(|verb| *verb != gone);
            }
        }
        let rules = |rules: &[Value]| -> Result<()> {
            let patch = json!({"rules": rules}).to_string();
            test.cluster.output(&["patch", "clusterrole", ROLE, "--type=merge", "-p", &patch]).map(drop)
        };
        rules(&lesser)?;
        for service in SERVICES {
            let patch = r#"{"spec":{"caBundle":null}}"#;
            test.cluster.output(&["patch", "apiservice", service, "--type=merge", "-p", patch])?;
        }
        let words = format!("cannot {gone} resource \"apiservices\" in API group \"apiregistration.k8s.io\"");
        wait(&words, TIMEOUT, || Ok(test.log().contains(&words).then_some(())))
            .with_context(|| test.log())?;
        rules(full["rules"].as_array().context("no rules")?)?;
        wait("the authority again", TIMEOUT, || {
            let all = test.json("get apiservices")?;
            let ours =
                |one: &&Value| one["metadata"]["name"].as_str().is_some_and(|name| SERVICES.contains(&name));
            let all: Vec<&Value> = all["items"].as_array().into_iter().flatten().filter(ours).collect();
            let whole = all.iter().all(|one| one["spec"]["caBundle"].is_string());
            Ok((all.len() == SERVICES.len() && whole).then_some(()))
        })
        .with_context(|| test.log())?;
    }
    registered_with_the_cluster(test)
}

/// A Secret that somebody has deleted comes back, with other certificates in it; by nobody who may not make it, and what is made
/// is no token of an account.
fn secrets_come_back(test: &Test) -> Result<()> {
    const SECRETS: [&str; 4] = [
        "kubevirt-api-certificate",
        "kubevirt-handler-authority",
        "virt-handler-certificate",
        "kubevirt-api-client",
    ];
    const ACCOUNT: &str = "--as=system:serviceaccount:kubevirt:kubevirt-api";
    let delete = |name: &str| -> Result<Value> {
        let secret = test.json(&format!("get secret {name} -n kubevirt"))?;
        test.kubectl(&format!("delete secret {name} -n kubevirt"))?;
        Ok(secret["metadata"]["uid"].clone())
    };
    let comes_back = |name: &str, before: &Value| {
        wait(&format!("another Secret {name}"), TIMEOUT, || {
            let Ok(secret) = test.json(&format!("get secret {name} -n kubevirt")) else { return Ok(None) };
            let whole = secret["data"]["ca.crt"].is_string() && secret["metadata"]["uid"] != *before;
            Ok(whole.then_some(secret))
        })
        .with_context(|| test.log())
    };
    // What is signed by the authority after it.
    let (authority, rest) = ([SECRETS[1]], [SECRETS[0], SECRETS[2], SECRETS[3]]);
    for names in [&authority[..], &rest] {
        let before = names.iter().map(|name| delete(name)).collect::<Result<Vec<_>>>()?;
        for (name, before) in names.iter().zip(&before) {
            let secret = comes_back(name, before)?;
            ensure!(secret["type"] == "Opaque", "{secret}");
        }
    }
    registered_with_the_cluster(test)?;
    // Each of the two verbs, of each Secret. What is said of one names it and the verb, so that those that do not depend on each
    // other lack it at the same time.
    let full = test.json(&format!("get role {ROLE} -n kubevirt"))?;
    let rounds =
        [&authority[..], &rest].into_iter().flat_map(|names| ["create", "patch"].map(|verb| (names, verb)));
    for (names, gone) in rounds {
        let mut lesser = full["rules"].clone();
        for rule in lesser.as_array_mut().into_iter().flatten() {
            if names.iter().any(|name| rule["resourceNames"] == json!([name]))
                && let Some(verbs) = rule["verbs"].as_array_mut()
            {
                verbs.retain(|verb| *verb != gone);
            }
        }
        let rules = |rules: &Value| {
            let patch = json!({"rules": rules}).to_string();
            test.cluster.output(&["patch", "role", ROLE, "-n", "kubevirt", "--type=merge", "-p", &patch])
        };
        rules(&lesser)?;
        let before = names.iter().map(|name| delete(name)).collect::<Result<Vec<_>>>()?;
        let verb = format!("cannot {gone} resource \"secrets\"");
        for name in names {
            let words = format!("the Secret {name} was deleted, and cannot be made again");
            let reported = |said: &str| said.contains(&words) && said.contains(&verb);
            wait(&format!("{words}: {verb}"), TIMEOUT, || {
                Ok(test.log().lines().flat_map(|line| line.split("; ")).any(reported).then_some(()))
            })
            .with_context(|| test.log())?;
            ensure!(
                test.json(&format!("get secret {name} -n kubevirt")).is_err(),
                "{name} is there without {gone}"
            );
        }
        rules(&full["rules"])?;
        for (name, before) in names.iter().zip(&before) {
            comes_back(name, before)?;
        }
    }
    // By name alone, and no token.
    let secret = |name: &str, kind: &str| {
        format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, namespace: kubevirt, annotations: \
             {{kubernetes.io/service-account.name: kubevirt-controller}}}}, type: {kind}}}"
        )
    };
    let file = test.cluster.layout().path("secret.yaml");
    let path = file.display().to_string();
    test.kubectl("scale deployment/kubevirt-api -n kubevirt --replicas=0")?;
    wait("the end of the machine API", TIMEOUT, || {
        let pods = test.json("get pods -n kubevirt -l kubevirt.io=kubevirt-api")?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    delete(SECRETS[3])?;
    let apply = ["apply", "--server-side", "-f", &path, ACCOUNT];
    for (name, kind, words) in [
        (SECRETS[3], "kubernetes.io/service-account-token", "no token of an account"),
        ("other", "Opaque", "cannot patch resource \"secrets\""),
    ] {
        std::fs::write(&file, secret(name, kind))?;
        let said = refused(test.cluster.output(&apply))?;
        ensure!(said.contains(words), "{name} {kind}: {said}");
        let said = refused(test.cluster.output(&["create", "-f", &path, ACCOUNT]))?;
        ensure!(said.contains("cannot create resource \"secrets\""), "{name} {kind}: {said}");
    }
    std::fs::write(&file, secret(SECRETS[3], "Opaque"))?;
    test.cluster.output(&apply)?;
    test.kubectl("scale deployment/kubevirt-api -n kubevirt --replicas=1")?;
    comes_back(SECRETS[3], &Value::Null).map(drop)
}

#[test]
fn machines_are_started_and_stopped_through_the_clusters_api_server_by_who_may() -> Result<()> {
    let test = Test::whole(Options { name: "subresources".to_owned(), nodes: 1, ..Options::default() })?;
    registered_with_the_cluster(&test)?;
    runs(&test)?;
    virtctl(&test)?;
    forged(&test)?;
    writes_nothing_else(&test)?;
    verbs_are_missed(&test)?;
    secrets_come_back(&test)
}
