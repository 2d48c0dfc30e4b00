//! What stands in `deploy/` is applied as people apply it: by plain, client-side `kubectl apply -f`, on a cluster that has
//! never seen it; then SCC admission does its work for ordinary Deployments.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_cluster::{
    Cluster, Own,
    images::{self, TOOLS},
    wait,
};
use serde_json::Value;
use std::{io::Write as _, process::Stdio, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(180);
/// The image's name in deploy/scc-webhook.yaml.
const IMAGE: &str = concat!("localhost/ferrovirt/ferrovirt:", env!("CARGO_PKG_VERSION"));

/// Applies a file of `deploy/`; kubectl's lines.
fn apply(cluster: &Cluster, file: &str) -> Result<String> {
    let path = ferrovirt_e2e::root().join("deploy").join(file);
    cluster.output(&["apply", "-f", &path.to_string_lossy()]).with_context(|| file.to_owned())
}

/// Applies a file for the first time, and once more, which changes nothing.
fn apply_twice(cluster: &Cluster, file: &str) -> Result<()> {
    let first = apply(cluster, file)?;
    ensure!(first.lines().all(|line| line.ends_with(" created")), "{file}: {first}");
    let second = apply(cluster, file)?;
    // kubectl replaces the selector of a disruption budget each time, with itself.
    let same = |line: &str| line.ends_with(" unchanged") || line.starts_with("poddisruptionbudget");
    ensure!(second.lines().all(same), "{file}, once more: {second}");
    Ok(())
}

fn established(cluster: &Cluster) -> Result<()> {
    cluster.output(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).map(drop)
}

/// What is said to a manifest that is refused.
fn refused(cluster: &Cluster, manifest: &str) -> Result<String> {
    let mut kubectl =
        cluster.kubectl(&["create", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    kubectl.stdin.take().context("no input")?.write_all(manifest.as_bytes())?;
    let output = kubectl.wait_with_output()?;
    ensure!(!output.status.success(), "it was taken: {manifest}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// An SCC with these strategies.
fn scc(strategies: &str) -> String {
    format!(
        "
apiVersion: security.openshift.io/v1
kind: SecurityContextConstraints
metadata: {{name: tried}}
allowHostDirVolumePlugin: false
allowHostIPC: false
allowHostNetwork: false
allowHostPID: false
allowHostPorts: false
allowPrivilegedContainer: false
allowedCapabilities: []
defaultAddCapabilities: []
priority: 0
readOnlyRootFilesystem: false
requiredDropCapabilities: []
volumes: []
{strategies}
"
    )
}

/// An SCC that no pod can be checked under would keep all pods away: the schema alone refuses it.
fn schema(cluster: &Cluster) -> Result<()> {
    let any = "{type: RunAsAny}";
    for (user, label, said) in [
        (None, Some(any), "runAsUser: Required value"),
        (Some(any), None, "seLinuxContext: Required value"),
        (Some("{}"), Some(any), "runAsUser.type: Required value"),
        (Some(any), Some("{}"), "seLinuxContext.type: Required value"),
        (Some("{type: MustRunAs}"), Some(any), "MustRunAs requires a UID"),
        (
            Some("{type: MustRunAsRange, uidRangeMin: 5}"),
            Some(any),
            "MustRunAsRange requires both uidRangeMin and uidRangeMax",
        ),
    ] {
        let line = |name: &str, value: Option<&str>| {
            value.map_or_else(String::new, |value| format!("{name}: {value}\n"))
        };
        let strategies = line("runAsUser", user) + &line("seLinuxContext", label);
        let text = refused(cluster, &scc(&strategies))?;
        ensure!(text.contains(said), "{strategies}: {text}");
    }
    let fine = "runAsUser: {type: MustRunAsRange}\nseLinuxContext: {type: MustRunAs}";
    cluster.apply(&scc(fine))?;
    let stored = cluster.json(&["get", "scc", "tried"])?;
    for strategy in ["fsGroup", "supplementalGroups"] {
        ensure!(stored[strategy]["type"] == "RunAsAny", "{stored}");
    }
    cluster.output(&["delete", "scc", "tried"]).map(drop)
}

fn deployment(name: &str, container: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: team}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - {{name: c, image: {TOOLS}, imagePullPolicy: Never, command: [sleep, "86400"]{container}}}
"#
    )
}

fn pods(cluster: &Cluster, app: &str) -> Result<Vec<Value>> {
    let pods = cluster.json(&["get", "pods", "-n", "team", "-l", &format!("app={app}")])?;
    Ok(pods["items"].as_array().cloned().unwrap_or_default())
}

/// Ordinary pods run as restricted-v2 with an id of their namespace's range; privileged ones are refused in OKD's words.
fn admission(cluster: &Cluster) -> Result<()> {
    let webhook = ["rollout", "status", "deployment/scc-webhook", "-n", "scc-webhook", "--timeout=180s"];
    cluster
        .output(&webhook)
        .with_context(|| cluster.output(&["describe", "pods", "-n", "scc-webhook"]).unwrap_or_default())?;
    cluster.output(&["create", "namespace", "team"])?;
    cluster.apply(&deployment("plain", ""))?;
    cluster.apply(&deployment("privileged", ", securityContext: {privileged: true}"))?;
    cluster.output(&["rollout", "status", "deployment/plain", "-n", "team", "--timeout=180s"])?;
    let namespace = cluster.json(&["get", "namespace", "team"])?;
    let range = &namespace["metadata"]["annotations"]["openshift.io/sa.scc.uid-range"];
    let first = range.as_str().and_then(|range| range.split('/').next()).context("no range was given")?;
    let plain = pods(cluster, "plain")?;
    ensure!(plain.len() == 2, "{plain:?}");
    for pod in &plain {
        ensure!(pod["metadata"]["annotations"]["openshift.io/scc"] == "restricted-v2", "{pod}");
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        // As the process itself sees it, not as the pod says it.
        let id = cluster.output(&["exec", "-n", "team", name, "--", "id", "-u"])?;
        ensure!(id.trim() == first, "{name} runs as {id}, the range is {range}");
    }
    let words = wait("the refusal of the privileged Deployment", TIMEOUT, || {
        let events =
            cluster.json(&["get", "events", "-n", "team", "--field-selector=reason=FailedCreate"])?;
        let event = events["items"].as_array().and_then(|all| all.first());
        Ok(event.and_then(|event| event["message"].as_str()).map(str::to_owned))
    })?;
    let frame = "admission webhook \"pods.scc.ferrovirt.io\" denied the request: pods \"privileged-";
    let reason = "Privileged containers are not allowed";
    ensure!(words.contains(frame) && words.contains(reason), "{words}");
    ensure!(pods(cluster, "privileged")?.is_empty(), "a privileged pod was made");
    Ok(())
}

#[test]
fn plain_apply_installs_everything_at_the_first_try_and_sccs_hold_for_deployments() -> Result<()> {
    let program = ferrovirt_e2e::Cluster::binaries()?.join("ferrovirt");
    let cluster = Own::start("manifests")?;
    let archive = cluster.layout().path("ferrovirt.tar");
    images::program(IMAGE, &program)?.write(&archive)?;
    cluster.load(&[archive])?;

    apply_twice(&cluster, "ferrovirt.yaml")?;
    apply_twice(&cluster, "scc-definition.yaml")?;
    established(&cluster)?;
    schema(&cluster)?;
    apply_twice(&cluster, "kubevirt-scc.yaml")?;
    let said = apply(&cluster, "scc-webhook.yaml")?;
    ensure!(said.lines().all(|line| line.ends_with(" created")), "{said}");
    admission(&cluster)
}
