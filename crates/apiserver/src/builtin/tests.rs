use std::time::Duration;

use ferrovirt_kubernetes::condition;
use ferrovirt_kubernetes::json::{self, list, text};
use ferrovirt_kubernetes::object::is_deleting;
use ferrovirt_kubernetes::time;
use serde_json::{Value, json};

use super::object::create;
use super::*;
use crate::app::SccAdmission;
use crate::store::{Change, Key, Preconditions, StoreError};

struct World {
    _dir: tempfile::TempDir,
    store: Store,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl World {
    /// A store with all controllers at work.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        crate::bootstrap::install(&store).await.unwrap();
        let s = || store.clone();
        let tasks = vec![
            tokio::spawn(namespaces::run(s(), "CA".into(), SccAdmission::InProcess)),
            tokio::spawn(gc::run(s())),
            tokio::spawn(scheduler::run(s())),
            tokio::spawn(volumes::run(s())),
            tokio::spawn(nodes::run(s())),
            tokio::spawn(events::run(s())),
            tokio::spawn(roles::run(s())),
        ];
        Self { _dir: dir, store, tasks }
    }

    async fn add(&self, resource: &str, namespace: &str, name: &str, object: Value) -> Key {
        create(&self.store, ("", resource), namespace, name, object).await.unwrap();
        Key::new("", resource, namespace, name)
    }

    fn uid(&self, key: &Key) -> String {
        text(&self.store.get(key).unwrap().object, "/metadata/uid").to_owned()
    }

    async fn edit(&self, key: &Key, edit: impl Fn(&mut Value)) {
        let change = |object: &Value| -> Result<Change, StoreError> {
            let mut object = object.clone();
            edit(&mut object);
            Ok(Change::Write(object))
        };
        self.store.guaranteed_update(key, change).await.unwrap();
    }

    /// Waits until the state of the world is so. The limit only ends a test that has failed.
    async fn until(&self, what: &str, holds: impl Fn(&Store) -> bool) {
        let mut wake = Wake::new(&self.store, vec![Prefix::everything()]);
        let wait = async {
            while !holds(&self.store) {
                assert!(wake.next().await);
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "never: {what}");
    }

    async fn gone(&self, key: &Key) {
        self.until(key.as_str(), |store| store.get(key).is_none()).await;
    }
}

fn owner(kind: &str, name: &str, uid: &str) -> Value {
    json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}])
}

fn ready_node() -> Value {
    json!({"kind": "Node", "status": {"conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", "hugepages-2Mi": "4Mi"}}})
}

fn pod(requests: Value) -> Value {
    json!({"kind": "Pod", "status": {"phase": "Pending"}, "spec": {"schedulerName": "default-scheduler",
        "containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

#[tokio::test]
async fn every_namespace_is_equipped_and_no_uid_block_is_given_twice() {
    let world = World::new().await;
    let range = |store: &Store, name: &str| {
        let entry = store.get(&Key::new("", "namespaces", "", name))?;
        Some(
            entry
                .object
                .pointer("/metadata/annotations")?
                .get("openshift.io/sa.scc.uid-range")?
                .as_str()?
                .to_owned(),
        )
    };
    namespaces::ensure(&world.store, "one").await.unwrap();
    world.until("one has a range", |store| range(store, "one").is_some()).await;
    let first = range(&world.store, "one").unwrap();
    world
        .until("one is equipped", |store| {
            store.get(&Key::new("", "serviceaccounts", "one", "default")).is_some()
                && store.get(&Key::new("", "configmaps", "one", "kube-root-ca.crt")).is_some()
        })
        .await;
    let key = Key::new("", "namespaces", "", "one");
    world
        .edit(&key, |ns| json::set(ns, &["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z".into()))
        .await;
    world.gone(&key).await;
    assert!(world.store.get(&Key::new("", "serviceaccounts", "one", "default")).is_none());
    namespaces::ensure(&world.store, "two").await.unwrap();
    world.until("two has a range", |store| range(store, "two").is_some()).await;
    assert_ne!(range(&world.store, "two").unwrap(), first);
}

#[tokio::test]
async fn a_namespace_waits_for_finalizers_in_it() {
    let world = World::new().await;
    namespaces::ensure(&world.store, "n").await.unwrap();
    let held = json!({"kind": "ConfigMap", "metadata": {"finalizers": ["example.com/hold"]}});
    let held = world.add("configmaps", "n", "held", held).await;
    let free = world.add("configmaps", "n", "free", json!({"kind": "ConfigMap"})).await;
    let key = Key::new("", "namespaces", "", "n");
    world
        .edit(&key, |ns| json::set(ns, &["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z".into()))
        .await;
    world.gone(&free).await;
    world.until("marked", |store| store.get(&held).is_some_and(|e| is_deleting(&e.object))).await;
    world
        .until("it says why", |store| {
            store.get(&key).is_some_and(|ns| {
                list(&ns.object, "/status/conditions")
                    .any(|c| text(c, "message").contains("example.com/hold in 1 resource instances"))
            })
        })
        .await;
    world
        .edit(&held, |object| ferrovirt_kubernetes::object::drop_finalizer(object, "example.com/hold"))
        .await;
    world.store.delete(held, Preconditions::default()).await.unwrap();
    world.gone(&key).await;
}

#[tokio::test]
async fn a_namespace_is_never_removed_before_it_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    namespaces::ensure(&store, "n").await.unwrap();
    let key = Key::new("", "namespaces", "", "n");
    // As the garbage collector asks, for an owner that is gone or when it takes its own finalizer off.
    for _ in 0..2 {
        delete::request(&store, &key).await.unwrap();
        assert!(is_deleting(&store.get(&key).unwrap().object));
    }
}

#[tokio::test]
async fn dependents_go_with_their_last_owner() {
    let world = World::new().await;
    let parent = world.add("configmaps", "default", "parent", json!({"kind": "ConfigMap"})).await;
    let refs = owner("ConfigMap", "parent", &world.uid(&parent));
    let child =
        world.add("configmaps", "default", "child", json!({"metadata": {"ownerReferences": refs}})).await;
    let refs = owner("ConfigMap", "child", &world.uid(&child));
    let grandchild =
        world.add("secrets", "default", "grandchild", json!({"metadata": {"ownerReferences": refs}})).await;
    world.store.delete(parent, Preconditions::default()).await.unwrap();
    world.gone(&child).await;
    world.gone(&grandchild).await;
    // Made for an owner that is gone already: nobody would ever delete it.
    let refs = owner("ConfigMap", "parent", "no-such-uid");
    let late =
        world.add("configmaps", "default", "late", json!({"metadata": {"ownerReferences": refs}})).await;
    world.gone(&late).await;
}

#[tokio::test]
async fn foreground_waits_and_orphan_cuts_loose() {
    let world = World::new().await;
    for (finalizer, survives) in [("foregroundDeletion", false), ("orphan", true)] {
        let parent = json!({"metadata": {"finalizers": [finalizer]}});
        let parent = world.add("configmaps", "default", finalizer.to_lowercase().as_str(), parent).await;
        let refs = owner("ConfigMap", parent.name(), &world.uid(&parent));
        let child = json!({"metadata": {"ownerReferences": refs, "finalizers": ["example.com/hold"]}});
        let child = world.add("secrets", "default", &format!("c-{survives}"), child).await;
        world
            .edit(&parent, |p| {
                json::set(p, &["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z".into())
            })
            .await;
        if survives {
            world.gone(&parent).await;
            let left = world.store.get(&child).unwrap();
            assert!(!is_deleting(&left.object));
            assert_eq!(list(&left.object, "/metadata/ownerReferences").count(), 0);
        } else {
            world
                .until("child marked", |store| store.get(&child).is_some_and(|c| is_deleting(&c.object)))
                .await;
            assert!(world.store.get(&parent).is_some(), "it waits for its dependent");
            world.store.delete(child, Preconditions::default()).await.unwrap();
            world.gone(&parent).await;
        }
    }
}

#[tokio::test]
async fn pods_are_placed_when_the_node_has_room_and_learn_why_not() {
    let world = World::new().await;
    let waiting = world.add("pods", "default", "a", pod(json!({"hugepages-2Mi": "6Mi"}))).await;
    let message = |store: &Store| {
        let pod = store.get(&waiting).unwrap();
        list(&pod.object, "/status/conditions")
            .find(|c| text(c, "type") == "PodScheduled")
            .map(|c| text(c, "message").to_owned())
            .unwrap_or_default()
    };
    world.until("no node", |store| message(store) == "no nodes available to schedule pods").await;
    let node = world.add("nodes", "", "n1", ready_node()).await;
    let expected = "0/1 nodes are available: 1 Insufficient hugepages-2Mi (3 pages needed, 2 of 2 free; \
                    reserve them on the node: echo 3 > /proc/sys/vm/nr_hugepages).";
    world.until("too few pages", |store| message(store) == expected).await;
    let about = |store: &Store, reason: &str| {
        let events = store.list(&Prefix::resource("", "events")).entries;
        events.iter().any(|(_, e)| {
            text(&e.object, "/reason") == reason && text(&e.object, "/involvedObject/name") == "a"
        })
    };
    world.until("event", |store| about(store, "FailedScheduling")).await;
    world.edit(&node, |n| json::set(n, &["status", "allocatable", "hugepages-2Mi"], "6Mi".into())).await;
    world.until("placed", |store| text(&store.get(&waiting).unwrap().object, "/spec/nodeName") == "n1").await;
    world.until("event", |store| about(store, "Scheduled")).await;
    let second = world.add("pods", "default", "b", pod(json!({"hugepages-2Mi": "2Mi"}))).await;
    world
        .until("refused while a runs", |store| {
            list(&store.get(&second).unwrap().object, "/status/conditions")
                .any(|c| text(c, "reason") == "Unschedulable")
        })
        .await;
    world.edit(&waiting, |p| json::set(p, &["status", "phase"], "Succeeded".into())).await;
    world
        .until("its pages are free again", |store| {
            text(&store.get(&second).unwrap().object, "/spec/nodeName") == "n1"
        })
        .await;
}

#[tokio::test]
async fn claims_bind_to_the_smallest_volume_that_fits() {
    let world = World::new().await;
    let volume = |size: &str, class: &str| {
        json!({"kind": "PersistentVolume", "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": class, "hostPath": {"path": "/x"}}})
    };
    for (name, size, class) in [
        ("big", "10Gi", "local"),
        ("fit", "2Gi", "local"),
        ("small", "1Gi", "local"),
        ("other", "2Gi", "fast"),
    ] {
        world.add("persistentvolumes", "", name, volume(size, class)).await;
    }
    let claim = json!({"kind": "PersistentVolumeClaim", "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "local", "resources": {"requests": {"storage": "1500Mi"}}}});
    let claim = world.add("persistentvolumeclaims", "default", "c", claim).await;
    world.until("bound", |store| text(&store.get(&claim).unwrap().object, "/status/phase") == "Bound").await;
    let bound = world.store.get(&claim).unwrap();
    assert_eq!(text(&bound.object, "/spec/volumeName"), "fit");
    assert_eq!(text(&bound.object, "/status/capacity/storage"), "2Gi");
    let fit = Key::new("", "persistentvolumes", "", "fit");
    let phase = |store: &Store| text(&store.get(&fit).unwrap().object, "/status/phase").to_owned();
    world.until("volume bound", |store| phase(store) == "Bound").await;
    delete::request(&world.store, &claim).await.unwrap();
    world.gone(&claim).await;
    world.until("released", |store| phase(store) == "Released").await;
}

#[tokio::test]
async fn old_events_are_forgotten_and_young_ones_kept() {
    let world = World::new().await;
    let old = json!({"kind": "Event", "lastTimestamp": time::text(crate::clock::now() - 3601)});
    let old = world.add("events", "default", "old", old).await;
    let young = json!({"kind": "Event", "lastTimestamp": crate::clock::stamp()});
    // The task may be asleep until a younger event expires; a store that is opened again starts it again.
    world.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let young = world.add("events", "default", "young", young).await;
    let task = tokio::spawn(events::run(world.store.clone()));
    world.gone(&old).await;
    assert!(world.store.get(&young).is_some());
    task.abort();
}

#[tokio::test]
async fn a_silent_node_is_not_ready_until_its_agent_is_back() {
    let world = World::new().await;
    let node = world.add("nodes", "", "n1", ready_node()).await;
    let condition = |store: &Store| {
        let node = store.get(&node).unwrap();
        let ready = list(&node.object, "/status/conditions").find(|c| text(c, "type") == "Ready").cloned();
        text(&ready.unwrap(), "/status").to_owned()
    };
    assert_eq!(condition(&world.store), "True");
    nodes::judge(&world.store, &node, &world.store.get(&node).unwrap().object, true).await.unwrap();
    assert_eq!(condition(&world.store), "Unknown");
    nodes::judge(&world.store, &node, &world.store.get(&node).unwrap().object, false).await.unwrap();
    assert_eq!(condition(&world.store), "True");
}

#[tokio::test]
async fn owners_of_other_namespaces_keep_nothing_and_are_kept_by_nothing() {
    let world = World::new().await;
    for namespace in ["alpha", "beta"] {
        namespaces::ensure(&world.store, namespace).await.unwrap();
    }
    let theirs = json!({"kind": "ConfigMap", "metadata": {"finalizers": ["foregroundDeletion"]}});
    let theirs = world.add("configmaps", "beta", "theirs", theirs).await;
    let foreign = owner("ConfigMap", "theirs", &world.uid(&theirs));
    // It would never go, and hold up its owner's end.
    let mine = json!({"kind": "ConfigMap", "metadata": {"ownerReferences": foreign, "finalizers": ["example.com/hold"]}});
    let mine = world.add("configmaps", "alpha", "mine", mine).await;
    world.until("it goes", |store| store.get(&mine).is_some_and(|entry| is_deleting(&entry.object))).await;
    world
        .until("an event says so", |store| {
            let events = store.list(&Prefix::namespace("", "events", "alpha")).entries;
            events.iter().any(|(_, e)| {
                text(&e.object, "/reason") == "OwnerRefInvalidNamespace"
                    && text(&e.object, "/involvedObject/name") == "mine"
            })
        })
        .await;
    assert!(!is_deleting(&world.store.get(&theirs).unwrap().object));
    world
        .edit(&theirs, |object| {
            json::set(object, &["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z".into());
        })
        .await;
    world.gone(&theirs).await;
    assert!(world.store.get(&mine).is_some(), "nobody waited for it");
    // A second owner that is really there keeps the object, and the wrong reference goes.
    let (own, other) = (
        world.add("configmaps", "alpha", "own", json!({"kind": "ConfigMap"})).await,
        world.add("configmaps", "beta", "other", json!({"kind": "ConfigMap"})).await,
    );
    let mut both = owner("ConfigMap", "own", &world.uid(&own));
    both.as_array_mut()
        .unwrap()
        .extend(owner("ConfigMap", "other", &world.uid(&other)).as_array().unwrap().clone());
    let kept = json!({"kind": "Secret", "metadata": {"ownerReferences": both}});
    let kept = world.add("secrets", "alpha", "kept", kept).await;
    world
        .until("one owner is left", |store| {
            store.get(&kept).is_some_and(|e| list(&e.object, "/metadata/ownerReferences").count() == 1)
        })
        .await;
}

#[tokio::test]
async fn pods_of_a_silent_node_are_not_ready_until_its_agent_is_back() {
    let world = World::new().await;
    world.add("nodes", "", "n1", ready_node()).await;
    let running = |node: &str, phase: &str| {
        json!({"kind": "Pod", "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"phase": phase,
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]}})
    };
    let here = world.add("pods", "default", "here", running("n1", "Running")).await;
    let elsewhere = world.add("pods", "default", "elsewhere", running("n2", "Running")).await;
    let ready = |key: &Key| {
        let pod = world.store.get(key).unwrap();
        let ready = list(&pod.object, "/status/conditions").find(|c| text(c, "type") == "Ready").cloned();
        let ready = ready.unwrap();
        (text(&ready, "/status").to_owned(), text(&ready, "/reason").to_owned())
    };
    nodes::pods(&world.store, "n1", true).await.unwrap();
    assert_eq!(ready(&here), ("False".into(), "NodeNotReady".into()));
    assert_eq!(ready(&elsewhere).0, "True");
    nodes::pods(&world.store, "n1", false).await.unwrap();
    assert_eq!(ready(&here), ("True".into(), String::new()));
    // What the agent itself says of a pod is not taken back.
    world
        .edit(&here, |pod| {
            condition::set(pod, "Ready", "False", ("ContainersNotReady", ""), &crate::clock::stamp())
        })
        .await;
    nodes::pods(&world.store, "n1", false).await.unwrap();
    assert_eq!(ready(&here).1, "ContainersNotReady");
}
