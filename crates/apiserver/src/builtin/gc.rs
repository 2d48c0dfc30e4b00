//! The garbage collector: what is owned goes with its last owner.
//!
//! It follows all changes and keeps two maps: which UIDs exist, and who depends on which. The store holds everything,
//! so an owner that is not in the first map does not exist.
//!
//! A UID alone is no owner: anybody may write any UID into an object. As upstream, an owner is what the reference names
//! (group, kind, name) in the dependent's own namespace or without one, with that UID; an object of another namespace
//! counts as absent, with an event (`OwnerRefInvalidNamespace`).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ferrovirt_kubernetes::json::{list, text};
use ferrovirt_kubernetes::object::{drop_finalizer, has_finalizer, is_deleting, uid};
use serde_json::Value;

use super::delete;
use super::events;
use crate::registry;
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

/// UIDs that an object names as its owners, whether or not they are.
fn owners(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "/metadata/ownerReferences").map(|owner| text(owner, "uid"))
}

/// What an owner reference comes to.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// The object is there.
    Present,
    /// There is no such object that the dependent could have as its owner.
    Absent,
    /// The UID is an object's in this other namespace.
    Elsewhere,
    /// Nobody can say: the kind is unknown here, or it lives in namespaces and the dependent in none. As upstream,
    /// nothing is done.
    Unknown,
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

    /// Who stands behind a reference of the object at `dependent`.
    fn owner(&self, dependent: &Key, reference: &Value) -> Owner {
        let version = text(reference, "apiVersion");
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        let Some(kind) = registry::find_kind(group, text(reference, "kind")) else { return Owner::Unknown };
        if kind.namespaced && dependent.namespace().is_empty() {
            return Owner::Unknown;
        }
        match self.alive.get(text(reference, "uid")) {
            Some(key) if *key == kind.key(dependent.namespace(), text(reference, "name")) => Owner::Present,
            Some(key) if kind.namespaced && key.namespace() != dependent.namespace() => Owner::Elsewhere,
            _ => Owner::Absent,
        }
    }

    /// Whether nothing keeps the object: it names owners, and all of them are known to be absent.
    fn ownerless(&self, key: &Key, object: &Value) -> bool {
        let mut references = list(object, "/metadata/ownerReferences").peekable();
        references.peek().is_some()
            && references.all(|owner| matches!(self.owner(key, owner), Owner::Absent | Owner::Elsewhere))
    }

    /// The objects that really depend on the one at `owner`: others may have written its UID.
    fn dependents_of<'a>(&'a self, owner: &'a Key, uid: &str) -> impl Iterator<Item = &'a Key> {
        let all = self.dependents.get(uid).into_iter().flatten();
        all.filter(|key| owner.namespace().is_empty() || key.namespace() == owner.namespace())
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
                if owners(&event.object).next().is_some() || is_deleting(&event.object) {
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
    if !is_deleting(object) {
        let mut absent = Vec::new();
        for reference in list(object, "/metadata/ownerReferences") {
            match graph.owner(key, reference) {
                Owner::Present | Owner::Unknown => {}
                Owner::Absent => absent.push(text(reference, "uid")),
                Owner::Elsewhere => {
                    absent.push(text(reference, "uid"));
                    tell_elsewhere(store, key, object, reference).await;
                }
            }
        }
        if graph.ownerless(key, object) {
            let still = |now: &Value| uid(now) == uid(object) && graph.ownerless(key, now);
            return delete::request_if(store, key, still).await;
        }
        if !absent.is_empty() {
            return forget_owners(store, key, &absent).await;
        }
        return Ok(());
    }
    let dependents = graph.dependents_of(key, uid(object));
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
            // One that names another object by this one's UID goes or stays by itself.
            let reference = list(&entry.object, "/metadata/ownerReferences")
                .find(|r| text(r, "uid") == uid(object) && graph.owner(dependent, r) == Owner::Present);
            let Some(reference) = reference else { continue };
            blocked |= reference.get("blockOwnerDeletion") == Some(&Value::Bool(true));
            // Something else that owns it, too, keeps it.
            let others = list(&entry.object, "/metadata/ownerReferences").any(|other| {
                text(other, "uid") != uid(object) && graph.owner(dependent, other) == Owner::Present
            });
            if others {
                forget_owners(store, dependent, &[uid(object)]).await?;
            } else if !is_deleting(&entry.object) {
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

/// Tells the people who look at an object that its owner is in another namespace, in upstream's words.
async fn tell_elsewhere(store: &Store, key: &Key, object: &Value, reference: &Value) {
    let part = |field: &str| text(reference, field);
    let message = format!(
        "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
        part("/apiVersion"),
        part("/kind"),
        key.namespace(),
        part("/name"),
        part("/uid"),
        key.namespace()
    );
    let kind = text(object, "kind").to_owned();
    let source = "garbage-collector-controller";
    events::record(store, object, &kind, "Warning", "OwnerRefInvalidNamespace", &message, source).await;
}

/// Removes owner references.
async fn forget_owners(store: &Store, key: &Key, gone: &[&str]) -> Result<(), StoreError> {
    let edit = |object: &Value| -> Result<Change, StoreError> {
        let mut object = object.clone();
        if let Some(Value::Array(list)) = object.pointer_mut("/metadata/ownerReferences") {
            list.retain(|reference| !gone.contains(&text(reference, "uid")));
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
        let object = json!({"metadata": {"uid": "2", "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "1"}]}});
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

    #[test]
    fn an_owner_is_what_the_reference_names_and_not_a_uid() {
        let mut graph = Graph::default();
        graph.add(&Key::new("", "configmaps", "n", "o"), &json!({"metadata": {"uid": "1"}}));
        graph.add(&Key::new("", "nodes", "", "node"), &json!({"metadata": {"uid": "2"}}));
        let owner = |namespace: &str, kind: &str, name: &str, uid: &str| {
            let dependent = Key::new("", "secrets", namespace, "d");
            graph.owner(&dependent, &json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}))
        };
        assert_eq!(owner("n", "ConfigMap", "o", "1"), Owner::Present);
        assert_eq!(owner("other", "ConfigMap", "o", "1"), Owner::Elsewhere);
        assert_eq!(owner("n", "Secret", "o", "1"), Owner::Absent);
        assert_eq!(owner("n", "ConfigMap", "p", "1"), Owner::Absent);
        assert_eq!(owner("n", "Node", "node", "2"), Owner::Present);
        assert_eq!(owner("", "ConfigMap", "o", "1"), Owner::Unknown);
        assert_eq!(owner("n", "Wizard", "o", "1"), Owner::Unknown);
    }
}
