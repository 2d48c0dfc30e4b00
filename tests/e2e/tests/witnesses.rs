//! Witnesses of the verbs of the node agent, in both of its roles: each verb is taken out of the role that is
//! installed, the agent starts again, a machine lives, and the API server says that it has refused exactly that verb.

#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, bail, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, wait_for};
use ferrovirt_privilege::{
    Right, Scenario, Subject,
    scenario::{registered, witnessed},
};
use serde_json::{Value, json};

/// A machine that reads a secret, a claim and its volume, and a config map.
const MACHINE: &str = r"
apiVersion: v1
kind: Secret
metadata: {name: seed}
stringData: {userdata: '#!/bin/sh'}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: witness}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: witness
  hostPath: {path: PLACE, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: witness}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: witness
  resources: {requests: {storage: 1Mi}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: witness}
spec:
  terminationGracePeriodSeconds: 0
  domain:
    memory: {guest: 64Mi}
    devices:
      autoattachGraphicsDevice: false
      disks:
      - {name: claimed, disk: {bus: virtio}}
      - {name: seed, disk: {bus: virtio}}
  volumes:
  - {name: claimed, persistentVolumeClaim: {claimName: witness}}
  - {name: seed, cloudInitNoCloud: {secretRef: {name: seed}}}
";

/// A verb with the role that gives it: a cluster role, or a role in a namespace.
struct Verb {
    role: Vec<&'static str>,
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
}

fn verbs(subject: Subject) -> Vec<Verb> {
    let role = if subject == Subject::Node { "system:node" } else { "kubevirt-handler" };
    let mut all = Vec::new();
    for grant in registered(Scenario::Whole).filter_map(witnessed).filter(|grant| grant.subject == subject) {
        for right in grant.rights {
            let Right::Verb { group, resource, verb, namespace, .. } = right else { continue };
            let role = match namespace {
                Some(namespace) => vec!["role", role, "-n", namespace],
                None => vec!["clusterrole", role],
            };
            all.push(Verb { role, group, resource, verb });
        }
    }
    all
}

/// The rules without one verb on one resource.
fn without(rules: &Value, verb: &Verb) -> Value {
    let has = |list: &Value, text: &str| list.as_array().is_some_and(|all| all.iter().any(|one| one == text));
    let rest = |list: &Value, gone: &str| -> Vec<Value> {
        list.as_array().into_iter().flatten().filter(|one| *one != gone).cloned().collect()
    };
    let mut out = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        let field = |name: &str| rule.get(name).unwrap_or(&Value::Null);
        let concerned = has(field("apiGroups"), verb.group)
            && has(field("resources"), verb.resource)
            && has(field("verbs"), verb.verb);
        if !concerned {
            out.push(rule.clone());
            continue;
        }
        let (resources, verbs) = (rest(field("resources"), verb.resource), rest(field("verbs"), verb.verb));
        if !resources.is_empty() {
            out.push(json!({"apiGroups": [verb.group], "resources": resources, "verbs": field("verbs")}));
        }
        if !verbs.is_empty() {
            out.push(json!({"apiGroups": [verb.group], "resources": [verb.resource], "verbs": verbs}));
        }
    }
    Value::Array(out)
}

/// Arguments of kubectl about the verb's role.
fn role<'a>(verb: &Verb, arguments: &[&'a str]) -> Vec<&'a str> {
    arguments.iter().copied().chain(verb.role.iter().copied()).collect()
}

/// Kills the agent and waits for the next one.
fn another_agent(cluster: &Cluster) -> Result<()> {
    let agent = cluster.agent().context("no agent")?;
    agent.signal(rustix::process::Signal::KILL)?;
    wait_for("another agent", TIMEOUT, || {
        Ok(cluster.agent().filter(|other| other.pid != agent.pid && other.alive()).map(drop))
    })
}

/// Runs the life of a machine until the server has refused the verb to the agent.
fn missed(cluster: &Cluster, manifest: &str, verb: &Verb) -> Result<()> {
    let full = cluster.json(&role(verb, &["get"]))?["rules"].clone();
    let lesser = without(&full, verb);
    ensure!(lesser != full, "{:?} has no {} {}", verb.role, verb.verb, verb.resource);
    let patch = |rules: &Value| {
        let patch = json!({"rules": rules}).to_string();
        cluster.kubectl(&role(verb, &["patch", "--type=merge", "-p", &patch]))
    };
    let words =
        format!("cannot {} resource \"{}\" in API group \"{}\"", verb.verb, verb.resource, verb.group);
    let before = cluster.log().len();
    patch(&lesser)?;
    // What it asks for once is asked for again: lists and watches, its node and its lease.
    another_agent(cluster)?;
    if verb.verb == "create" && verb.resource == "nodes" {
        cluster.kubectl(&["delete", "node", "--all", "--wait=false"])?;
    }
    if verb.verb == "create" && verb.resource == "leases" {
        cluster.kubectl(&["delete", "lease", "--all", "-n", "kube-node-lease"])?;
    }
    cluster.apply(manifest)?;
    let mut deleted = false;
    let seen = wait_for(&words, TIMEOUT, || {
        let log = cluster.log();
        if log.get(before..).is_some_and(|new| new.contains(&words)) {
            return Ok(Some(()));
        }
        // The end of a machine is a step of its own.
        if !deleted && cluster.json(&["get", "vmi", "witness"])?["status"]["phase"] == "Running" {
            cluster.kubectl(&["delete", "vmi", "witness", "--wait=false"])?;
            deleted = true;
        }
        Ok(None)
    });
    patch(&full)?;
    // It waits longer and longer between its tries.
    another_agent(cluster)?;
    cluster.kubectl(&["delete", "vmi", "witness", "--ignore-not-found", "--timeout=60s"])?;
    seen
}

#[test]
fn each_verb_of_the_node_agent_is_missed() -> Result<()> {
    let host = tempfile::Builder::new().prefix("ferrovirt-witness-").tempdir()?;
    let manifest = MACHINE.replace("PLACE", &host.path().to_string_lossy());
    let options = Options {
        environment: vec![("RUST_LOG", "info,ferrovirt_apiserver::server=debug".to_owned())],
        ..Options::default()
    };
    let mut cluster = Cluster::start(options)?;
    // What everybody may do, the agent may too.
    cluster.kubectl(&["delete", "clusterrolebinding", "kubevirt.io:default"])?;
    let mut ran = 0;
    let mut failed = Vec::new();
    for subject in [Subject::NodeAgent, Subject::Node] {
        for verb in verbs(subject) {
            ran += 1;
            if let Err(error) = missed(&cluster, &manifest, &verb) {
                failed.push(format!("{} {}: {error:#}", verb.verb, verb.resource));
            }
        }
    }
    cluster.stop()?;
    ensure!(ran > 15, "{ran} verbs");
    if !failed.is_empty() {
        bail!("nothing was refused without:\n{}", failed.join("\n"));
    }
    Ok(())
}
