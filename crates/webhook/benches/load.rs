//! Reviews a second over TLS, latency at half of 5,000 a second, and memory: `cargo bench -p ferrovirt-webhook`.
//!
//! The webhook is the real program (`cargo xtask build` makes it) against the real embedded API, which serves 200 SCCs. The
//! client is in this process and shares the machine's cores with it; its own time is printed beside the webhook's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A broken benchmark should stop.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrovirt_apiserver::app::SccAdmission;
use ferrovirt_apiserver::server::{Config, Server};
use ferrovirt_apiserver::store::Key;
use ferrovirt_plan::render::cluster;
use ferrovirt_plan::render::scc_crd;
use ferrovirt_plan::render::scc_webhook::{self, NAME, SECRET};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

const SCCS: usize = 200;
/// Requests of one measurement.
const COUNT: usize = 30_000;
const CONNECTIONS: usize = 4;
/// Requests under way at the same time on one connection, in the measurement of the highest rate.
const DEPTH: usize = 8;
/// Half of what is asked for.
const RATE: usize = 2_500;

struct Webhook(Child);

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn case(name: &str) -> Value {
    let path = format!("{}/../../tests/conformance/scc/{name}.json.gz", env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn program() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    target.join("dist/ferrovirt")
}

/// User and system time of a process.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum();
    // The kernel counts in hundredths of a second for user space.
    Duration::from_millis(ticks * 10)
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[derive(Clone)]
struct Target {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

impl Target {
    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn send(sender: &mut SendRequest<Full<Bytes>>, path: &str, body: Bytes) -> Bytes {
    let request = Request::post(format!("https://127.0.0.1{path}?timeout=10s"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.into_body().collect().await.unwrap().to_bytes()
}

/// As many as possible: every connection always has some under way.
async fn highest(target: &Target, path: &'static str, body: &Bytes, pid: u32) {
    let left = Arc::new(AtomicUsize::new(COUNT));
    let (ours, theirs, start) = (cpu(std::process::id()), cpu(pid), Instant::now());
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let sender = target.connect().await.unwrap();
        for _ in 0..DEPTH {
            let (mut sender, body, left) = (sender.clone(), body.clone(), Arc::clone(&left));
            tasks.push(tokio::spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    send(&mut sender, path, body.clone()).await;
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let time = start.elapsed();
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / COUNT as f64;
    println!(
        "| {path}, highest rate | {:.0} a second | {:.0} us of the webhook's, {:.0} us of the client's |",
        COUNT as f64 / time.as_secs_f64(),
        each(cpu(pid) - theirs),
        each(cpu(std::process::id()) - ours),
    );
}

/// At a fixed rate; times count from when a request was due, not from when the client got round to it.
async fn paced(target: &Target, path: &'static str, body: &Bytes) {
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        senders.push(target.connect().await.unwrap());
    }
    let start = Instant::now() + Duration::from_millis(50);
    let mut tasks = Vec::with_capacity(COUNT);
    for n in 0..COUNT {
        let due = start + Duration::from_nanos(1_000_000_000 / RATE as u64) * u32::try_from(n).unwrap();
        let (mut sender, body) = (senders[n % CONNECTIONS].clone(), body.clone());
        // The timer's grain is a millisecond; what is due within it goes out together.
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        tasks.push(tokio::spawn(async move {
            send(&mut sender, path, body).await;
            due.elapsed()
        }));
    }
    let mut times = Vec::with_capacity(COUNT);
    for task in tasks {
        times.push(task.await.unwrap());
    }
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "| {path}, {RATE} a second | median {:.2} ms | p99 {:.2} ms, longest {:.1} ms |",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let case = case("bench-case");
    let directory = tempfile::tempdir().unwrap();
    let server = Server::open(Config {
        data_dir: directory.path().join("data"),
        listen: ([127, 0, 0, 1], 0).into(),
        agent_socket: directory.path().join("agent.sock"),
        scc_admission: SccAdmission::Webhook,
        longest_watch: None,
        audit: None,
    })
    .await
    .unwrap();
    let served =
        |object: &Value| !["Deployment", "PodDisruptionBudget"].contains(&object["kind"].as_str().unwrap());
    let mut manifests: Vec<Value> =
        scc_webhook::manifests(cluster::IMAGE_PREFIX).into_iter().filter(served).collect();
    manifests.push(scc_crd::crd());
    let own: Vec<Value> = case["sccs"].as_array().unwrap().clone();
    manifests.retain(|one| one["kind"] != "SecurityContextConstraints");
    manifests.extend(own.iter().cloned());
    for n in own.len()..SCCS {
        let mut more = own[n % own.len()].clone();
        more["metadata"] = json!({"name": format!("more-{n}")});
        more["users"] = json!([format!("user-{n}")]);
        more["groups"] = json!([format!("group-{n}")]);
        manifests.push(more);
    }
    manifests.push(case["namespace"].clone());
    server.ensure(&manifests).await.unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig_for_service_account(NAME, NAME).await.unwrap()).unwrap();
    let app = Arc::clone(server.app());
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(server.serve(stopped));

    let address: SocketAddr = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let child = Command::new(program())
        .args(["serve", "webhook", "--ranges", "--tls-name=127.0.0.1"])
        .arg(format!("--listen={address}"))
        .arg(format!("--self-signed-secret={SECRET}"))
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .stdin(Stdio::null())
        .spawn()
        .expect("cargo xtask build makes the program");
    let pid = child.id();
    let webhook = Webhook(child);
    let target = ready(&app, address).await;

    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": "CREATE", "namespace": case["namespace"]["metadata"]["name"],
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "userInfo": {"username": case["user"]["name"], "groups": case["user"]["groups"]},
        "object": case["pod"], "oldObject": null, "dryRun": false,
    }});
    let body = Bytes::from(review.to_string());
    let mut sender = target.connect().await.unwrap();
    let answer: Value =
        serde_json::from_slice(&send(&mut sender, "/mutate/pods", body.clone()).await).unwrap();
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    let mut admitted = review.clone();
    admitted["request"]["object"] = case["result"]["mutatedPod"].clone();
    let admitted = Bytes::from(admitted.to_string());
    let answer: Value =
        serde_json::from_slice(&send(&mut sender, "/validate/pods", admitted.clone()).await).unwrap();
    assert_eq!(answer["response"]["allowed"], true, "{answer}");

    println!(
        "{SCCS} SCCs, reviews of {} bytes, {CONNECTIONS} connections, HTTP/2 over TLS 1.3\n",
        body.len()
    );
    println!("| what | rate or median | beside |\n|---|---|---|");
    println!("| resident memory, before | {} KiB | |", resident_kib(pid));
    highest(&target, "/mutate/pods", &body, pid).await;
    highest(&target, "/validate/pods", &admitted, pid).await;
    paced(&target, "/mutate/pods", &body).await;
    paced(&target, "/validate/pods", &admitted).await;
    println!("| resident memory, after | {} KiB | |", resident_kib(pid));
    drop(webhook);
}

/// Waits until the webhook has made its certificate and answers.
async fn ready(app: &ferrovirt_apiserver::app::App, address: SocketAddr) -> Target {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "the webhook is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let secret = app.store.get(&Key::new("", "secrets", NAME, SECRET)).unwrap();
        let Some(bundle) = secret.object.pointer("/data/ca.crt").and_then(Value::as_str) else { continue };
        use base64::Engine as _;
        let pem = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let target = Target { address, tls: Arc::new(tls) };
        let Ok(mut sender) = target.connect().await else { continue };
        let request = Request::get("https://127.0.0.1/readyz").body(Full::default()).unwrap();
        if let Ok(answer) = sender.send_request(request).await
            && answer.status().is_success()
        {
            return target;
        }
    }
}
