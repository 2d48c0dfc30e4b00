//! The controllers that Kubernetes has in its controller manager and scheduler, as tasks on the store.
//!
//! Each task is level-triggered: it looks at what is there, acts, and sleeps until something changes that it cares
//! about. None polls; the two that depend on time sleep until the next moment that matters. They are part of the
//! server and write to the store directly; admission and RBAC are for those who come from outside.
//!
//! | Task | Does |
//! |---|---|
//! | [`namespaces`] | uid ranges, default service account and root certificate of each namespace; empties deleted ones |
//! | [`gc`] | deletes what its owners left behind; foreground and orphan deletion |
//! | [`scheduler`] | gives pods to the node, or says why not |
//! | [`volumes`] | binds claims and persistent volumes |
//! | [`nodes`] | says so when a node's agent is silent |
//! | [`events`] | forgets events after an hour |
//! | [`roles`] | writes aggregated rules into cluster roles, for readers |

pub mod delete;
pub mod events;
pub mod gc;
pub mod namespaces;
pub mod nodes;
pub mod object;
pub mod roles;
pub mod scheduler;
pub mod volumes;

use std::sync::Arc;

use crate::app::App;
use crate::store::{Prefix, Store, StoreError, Watcher};

/// Starts all controllers; they end with the server.
pub fn spawn(app: &Arc<App>) {
    let store = &app.store;
    start(app, namespaces::run(store.clone(), app.ca_pem.clone(), app.scc_admission));
    start(app, gc::run(store.clone()));
    start(app, scheduler::run(store.clone()));
    start(app, volumes::run(store.clone()));
    start(app, nodes::run(store.clone()));
    start(app, events::run(store.clone()));
    start(app, roles::run(store.clone()));
}

/// Runs a controller until it ends with the store, or the server stops.
fn start(app: &Arc<App>, controller: impl Future<Output = ()> + Send + 'static) {
    let mut shutdown = app.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = controller => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    });
}

/// Wakes a controller for changes below some prefixes.
struct Wake {
    store: Store,
    prefixes: Vec<Prefix>,
    watcher: Option<Watcher>,
}

impl Wake {
    /// Everything that changes from now on below one of `prefixes`. Make it before the first look.
    fn new(store: &Store, prefixes: Vec<Prefix>) -> Self {
        let watcher = store.watch(Prefix::everything(), store.revision()).ok();
        Self { store: store.clone(), prefixes, watcher }
    }

    /// Sleeps until something that matters changed (or may have: after falling behind). False when the store closed.
    async fn next(&mut self) -> bool {
        loop {
            let Some(watcher) = self.watcher.as_mut() else {
                self.watcher = self.store.watch(Prefix::everything(), self.store.revision()).ok();
                return self.watcher.is_some();
            };
            match watcher.next().await {
                Ok(events) => {
                    if events
                        .iter()
                        .any(|event| self.prefixes.iter().any(|prefix| prefix.contains(&event.key)))
                    {
                        return true;
                    }
                }
                Err(StoreError::Closed) => return false,
                Err(_) => self.watcher = None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
