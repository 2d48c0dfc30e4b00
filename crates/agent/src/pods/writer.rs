//! Writes a pod's status, the newest knowledge only, until the API has it.

use super::{
    Shared,
    status::{Known, patch},
};
use crate::clock;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

const AGAIN: Duration = Duration::from_secs(1);

/// A task that writes one pod's status.
pub(super) struct Writer {
    known: watch::Sender<(u64, Option<Known>)>,
    settled: watch::Receiver<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    pub(super) fn start(shared: &Arc<Shared>, pod: Arc<Pod>) -> Self {
        let (known, receiver) = watch::channel((0, None));
        let (settled_tx, settled) = watch::channel(0);
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let api = Api::namespaced(shared.node.client.0.clone(), &namespace);
        let task = tokio::spawn(run(api, pod, receiver, settled_tx));
        Self { known, settled, task }
    }

    pub(super) fn write(&self, known: Known) {
        self.known.send_modify(|(number, slot)| {
            if slot.as_ref() != Some(&known) {
                *number += 1;
                *slot = Some(known);
            }
        });
    }

    /// Waits until everything so far is written, or cannot be any more, or the time is over.
    pub(super) async fn settle(&mut self, limit: Duration) {
        let number = self.known.borrow().0;
        let _over = tokio::time::timeout(limit, self.settled.wait_for(|settled| *settled >= number)).await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    api: Api<Pod>,
    pod: Arc<Pod>,
    mut known: watch::Receiver<(u64, Option<Known>)>,
    settled: watch::Sender<u64>,
) {
    let mut pod = pod.as_ref().clone();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut written = 0;
    loop {
        let (number, next) = known.borrow_and_update().clone();
        let Some(next) = next.filter(|_| number > written) else {
            if known.changed().await.is_err() {
                return;
            }
            continue;
        };
        let mut body = patch(&pod, &next, &clock::now());
        if let (Some(fields), Some(uid)) = (body.as_object_mut(), &pod.metadata.uid) {
            // A later pod of the same name is not ours to write to.
            fields.insert("metadata".to_owned(), serde_json::json!({"uid": uid}));
        }
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&body)).await {
            Ok(newer) => {
                pod = newer;
                written = number;
                settled.send_replace(number);
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                tracing::debug!(pod = name, "status not written: {}", status.message);
                written = number;
                settled.send_replace(number);
            }
            Err(error) => {
                tracing::warn!(pod = name, "writing the pod's status: {error}");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
