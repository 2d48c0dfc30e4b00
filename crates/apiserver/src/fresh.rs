//! Something computed from stored objects, kept until one of them changes, or changed with them.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures::FutureExt as _;
use serde_json::Value;

use crate::store::{EventKind, Key, Prefix, Store, StoreError, Watcher};

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

/// What a change does to a value: where the object is, what it was and what it is.
pub type Apply<T> = fn(&mut T, &Key, Option<&Value>, Option<&Value>);

/// A value that follows the store, change by change: a write costs what the change costs, however much there is. What
/// was written before [`Followed::read`] is always in it.
pub struct Followed<T> {
    store: Store,
    apply: Apply<T>,
    state: RwLock<Option<(Watcher, T)>>,
}

impl<T: Default> Followed<T> {
    /// Nothing is read before the first use; then every object comes as a change from nothing.
    pub fn new(store: Store, apply: Apply<T>) -> Self {
        Self { store, apply, state: RwLock::new(None) }
    }

    /// Looks at the value for the current state of the store.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        let now = self.store.revision();
        if let Some((watcher, value)) = self.state.read().unwrap_or_else(PoisonError::into_inner).as_ref()
            && watcher.revision() >= now
        {
            return look(value);
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((watcher, value)) = state.as_mut()
            && self.catch_up(watcher, value)
        {
            return look(value);
        }
        let mut value = T::default();
        let snapshot = self.store.list(&Prefix::everything());
        for (key, entry) in &snapshot.entries {
            (self.apply)(&mut value, key, None, Some(&entry.object));
        }
        let answer = look(&value);
        // Without a watch from exactly there the next use reads everything again.
        let watcher = self.store.watch(Prefix::everything(), snapshot.revision);
        *state = watcher.ok().map(|watcher| (watcher, value));
        answer
    }

    /// Applies what happened since; false when that cannot be known.
    fn catch_up(&self, watcher: &mut Watcher, value: &mut T) -> bool {
        loop {
            match watcher.next().now_or_never() {
                // Nothing new, or the store is closing and stays as it is.
                None | Some(Err(StoreError::Closed)) => return true,
                Some(Ok(events)) => {
                    for event in events {
                        let new = (event.kind != EventKind::Deleted).then_some(&*event.object);
                        (self.apply)(value, &event.key, event.old.as_deref(), new);
                    }
                }
                Some(Err(_)) => return false,
            }
        }
    }
}
