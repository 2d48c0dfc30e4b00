//! Admission webhooks: kubectl registers them, a real HTTPS server on this machine answers them, and the objects that
//! end up in the store show what came of it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses what it needs of it")]
mod common;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::Cluster;
use ferrovirt_plan::config::ClusterConfig;
use ferrovirt_plan::render::install;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Answers a request by its path; gets the review.
type Answer = fn(&str, &Value) -> Value;

/// An HTTPS server with an authority of its own, which remembers what it was asked.
struct Webhook {
    address: SocketAddr,
    bundle: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Webhook {
    fn start(answer: Answer) -> Self {
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let bundle = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = leaf.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let log = Arc::clone(&asked);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, log) = (acceptor.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    // A client that does not trust us goes away here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: http::Request<Incoming>| {
                        let log = Arc::clone(&log);
                        async move {
                            let path = request.uri().path().to_owned();
                            let query = request.uri().query().unwrap_or_default().to_owned();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let mut review: Value = serde_json::from_slice(&body).unwrap();
                            review["query"] = query.into();
                            log.lock().unwrap().push((path.clone(), review.clone()));
                            if path == "/never" {
                                std::future::pending::<()>().await;
                            }
                            let mut response = answer(&path, &review);
                            response["uid"] = review["request"]["uid"].clone();
                            let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                                                "response": response});
                            let body = Full::new(bytes::Bytes::from(answer.to_string()));
                            Ok::<_, Infallible>(http::Response::new(body))
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, bundle: STANDARD.encode(bundle), asked, runtime: Some(runtime) }
    }

    fn config(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.address.port()), "caBundle": self.bundle})
    }

    /// Paths in the order in which they were asked, and forgets them.
    fn paths(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap()).into_iter().map(|(path, _)| path).collect()
    }

    fn last(&self) -> Value {
        self.asked.lock().unwrap().last().unwrap().1.clone()
    }

    fn stop(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}

fn allow(patch: &Value) -> Value {
    let mut response = json!({"allowed": true});
    if !patch.is_null() {
        response["patch"] = STANDARD.encode(patch.to_string()).into();
        response["patchType"] = "JSONPatch".into();
    }
    response
}

fn hook(name: &str, client: &Value, more: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.test.local"), "clientConfig": client, "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
    });
    for (field, value) in more.as_object().unwrap() {
        hook[field] = value.clone();
    }
    hook
}

fn configuration(kind: &str, name: &str, hooks: &[Value]) -> String {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
           "webhooks": hooks})
    .to_string()
}

fn pod(name: &str, labels: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
           "spec": {"containers": [{"name": "c", "image": "i"}]}})
    .to_string()
}

fn cluster() -> Cluster {
    let config = ClusterConfig::default();
    let mut manifests = install::install(&config);
    manifests.extend(install::embedded(&config));
    Cluster::start_with(&manifests)
}

const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

#[test]
fn configurations_are_kept_as_kubernetes_keeps_them() {
    let cluster = Cluster::start();
    let client = json!({"url": "https://127.0.0.1:1/x"});
    let good = configuration(MUTATING, "good", &[hook("a", &client, json!({}))]);
    cluster.apply(&good);
    let stored = cluster.json("get mutatingwebhookconfiguration good");
    let webhook = &stored["webhooks"][0];
    for (field, value) in [
        ("failurePolicy", json!("Fail")),
        ("matchPolicy", json!("Equivalent")),
        ("timeoutSeconds", json!(10)),
        ("reinvocationPolicy", json!("Never")),
        ("namespaceSelector", json!({})),
    ] {
        assert_eq!(webhook[field], value, "{field}");
    }
    assert_eq!(webhook["rules"][0]["scope"], "*");
    assert_eq!(stored["metadata"]["generation"], 1);
    let table = cluster.kubectl("get mutatingwebhookconfigurations");
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "WEBHOOKS", "AGE"]);
    assert_eq!(words[1][..2], ["good", "1"]);

    // kubectl merges by the webhook's name: another one is added, the first one changed.
    let two = [hook("a", &client, json!({"timeoutSeconds": 3})), hook("b", &client, json!({}))];
    cluster.apply(&configuration(MUTATING, "good", &two));
    let stored = cluster.json("get mutatingwebhookconfiguration good");
    let seconds: Vec<&Value> =
        stored["webhooks"].as_array().unwrap().iter().map(|one| &one["timeoutSeconds"]).collect();
    assert_eq!(seconds, [&json!(3), &json!(10)]);
    assert_eq!(stored["metadata"]["generation"], 2);

    let cel = json!({"matchConditions": [{"name": "x", "expression": "true"}]});
    let bad = configuration(VALIDATING, "bad", &[hook("a", &client, cel)]);
    let said = cluster.create_fails(&bad);
    assert!(said.contains("webhooks[0].matchConditions: Forbidden: not supported yet"), "{said}");
    let both = json!({"url": "https://h/", "service": {"namespace": "n", "name": "s"}});
    let said = cluster.create_fails(&configuration(VALIDATING, "bad", &[hook("a", &both, json!({}))]));
    assert!(said.contains("exactly one of url or service is required"), "{said}");
}

#[test]
fn mutating_webhooks_are_asked_in_order_and_the_server_looks_again() {
    let webhook = Webhook::start(|path, review| {
        let labels = &review["request"]["object"]["metadata"]["labels"];
        let label =
            |name: &str| json!({"op": "add", "path": format!("/metadata/labels/{name}"), "value": "yes"});
        match path {
            "/first" => allow(&json!([label("first")])),
            // Sees what the one before it made.
            "/second" if labels["first"] == "yes" => allow(&json!([
                label("second"), {"op": "add", "path": "/spec/hostNetwork", "value": true}])),
            "/rename" => allow(&json!([{"op": "replace", "path": "/metadata/name", "value": "other"}])),
            "/uid" => {
                allow(&json!([{"op": "replace", "path": "/metadata/uid", "value": "mine"}, label("uid")]))
            }
            _ => allow(&Value::Null),
        }
    });
    let cluster = cluster();
    let hooks = |names: &[&str], more: &Value| -> Vec<Value> {
        names.iter().map(|name| hook(name, &webhook.config(&format!("/{name}")), more.clone())).collect()
    };
    // The order is that of the configurations' names, then that of the list.
    cluster.create(&configuration(MUTATING, "b", &hooks(&["second", "last"], &json!({}))));
    cluster.create(&configuration(
        MUTATING,
        "a",
        &hooks(&["first"], &json!({"reinvocationPolicy": "IfNeeded"})),
    ));
    cluster.create(&pod("p", &json!({"a": "b"})));
    // The first one changed nothing after itself, others did: it is asked again.
    assert_eq!(webhook.paths(), ["/first", "/second", "/last", "/first"]);
    let stored = cluster.json("get pod p");
    assert_eq!(stored["metadata"]["labels"], json!({"a": "b", "first": "yes", "second": "yes"}));
    assert_eq!(stored["spec"]["hostNetwork"], true);
    // `anyuid`, the administrator's first choice, does not allow the host's network: another SCC was chosen after it.
    assert_eq!(stored["metadata"]["annotations"]["openshift.io/scc"], "hostnetwork-v2");
    // The second search starts from what the first one wrote: its MKNOD stays.
    let dropped = &stored["spec"]["containers"][0]["securityContext"]["capabilities"]["drop"];
    assert_eq!(*dropped, json!(["ALL", "MKNOD"]));

    cluster.kubectl("delete mutatingwebhookconfigurations a b");
    cluster.create(&configuration(MUTATING, "c", &hooks(&["uid"], &json!({}))));
    cluster.create(&pod("q", &json!({})));
    let stored = cluster.json("get pod q");
    assert_eq!(stored["metadata"]["labels"]["uid"], "yes");
    assert_ne!(stored["metadata"]["uid"], "mine");
    cluster.create(&configuration(MUTATING, "d", &hooks(&["rename"], &json!({}))));
    let said = cluster.create_fails(&pod("r", &json!({})));
    assert!(said.contains("metadata.name cannot be changed by a webhook"), "{said}");
}

#[test]
fn validating_webhooks_refuse_warn_and_see_everything() {
    let webhook = Webhook::start(|path, review| match path {
        "/no" => {
            json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "not here"}})
        }
        "/rude" => json!({"allowed": false}),
        "/warn" => {
            json!({"allowed": true, "warnings": [format!("dry run: {}", review["request"]["dryRun"])]})
        }
        "/patch" => allow(&json!([])),
        _ => allow(&Value::Null),
    });
    let cluster = cluster();
    let put = |path: &str, more: Value| {
        cluster.apply(&configuration(VALIDATING, "v", &[hook("v", &webhook.config(path), more)]));
    };
    put("/no", json!({}));
    let said = cluster.create_fails(&pod("p", &json!({})));
    assert!(said.contains("admission webhook \"v.test.local\" denied the request: not here"), "{said}");
    let asked = webhook.last();
    let request = &asked["request"];
    assert_eq!(asked["query"], "timeout=10s");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert_eq!(request["resource"], json!({"group": "", "version": "v1", "resource": "pods"}));
    assert_eq!((&request["operation"], &request["namespace"]), (&json!("CREATE"), &json!("default")));
    assert_eq!(request["userInfo"]["username"], "kubernetes-admin");
    // The object is as it would be stored: the server's own admission is through.
    assert_eq!(request["object"]["spec"]["serviceAccountName"], "default");
    put("/rude", json!({}));
    let said = cluster.create_fails(&pod("p", &json!({})));
    assert!(said.contains("denied the request without explanation"), "{said}");
    put("/patch", json!({}));
    let said = cluster.create_fails(&pod("p", &json!({})));
    assert!(said.contains("validating webhook may not return response.patch"), "{said}");

    put("/warn", json!({}));
    let output = cluster.run_with_input(&["create", "--dry-run=server", "-f", "-"], &pod("p", &json!({})));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("Warning: dry run: true"), "{said}");

    // Selectors, and what a rule does not name.
    put("/no", json!({"objectSelector": {"matchLabels": {"check": "me"}}}));
    cluster.create(&pod("free", &json!({})));
    cluster.create_fails(&pod("p", &json!({"check": "me"})));
    // The old object counts too: nobody gets away by taking the label off.
    let said = cluster.fails(&["label", "pod", "free", "check=me"]);
    assert!(said.contains("not here"), "{said}");
    let exempt = json!({"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["default"]}]});
    put("/no", json!({"namespaceSelector": exempt}));
    cluster.create(&pod("here", &json!({})));
    cluster.kubectl("create namespace other");
    let args = ["create", "-n", "other", "-f", "-"];
    assert!(!cluster.run_with_input(&args, &pod("there", &json!({}))).status.success());

    // Another version of the same kind is the same object, unless the webhook insists.
    let rule = json!([{"operations": ["CREATE"], "apiGroups": ["kubevirt.io"], "apiVersions": ["v1alpha3"],
                       "resources": ["virtualmachines"]}]);
    let machine = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "m"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}}}}});
    put("/no", json!({"rules": rule, "matchPolicy": "Exact"}));
    cluster.create(&machine.to_string());
    put("/no", json!({"rules": rule, "matchPolicy": "Equivalent"}));
    cluster.kubectl("delete vm m");
    cluster.create_fails(&machine.to_string());
    let request = webhook.last()["request"].clone();
    assert_eq!(request["kind"]["version"], "v1alpha3");
    assert_eq!(request["requestKind"]["version"], "v1");
    assert_eq!(request["object"]["apiVersion"], "kubevirt.io/v1alpha3");

    // Below an object, and deletion.
    let rule =
        json!([{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*"]}]);
    put("/no", json!({"rules": rule}));
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "free"},
                         "target": {"kind": "Node", "name": "n"}});
    let path = "/api/v1/namespaces/default/pods/free/binding";
    let output = cluster.run_with_input(&["create", "--raw", path, "-f", "-"], &binding.to_string());
    assert!(String::from_utf8(output.stderr).unwrap().contains("not here"));
    assert_eq!(webhook.last()["request"]["kind"]["kind"], "Binding");
    let said = cluster.fails(&["delete", "pod", "free"]);
    assert!(said.contains("not here"), "{said}");
    assert_eq!(webhook.last()["request"]["object"], Value::Null);
    assert_eq!(webhook.last()["request"]["oldObject"]["metadata"]["name"], "free");
}

#[test]
fn a_webhook_that_is_down_does_what_its_policy_says() {
    let mut webhook = Webhook::start(|_, _| allow(&Value::Null));
    let cluster = cluster();
    let put = |client: &Value, more: Value| {
        cluster.apply(&configuration(VALIDATING, "v", &[hook("v", client, more)]));
    };
    cluster.create(&pod("before", &json!({})));
    put(&webhook.config("/never"), json!({"timeoutSeconds": 1}));
    let said = cluster.create_fails(&pod("p", &json!({})));
    let url = format!("https://127.0.0.1:{}", webhook.address.port());
    let expected = format!(
        "Internal error occurred: failed calling webhook \"v.test.local\": failed to call webhook: \
         Post \"{url}/never?timeout=1s\": context deadline exceeded"
    );
    assert!(said.contains(&expected), "{said}");
    let other = Webhook::start(|_, _| allow(&Value::Null));
    let mut distrusted = webhook.config("/ok");
    distrusted["caBundle"] = other.bundle.clone().into();
    put(&distrusted, json!({}));
    let said = cluster.create_fails(&pod("p", &json!({})));
    assert!(said.contains("x509: certificate signed by unknown authority"), "{said}");
    put(&webhook.config("/ok"), json!({}));
    cluster.create(&pod("p", &json!({})));

    webhook.stop();
    let said = cluster.create_fails(&pod("q", &json!({})));
    let expected = format!(
        "Post \"{url}/ok?timeout=10s\": dial tcp 127.0.0.1:{}: connect: connection refused",
        webhook.address.port()
    );
    assert!(said.contains(&expected), "{said}");
    // Status writes are another resource.
    let status = r#"{"status": {"message": "written"}}"#;
    cluster.ok(&["patch", "pod", "before", "--subresource=status", "--type=merge", "-p", status]);
    put(&webhook.config("/ok"), json!({"failurePolicy": "Ignore"}));
    cluster.create(&pod("q", &json!({})));

    // A service that has nobody behind it, and one that is another name.
    let service = json!({"service": {"namespace": "default", "name": "hook"}, "caBundle": other.bundle});
    put(&service, json!({}));
    let said = cluster.create_fails(&pod("r", &json!({})));
    assert!(
        said.contains("Post \"https://hook.default.svc:443/?timeout=10s\": service \"hook\" not found"),
        "{said}"
    );

    // Whatever matches everything can still be taken away.
    let all = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    put(&webhook.config("/ok"), json!({"rules": all}));
    cluster.fails(&["create", "namespace", "n"]);
    let cluster = cluster.restart();
    cluster.fails(&["create", "namespace", "n"]);
    cluster.kubectl("delete validatingwebhookconfiguration v");
    cluster.kubectl("create namespace n");
}
