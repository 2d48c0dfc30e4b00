//! Something computed from stored objects, kept until one of them changes.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;

use crate::store::{Prefix, Store, StoreError, Watcher};

/// A value that is built from the objects below a key prefix, and built again after any of them changed. What was
/// written before [`Fresh::get`] is always in it.
pub struct Fresh<T> {
    store: Store,
    /// Start of the keys that matter, for example `/rbac.authorization.k8s.io/`.
    keys: String,
    build: fn(&Store) -> T,
    cache: Mutex<Option<(Watcher, Arc<T>)>>,
}

impl<T> Fresh<T> {
    /// Nothing is built before the first use. `keys` is how the keys start that matter.
    pub fn new(store: Store, keys: impl Into<String>, build: fn(&Store) -> T) -> Self {
        Self { store, keys: keys.into(), build, cache: Mutex::new(None) }
    }

    /// The value for the current state of the store.
    pub fn get(&self) -> Arc<T> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((watcher, value)) = cache.as_mut()
            && unchanged(watcher, &self.keys)
        {
            return Arc::clone(value);
        }
        // The watch before the reading: a change in between is seen twice, never missed.
        let watcher = self.store.watch(Prefix::everything(), self.store.revision());
        let value = Arc::new((self.build)(&self.store));
        *cache = watcher.ok().map(|watcher| (watcher, Arc::clone(&value)));
        value
    }
}

/// Looks, without waiting, whether a key that matters changed.
fn unchanged(watcher: &mut Watcher, keys: &str) -> bool {
    loop {
        match watcher.next().now_or_never() {
            // Nothing new, or the store is closing and stays as it is.
            None | Some(Err(StoreError::Closed)) => return true,
            Some(Ok(events)) if events.iter().any(|event| event.key.as_str().starts_with(keys)) => {
                return false;
            }
            Some(Ok(_)) => {}
            Some(Err(_)) => return false,
        }
    }
}
