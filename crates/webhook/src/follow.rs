//! A watch that keeps a table of what matters of each object.

use std::collections::HashMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use futures::StreamExt as _;
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

/// Namespace and name.
pub(crate) type Key = (String, String);

/// What is known about one kind; nothing before it was listed.
pub(crate) struct Table<T>(RwLock<Option<HashMap<Key, T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(RwLock::new(None))
    }
}

impl<T> Table<T> {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Option<HashMap<Key, T>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.read().is_some()
    }

    fn change(&self, change: impl FnOnce(&mut Option<HashMap<Key, T>>)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Keeps the table of a kind; `reduce` says what of an object is kept, if anything, `changed` sees each change.
/// Never ends.
pub(crate) async fn follow<K, T>(
    api: Api<K>,
    table: &Table<T>,
    reduce: fn(&K) -> Option<T>,
    changed: impl Fn(),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
    let what = api.resource_url().rsplit('/').next().unwrap_or_default().to_owned();
    let mut events = pin!(ferrovirt_watch::follow(api, watcher::Config::default(), what));
    let mut listed = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            watcher::Event::Init => listed = HashMap::new(),
            watcher::Event::InitApply(object) => {
                listed.extend(reduce(&object).map(|kept| (key(&object), kept)));
            }
            watcher::Event::InitDone => {
                let whole = std::mem::take(&mut listed);
                table.change(|table| *table = Some(whole));
                changed();
            }
            watcher::Event::Apply(object) => {
                let kept = reduce(&object);
                table.change(|table| {
                    let table = table.get_or_insert_default();
                    match kept {
                        Some(kept) => table.insert(key(&object), kept),
                        None => table.remove(&key(&object)),
                    };
                });
                changed();
            }
            watcher::Event::Delete(object) => {
                table.change(|table| {
                    table.get_or_insert_default().remove(&key(&object));
                });
                changed();
            }
        }
    }
}
