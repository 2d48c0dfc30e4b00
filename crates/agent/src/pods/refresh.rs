//! What is seen to while an ordinary pod runs: its secrets become what they are now, and claims that it has begun to write to
//! are known as in use.

use super::{
    Manager,
    accept::{self, Look},
    pipeline::{self, Failure, has_place, in_time, unusable},
    record::{Record, VOLUMES},
};
use ferrovirt_node::volumes::{self, Objects};
use ferrovirt_plan::decide::accept::untyped;
use k8s_openapi::api::core::v1::Pod;
use std::{sync::Arc, time::Duration};
use tokio::{task::spawn_blocking, time::sleep};

/// How often. A kubelet takes up to a minute or two.
const PERIOD: Duration = Duration::from_secs(30);

impl Manager {
    /// Looks after all pods with a place, for ever.
    pub(super) async fn keep_volumes(&self) {
        loop {
            sleep(PERIOD).await;
            let pods: Vec<Arc<Pod>> = self.pods().values().map(|handle| handle.pod.clone()).collect();
            for pod in pods.iter().filter(|pod| has_place(pod)) {
                if let Err(Failure { message, .. }) = self.refresh(pod).await {
                    tracing::warn!(pod = pod.metadata.name, "its volumes: {message}");
                }
            }
        }
    }

    async fn refresh(&self, pod: &Arc<Pod>) -> Result<(), Failure> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let directory = self.shared.pod_directory(&uid);
        let Some(record) = Record::alive(&directory) else { return Ok(()) };
        let names = volumes::names(pod).secrets;
        let mut objects = Objects::default();
        // Nothing is given to a pod that is another one than was started.
        let same = |should| accept::compare(&self.shared, &untyped(pod), should).is_none();
        let asks = !names.is_empty() && record.accepted.as_ref().is_some_and(same);
        let asks = asks && matches!(accept::look(&self.shared, pod, &record).await, Look::Same { .. });
        if asks {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            objects.secrets = in_time(accept::read_secrets(&self.shared, namespace, names)).await?;
        }
        let (shared, pod) = (self.shared.clone(), pod.clone());
        let work = spawn_blocking(move || {
            for claim in &record.written {
                claim.look().map_err(Failure::node)?;
            }
            if asks {
                let identity = pipeline::identity(&shared, &pod, &pipeline::compute(&pod)?)?;
                volumes::refresh(&pod, &directory.join(VOLUMES), &identity, &objects).map_err(unusable)?;
            }
            Ok(())
        });
        work.await.map_err(Failure::node)?
    }
}
