//! A gate before the API server: a test cuts connections, and keeps their clients waiting until it opens the gate again.
//! What clients meet is what a broken network makes them meet; the server is the real one.

#![allow(dead_code, reason = "each test file uses what it needs")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The server keeps less than this of its history.
const HISTORY: usize = 4 << 20;

pub(crate) struct Gate {
    server: SocketAddr,
    address: SocketAddr,
    open: watch::Sender<bool>,
    connections: Arc<Mutex<BTreeMap<usize, AbortHandle>>>,
}

impl Gate {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, is_open) = watch::channel(true);
        let connections: Arc<Mutex<BTreeMap<usize, AbortHandle>>> = Arc::default();
        let all = Arc::clone(&connections);
        tokio::spawn(async move {
            for number in 0.. {
                let Ok((mut client, _)) = listener.accept().await else { return };
                let (mut is_open, all_of_them) = (is_open.clone(), Arc::clone(&all));
                let mut all = all.lock().unwrap();
                let task = tokio::spawn(async move {
                    if is_open.wait_for(|open| *open).await.is_ok()
                        && let Ok(mut server) = TcpStream::connect(server).await
                    {
                        carry(&mut client, &mut server, is_open).await;
                    }
                    all_of_them.lock().unwrap().remove(&number);
                });
                all.insert(number, task.abort_handle());
            }
        });
        Self { server, address, open, connections }
    }

    /// A kubeconfig whose connections go through the gate.
    pub(crate) fn through(&self, kubeconfig: &str) -> String {
        let (server, gate) = (self.server.to_string(), self.address.to_string());
        assert!(kubeconfig.contains(&server));
        kubeconfig.replace(&server, &gate)
    }

    /// The connections that are there.
    pub(crate) fn connections(&self) -> Vec<usize> {
        self.connections.lock().unwrap().keys().copied().collect()
    }

    /// Cuts connections; until their clients may come back, each of the objects, which are named by their paths, changes, and
    /// so much happens then that the server forgets these changes: who follows their kinds cannot go on from what they know.
    /// Answers how many were cut.
    pub(crate) async fn expire(&self, connections: &[usize], admin: &Client, objects: &[&str]) -> usize {
        self.open.send_replace(false);
        let mut cut = 0;
        for number in connections {
            if let Some(task) = self.connections.lock().unwrap().remove(number) {
                task.abort();
                cut += 1;
            }
        }
        for object in objects {
            change(admin, object).await;
        }
        fill_history(admin).await;
        self.open.send_replace(true);
        cut
    }
}

/// Carries bytes until either side ends. What the client sends waits for an open gate: a client whose watch was cut may
/// watch again over another connection that it has already.
async fn carry(client: &mut TcpStream, server: &mut TcpStream, mut is_open: watch::Receiver<bool>) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
            if is_open.wait_for(|open| *open).await.is_err()
                || to_server.write_all(&bytes[..length]).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

/// Changes an object in a way that means nothing.
async fn change(admin: &Client, path: &str) {
    let request = |method: &str, body: Vec<u8>| {
        let request = http::Request::builder().method(method).uri(path);
        request.header("content-type", "application/merge-patch+json").body(body).unwrap()
    };
    let object: Value = admin.request(request("GET", Vec::new())).await.unwrap();
    let before = object["metadata"]["resourceVersion"].clone();
    let change = json!({"metadata": {"annotations": {"changed-after": before}}});
    let object: Value = admin.request(request("PATCH", change.to_string().into_bytes())).await.unwrap();
    assert_ne!(object["metadata"]["resourceVersion"], before, "{path}");
}

/// How many watches the server has sent back to list again.
pub(crate) async fn expired(admin: &Client) -> usize {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = admin.request_text(request).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("ferrovirt_apiserver_expired_watches_total "));
    line.unwrap().parse().unwrap()
}

/// Changes one object until the server has forgotten what was before.
pub(crate) async fn fill_history(admin: &Client) {
    let api: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    let mut object = ConfigMap::default();
    object.metadata.name = Some("large".to_owned());
    if api.get_opt("large").await.unwrap().is_none() {
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let large = "x".repeat(900 * 1024);
    for number in 0..=HISTORY / large.len() + 1 {
        let change = json!({"data": {"number": number.to_string(), "large": large}});
        api.patch("large", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    }
    let small = json!({"data": {"large": null}});
    api.patch("large", &PatchParams::default(), &Patch::Merge(&small)).await.unwrap();
}
