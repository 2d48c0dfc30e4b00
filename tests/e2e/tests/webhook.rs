//! SCC admission as on any Kubernetes: the manifests that we ship are applied, `ferrovirt serve webhook` runs with its own
//! account, and the API server asks it over HTTPS.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, root, wait_for};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// Where the webhook listens; the Service of the manifests leads there.
const ADDRESS: &str = "127.77.7.7";
/// Where a second replica listens.
const OTHER: &str = "127.77.7.8";
const SELF_SIGNED: [&str; 3] = ["--self-signed-secret", "scc-webhook-certificate", "--ranges"];

/// What the manifests have and this API does not serve: somebody else runs the program here.
const NOT_SERVED: [&str; 2] = ["kind: Deployment\n", "kind: PodDisruptionBudget\n"];

const POD: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  containers: [{name: c, image: i}]
";

const HOST_PATH: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  containers: [{name: c, image: i, securityContext: {privileged: true}}]
  volumes: [{name: v, hostPath: {path: /}}]
";

/// A running `ferrovirt serve webhook`; ended on drop.
struct Webhook(Child);

impl Webhook {
    fn start(kubeconfig: &Path, log: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_at(ADDRESS, kubeconfig, log, arguments)
    }

    fn start_at(address: &str, kubeconfig: &Path, log: &Path, arguments: &[&str]) -> Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(Cluster::binaries()?.join("ferrovirt"))
            .args(["serve", "webhook", "--listen", &format!("{address}:443"), "--kubeconfig"])
            .arg(kubeconfig)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }

    /// Ends it as a kubelet does.
    fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.0.id())?).context("pid 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        ensure!(self.0.wait()?.success(), "the webhook did not end well");
        Ok(())
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// kubectl beside the cluster's: towards the webhook itself, which knows no users.
fn towards_webhook(arguments: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = Command::new("kubectl")
        // Without any credential kubectl asks the person for one.
        .args(["--kubeconfig=/dev/null", "--token=none", "--insecure-skip-tls-verify", "-s"])
        .arg(format!("https://{ADDRESS}"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A server that refuses early closes the pipe's other end early.
    let _ = child.stdin.take().context("no input")?.write_all(input);
    Ok(child.wait_with_output()?)
}

/// The administrator's kubeconfig with a token in the place of the certificate.
fn kubeconfig(cluster: &Cluster, namespace: &str, account: &str) -> Result<PathBuf> {
    let token = cluster.kubectl(&["create", "token", account, "-n", namespace])?;
    let text = cluster.kubectl(&["config", "view", "--raw", "-o", "json"])?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["users"][0]["user"] = json!({"token": token.trim()});
    let path = cluster.data().join(format!("{account}.kubeconfig"));
    fs::write(&path, config.to_string())?;
    Ok(path)
}

/// A namespace with somebody in it who may make pods and no more.
fn team(cluster: &Cluster) -> Result<PathBuf> {
    cluster.kubectl(&["create", "namespace", "team"])?;
    cluster.kubectl(&["create", "serviceaccount", "alice", "-n", "team"])?;
    cluster.kubectl(&["create", "role", "pods", "-n", "team", "--verb=create", "--resource=pods"])?;
    let who = "--serviceaccount=team:alice";
    cluster.kubectl(&["create", "rolebinding", "pods", "-n", "team", "--role=pods", who])?;
    kubeconfig(cluster, "team", "alice")
}

/// Makes a pod as somebody; what kubectl said and whether it worked.
fn make(cluster: &Cluster, who: &Path, namespace: &str, pod: &str) -> Result<(bool, String)> {
    let file = cluster.data().join("pod.yaml");
    fs::write(&file, pod)?;
    let output = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(who)
        .args(["create", "-n", namespace, "-f"])
        .arg(&file)
        .env("HOME", cluster.data())
        .output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn named(name: &str) -> String {
    POD.replace("NAME", name)
}

/// The SCC's own words in a refusal.
fn reason(said: &str) -> Result<&str> {
    let at = said.find("pods \"host\" is forbidden").with_context(|| format!("no refusal in {said}"))?;
    Ok(said[at..].trim())
}

/// A cluster without SCC admission of its own, with our manifests applied; the account's kubeconfig.
fn install() -> Result<(Cluster, PathBuf)> {
    let options =
        Options { arguments: vec!["--scc-admission".to_owned(), "webhook".to_owned()], ..Options::default() };
    let cluster = Cluster::start(options)?;
    let manifests = fs::read_to_string(root().join("deploy/scc-webhook.yaml"))?;
    let served: Vec<&str> = manifests
        .split("---\n")
        .filter(|one| one.contains("kind: ") && !NOT_SERVED.iter().any(|kind| one.contains(kind)))
        .collect();
    ensure!(served.len() > 20, "the manifests are not separated as expected");
    cluster.kubectl(&["apply", "-f", "deploy/scc-definition.yaml"])?;
    cluster.apply(&served.join("---\n"))?;
    lead_to(&cluster, ADDRESS)?;
    let account = kubeconfig(&cluster, "scc-webhook", "scc-webhook")?;
    Ok((cluster, account))
}

/// The Deployment's place is taken by programs beside the cluster, its Service by a name for the address of one of them.
fn lead_to(cluster: &Cluster, address: &str) -> Result<()> {
    let external = json!({"spec": {"type": "ExternalName", "externalName": address}}).to_string();
    cluster.kubectl(&["patch", "service", "scc-webhook", "-n", "scc-webhook", "-p", &external])?;
    Ok(())
}

#[test]
fn pods_are_admitted_by_the_webhook_as_in_process() -> Result<()> {
    let (mut cluster, account) = install()?;
    let alice = team(&cluster)?;
    let log = cluster.data().join("webhook.log");
    let said = || fs::read_to_string(&log).unwrap_or_default();

    // Nobody there yet: what is protected is refused, the rest goes on.
    let (made, text) = make(&cluster, &alice, "team", &named("early"))?;
    let call = "Internal error occurred: failed calling webhook \"pods.scc.ferrovirt.io\": failed to call webhook: \
                Post \"https://scc-webhook.scc-webhook.svc:443/mutate/pods?timeout=15s\":";
    ensure!(!made && text.contains(call), "{text}");

    let webhook = Webhook::start(&account, &log, &SELF_SIGNED)?;
    wait_for("the webhook to be ready", TIMEOUT, || {
        let output = towards_webhook(&["get", "--raw", "/readyz"], b"")?;
        Ok((output.status.success() && output.stdout == b"ok").then_some(()))
    })
    .with_context(said)?;
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        let object = cluster.json(&["get", kind, "scc-webhook"])?;
        let bundles = object["webhooks"].as_array().context("no webhooks")?.iter();
        ensure!(bundles.clone().all(|one| one["clientConfig"]["caBundle"].is_string()), "{object}");
    }

    // Admitted, filled in from the namespace's own range, which the webhook gave it.
    let (made, text) = make(&cluster, &alice, "team", &named("plain"))?;
    ensure!(made, "{text}\n{}", said());
    let pod = cluster.json(&["get", "pod", "plain", "-n", "team"])?;
    let annotations = &pod["metadata"]["annotations"];
    ensure!(annotations["openshift.io/scc"] == "restricted-v2", "{pod}");
    ensure!(annotations["security.openshift.io/validated-scc-subject-type"] == "user", "{pod}");
    let namespaces = cluster.json(&["get", "namespaces"])?;
    let mut ranges = Vec::new();
    for namespace in namespaces["items"].as_array().context("no namespaces")? {
        ranges.extend(namespace["metadata"]["annotations"]["openshift.io/sa.scc.uid-range"].as_str());
    }
    let team = cluster.json(&["get", "namespace", "team"])?;
    let range =
        team["metadata"]["annotations"]["openshift.io/sa.scc.uid-range"].as_str().context("no range")?;
    let uid = pod["spec"]["containers"][0]["securityContext"]["runAsUser"].as_u64();
    ensure!(uid == range.split('/').next().and_then(|start| start.parse().ok()), "{uid:?} and {range}");
    let all = ranges.len();
    ranges.sort_unstable();
    ranges.dedup();
    ensure!(ranges.len() == all && all >= 5, "a range was given out twice: {ranges:?}");

    // Refused in the words of the server's own admission.
    let (made, refusal) = make(&cluster, &alice, "team", HOST_PATH)?;
    ensure!(!made, "a privileged pod was made");
    let frame = "admission webhook \"pods.scc.ferrovirt.io\" denied the request: pods \"host\" is forbidden";
    ensure!(refusal.contains(frame), "{refusal}");
    let mut other = Cluster::start(Options::default())?;
    let other_alice = self::team(&other)?;
    let (made, in_process) = make(&other, &other_alice, "team", HOST_PATH)?;
    ensure!(!made, "a privileged pod was made");
    ensure!(reason(&refusal)? == reason(&in_process)?, "{refusal}\n{in_process}");
    other.stop()?;

    // A right that is given, and taken away again, counts at once.
    // `kubectl create role` knows no verb `use` on this kind.
    let role = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: privileged, namespace: team}
rules:
- {apiGroups: [security.openshift.io], resources: [securitycontextconstraints], resourceNames: [privileged], verbs: [use]}
";
    cluster.apply(role)?;
    let who = "--serviceaccount=team:alice";
    cluster.kubectl(&["create", "rolebinding", "privileged", "-n", "team", "--role=privileged", who])?;
    wait_for("the right to count", TIMEOUT, || {
        Ok(make(&cluster, &alice, "team", HOST_PATH)?.0.then_some(()))
    })
    .with_context(said)?;
    let pod = cluster.json(&["get", "pod", "host", "-n", "team"])?;
    ensure!(pod["metadata"]["annotations"]["openshift.io/scc"] == "privileged", "{pod}");

    entry()?;
    bad_input(&cluster)?;
    outage(&cluster, &alice, webhook)?;

    // The same certificate from files.
    let secret = cluster.json(&["get", "secret", "scc-webhook-certificate", "-n", "scc-webhook"])?;
    let mut files = Vec::new();
    for key in ["tls.crt", "tls.key"] {
        let file = cluster.data().join(key);
        let template = format!("go-template={{{{index .data {key:?} | base64decode}}}}");
        let arguments = ["get", "secret", "scc-webhook-certificate", "-n", "scc-webhook", "-o", &template];
        fs::write(&file, cluster.kubectl(&arguments)?)?;
        files.push(file.to_string_lossy().into_owned());
    }
    ensure!(secret["data"]["renew-at"].is_string(), "{secret}");
    let webhook = Webhook::start(&account, &log, &["--tls-cert", &files[0], "--tls-key", &files[1]])?;
    wait_for("pods to be admitted again", TIMEOUT, || {
        Ok(make(&cluster, &alice, "team", &named("again"))?.0.then_some(()))
    })
    .with_context(said)?;
    webhook.stop()?;
    let configurations = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
    cluster.kubectl(&["delete", configurations, "--all"])?;
    cluster.kubectl(&["delete", "pods", "--all", "-n", "team", "--force", "--grace-period=0"])?;
    cluster.kubectl(&["delete", "pods", "--all", "-n", "kube-system", "--force", "--grace-period=0"])?;
    cluster.stop()
}

/// Only who could have made a pod may enter it. This API has no `exec`; the webhook is asked as one that has would ask.
fn entry() -> Result<()> {
    let ask = |pod: &str, groups: &[&str]| -> Result<Value> {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CONNECT", "namespace": "team", "name": pod, "subResource": "exec",
            "resource": {"group": "", "resource": "pods"}, "userInfo": {"username": "eve", "groups": groups}}});
        let path = ["create", "--raw", "/validate/entry", "-f", "-"];
        let output = towards_webhook(&path, review.to_string().as_bytes())?;
        let answer: Value = serde_json::from_slice(&output.stdout).context("no answer")?;
        Ok(answer["response"].clone())
    };
    let answer = ask("host", &["system:authenticated"])?;
    let message = answer["status"]["message"].as_str().unwrap_or_default();
    let expected =
        "exec operation is not allowed because the pod's security context exceeds your permissions";
    ensure!(answer["allowed"] == false && message.starts_with(expected), "{answer}");
    ensure!(ask("plain", &["system:authenticated"])?["allowed"] == true, "an ordinary pod cannot be entered");
    ensure!(ask("host", &["system:masters"])?["allowed"] == true, "the administrator cannot enter");
    ensure!(ask("missing", &["system:masters"])?["status"]["code"] == 404, "a missing pod is there");
    Ok(())
}

/// What is no review is refused by HTTP, what is a bad SCC by the webhook, and the webhook lives on.
fn bad_input(cluster: &Cluster) -> Result<()> {
    let path = ["create", "--raw", "/mutate/pods", "-f", "-"];
    let review = |version: &str| json!({"apiVersion": version, "kind": "AdmissionReview"}).to_string();
    for (body, expected) in [
        ("{}".to_owned(), "expected an AdmissionReview"),
        ("no json".to_owned(), "the body is no AdmissionReview"),
        (review("admission.k8s.io/v1beta1"), "expected an AdmissionReview"),
        (review("admission.k8s.io/v1"), "has no request with a uid"),
        (format!("{{\"pad\": \"{}\"}}", "x".repeat(7 << 20)), "may have 7340032 bytes at the most"),
    ] {
        // kubectl shows the text of such an answer only when it is asked to be talkative.
        let output = towards_webhook(&[&path[..], &["-v=8"]].concat(), body.as_bytes())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(expected), "{expected}: {said}");
    }
    // Thousands of containers, each of them wrong: an answer, and a refusal.
    let containers: Vec<Value> = (0..3000)
        .map(|n| json!({"name": format!("c{n}"), "securityContext": {"privileged": true}, "ports": [{"hostPort": 1}]}))
        .collect();
    let hostile = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "namespace": "team", "resource": {"group": "", "resource": "pods"},
        "userInfo": {"username": "eve", "groups": ["system:authenticated"]},
        "object": {"metadata": {"name": "many"}, "spec": {"containers": containers, "hostNetwork": true}},
    }});
    let output = towards_webhook(&path, hostile.to_string().as_bytes())?;
    let answer: Value = serde_json::from_slice(&output.stdout).context("no answer to a large pod")?;
    ensure!(answer["response"]["allowed"] == false, "{answer}");
    ensure!(answer["response"]["uid"] == "u", "{answer}");

    let bad = r"
apiVersion: security.openshift.io/v1
kind: SecurityContextConstraints
metadata: {name: bad}
priority: -1
runAsUser: {type: Nobody}
seLinuxContext: {type: RunAsAny}
";
    let said = match cluster.apply(bad) {
        Ok(text) => anyhow::bail!("a bad SCC was stored: {text}"),
        Err(error) => format!("{error:#}"),
    };
    // The server itself does not look at SCCs here: all reasons come from the webhook.
    for expected in ["priority: Invalid value: -1", "runAsUser.type"] {
        ensure!(said.contains(expected), "{said}");
    }
    cluster.apply(&bad.replace("-1", "1").replace("Nobody", "RunAsAny").replace("bad", "good"))?;
    let stored = cluster.json(&["get", "scc", "good"])?;
    ensure!(stored["fsGroup"]["type"] == "RunAsAny", "not filled in: {stored}");
    cluster.kubectl(&["delete", "scc", "good"])?;
    Ok(())
}

/// While the webhook is down: pods are refused, system namespaces and status writes go on.
fn outage(cluster: &Cluster, alice: &Path, webhook: Webhook) -> Result<()> {
    webhook.stop()?;
    let (made, said) = make(cluster, alice, "team", &named("late"))?;
    let expected = format!("dial tcp {ADDRESS}:443: connect: connection refused");
    ensure!(!made && said.contains(&expected), "{said}");
    let (made, said) = make(cluster, &cluster.kubeconfig(), "kube-system", &named("system"))?;
    ensure!(made, "{said}");
    let status = r#"{"status": {"message": "written"}}"#;
    let patch = ["patch", "pod", "plain", "-n", "team", "--subresource=status", "--type=merge", "-p", status];
    cluster.kubectl(&patch)?;
    let pod = cluster.json(&["get", "pod", "plain", "-n", "team"])?;
    ensure!(pod["status"]["message"] == "written", "{pod}");
    Ok(())
}

/// Whether the server at an address is ready and shows a certificate of the authority in a file.
fn shows(address: &str, authority: &Path) -> Result<bool> {
    let output = Command::new("kubectl")
        .args(["--kubeconfig=/dev/null", "--token=none", "--tls-server-name=scc-webhook.scc-webhook.svc"])
        .arg(format!("--certificate-authority={}", authority.display()))
        .args(["-s", &format!("https://{address}"), "get", "--raw", "/readyz"])
        .stdin(Stdio::null())
        .output()?;
    Ok(output.status.success() && output.stdout == b"ok")
}

/// Waits for another authority than `old`, and writes it into a file.
fn newest_authority(cluster: &Cluster, old: &str) -> Result<(String, PathBuf)> {
    let template = "go-template={{with .data}}{{index . \"ca.crt\" | base64decode}}{{end}}";
    let words = ["get", "secret", "scc-webhook-certificate", "-n", "scc-webhook", "-o", template];
    const END: &str = "-----END CERTIFICATE-----\n";
    let newest = wait_for("a new certificate", TIMEOUT, || {
        let bundle = cluster.kubectl(&words)?;
        let first = bundle.split_inclusive(END).next().filter(|one| one.ends_with(END));
        Ok(first.filter(|one| *one != old).map(str::to_owned))
    })?;
    let file = cluster.data().join("authority.pem");
    fs::write(&file, &newest)?;
    Ok((newest, file))
}

#[test]
fn two_replicas_share_certificate_and_ledger() -> Result<()> {
    let (mut cluster, account) = install()?;
    let alice = team(&cluster)?;
    let log = cluster.data().join("webhook.log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let first = Webhook::start(&account, &log, &SELF_SIGNED)?;
    let second = Webhook::start_at(OTHER, &account, &log, &SELF_SIGNED)?;
    let (authority, file) = newest_authority(&cluster, "")?;
    for address in [ADDRESS, OTHER] {
        wait_for("both to be ready with one certificate", TIMEOUT, || {
            Ok(shows(address, &file)?.then_some(()))
        })
        .with_context(said)?;
    }

    // Many namespaces at once, two that give out ranges: each block once.
    let many: Vec<String> =
        (0..30).map(|n| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: many-{n}}}\n")).collect();
    cluster.apply(&many.join("---\n"))?;
    let ranges = || -> Result<Vec<Option<String>>> {
        let namespaces = cluster.json(&["get", "namespaces"])?;
        let list = namespaces["items"].as_array().context("no namespaces")?.iter();
        let range = |one: &Value| {
            one["metadata"]["annotations"]["openshift.io/sa.scc.uid-range"].as_str().map(str::to_owned)
        };
        Ok(list.map(range).collect())
    };
    let given = wait_for("every namespace to have a range", TIMEOUT, || {
        Ok(ranges()?.into_iter().collect::<Option<Vec<String>>>())
    })
    .with_context(said)?;
    let distinct: std::collections::BTreeSet<&String> = given.iter().collect();
    ensure!(distinct.len() == given.len() && given.len() > 30, "a block was given out twice: {given:?}");
    let ledger = cluster.json(&["get", "configmap", "scc-uid", "-n", "scc-webhook"])?;
    let next: usize = ledger["data"]["next"].as_str().context("no ledger")?.parse()?;
    ensure!(next >= given.len(), "{next} blocks for {} namespaces", given.len());
    // Not even after its namespace is gone.
    let words = [
        "get",
        "namespace",
        "many-3",
        "-o",
        "jsonpath={.metadata.annotations.openshift\\.io/sa\\.scc\\.uid-range}",
    ];
    let gone = cluster.kubectl(&words)?;
    ensure!(distinct.contains(&gone), "{gone} is not in {given:?}");
    cluster.kubectl(&["delete", "namespace", "many-3"])?;
    cluster.kubectl(&["create", "namespace", "later"])?;
    let later = wait_for("the later namespace's range", TIMEOUT, || {
        let namespace = cluster.json(&["get", "namespace", "later"])?;
        let range = namespace["metadata"]["annotations"]["openshift.io/sa.scc.uid-range"].as_str();
        Ok(range.map(str::to_owned))
    })
    .with_context(said)?;
    ensure!(!distinct.contains(&later), "{later} was given out again");

    // The certificate is replaced while pods are made, now through the one, now through the other replica.
    let due = json!({"data": {"renew-at": "MA=="}}).to_string();
    cluster.kubectl(&["patch", "secret", "scc-webhook-certificate", "-n", "scc-webhook", "-p", &due])?;
    let (_, renewed) = newest_authority(&cluster, &authority)?;
    let mut number = 0;
    wait_for("both to show the new certificate", TIMEOUT, || {
        for address in [OTHER, ADDRESS] {
            lead_to(&cluster, address)?;
            number += 1;
            let (made, text) = make(&cluster, &alice, "team", &named(&format!("pod-{number}")))?;
            ensure!(made, "pod {number} through {address}: {text}\n{}", said());
        }
        Ok((shows(ADDRESS, &renewed)? && shows(OTHER, &renewed)?).then_some(()))
    })?;

    // One of them dies; the other one is enough.
    drop(first);
    lead_to(&cluster, OTHER)?;
    let (made, text) = make(&cluster, &alice, "team", &named("survivor"))?;
    ensure!(made, "{text}\n{}", said());
    second.stop()?;
    let configurations = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
    cluster.kubectl(&["delete", configurations, "--all"])?;
    cluster.kubectl(&["delete", "pods", "--all", "-n", "team", "--force", "--grace-period=0"])?;
    cluster.stop()
}
