//! The controllers: watches around the decisions of `ferrovirt_plan::decide`, against any Kubernetes API.
//!
//! ```text
//!   follow (one task for each kind) --> caches
//!        |  keys of what changed
//!        v
//!   queue (one task) --> reconcile (one task for each key that is due) --> API server
//!                             |  events
//!                             v
//!                        recorder (one task)
//! ```
//!
//! | Task | Takes | Gives | Hides |
//! |---|---|---|---|
//! | follow | a watch | the cache of its kind, keys | lists, watches, lost connections |
//! | queue | keys, ends of rounds | rounds, at most one at a time for a key | back-off, keys that wait already |
//! | reconcile | a snapshot of the caches | requests | nothing: it performs what was decided |
//! | recorder | events | Event objects | counting of repetitions |
//!
//! # Verbs that this crate uses
//!
//! The cluster role `kubevirt-controller` must have exactly these, in all namespaces:
//!
//! | Group | Resource | Verbs |
//! |---|---|---|
//! | `kubevirt.io` | `virtualmachines` | list watch patch delete |
//! | `kubevirt.io` | `virtualmachines/status` | patch |
//! | `kubevirt.io` | `virtualmachines/finalizers`, `virtualmachineinstances/finalizers` | update (owner references that block) |
//! | `kubevirt.io` | `virtualmachineinstances` | list watch create patch delete |
//! | `kubevirt.io` | `kubevirts` | list watch |
//! | `kubevirt.io` | `kubevirts/status` | patch |
//! | (core) | `pods` | get list watch create delete |
//! | (core) | `namespaces` | get |
//! | (core) | `persistentvolumeclaims` | list watch |
//! | (core) | `nodes` | list watch |
//! | (core) | `events` | create patch |
//!
//! and in the namespace of the controllers, on a cluster, for single objects but the first:
//!
//! | Group | Resource | Object | Verbs |
//! |---|---|---|---|
//! | `kubevirt.io` | `kubevirts` | | create |
//! | `kubevirt.io` | `kubevirts` | `kubevirt` | patch |
//! | `coordination.k8s.io` | `leases` | `kubevirt-controller` | get update |
//! | `apps` | `deployments` | `kubevirt-controller` | list watch |
//! | `apps` | `daemonsets` | `virt-handler` | list watch |
//!
//! and on a cluster of the whole of it list and watch of the `mutatingwebhookconfigurations` and
//! `validatingwebhookconfigurations` (`admissionregistration.k8s.io`) `kubevirt-api`, and of the `apiservices`
//! (`apiregistration.k8s.io`) of the subresources of machines.
//!
//! A verb that is missing makes its step fail alone: the refusal, which names verb and resource, goes into an event
//! and, where the object can still be written, into a condition; the step is tried again after a growing pause.
//!
//! # More than one
//!
//! On a cluster there are replicas, of which the one with the Lease works ([`lease`]); the embedded default has one
//! instance and no Lease. Nothing depends on it: what would go wrong with two that work at once is excluded by other
//! means. Names of pods follow from the instance's UID, so a second pod cannot be created; every patch
//! tests the version that it was decided from; deletions name a UID; and before a machine is given up because its pod
//! is missing, the API server itself is asked.

mod apply;
mod caches;
mod kept;
pub mod lease;
mod leave;
mod look;
mod pending;
mod queue;
mod reconcile;
mod recorder;

pub use leave::leave;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ferrovirt_plan::config::{ClusterConfig, World};
use futures::FutureExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::caches::Caches;
use crate::kept::Kept;
use crate::pending::Pending;
use crate::queue::{End, Queue};
use crate::reconcile::Controller;

/// Rounds that run at the same time. More would only queue up in the API server.
const CONCURRENCY: usize = 32;

/// What a round is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// A VirtualMachine.
    Vm(Name),
    /// A VirtualMachineInstance.
    Vmi(Name),
    /// The KubeVirt object.
    Cluster,
}

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name {
    namespace: String,
    name: String,
}

/// Why the controllers ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task that never ends did; the bug is in this program.
    #[error("a task of the controllers ended; this is a bug, please report it")]
    TaskEnded,
    /// A task panicked; the bug is in this program.
    #[error("a task of the controllers panicked; this is a bug, please report it")]
    TaskPanicked(#[source] JoinError),
}

/// Runs the controllers until the future is dropped. `defaults` holds while there is no KubeVirt object, and names
/// the launcher's image.
///
/// # Errors
/// Only for bugs: everything that the API server refuses or that cannot be reached is tried again.
pub async fn run(client: kube::Client, defaults: ClusterConfig) -> Result<Infallible, Error> {
    run_and_tell(client, defaults, || {}).await
}

/// The same; `working` is called when everything that is followed has been listed once.
///
/// # Errors
/// As [`run`].
pub async fn run_and_tell(
    client: kube::Client,
    defaults: ClusterConfig,
    working: impl FnOnce() + Send,
) -> Result<Infallible, Error> {
    // Dropping the set, with this future, ends every task.
    let mut tasks = JoinSet::new();
    let pending = Pending::default();
    let caches = Caches::follow(&client, defaults.world, &pending, &mut tasks);
    let (recorder, recording) = recorder::recorder(client.clone());
    tasks.spawn(recording);

    // Until everything has been listed, what is missing in a cache means nothing.
    tokio::select! {
        () = caches.ready() => {}
        Some(ended) = tasks.join_next() => return Err(reason(ended)),
    }
    working();
    if let Some(parts) = caches.parts.clone() {
        let pending = pending.clone();
        // Its end is no end of the controllers.
        tokio::spawn(async move {
            parts.ready().await;
            pending.send(Key::Cluster);
        });
    }
    // Our own API server keeps images.
    let kept = Kept::new(defaults.world == World::Machine);
    let controller = Controller { client, caches, recorder, defaults, kept, pending: pending.clone() };
    let controller = Arc::new(controller);
    let mut queue: Queue<Key> = Queue::default();
    queue.add(Key::Cluster);
    let mut rounds = JoinSet::new();
    loop {
        while rounds.len() < CONCURRENCY
            && let Some(key) = queue.take()
        {
            let controller = Arc::clone(&controller);
            rounds.spawn(async move {
                // A round that panics must not take its key with it: the key would never be looked at again.
                let end = std::panic::AssertUnwindSafe(controller.round(&key)).catch_unwind().await;
                (key, end.unwrap_or(End::Failed))
            });
        }
        let alarm = queue.next_alarm().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            key = pending.recv() => queue.add(key),
            Some(round) = rounds.join_next() => match round {
                Ok((key, end)) => queue.done(&key, end, Instant::now(), queue::jitter()),
                Err(error) => return Err(Error::TaskPanicked(error)),
            },
            () = tokio::time::sleep_until(alarm) => queue.wake(Instant::now()),
            Some(ended) = tasks.join_next() => return Err(reason(ended)),
        }
    }
}

fn reason(ended: Result<(), JoinError>) -> Error {
    match ended {
        Ok(()) => Error::TaskEnded,
        Err(error) => Error::TaskPanicked(error),
    }
}
