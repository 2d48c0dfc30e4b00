//! The embedded API server as a cluster, and the machine API beside it.
#![allow(dead_code, unused_imports)]

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ferrovirt_apiserver::app::SccAdmission;
use ferrovirt_apiserver::server::{Config, Server};
use ferrovirt_https::Certificate;
use ferrovirt_https::mutual::Pair;
use ferrovirt_machine_api::Options;
use ferrovirt_plan::config::{ClusterConfig, NAMESPACE};
use ferrovirt_plan::render::api::{AUTHORITY_SECRET, CLIENT_SECRET, NAME, SECRET};
use ferrovirt_plan::render::handler::CERTIFICATE as HANDLER_SECRET;
use ferrovirt_plan::render::{cluster, install};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use kube::Client;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[path = "../../../https/tests/common/mod.rs"]
mod https;

pub(crate) use https::{Verb, client, eventually, lines, request, without};
use https::{ask, trusted};

pub(crate) const ACCOUNT: &str = "system:serviceaccount:kubevirt:kubevirt-api";
pub(crate) const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";
pub(crate) const MACHINES: &str = "/apis/kubevirt.io/v1/namespaces/team/virtualmachines";
pub(crate) const INSTANCES: &str = "/apis/kubevirt.io/v1/namespaces/team/virtualmachineinstances";
pub(crate) const SUBRESOURCES: &str = "/apis/subresources.kubevirt.io/v1";
/// The name of the front proxy.
pub(crate) const PROXY: &str = "front-proxy-client";
/// The headers of the front proxy in these tests.
const HEADERS: [(&str, &str); 5] = [
    ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
    ("requestheader-username-headers", r#"["X-Remote-User"]"#),
    ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
    ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
    ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
];

pub(crate) fn log() -> usize {
    https::log("ferrovirt_machine_api=info,ferrovirt_https=info").lock().unwrap().len()
}

pub(crate) fn machine(name: &str, volumes: &Value) -> Value {
    let volumes_list = volumes.as_array().into_iter().flatten();
    let disks: Vec<Value> = volumes_list.map(|volume| json!({"name": volume["name"]})).collect();
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name, "namespace": "team"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {
            "domain": {"memory": {"guest": "64Mi"}, "devices": {"disks": disks}}, "volumes": volumes}}}})
}

/// A server with accounts, roles, SCCs and a machine, and what the installation brings for the machine API.
pub(crate) struct Cluster {
    _data: tempfile::TempDir,
    stop: tokio::sync::watch::Sender<bool>,
    server: JoinHandle<()>,
    pub(crate) admin: Client,
    account: Client,
    handler: Client,
    /// The machine `m`.
    owner: Value,
    pub(crate) proxy: Authority,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
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
            object["kind"] == "Secret"
                || parts.contains(&object["kind"].as_str().unwrap()) && name.starts_with(NAME)
        }));
        objects.push(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "annotations": {
            "openshift.io/sa.scc.uid-range": "1000620000/10000", "openshift.io/sa.scc.mcs": "s0:c25,c10"}}}),
        );
        server.ensure(&objects).await.unwrap();
        let admin = client(&server.admin_kubeconfig()).await;
        let kubeconfig = server.kubeconfig_for_service_account(NAMESPACE, NAME).await.unwrap();
        let account = client(&kubeconfig).await;
        let handler =
            client(&server.kubeconfig_for_service_account(NAMESPACE, "kubevirt-handler").await.unwrap())
                .await;
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
        let proxy = Authority::new();
        let cluster = Self { _data: data, stop, server, admin, account, handler, owner, proxy };
        cluster.show_proxy(&cluster.proxy).await;
        request(&cluster.admin, "POST", INSTANCES, &cluster.instance()).await.unwrap();
        cluster.status(&json!({"phase": "Running"})).await;
        cluster
    }

    /// The rules of the account's roles, with their paths.
    pub(crate) async fn roles(&self) -> Vec<(String, Value)> {
        let group = "/apis/rbac.authorization.k8s.io/v1";
        let mut roles = Vec::new();
        let paths = [
            format!("{group}/clusterroles/{NAME}"),
            format!("{group}/namespaces/{NAMESPACE}/roles/{NAME}"),
            format!("{group}/namespaces/kube-system/roles/{NAME}"),
        ];
        for path in paths {
            let role = request(&self.admin, "GET", &path, &Value::Null).await.unwrap();
            roles.push((path, role["rules"].clone()));
        }
        roles
    }

    pub(crate) async fn put_rules(&self, path: &str, rules: &Value) {
        request(&self.admin, "PATCH", path, &json!({"rules": rules})).await.unwrap();
    }

    /// Writes the status of the instance `m`, as its node does.
    pub(crate) async fn status(&self, status: &Value) {
        request(&self.handler, "PATCH", &format!("{INSTANCES}/m"), &json!({"status": status})).await.unwrap();
    }

    /// Writes the strategy of the machine `m`.
    pub(crate) async fn strategy(&self, strategy: &str) {
        let body = json!({"spec": {"runStrategy": strategy}});
        request(&self.admin, "PATCH", &format!("{MACHINES}/m"), &body).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        request(&self.admin, "GET", path, &Value::Null).await.unwrap()
    }

    /// Writes down, as an API server does, which front proxy is its own.
    pub(crate) async fn show_proxy(&self, proxy: &Authority) {
        let path = "/api/v1/namespaces/kube-system/configmaps";
        let mut data = json!({"requestheader-client-ca-file": proxy.pem});
        for (key, value) in HEADERS {
            data[key] = json!(value);
        }
        let name = "extension-apiserver-authentication";
        let body = json!({"metadata": {"name": name}, "data": data});
        if request(&self.admin, "POST", path, &body).await.is_err() {
            request(&self.admin, "PATCH", &format!("{path}/{name}"), &body).await.unwrap();
        }
    }

    /// Removes it.
    pub(crate) async fn hide_proxy(&self) {
        let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
        request(&self.admin, "DELETE", path, &Value::Null).await.unwrap();
    }

    /// An instance of the machine, as the controller makes it.
    pub(crate) fn instance(&self) -> Value {
        let owner = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "m", "controller": true,
            "uid": self.owner["metadata"]["uid"]});
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "m", "namespace": "team", "ownerReferences": [owner]},
            "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {}}}})
    }

    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        self.server.await.unwrap();
    }
}

/// A running machine API.
pub(crate) struct Api {
    task: JoinHandle<()>,
    admin: Client,
    pub(crate) listen: SocketAddr,
    pub(crate) since: usize,
}

impl Api {
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        Self::with_handlers(cluster, 1).await
    }

    /// The same, with handlers that listen on a port.
    pub(crate) async fn with_handlers(cluster: &Cluster, handler_port: u16) -> Self {
        let since = log();
        for secret in [SECRET, AUTHORITY_SECRET, HANDLER_SECRET, CLIENT_SECRET] {
            let secret = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{secret}");
            request(&cluster.admin, "PATCH", &secret, &json!({"data": null})).await.unwrap();
        }
        let listen: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let certificate = Certificate::SelfSigned {
            namespace: NAMESPACE.to_owned(),
            secret: SECRET.to_owned(),
            names: vec!["127.0.0.1".to_owned()],
            configuration: NAME.to_owned(),
            services: Vec::new(),
        };
        let account = cluster.account.clone();
        let task = tokio::spawn(async move {
            let Err(error) = ferrovirt_machine_api::run(
                account,
                Options { listen, certificate, handlers: pair(), handler_port },
            )
            .await;
            panic!("the machine API ended: {error}");
        });
        Self { task, admin: cluster.admin.clone(), listen, since }
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: String) -> Result<String, String> {
        let roots = trusted(&self.admin, NAMESPACE, SECRET).await?;
        ask(self.listen, roots, method, path, body).await
    }

    pub(crate) async fn ready(&self) {
        let ready = async || {
            self.ask("GET", "/readyz", String::new()).await.is_ok_and(|said| said == "ok").then_some(())
        };
        eventually("readiness", ready).await;
    }

    /// What is answered to the creation of an object.
    pub(crate) async fn review(&self, pass: &str, user: &str, object: &Value) -> Value {
        let resource = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "operation": "CREATE", "namespace": "team", "name": object["metadata"]["name"], "object": object,
            "resource": {"group": "kubevirt.io", "version": "v1", "resource": resource},
            "userInfo": {"username": user, "groups": ["system:authenticated"]}}});
        let answer = self.ask("POST", pass, review.to_string()).await.unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["response"].clone()
    }

    /// The object as the mutating webhook leaves it.
    pub(crate) async fn completed(&self, user: &str, object: &Value) -> Value {
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
    pub(crate) async fn admits(&self, user: &str, object: &Value) {
        let answer = self.review("/validate", user, object).await;
        assert_eq!(answer["allowed"], true, "{answer}");
    }

    /// The message of a refusal, as the validating webhook says it.
    pub(crate) async fn refusal(&self, user: &str, object: &Value) -> String {
        let answer = self.review("/validate", user, object).await;
        assert_eq!(answer["allowed"], false, "{answer}");
        answer["status"]["message"].as_str().unwrap().to_owned()
    }

    /// Returns when it knows the front proxy.
    pub(crate) async fn known(&self, cluster: &Cluster) {
        self.ready().await;
        let proxy = cluster.proxy.client(PROXY);
        let known = async || {
            (self.send(Some(&proxy), asked("GET", "/version", "alice"), "").await.0 == 200).then_some(())
        };
        eventually("the front proxy", known).await;
    }

    /// The answer to an administrator who starts or stops `m`, with a shorter end.
    pub(crate) async fn call(&self, cluster: &Cluster, verb: &str) -> String {
        let path = format!("{SUBRESOURCES}/namespaces/team/virtualmachines/m/{verb}");
        let body = if verb == "stop" { r#"{"gracePeriod":1}"# } else { "" };
        let asked = asked("PUT", &path, "root").header("x-remote-group", "system:masters");
        let (_, status) = self.send(Some(&cluster.proxy.client(PROXY)), asked, body).await;
        status["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The answer to an administrator who pauses the instance `m`.
    pub(crate) async fn pause(&self, cluster: &Cluster) -> String {
        let path = format!("{SUBRESOURCES}/namespaces/team/virtualmachineinstances/m/pause");
        let asked = asked("PUT", &path, "root").header("x-remote-group", "system:masters");
        let (_, status) = self.send(Some(&cluster.proxy.client(PROXY)), asked, "").await;
        status["message"].as_str().unwrap_or_default().to_owned()
    }

    /// A connection with a certificate, or with none.
    pub(crate) async fn connect(&self, shown: Option<&Identity>) -> TlsStream<TcpStream> {
        let roots = trusted(&self.admin, NAMESPACE, SECRET).await.unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match shown {
            Some(Identity(certificate, key)) => {
                config.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.listen).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// The answer to a request on such a connection.
    pub(crate) async fn send(
        &self,
        shown: Option<&Identity>,
        asked: http::request::Builder,
        body: &str,
    ) -> (u16, Value) {
        let stream = self.connect(shown).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let asked = asked.header("host", "h").header("content-type", "application/json");
        let answer =
            sender.send_request(asked.body(Full::<Bytes>::from(body.to_owned())).unwrap()).await.unwrap();
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = || String::from_utf8_lossy(&body).into_owned();
        (
            code,
            if body.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&body).unwrap_or_else(|_| text().into())
            },
        )
    }

    pub(crate) async fn stop(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled(), "it ran until now");
    }
}

/// The Secrets of handlers and who calls them.
pub(crate) fn pair() -> Pair {
    let secret = |secret: &str, name: &str| (secret.to_owned(), name.to_owned());
    Pair {
        namespace: NAMESPACE.to_owned(),
        authority: AUTHORITY_SECRET.to_owned(),
        server: secret(HANDLER_SECRET, "virt-handler"),
        client: secret(CLIENT_SECRET, NAME),
    }
}

/// A certificate with its key.
pub(crate) struct Identity(CertificateDer<'static>, PrivateKeyDer<'static>);

/// Who makes certificates of clients.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "front-proxy-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn client(&self, name: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Identity(certificate, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }
}

/// A request as the front proxy sends it for somebody.
pub(crate) fn asked(method: &str, path: &str, user: &str) -> http::request::Builder {
    http::Request::builder()
        .method(method)
        .uri(path)
        .header("x-remote-user", user)
        .header("x-remote-group", "system:authenticated")
}
