//! A gate before the API server: a test cuts connections, and keeps their clients waiting until it opens the gate again.
//! What clients meet is what a broken network makes them meet; the server is the real one.

#![allow(dead_code, reason = "each test file uses what it needs")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
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
                        // Either side may end it.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
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

    /// Cuts connections; until their clients may come back, so much happens that the server forgets the revisions that
    /// they know. Answers how many were cut.
    pub(crate) async fn expire(&self, connections: &[usize], admin: &Client) -> usize {
        self.open.send_replace(false);
        let mut cut = 0;
        for number in connections {
            if let Some(task) = self.connections.lock().unwrap().remove(number) {
                task.abort();
                cut += 1;
            }
        }
        fill_history(admin).await;
        self.open.send_replace(true);
        cut
    }
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
