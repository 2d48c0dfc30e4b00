//! The machine API beside the embedded API server: it answers what that one answers itself, and each of its rights is missed,
//! by a 403 that names verb, resource and account.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrovirt_apiserver::app::SccAdmission;
use ferrovirt_apiserver::server::{Config, Server};
use ferrovirt_https::Certificate;
use ferrovirt_machine_api::Options;
use ferrovirt_plan::config::{ClusterConfig, NAMESPACE};
use ferrovirt_plan::render::api::{NAME, SECRET};
use ferrovirt_plan::render::{cluster, install};
use ferrovirt_plan::scc::rights::POD_SCC;
use ferrovirt_privilege::Scenario;
use ferrovirt_privilege::scenario::{registered, verbs, witnessed};
use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

#[path = "../../https/tests/common/mod.rs"]
mod common;

use common::{Verb, ask, client, eventually, lines, request, trusted, without};

const ACCOUNT: &str = "system:serviceaccount:kubevirt:kubevirt-api";
const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";
const MACHINES: &str = "/apis/kubevirt.io/v1/namespaces/team/virtualmachines";

fn log() -> usize {
    common::log("ferrovirt_machine_api=info,ferrovirt_https=info").lock().unwrap().len()
}

fn machine(name: &str, volumes: &Value) -> Value {
    let volumes_list = volumes.as_array().into_iter().flatten();
    let disks: Vec<Value> = volumes_list.map(|volume| json!({"name": volume["name"]})).collect();
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name, "namespace": "team"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {
            "domain": {"memory": {"guest": "64Mi"}, "devices": {"disks": disks}}, "volumes": volumes}}}})
}

fn host_disk() -> Value {
    machine("m", &json!([{"name": "root", "hostDisk": {"path": "/srv/a.img", "type": "Disk"}}]))
}

/// A server with accounts, roles, SCCs and a machine, and what the installation brings for the machine API.
struct Cluster {
    _data: tempfile::TempDir,
    stop: tokio::sync::watch::Sender<bool>,
    server: JoinHandle<()>,
    admin: Client,
    account: Client,
    /// The machine `m`.
    owner: Value,
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
        let config = ClusterConfig::default();
        let mut objects = [install::install(&config), install::embedded(&config)].concat();
        for object in objects.iter_mut().filter(|object| object["kind"] == "KubeVirt") {
            let gates = json!({"featureGates": ["HostDisk"]});
            object["spec"]["configuration"] = json!({"developerConfiguration": gates});
        }
        let parts = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Secret"];
        objects.extend(cluster::cluster(&cluster::Options::default()).into_iter().filter(|object| {
            let name = object["metadata"]["name"].as_str().unwrap();
            parts.contains(&object["kind"].as_str().unwrap()) && name.starts_with(NAME)
        }));
        objects.push(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "annotations": {
            "openshift.io/sa.scc.uid-range": "1000620000/10000", "openshift.io/sa.scc.mcs": "s0:c25,c10"}}}),
        );
        server.ensure(&objects).await.unwrap();
        let admin = client(&server.admin_kubeconfig()).await;
        let kubeconfig = server.kubeconfig_for_service_account(NAMESPACE, NAME).await.unwrap();
        let account = client(&kubeconfig).await;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let server = tokio::spawn(server.serve(stopped));
        let owner = request(&admin, "POST", MACHINES, &machine("m", &json!([]))).await.unwrap();
        // About nothing: the server asks in process, and would not reach it.
        for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
            let webhook = json!({"name": "a.kubevirt.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"service": {"name": NAME, "namespace": NAMESPACE}},
                "rules": [{"operations": ["CREATE"], "apiGroups": ["none.kubevirt.io"], "apiVersions": ["v1"],
                    "resources": ["nothing"]}]});
            let body = json!({"metadata": {"name": NAME}, "webhooks": [webhook]});
            let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}");
            request(&admin, "POST", &path, &body).await.unwrap();
        }
        Self { _data: data, stop, server, admin, account, owner }
    }

    /// The rules of the account's roles, with their paths.
    async fn roles(&self) -> Vec<(String, Value)> {
        let group = "/apis/rbac.authorization.k8s.io/v1";
        let mut roles = Vec::new();
        for path in
            [format!("{group}/clusterroles/{NAME}"), format!("{group}/namespaces/{NAMESPACE}/roles/{NAME}")]
        {
            let role = request(&self.admin, "GET", &path, &Value::Null).await.unwrap();
            roles.push((path, role["rules"].clone()));
        }
        roles
    }

    async fn put_rules(&self, path: &str, rules: &Value) {
        request(&self.admin, "PATCH", path, &json!({"rules": rules})).await.unwrap();
    }

    /// An instance of the machine, as the controller makes it.
    fn instance(&self) -> Value {
        let owner = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "m", "controller": true,
            "uid": self.owner["metadata"]["uid"]});
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "m", "namespace": "team", "ownerReferences": [owner]},
            "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}}})
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.server.await.unwrap();
    }
}

/// A running machine API.
struct Api {
    task: JoinHandle<()>,
    admin: Client,
    listen: SocketAddr,
    since: usize,
}

impl Api {
    async fn start(cluster: &Cluster) -> Self {
        let since = log();
        let secret = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}");
        request(&cluster.admin, "PATCH", &secret, &json!({"data": null})).await.unwrap();
        let listen: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let certificate = Certificate::SelfSigned {
            namespace: NAMESPACE.to_owned(),
            secret: SECRET.to_owned(),
            names: vec!["127.0.0.1".to_owned()],
            configuration: NAME.to_owned(),
        };
        let account = cluster.account.clone();
        let task = tokio::spawn(async move {
            let Err(error) = ferrovirt_machine_api::run(account, Options { listen, certificate }).await;
            panic!("the machine API ended: {error}");
        });
        Self { task, admin: cluster.admin.clone(), listen, since }
    }

    async fn ask(&self, method: &str, path: &str, body: String) -> Result<String, String> {
        let roots = trusted(&self.admin, NAMESPACE, SECRET).await?;
        ask(self.listen, roots, method, path, body).await
    }

    async fn ready(&self) {
        let ready = async || {
            self.ask("GET", "/readyz", String::new()).await.is_ok_and(|said| said == "ok").then_some(())
        };
        eventually("readiness", ready).await;
    }

    /// What is answered to the creation of an object.
    async fn review(&self, pass: &str, user: &str, object: &Value) -> Value {
        let resource = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CREATE", "namespace": "team", "name": object["metadata"]["name"], "object": object,
            "resource": {"group": "kubevirt.io", "version": "v1", "resource": resource},
            "userInfo": {"username": user, "groups": ["system:authenticated"]}}});
        let answer = self.ask("POST", pass, review.to_string()).await.unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["response"].clone()
    }

    /// The object as the mutating webhook leaves it.
    async fn completed(&self, user: &str, object: &Value) -> Value {
        let answer = self.review("/mutate", user, object).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        let mut object = object.clone();
        if let Some(patch) = answer["patch"].as_str() {
            let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
            json_patch::patch(&mut object, &patch).unwrap();
        }
        object
    }

    /// Passes what the validating webhook is asked about.
    async fn admits(&self, user: &str, object: &Value) {
        let answer = self.review("/validate", user, object).await;
        assert_eq!(answer["allowed"], true, "{answer}");
    }

    /// The message of a refusal, as the validating webhook says it.
    async fn refusal(&self, user: &str, object: &Value) -> String {
        let answer = self.review("/validate", user, object).await;
        assert_eq!(answer["allowed"], false, "{answer}");
        answer["status"]["message"].as_str().unwrap().to_owned()
    }

    async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled(), "it ran until now");
    }
}

/// What the embedded server says to whoever makes an object.
async fn embedded(cluster: &Cluster, object: &Value) -> String {
    match request(&cluster.admin, "POST", MACHINES, object).await {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => panic!("{other:?}"),
    }
}

/// Defaults, refusals and rights are those of the embedded server.
async fn answers(cluster: &Cluster, api: &Api) {
    let plain = machine("other", &json!([]));
    let whole = api.completed("alice", &plain).await;
    assert_eq!(whole["metadata"]["annotations"][POD_SCC], "restricted-v2");
    api.admits("alice", &whole).await;
    // Whatever was sent of the decision, and whoever has written it since.
    let mut forged = whole.clone();
    forged["metadata"]["annotations"][POD_SCC] = json!("privileged");
    let said = api.refusal("alice", &forged).await;
    assert!(said.contains("has changed meanwhile"), "{said}");
    assert_eq!(api.completed("alice", &forged).await, whole);

    let mut invalid = plain.clone();
    invalid["spec"]["running"] = json!(true);
    let frame = "admission webhook \"virtualmachine-validator.kubevirt.io\" denied the request: ";
    let said = format!("{frame}{}", api.refusal("alice", &invalid).await);
    assert_eq!(said, embedded(cluster, &invalid).await);

    let said = api.refusal("alice", &host_disk()).await;
    assert!(said.contains("user \"alice\"") && said.contains("hostPath"), "{said}");
    // The validating webhook says why.
    api.completed("alice", &host_disk()).await;
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "system:openshift:scc:kubevirt-controller"});
    let alice = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"});
    let binding = json!({"metadata": {"name": "alice"}, "roleRef": role, "subjects": [alice]});
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/team/rolebindings";
    request(&cluster.admin, "POST", path, &binding).await.unwrap();
    let hers = api.completed("alice", &host_disk()).await;
    assert_eq!(hers["metadata"]["annotations"][POD_SCC], "kubevirt-controller");
    api.admits("alice", &hers).await;

    // The controller makes an instance with what was decided about its machine, and no other.
    let instance = api.completed(CONTROLLER, &cluster.instance()).await;
    assert_eq!(instance["metadata"]["annotations"][POD_SCC], "restricted-v2");
    api.admits(CONTROLLER, &instance).await;
    let mut more = cluster.instance();
    more["spec"]["volumes"] = host_disk()["spec"]["template"]["spec"]["volumes"].clone();
    more["spec"]["domain"]["devices"]["disks"] = json!([{"name": "root"}]);
    let whole = api.completed(CONTROLLER, &more).await;
    let said = api.refusal(CONTROLLER, &whole).await;
    assert!(said.contains("of its admission") && said.contains("hostPath"), "{said}");
}

/// Runs it without one verb.
async fn without_a_verb(cluster: &Cluster, witness: &str, verb: Verb) {
    let (group, resource, name) = verb;
    let full = cluster.roles().await;
    let mut taken = false;
    for (path, rules) in &full {
        let lesser = without(rules, verb);
        taken |= lesser != without(rules, ("", "", ""));
        cluster.put_rules(path, &lesser).await;
    }
    assert!(taken, "the roles have {verb:?}");
    let api = Api::start(cluster).await;
    let words = format!("User \"{ACCOUNT}\" cannot {name} resource \"{resource}\" in API group \"{group}\"");
    let said = match witness {
        "machine-api-certificate" | "machine-api-trust" => {
            let told = || lines(api.since).iter().any(|line| line.contains(&words)).then_some(());
            eventually(&words, async || told()).await;
            let shown = api.ask("GET", "/readyz", String::new()).await;
            assert!(shown.is_err(), "a certificate is shown without {verb:?}: {shown:?}");
            words.clone()
        }
        "machine-api-rights" => {
            api.ready().await;
            api.refusal("bob", &machine("other", &json!([]))).await
        }
        "machine-api-owner" => {
            api.ready().await;
            let answer = api.review("/mutate", CONTROLLER, &cluster.instance()).await;
            assert_eq!(answer["allowed"], false, "{answer}");
            answer["status"]["message"].as_str().unwrap().to_owned()
        }
        other => panic!("what fails without {other}?"),
    };
    assert!(said.contains(&words), "{witness}: {said}");
    api.stop().await;
    for (path, rules) in &full {
        cluster.put_rules(path, rules).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_as_the_embedded_server_does_and_each_of_its_verbs_is_missed() {
    log();
    let cluster = Cluster::start().await;
    let api = Api::start(&cluster).await;
    api.ready().await;
    answers(&cluster, &api).await;
    api.stop().await;
    let refused = format!("User \"{ACCOUNT}\" cannot");
    assert!(!lines(0).iter().any(|line| line.contains(&refused)), "the roles are not enough: {:?}", lines(0));

    let all: BTreeSet<(&str, Verb)> = registered(Scenario::MachineApi)
        .flat_map(|name| verbs(witnessed(name).unwrap()).map(move |verb| (name, verb)))
        .collect();
    assert!(all.len() > 8, "{all:?}");
    for (witness, verb) in all {
        without_a_verb(&cluster, witness, verb).await;
    }
    cluster.end().await;
}
