//! Witnesses of the webhook's rights: each verb is taken out of its role, the step that needs it is refused by a 403 that
//! names verb, resource and account, the webhook tells so, and what the verb is for does not happen; of the watches, which
//! only count later, the refusal alone is looked at.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;

use ferrovirt_apiserver::app::SccAdmission;
use ferrovirt_apiserver::server::{Config, Server};
use ferrovirt_https::Certificate;
use ferrovirt_plan::render::cluster;
use ferrovirt_plan::render::scc_crd;
use ferrovirt_plan::render::scc_webhook::{self, CONFIGURATION, NAME, SECRET};
use ferrovirt_privilege::Scenario;
use ferrovirt_privilege::scenario::{registered, verbs, witnessed};
use ferrovirt_scc::UID_RANGE;
use ferrovirt_webhook::Options;
use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const ACCOUNT: &str = "system:serviceaccount:scc-webhook:scc-webhook";

#[path = "../../https/tests/common/mod.rs"]
mod common;
#[path = "../../watch/tests/common/gate.rs"]
mod gate;

use common::{Verb, ask, client, eventually, lines, request, trusted, without};

/// What server and webhook have said so far.
fn log() -> &'static Mutex<Vec<u8>> {
    common::log(
        "ferrovirt_apiserver::server=debug,ferrovirt_webhook=info,ferrovirt_https=info,ferrovirt_watch=info",
    )
}

/// A server that leaves SCCs to the webhook, with everything that the manifests bring.
struct Cluster {
    _data: tempfile::TempDir,
    stop: tokio::sync::watch::Sender<bool>,
    server: JoinHandle<()>,
    admin: Client,
    account: Client,
    account_kubeconfig: String,
    address: SocketAddr,
}

impl Cluster {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Server::open(Config {
            data_dir: data.path().join("data"),
            listen: ([127, 0, 0, 1], 0).into(),
            agent_socket: data.path().join("agent.sock"),
            scc_admission: SccAdmission::Webhook,
            longest_watch: None,
            audit: None,
        })
        .await
        .unwrap();
        let other = ["Deployment", "PodDisruptionBudget"];
        let mut objects = scc_webhook::manifests(cluster::IMAGE_PREFIX);
        objects.retain(|object| !other.contains(&object["kind"].as_str().unwrap()));
        objects.extend([
            scc_crd::crd(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "team"},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        ]);
        server.ensure(&objects).await.unwrap();
        let admin = client(&server.admin_kubeconfig()).await;
        let account_kubeconfig = server.kubeconfig_for_service_account(NAME, NAME).await.unwrap();
        let account = client(&account_kubeconfig).await;
        let address = server.address();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let server = tokio::spawn(server.serve(stopped));
        Self { _data: data, stop, server, admin, account, account_kubeconfig, address }
    }

    /// The rules of the account's roles, with their paths.
    async fn roles(&self) -> Vec<(String, Value)> {
        let group = "/apis/rbac.authorization.k8s.io/v1";
        let mut roles = Vec::new();
        for path in
            [format!("{group}/clusterroles/{NAME}"), format!("{group}/namespaces/{NAME}/roles/{NAME}")]
        {
            let role = request(&self.admin, "GET", &path, &Value::Null).await.unwrap();
            roles.push((path, role["rules"].clone()));
        }
        roles
    }

    async fn put_rules(&self, path: &str, rules: &Value) {
        request(&self.admin, "PATCH", path, &json!({"rules": rules})).await.unwrap();
    }

    /// A new namespace, and no certificate.
    async fn prepare(&self, namespace: &str) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        request(&self.admin, "POST", "/api/v1/namespaces", &body).await.unwrap();
        let secret = format!("/api/v1/namespaces/{NAME}/secrets/{SECRET}");
        request(&self.admin, "PATCH", &secret, &json!({"data": null})).await.unwrap();
    }

    async fn range(&self, namespace: &str) -> Option<String> {
        let path = format!("/api/v1/namespaces/{namespace}");
        let object = request(&self.admin, "GET", &path, &Value::Null).await.unwrap();
        object["metadata"]["annotations"][UID_RANGE].as_str().map(str::to_owned)
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.server.await.unwrap();
    }
}

/// A running webhook with the account's rights as they are.
struct Webhook {
    task: JoinHandle<()>,
    admin: Client,
    listen: SocketAddr,
    since: usize,
}

impl Webhook {
    async fn start(cluster: &Cluster) -> Self {
        let since = log().lock().unwrap().len();
        let listen: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let certificate = Certificate::SelfSigned {
            namespace: NAME.to_owned(),
            secret: SECRET.to_owned(),
            names: vec!["127.0.0.1".to_owned()],
            configuration: CONFIGURATION.to_owned(),
            services: Vec::new(),
        };
        let options = Options { listen, certificate, ranges_in: Some(NAME.to_owned()) };
        let account = cluster.account.clone();
        let task = tokio::spawn(async move {
            let Err(error) = ferrovirt_webhook::run(account, options).await;
            panic!("the webhook ended: {error}");
        });
        Self { task, admin: cluster.admin.clone(), listen, since }
    }

    async fn ask(&self, method: &str, path: &str, body: String) -> Result<String, String> {
        let roots = trusted(&self.admin, NAME, SECRET).await?;
        ask(self.listen, roots, method, path, body).await
    }

    /// What is not ready, or an error of the connection.
    async fn readiness(&self) -> Result<String, String> {
        self.ask("GET", "/readyz", String::new()).await
    }

    async fn wait_readiness(&self, text: &str) {
        eventually(text, async || self.readiness().await.is_ok_and(|said| said.contains(text)).then_some(()))
            .await;
    }

    /// Whether the administrator may enter the pod.
    async fn entry(&self) -> Value {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CONNECT", "namespace": "team", "name": "p", "subResource": "exec",
            "resource": {"group": "", "resource": "pods"},
            "userInfo": {"username": "root", "groups": ["system:masters"]}}});
        let answer = self.ask("POST", "/validate/entry", review.to_string()).await.unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["response"].clone()
    }

    /// Whether a privileged pod of this user is admitted.
    async fn admits(&self, user: &str) -> bool {
        let pod = json!({"metadata": {"name": "p", "namespace": "team"}, "spec": {"containers": [
            {"name": "c", "image": "i", "securityContext": {"privileged": true}}]}});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CREATE", "namespace": "team", "name": "p", "object": pod,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": user, "groups": ["system:authenticated"]}}});
        let answer = self.ask("POST", "/mutate/pods", review.to_string()).await.unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["response"]["allowed"] == true
    }

    /// Whether the webhook itself has complained with these words.
    fn complained(&self, words: &str) -> bool {
        let own = ["WARN ferrovirt_webhook", "WARN ferrovirt_https", "WARN ferrovirt_watch"];
        lines(self.since)
            .iter()
            .any(|line| own.iter().any(|start| line.contains(start)) && line.contains(words))
    }

    async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled(), "the webhook ran until now");
    }
}

/// Runs the webhook without one verb.
async fn without_a_verb(cluster: &Cluster, witness: &str, verb: Verb, namespace: &str) {
    let (group, resource, name) = verb;
    let full = cluster.roles().await;
    let mut taken = false;
    for (path, rules) in &full {
        let lesser = without(rules, verb);
        taken |= lesser != without(rules, ("", "", ""));
        cluster.put_rules(path, &lesser).await;
    }
    assert!(taken, "the roles have {verb:?}");
    cluster.prepare(namespace).await;
    let webhook = Webhook::start(cluster).await;
    let words = format!("User \"{ACCOUNT}\" cannot {name} resource \"{resource}\" in API group \"{group}\"");
    if witness == "webhook-entry" {
        webhook.wait_readiness("ok").await;
        let answer = webhook.entry().await;
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("the pod cannot be looked at") && message.contains(&words), "{answer}");
    } else {
        eventually(&words, async || webhook.complained(&words).then_some(())).await;
    }
    match (witness, name) {
        ("webhook-owner", _) => webhook.wait_readiness("not there yet: securitycontextconstraints").await,
        ("webhook-constraints" | "webhook-rights" | "webhook-namespaces", "list") => {
            webhook.wait_readiness(resource).await;
        }
        ("webhook-namespaces", "get" | "patch") | ("webhook-ledger", _) => {
            assert_eq!(cluster.range(namespace).await, None, "{namespace} has a range without {verb:?}");
        }
        ("webhook-certificate" | "webhook-trust", _) => {
            let said = webhook.readiness().await;
            assert!(said.is_err(), "a certificate is shown without {verb:?}: {said:?}");
        }
        // It is ready and sees the state once; what changes later it would not see.
        ("webhook-constraints" | "webhook-rights" | "webhook-namespaces", "watch") => {}
        ("webhook-entry", _) => {}
        other => panic!("what fails without {other:?}?"),
    }
    webhook.stop().await;
    for (path, rules) in &full {
        cluster.put_rules(path, rules).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_verb_of_the_webhook_is_missed_and_none_else_is() {
    log();
    let cluster = Cluster::start().await;
    cluster.prepare("whole").await;
    let webhook = Webhook::start(&cluster).await;
    webhook.wait_readiness("ok").await;
    eventually("a range", async || cluster.range("whole").await).await;
    assert_eq!(webhook.entry().await["allowed"], true);
    webhook.stop().await;
    let refused = format!("User \"{ACCOUNT}\" cannot");
    assert!(!lines(0).iter().any(|line| line.contains(&refused)), "the roles are not enough: {:?}", lines(0));

    let all: BTreeSet<(&str, Verb)> = registered(Scenario::Webhook)
        .flat_map(|name| verbs(witnessed(name).unwrap()).map(move |verb| (name, verb)))
        .collect();
    assert!(all.len() > 20, "{all:?}");
    for (number, (witness, verb)) in all.into_iter().enumerate() {
        without_a_verb(&cluster, witness, verb, &format!("n{number}")).await;
    }
    cluster.end().await;
}

/// Something new of each kind that the webhook follows counts in its answers: an SCC, roles and bindings of both scopes, a
/// namespace.
async fn everything_new_counts(cluster: &Cluster, webhook: &Webhook, round: &str) {
    let post = async |path: &str, body: &Value| {
        request(&cluster.admin, "POST", path, body).await.unwrap();
    };
    let (sccs, rbac) =
        ("/apis/security.openshift.io/v1/securitycontextconstraints", "/apis/rbac.authorization.k8s.io/v1");
    let mut scc = request(&cluster.admin, "GET", &format!("{sccs}/privileged"), &Value::Null).await.unwrap();
    scc["metadata"] = json!({"name": format!("scc-{round}")});
    scc["users"] = json!([format!("named-{round}")]);
    scc["groups"] = json!([]);
    post(sccs, &scc).await;
    let local = format!("{rbac}/namespaces/team");
    for (roles, bindings, kind, user) in [
        (format!("{rbac}/clusterroles"), format!("{rbac}/clusterrolebindings"), "ClusterRole", "everywhere"),
        (format!("{local}/roles"), format!("{local}/rolebindings"), "Role", "local"),
    ] {
        let name = format!("{user}-{round}");
        let rule = json!({"apiGroups": ["security.openshift.io"], "resources": ["securitycontextconstraints"],
            "resourceNames": [format!("scc-{round}")], "verbs": ["use"]});
        post(&roles, &json!({"metadata": {"name": name}, "rules": [rule]})).await;
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
        post(&bindings, &json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})).await;
    }
    post("/api/v1/namespaces", &json!({"metadata": {"name": format!("new-{round}")}})).await;
    for user in ["named", "everywhere", "local"] {
        let user = format!("{user}-{round}");
        eventually(&user, async || webhook.admits(&user).await.then_some(())).await;
    }
    eventually("a range", async || cluster.range(&format!("new-{round}")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webhook_decides_from_the_newest_state_after_any_of_its_watches_and_all_of_them_have_expired() {
    log();
    let mut cluster = Cluster::start().await;
    // The server must not ask the webhook about the objects that this test makes: it cannot reach it.
    for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}/{CONFIGURATION}");
        request(&cluster.admin, "DELETE", &path, &Value::Null).await.unwrap();
    }
    let gate = gate::Gate::before(cluster.address).await;
    cluster.account = client(&gate.through(&cluster.account_kubeconfig)).await;
    let webhook = Webhook::start(&cluster).await;
    webhook.wait_readiness("ok").await;
    everything_new_counts(&cluster, &webhook, "before").await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let followed = [
        "/apis/security.openshift.io/v1/securitycontextconstraints/privileged",
        "/api/v1/namespaces/team",
        &format!("{rbac}/clusterroles/everywhere-before"),
        &format!("{rbac}/clusterrolebindings/everywhere-before"),
        &format!("{rbac}/namespaces/team/roles/local-before"),
        &format!("{rbac}/namespaces/team/rolebindings/local-before"),
    ];
    let mut cut = 0;
    for connection in gate.connections() {
        let expired = gate.expire(&[connection], &cluster.admin, &followed).await;
        if expired > 0 {
            everything_new_counts(&cluster, &webhook, &format!("after-{connection}")).await;
        }
        cut += expired;
    }
    // SCCs, namespaces, and roles and bindings of both scopes.
    assert!(cut >= 6, "{cut}");
    eventually("watches that were sent back to list again", async || {
        (gate::expired(&cluster.admin).await >= 6).then_some(())
    })
    .await;
    gate.expire(&gate.connections(), &cluster.admin, &followed).await;
    everything_new_counts(&cluster, &webhook, "after-all").await;
    webhook.stop().await;
    cluster.end().await;
}
