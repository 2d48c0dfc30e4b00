//! For tests of what serves over HTTPS beside the embedded API server: requests to both, what was said, and roles of which a
//! verb is taken away.
#![allow(dead_code)]

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use kube::Client;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Far more than anything here takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// Group, resource and verb.
pub(crate) type Verb = (&'static str, &'static str, &'static str);

static SAID: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Pipe;

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        SAID.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What everybody in this process has said so far, of what the filter lets through.
pub(crate) fn log(filter: &'static str) -> &'static Mutex<Vec<u8>> {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Pipe);
        let filter: Targets = filter.parse().unwrap();
        tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    });
    &SAID
}

/// The lines since a place in the log.
pub(crate) fn lines(since: usize) -> Vec<String> {
    let bytes = SAID.lock().unwrap()[since..].to_vec();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, found).await;
    found.unwrap_or_else(|_| panic!("{what} did not come:\n{}", lines(0).join("\n")))
}

pub(crate) async fn client(kubeconfig: &str) -> Client {
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

pub(crate) async fn request(
    client: &Client,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Value, kube::Error> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    client.request(request.body(body).unwrap()).await
}

/// The answer's text, whatever its code; an error when there is no connection.
pub(crate) async fn ask(
    listen: SocketAddr,
    roots: RootCertStore,
    method: &str,
    path: &str,
    body: String,
) -> Result<String, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let stream = TcpStream::connect(listen).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", "127.0.0.1");
    let request = request.header("content-type", "application/json").body(Full::<Bytes>::from(body));
    let answer = sender.send_request(request.unwrap()).await.map_err(|error| error.to_string())?;
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

/// The authorities in a Secret of ours.
pub(crate) async fn trusted(admin: &Client, namespace: &str, secret: &str) -> Result<RootCertStore, String> {
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
    let secret = request(admin, "GET", &path, &Value::Null).await.unwrap();
    let bundle = secret["data"]["ca.crt"].as_str().ok_or("no certificate was made")?;
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&STANDARD.decode(bundle).unwrap()) {
        roots.add(authority.unwrap()).unwrap();
    }
    Ok(roots)
}

/// Rules, each for one verb on one resource, without one of them.
pub(crate) fn without(rules: &Value, gone: Verb) -> Value {
    let list = |rule: &Value, key: &str| -> Vec<String> {
        rule[key].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let mut left = Vec::new();
    for rule in rules.as_array().unwrap() {
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                for verb in list(rule, "verbs") {
                    if (group.as_str(), resource.as_str(), verb.as_str()) == gone {
                        continue;
                    }
                    let mut single = rule.clone();
                    single["apiGroups"] = json!([group]);
                    single["resources"] = json!([resource]);
                    single["verbs"] = json!([verb]);
                    left.push(single);
                }
            }
        }
    }
    left.into()
}
