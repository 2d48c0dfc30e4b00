//! Writes a machine's status until the object says what the node knows.

use super::{
    clock,
    status::{Known, Step, step},
};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_kubernetes::segment::segment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long to wait for a watch event, or after a failure, before looking again.
const AGAIN: Duration = Duration::from_secs(1);

/// Shortest time between two writes: a launcher decides how often its guest's state changes.
const GAP: Duration = Duration::from_millis(100);

/// A task that reports one machine.
#[derive(Debug)]
pub struct Reporter {
    known: watch::Sender<(u64, Known)>,
    seen: watch::Sender<Option<Arc<VirtualMachineInstance>>>,
    settled: watch::Receiver<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Reporter {
    /// Starts the task for the instance with this name and UID.
    pub fn start(api: Api<VirtualMachineInstance>, name: String, uid: String) -> Self {
        let (known, known_rx) = watch::channel((0, Known::default()));
        let (seen, seen_rx) = watch::channel(None);
        let (settled_tx, settled) = watch::channel(0);
        let task = Task { api, name, uid, known: known_rx, seen: seen_rx, settled: settled_tx };
        Self { known, seen, settled, task: tokio::spawn(task.run()) }
    }

    /// Changes what is known.
    pub fn update(&self, change: impl FnOnce(&mut Known)) {
        self.known.send_if_modified(|(number, known)| {
            let before = known.clone();
            change(known);
            let changed = *known != before;
            *number += u64::from(changed);
            changed
        });
    }

    /// Takes note of a newer object.
    pub fn see(&self, vmi: Arc<VirtualMachineInstance>) {
        self.seen.send_replace(Some(vmi));
    }

    /// Waits until everything known so far is written, or cannot be any more, or the time is over.
    pub async fn settle(&mut self, limit: Duration) {
        let number = self.known.borrow().0;
        // An ended task has nothing left to write.
        let _over = tokio::time::timeout(limit, self.settled.wait_for(|settled| *settled >= number)).await;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    api: Api<VirtualMachineInstance>,
    name: String,
    uid: String,
    known: watch::Receiver<(u64, Known)>,
    seen: watch::Receiver<Option<Arc<VirtualMachineInstance>>>,
    settled: watch::Sender<u64>,
}

impl Task {
    async fn run(mut self) {
        let mut latest: Option<Arc<VirtualMachineInstance>> = None;
        let mut next = tokio::time::Instant::now();
        loop {
            let (number, known) = self.known.borrow_and_update().clone();
            if number == 0 {
                // Nothing to say yet.
                if self.known.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if self.seen.has_changed().unwrap_or(false) {
                latest = self.seen.borrow_and_update().clone();
            }
            let vmi = match &latest {
                Some(vmi) => vmi.clone(),
                None => match self.api.get(&segment(&self.name)).await {
                    Ok(vmi) => Arc::new(vmi),
                    Err(kube::Error::Api(status)) if status.code == 404 => return,
                    Err(error) => {
                        tracing::warn!(machine = self.name, "reading the machine: {error}");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                },
            };
            if vmi.metadata.uid.as_deref() != Some(&self.uid) {
                return;
            }
            latest = Some(vmi.clone());
            match step(&vmi, &known, &clock::now()) {
                Step::Done => {
                    self.settled.send_replace(number);
                    if self.changed(None).await.is_none() {
                        return;
                    }
                }
                Step::Wait => match self.changed(Some(AGAIN)).await {
                    None => return,
                    // The watch may be late: look.
                    Some(false) => latest = None,
                    Some(true) => {}
                },
                // What comes meanwhile goes with it.
                Step::Patch(_) if next > tokio::time::Instant::now() => tokio::time::sleep_until(next).await,
                Step::Patch(patch) => {
                    next = tokio::time::Instant::now() + GAP;
                    let sent = self
                        .api
                        .patch(&segment(&self.name), &PatchParams::default(), &Patch::Merge(&patch))
                        .await;
                    match sent {
                        Ok(vmi) => latest = Some(Arc::new(vmi)),
                        Err(kube::Error::Api(status)) if status.code == 404 => return,
                        Err(kube::Error::Api(status)) if status.code == 409 => latest = None,
                        Err(error) => {
                            tracing::warn!(machine = self.name, "writing the machine's status: {error}");
                            tokio::time::sleep(AGAIN).await;
                            latest = None;
                        }
                    }
                }
            }
        }
    }

    /// Waits for news: `None` when there will be none, false when only time passed.
    async fn changed(&mut self, limit: Option<Duration>) -> Option<bool> {
        let timeout = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = self.known.changed() => result.ok().map(|()| true),
            result = self.seen.changed() => {
                // The loop takes the object, and has to find it unread.
                self.seen.mark_changed();
                result.ok().map(|()| true)
            }
            () = timeout => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_object_that_ended_the_wait_is_still_to_be_read() {
        let client =
            kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
        let (_known, known) = watch::channel((0, Known::default()));
        let (seen_tx, seen) = watch::channel(None);
        let (settled, _) = watch::channel(0);
        let api = Api::namespaced(client, "default");
        let mut task = Task { api, name: "m".to_owned(), uid: "u".to_owned(), known, seen, settled };
        seen_tx.send_replace(Some(Arc::new(VirtualMachineInstance::default())));
        assert_eq!(task.changed(None).await, Some(true));
        assert!(task.seen.has_changed().unwrap());
    }
}
