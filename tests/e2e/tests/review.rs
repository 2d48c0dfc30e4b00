//! `ferrovirt scc --cluster` beside the cluster that it asks: what it says is what the cluster then does.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const POD: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: logs, namespace: shop}
spec:
  containers:
  - {name: c, image: i, securityContext: {capabilities: {add: [NET_RAW]}}, volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, hostPath: {path: /var/log}}]
";

const RIGHT: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: least, namespace: shop}
rules:
- {apiGroups: [security.openshift.io], resources: [securitycontextconstraints], resourceNames: [logs-least], verbs: [use]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: least, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: least}
subjects: [{kind: ServiceAccount, name: alice, namespace: shop}]
";

/// What `ferrovirt scc` says on standard output, and its exit code.
fn scc(cluster: &Cluster, words: &[&str]) -> Result<(String, Option<i32>)> {
    let output = cluster.ferrovirt(&[&["scc"], words].concat())?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() != Some(2), "{words:?}: {said}");
    Ok((String::from_utf8(output.stdout)?, output.status.code()))
}

/// A service account that may make pods in its namespace, and its kubeconfig.
fn alice(cluster: &Cluster) -> Result<PathBuf> {
    cluster.kubectl(&["create", "namespace", "shop"])?;
    cluster.kubectl(&["create", "serviceaccount", "alice", "-n", "shop"])?;
    cluster.kubectl(&["create", "role", "pods", "-n", "shop", "--verb=create", "--resource=pods"])?;
    let who = "--serviceaccount=shop:alice";
    cluster.kubectl(&["create", "rolebinding", "pods", "-n", "shop", "--role=pods", who])?;
    let token = cluster.kubectl(&["create", "token", "alice", "-n", "shop"])?;
    let text = cluster.kubectl(&["config", "view", "--raw", "-o", "json"])?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["users"][0]["user"] = json!({"token": token.trim()});
    let path = cluster.data().join("alice.kubeconfig");
    fs::write(&path, config.to_string())?;
    Ok(path)
}

/// Makes the pod as alice; what kubectl said and whether it worked.
fn make(cluster: &Cluster, alice: &Path, pod: &str) -> Result<(bool, String)> {
    let output = Command::new("kubectl")
        .args(["create", "-f", pod, "--kubeconfig"])
        .arg(alice)
        .env("HOME", cluster.data())
        .output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn the_least_scc_that_is_generated_admits_the_pod_and_nothing_was_said_that_is_not_so() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let alice = alice(&cluster)?;
    let pod = cluster.data().join("logs.yaml");
    fs::write(&pod, POD)?;
    let pod = pod.to_string_lossy().into_owned();
    let review = ["review", "-f", &pod, "--cluster", "--serviceaccount", "shop/alice"];

    // Refused, in the review and in the cluster, for the same reasons.
    let (text, code) = scc(&cluster, &review)?;
    ensure!(code == Some(1) && text.contains("Pod logs in namespace shop: refused"), "{text}");
    ensure!(text.contains("restricted-v2, usable by service account shop/alice"), "{text}");
    let (made, said) = make(&cluster, &alice, &pod)?;
    ensure!(!made, "the pod was made without the right");
    for reason in [
        ".spec.volumes[0]: Invalid value: \"hostPath\": hostPath volumes are not allowed to be used",
        ".containers[0].capabilities.add: Invalid value: \"NET_RAW\": capability may not be added",
    ] {
        ensure!(text.contains(reason), "{reason} is not in the review: {text}");
        ensure!(said.contains(&format!("provider restricted-v2: {reason}")), "{reason} is not in: {said}");
    }

    // The answer to who can is applied as it is, the right to use it given, and the pod goes in under it.
    let (answer, code) = scc(&cluster, &["who-can", "-f", &pod, "--cluster"])?;
    ensure!(
        code == Some(0) && answer.contains("the least SCC that admits it is kubevirt-controller"),
        "{answer}"
    );
    cluster.apply(&answer)?;
    let stored = cluster.json(&["get", "scc", "logs-least"])?;
    ensure!(stored["volumes"].as_array().is_some_and(|v| v.contains(&json!("hostPath"))), "{stored}");
    ensure!(stored["allowPrivilegedContainer"] == false && stored["users"] == json!([]), "{stored}");
    ensure!(!make(&cluster, &alice, &pod)?.0, "an SCC that nobody may use let the pod in");
    cluster.apply(RIGHT)?;
    let (text, code) = scc(&cluster, &review)?;
    let admitted = "admitted by logs-least, by the right of service account shop/alice";
    ensure!(code == Some(0) && text.contains(admitted), "{text}");
    let (made, said) = make(&cluster, &alice, &pod)?;
    ensure!(made, "{said}");
    let object = cluster.json(&["get", "pod", "logs", "-n", "shop"])?;
    ensure!(object["metadata"]["annotations"]["openshift.io/scc"] == "logs-least", "{object}");
    // What the review said it would set is what was set.
    let group = &object["spec"]["securityContext"]["fsGroup"];
    let set = format!("sets .spec.securityContext.fsGroup: {group}");
    ensure!(group.is_u64() && text.contains(&set), "{object}\n{text}");

    // And little else.
    let privileged =
        POD.replace("{capabilities: {add: [NET_RAW]}}", "{privileged: true}").replace("logs,", "more,");
    let more = cluster.data().join("more.yaml");
    fs::write(&more, privileged)?;
    let (made, said) = make(&cluster, &alice, &more.to_string_lossy())?;
    let expected = "provider logs-least: .containers[0].privileged: Invalid value: true";
    ensure!(!made && said.contains(expected), "{said}");
    let (answer, _) = scc(&cluster, &["who-can", "-f", &pod, "--cluster", "-o", "json"])?;
    let answer: Value = serde_json::from_str(&answer)?;
    let least = &answer["objects"][0]["least"];
    ensure!(least["scc"] == "logs-least", "{answer}");
    let holders = least["usableBy"].to_string();
    ensure!(holders.contains("shop") && holders.contains("alice"), "{answer}");
    cluster.kubectl(&["delete", "pod", "logs", "-n", "shop", "--force", "--grace-period=0"])?;
    cluster.stop().context("the cluster does not stop")
}
