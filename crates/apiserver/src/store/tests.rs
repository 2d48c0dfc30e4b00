//! Tests of the store: revisions, preconditions, watches, and what is left after `kill -9`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> Key {
    Key::new("", "configmaps", "default", name)
}

fn object(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-of-{name}")}, "data": {"value": value}})
}

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store.redb")).unwrap();
    (directory, store)
}

#[tokio::test]
async fn revisions_increase_and_are_in_the_object() {
    let (_directory, store) = open();
    let a = store.create(key("a"), object("a", "1")).await.unwrap();
    let b = store.create(key("b"), object("b", "1")).await.unwrap();
    assert!(b.revision > a.revision);
    assert_eq!(b.object["metadata"]["resourceVersion"], b.revision.to_string());
    assert_eq!(store.get(&key("b")).unwrap().object, b.object);
    assert_eq!(store.revision(), b.revision);
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let (_directory, store) = open();
    assert!(store.is_open());
    store.close();
    assert!(!store.is_open());
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    for _ in 0..2 {
        Store::open(&path).unwrap().close();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
}

#[tokio::test]
async fn deleted_objects_count_in_the_history_too() {
    let (_directory, store) = open();
    let before = store.revision();
    let large = "x".repeat(3 << 20);
    let made = store.create(key("a"), object("a", &large)).await.unwrap();
    assert!(store.watch(Prefix::everything(), before).is_ok());
    store.delete(key("a"), Preconditions::default()).await.unwrap();
    assert!(matches!(store.watch(Prefix::everything(), before), Err(StoreError::Expired { .. })));
    assert!(store.watch(Prefix::everything(), made.revision).is_ok());
}

#[tokio::test]
async fn stale_updates_and_wrong_preconditions_are_refused() {
    let (_directory, store) = open();
    let first = store.create(key("a"), object("a", "1")).await.unwrap();
    assert!(matches!(store.create(key("a"), object("a", "2")).await, Err(StoreError::AlreadyExists)));
    let second = store.update(key("a"), object("a", "2"), first.revision).await.unwrap();
    let stale = store.update(key("a"), object("a", "3"), first.revision).await;
    assert!(matches!(stale, Err(StoreError::Conflict { found, .. }) if found == second.revision));
    let wrong = Preconditions { uid: Some("other".into()), revision: None };
    assert!(matches!(store.delete(key("a"), wrong).await, Err(StoreError::UidMismatch { .. })));
    let right = Preconditions { uid: Some("uid-of-a".into()), revision: Some(second.revision) };
    let last = store.delete(key("a"), right).await.unwrap();
    assert!(last.revision > second.revision);
    assert!(store.get(&key("a")).is_none());
    assert!(matches!(store.delete(key("a"), Preconditions::default()).await, Err(StoreError::NotFound)));
}

#[tokio::test]
async fn racing_guaranteed_updates_all_count() {
    let (_directory, store) = open();
    store.create(key("a"), json!({"metadata": {"name": "a"}, "count": 0})).await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .guaranteed_update::<StoreError, _>(&key("a"), |old| {
                        let mut new = old.clone();
                        new["count"] = json!(old["count"].as_u64().unwrap() + 1);
                        Ok(Change::Write(new))
                    })
                    .await
                    .unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get(&key("a")).unwrap().object["count"], 50);
}

#[tokio::test]
async fn lists_are_by_prefix_and_ordered() {
    let (_directory, store) = open();
    for (namespace, name) in [("b", "x"), ("a", "y"), ("a", "x"), ("ab", "x")] {
        store.create(Key::new("", "pods", namespace, name), object(name, "")).await.unwrap();
    }
    store.create(Key::new("", "podtemplates", "a", "x"), object("x", "")).await.unwrap();
    let keys = |prefix: &Prefix| -> Vec<String> {
        store.list(prefix).entries.iter().map(|(key, _)| key.as_str().to_owned()).collect()
    };
    assert_eq!(keys(&Prefix::namespace("", "pods", "a")), ["//pods/a/x", "//pods/a/y"]);
    assert_eq!(keys(&Prefix::resource("", "pods")).len(), 4);
    assert_eq!(keys(&Prefix::everything()).len(), 5);
}

#[tokio::test]
async fn a_watch_sees_everything_after_its_list() {
    let (_directory, store) = open();
    store.create(key("before"), object("before", "")).await.unwrap();
    let mut watcher = store.watch(Prefix::resource("", "configmaps"), store.revision()).unwrap();
    let first = store.create(key("a"), object("a", "1")).await.unwrap();
    store.create(Key::new("", "secrets", "default", "s"), object("s", "")).await.unwrap();
    store.update(key("a"), object("a", "2"), first.revision).await.unwrap();
    store.delete(key("a"), Preconditions::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(watcher.next().await.unwrap());
    }
    let kinds: Vec<_> = seen.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Added, EventKind::Modified, EventKind::Deleted]);
    assert!(seen[0].old.is_none());
    assert_eq!(seen[1].old.as_ref().unwrap()["data"]["value"], "1");
    assert_eq!(seen[2].object["metadata"]["resourceVersion"], seen[2].revision.to_string());
    store.close();
    assert!(matches!(watcher.next().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn history_has_an_end() {
    let (_directory, store) = open();
    let start = store.revision();
    let mut slow = store.watch(Prefix::everything(), start).unwrap();
    let big = "x".repeat(1 << 20);
    for name in ["a", "b", "c", "d", "e", "f"] {
        store.create(key(name), object(name, &big)).await.unwrap();
    }
    assert!(matches!(slow.next().await, Err(StoreError::Expired { .. })));
    assert!(matches!(store.watch(Prefix::everything(), start), Err(StoreError::Expired { .. })));
    let future = store.watch(Prefix::everything(), store.revision() + 1);
    assert!(matches!(future, Err(StoreError::FromTheFuture { .. })));
}

#[tokio::test]
async fn a_flood_of_one_kind_in_a_namespace_expires_no_watch_of_anything_else() {
    let (_directory, store) = open();
    let pods = Prefix::namespace("", "pods", "default");
    let pod = |name| Key::new("", "pods", "default", name);
    store.create(pod("before"), object("before", "")).await.unwrap();
    let start = store.revision();
    let mut slow = store.watch(pods.clone(), start).unwrap();
    let big = "x".repeat(1 << 20);
    for name in ["a", "b", "c", "d", "e", "f"] {
        store.create(key(name), object(name, &big)).await.unwrap();
    }
    let quiet = [pods, Prefix::resource("", "pods"), Prefix::namespace("", "configmaps", "other")];
    for prefix in quiet {
        assert!(store.watch(prefix, start).is_ok());
    }
    for prefix in [Prefix::namespace("", "configmaps", "default"), Prefix::resource("", "configmaps")] {
        assert!(
            matches!(store.watch(prefix, start), Err(StoreError::Expired { asked, .. }) if asked == start)
        );
    }
    let made = store.create(pod("after"), object("after", "")).await.unwrap();
    let [event] = &*slow.next().await.unwrap() else { panic!("one pod was made") };
    assert_eq!((event.revision, event.key.name()), (made.revision, "after"));
    // Now one of its own is forgotten.
    let mut slow = store.watch(Prefix::resource("", "pods"), start).unwrap();
    for name in ["g", "h", "i", "j", "k", "l"] {
        store.create(key(name), object(name, &big)).await.unwrap();
    }
    assert!(matches!(slow.next().await, Err(StoreError::Expired { oldest, .. }) if oldest == made.revision));
    assert!(store.watch(Prefix::resource("", "pods"), made.revision).is_ok());
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Disk(message)) if message.contains("in use")));
    store.create(key("a"), object("a", "1")).await.unwrap();
    store.create(key("b"), object("b", "1")).await.unwrap();
    store.delete(key("b"), Preconditions::default()).await.unwrap();
    let revision = store.revision();
    store.close();
    assert!(matches!(store.create(key("c"), object("c", "")).await, Err(StoreError::Closed)));
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.revision(), revision);
    assert_eq!(store.get(&key("a")).unwrap().object["data"]["value"], "1");
    assert!(store.get(&key("b")).is_none());
    assert!(matches!(store.watch(Prefix::everything(), revision - 1), Err(StoreError::Expired { .. })));
    assert!(store.watch(Prefix::everything(), revision).is_ok());
}

/// Environment variable that turns this test program into the process that is killed.
const VICTIM: &str = "FERROVIRT_STORE_TEST_VICTIM";

/// Not a test of its own: the child of the next test. Writes as fast as it can and prints every answered name.
#[test]
fn victim_of_the_kill_test() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(std::path::Path::new(&path)).unwrap();
        let round = store.revision();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in 0.. {
                        let name = format!("r{round}-w{writer}-{number}");
                        let entry = store.create(key(&name), object(&name, "")).await.unwrap();
                        println!("\nacknowledged {name} {}", entry.revision);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut acknowledged: BTreeSet<(String, u64)> = BTreeSet::new();
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::victim_of_the_kill_test", "--nocapture", "--test-threads=1"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut of_this_round = 0;
        for line in lines.by_ref() {
            let line = line.unwrap();
            let mut words = line.split_whitespace();
            if words.next() == Some("acknowledged") {
                let (Some(name), Some(revision)) = (words.next(), words.next()) else { continue };
                acknowledged.insert((name.to_owned(), revision.parse().unwrap()));
                of_this_round += 1;
                if of_this_round == 40 + round * 13 {
                    child.kill().unwrap();
                }
            }
        }
        assert!(!child.wait().unwrap().success());
        let store = Store::open(&path).unwrap();
        for (name, revision) in &acknowledged {
            let entry = store.get(&key(name)).unwrap_or_else(|| panic!("{name} is lost"));
            assert_eq!(entry.revision, *revision, "{name}");
            assert!(store.revision() >= *revision);
        }
    }
    assert!(acknowledged.len() >= 200);
}
