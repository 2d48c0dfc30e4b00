//! What is seen to while an ordinary pod runs: its secrets become what they are now, and claims that it has begun to write to
//! are known as in use.
//!
//! Each pod has a task for either, so that a volume or an API server that hangs holds up nothing else. What has not ended is
//! not begun again: whatever hangs holds one thread.

use super::{
    Manager, Shared,
    accept::{self, Look},
    pipeline::{self, Failure, has_place, in_time, unusable},
    record::{Record, VOLUMES},
};
use ferrovirt_node::volumes::{self, Objects};
use ferrovirt_plan::decide::accept::untyped;
use k8s_openapi::api::core::v1::Pod;
use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

/// How often. A kubelet takes up to a minute or two.
const PERIOD: Duration = Duration::from_secs(30);
/// Pods whose secrets are read at the same time. Each reading ends within a time.
const READERS: usize = 8;

/// What is seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Secrets,
    Claims,
}

impl Manager {
    /// Looks after all pods with a place, for ever.
    pub(super) async fn keep_volumes(&self) {
        let readers = Arc::new(Semaphore::new(READERS));
        let mut tasks = Tasks::default();
        loop {
            sleep(PERIOD).await;
            tasks.forget_ended();
            let pods: Vec<Arc<Pod>> = self.pods().values().map(|handle| handle.pod.clone()).collect();
            for pod in pods.into_iter().filter(|pod| has_place(pod)) {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                for part in [Part::Secrets, Part::Claims] {
                    let (shared, readers, pod) = (self.shared.clone(), readers.clone(), pod.clone());
                    let begun = tasks.begin((uid.clone(), part), async move {
                        let done = match part {
                            Part::Secrets => secrets(&shared, &readers, &pod).await,
                            Part::Claims => claims(&shared, &pod).await,
                        };
                        if let Err(Failure { message, .. }) = done {
                            tracing::warn!(pod = pod.metadata.name, "its volumes: {message}");
                        }
                    });
                    if !begun {
                        tracing::warn!(uid, "{part:?} of its volumes still hang since the last look");
                    }
                }
            }
        }
    }
}

/// One task of a name at a time.
#[derive(Debug)]
struct Tasks<K>(HashMap<K, JoinHandle<()>>);

impl<K> Default for Tasks<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Tasks<K> {
    fn forget_ended(&mut self) {
        self.0.retain(|_, task| !task.is_finished());
    }

    /// Whether it was begun: not where the one before has not ended.
    fn begin(&mut self, name: K, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let free = self.0.get(&name).is_none_or(JoinHandle::is_finished);
        if free {
            self.0.insert(name, tokio::spawn(work));
        }
        free
    }
}

async fn secrets(shared: &Arc<Shared>, readers: &Semaphore, pod: &Arc<Pod>) -> Result<(), Failure> {
    let names = volumes::names(pod).secrets;
    if names.is_empty() {
        return Ok(());
    }
    let directory = shared.pod_directory(pod.metadata.uid.as_deref().unwrap_or_default());
    let Some(record) = Record::alive(&directory) else { return Ok(()) };
    // Nothing is given to a pod that is another one than was started.
    let same = |should| accept::compare(shared, &untyped(pod), should).is_none();
    if !record.accepted.as_ref().is_some_and(same) {
        return Ok(());
    }
    let objects = {
        let _reader = readers.acquire().await.map_err(Failure::node)?;
        let same = async { Ok(matches!(accept::look(shared, pod, &record).await, Look::Same { .. })) };
        if !in_time(same).await? {
            return Ok(());
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let secrets = in_time(accept::read_secrets(shared, namespace, names)).await?;
        Objects { secrets, ..Objects::default() }
    };
    let (shared, pod) = (shared.clone(), pod.clone());
    let work = spawn_blocking(move || {
        let identity = pipeline::identity(&shared, &pod, &pipeline::compute(&pod)?)?;
        volumes::refresh(&pod, &directory.join(VOLUMES), &identity, &objects).map_err(unusable)
    });
    work.await.map_err(Failure::node)?
}

async fn claims(shared: &Shared, pod: &Pod) -> Result<(), Failure> {
    let directory = shared.pod_directory(pod.metadata.uid.as_deref().unwrap_or_default());
    let Some(record) = Record::alive(&directory) else { return Ok(()) };
    let looks = record.written.into_iter().map(|claim| spawn_blocking(move || claim.look()));
    for look in looks.collect::<Vec<_>>() {
        look.await.map_err(Failure::node)?.map_err(Failure::node)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn what_hangs_holds_up_nothing_else_and_is_not_begun_twice() {
        let count = Arc::new(AtomicUsize::new(0));
        let mut tasks = Tasks::default();
        let hangs = |tasks: &mut Tasks<&'static str>| tasks.begin("a", std::future::pending());
        assert!(hangs(&mut tasks));
        for round in 1..=3 {
            tasks.forget_ended();
            assert!(!hangs(&mut tasks));
            let count = count.clone();
            assert!(tasks.begin("b", async move {
                count.fetch_add(1, Ordering::Relaxed);
            }));
            let ended = tasks.0.get_mut("b").unwrap();
            ended.await.unwrap();
            assert_eq!(tasks.0.len(), 2, "round {round}");
        }
        assert_eq!(count.load(Ordering::Relaxed), 3);
        tasks.forget_ended();
        assert_eq!(tasks.0.len(), 1);
    }
}
