//! The garbage collector: what is owned goes with its last owner.
//!
//! It follows all changes and keeps two maps: which UIDs exist, and who depends on which. The store holds everything,
//! so an owner that is not in the first map does not exist.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::delete;
use super::object::{deleting, drop_finalizer, has_finalizer, list, text, uid};
use crate::store::{Change, Event, EventKind, Key, Prefix, Store, StoreError};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Collects until the store closes.
pub async fn run(store: Store) {
    loop {
        let snapshot = store.list(&Prefix::everything());
        let mut graph = Graph { seen: snapshot.revision, ..Graph::default() };
        for (key, entry) in &snapshot.entries {
            graph.add(key, &entry.object);
        }
        let keys: Vec<Key> = snapshot.entries.into_iter().map(|(key, _)| key).collect();
        collect(&store, &graph, keys).await;
        let Ok(mut watcher) = store.watch(Prefix::everything(), snapshot.revision) else { continue };
        loop {
            match watcher.next().await {
                Ok(events) => {
                    graph.seen = watcher.revision();
                    let touched = graph.follow(&events);
                    collect(&store, &graph, touched).await;
                }
                Err(StoreError::Closed) => return,
                Err(_) => break,
            }
        }
    }
}

#[derive(Default)]
struct Graph {
    /// Revision up to which changes are in it.
    seen: u64,
    /// UID of every object, and where it is.
    alive: HashMap<String, Key>,
    /// UID of an owner (alive or not) to the places of its dependents.
    dependents: HashMap<String, BTreeSet<Key>>,
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "/metadata/ownerReferences").map(|owner| text(owner, "/uid"))
}

impl Graph {
    fn add(&mut self, key: &Key, object: &Value) {
        self.alive.insert(uid(object).to_owned(), key.clone());
        for owner in owners(object) {
            self.dependents.entry(owner.to_owned()).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &Value) {
        for owner in owners(object) {
            if let Some(set) = self.dependents.get_mut(owner) {
                set.remove(key);
                if set.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }

    /// Applies changes; the answer is what must be looked at because of them.
    fn follow(&mut self, events: &[Arc<Event>]) -> Vec<Key> {
        let mut touched = BTreeSet::new();
        for event in events {
            if let Some(old) = &event.old {
                self.remove(&event.key, old);
                // An owner that deletes in the foreground waits for this dependent.
                touched.extend(owners(old).filter_map(|owner| self.alive.get(owner)).cloned());
            }
            if event.kind == EventKind::Deleted {
                self.remove(&event.key, &event.object);
                self.alive.remove(uid(&event.object));
                touched.extend(self.dependents.get(uid(&event.object)).into_iter().flatten().cloned());
            } else {
                self.add(&event.key, &event.object);
                if owners(&event.object).next().is_some() || deleting(&event.object) {
                    touched.insert(event.key.clone());
                }
            }
        }
        touched.into_iter().collect()
    }
}

async fn collect(store: &Store, graph: &Graph, keys: Vec<Key>) {
    for key in keys {
        if let Err(error) = look(store, graph, &key).await
            && !matches!(error, StoreError::NotFound)
        {
            tracing::warn!(key = key.as_str(), %error, "garbage collection failed");
        }
    }
}

async fn look(store: &Store, graph: &Graph, key: &Key) -> Result<(), StoreError> {
    let Some(entry) = store.get(key) else { return Ok(()) };
    if entry.revision > graph.seen {
        // Its owners may be newer than the graph, too. It comes again with its own event.
        return Ok(());
    }
    let object = &entry.object;
    let mut references = owners(object).peekable();
    if references.peek().is_some() && !deleting(object) {
        let (present, absent): (Vec<&str>, Vec<&str>) =
            references.partition(|owner| graph.alive.contains_key(*owner));
        if present.is_empty() {
            let ownerless = |now: &Value| owners(now).all(|owner| !graph.alive.contains_key(owner));
            return delete::request_if(store, key, |now| uid(now) == uid(object) && ownerless(now)).await;
        }
        if !absent.is_empty() {
            forget_owners(store, key, &absent).await?;
        }
    }
    if !deleting(object) {
        return Ok(());
    }
    let dependents = graph.dependents.get(uid(object)).into_iter().flatten();
    if has_finalizer(object, ORPHAN) {
        for dependent in dependents {
            forget_owners(store, dependent, &[uid(object)]).await?;
        }
        return release(store, key, ORPHAN).await;
    }
    if has_finalizer(object, FOREGROUND) {
        let mut blocked = false;
        for dependent in dependents {
            let Some(entry) = store.get(dependent) else { continue };
            let reference =
                list(&entry.object, "/metadata/ownerReferences").find(|r| text(r, "/uid") == uid(object));
            let Some(reference) = reference else { continue };
            blocked |= reference.get("blockOwnerDeletion") == Some(&Value::Bool(true));
            // Something else that owns it, too, keeps it.
            let others = owners(&entry.object).any(|o| o != uid(object) && graph.alive.contains_key(o));
            if others {
                forget_owners(store, dependent, &[uid(object)]).await?;
            } else if !deleting(&entry.object) {
                delete::request(store, dependent).await?;
                blocked &= store.get(dependent).is_some();
            }
        }
        if !blocked {
            return release(store, key, FOREGROUND).await;
        }
    }
    Ok(())
}

/// Removes owner references.
async fn forget_owners(store: &Store, key: &Key, gone: &[&str]) -> Result<(), StoreError> {
    let edit = |object: &Value| -> Result<Change, StoreError> {
        let mut object = object.clone();
        if let Some(Value::Array(list)) = object.pointer_mut("/metadata/ownerReferences") {
            list.retain(|reference| !gone.contains(&text(reference, "/uid")));
        }
        Ok(Change::Write(object))
    };
    match store.guaranteed_update(key, edit).await {
        Ok(_) | Err(StoreError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes our finalizer off an object that is being deleted, and removes it if that was the last thing.
async fn release(store: &Store, key: &Key, finalizer: &str) -> Result<(), StoreError> {
    let edit = |object: &Value| -> Result<Change, StoreError> {
        let mut object = object.clone();
        drop_finalizer(&mut object, finalizer);
        Ok(Change::Write(object))
    };
    match store.guaranteed_update(key, edit).await {
        Ok(_) => delete::request(store, key).await,
        Err(StoreError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_is_newer_than_the_graph_is_left_for_its_own_event() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let mut graph = Graph { seen: store.revision(), ..Graph::default() };
        let (owner, child) = (Key::new("", "configmaps", "n", "o"), Key::new("", "configmaps", "n", "c"));
        store.create(owner.clone(), json!({"metadata": {"uid": "1"}})).await.unwrap();
        let object = json!({"metadata": {"uid": "2", "ownerReferences": [{"uid": "1"}]}});
        store.create(child.clone(), object).await.unwrap();
        look(&store, &graph, &child).await.unwrap();
        assert!(store.get(&child).is_some());
        graph.seen = store.revision();
        graph.add(&owner, &store.get(&owner).unwrap().object);
        look(&store, &graph, &child).await.unwrap();
        assert!(store.get(&child).is_some());
        graph.alive.clear();
        look(&store, &graph, &child).await.unwrap();
        assert!(store.get(&child).is_none());
    }
}
