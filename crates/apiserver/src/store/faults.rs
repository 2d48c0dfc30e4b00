//! Tests of the store on disks that are full, damaged or of an earlier version.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> Key {
    Key::new("", "configmaps", "default", name)
}

fn secret(name: &str) -> Key {
    Key::new("", "secrets", "default", name)
}

fn object(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-of-{name}")}, "data": {"value": value}})
}

fn holds(path: &Path, text: &str) -> bool {
    std::fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes())
}

async fn becomes(store: &Store, health: Health) {
    let start = Instant::now();
    while store.health() != health {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?} is not {health:?}", store.health());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Environment variable that turns this test program into the process on the small disk.
const SMALL_DISK: &str = "FERROVIRT_STORE_TEST_SMALL_DISK";

/// Runs one of the tests below in a mount namespace of its own, in which a directory is a file system of `mib` MiB.
fn on_a_small_disk(test: &str, mib: u32) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size={mib}m tmpfs \"${SMALL_DISK}\" && exec \"$0\" \"$@\"");
    let ended = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store::faults::{test}"), "--nocapture", "--test-threads=1"])
        .env(SMALL_DISK, dir.path())
        .status()
        .unwrap();
    assert!(ended.success(), "{ended}; this test needs root, to mount a file system");
}

fn hog(path: &Path, bytes: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let part = vec![1u8; 64 << 10];
    for _ in 0..bytes / (64 << 10) {
        if file.write_all(&part).is_err() {
            return;
        }
    }
}

/// Not a test of its own: the child of the next one.
#[tokio::test]
async fn child_on_a_full_disk() {
    let Some(dir) = std::env::var_os(SMALL_DISK) else { return };
    let dir = Path::new(&dir);
    let path = dir.join("store.redb");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.health(), Health::Good);
    hog(&dir.join("hog"), 20 << 20);
    let mut stored = BTreeMap::new();
    let value = "x".repeat(100 << 10);
    let mut number = 0;
    let error = loop {
        let name = format!("o{number}");
        number += 1;
        match store.create(key(&name), object(&name, &value)).await {
            Ok(entry) => stored.insert(name, entry.revision),
            Err(error) => break error,
        };
        assert!(number < 1000, "the disk does not become full");
    };
    assert!(matches!(error, StoreError::Full), "{error}");
    assert_eq!(store.health(), Health::Full);
    assert!(matches!(store.create(key("n"), object("n", "")).await, Err(StoreError::Full)));
    // Finalizers and status are changed, and objects are deleted.
    let mut small = object("o1", &value);
    small["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let changed = store.update(key("o1"), small, stored["o1"]).await.unwrap();
    stored.insert("o1".to_owned(), changed.revision);
    let big = object("o2", &"y".repeat(200 << 10));
    assert!(matches!(store.update(key("o2"), big, stored["o2"]).await, Err(StoreError::Full)));
    // A user who changes what they like has a part of it.
    let (users, mut text) = (store.of_users(), value.clone());
    let mut o2 = store.get(&key("o2")).unwrap();
    while let Ok(changed) = users.update(key("o2"), object("o2", &text), o2.revision).await {
        o2 = changed;
        text += &"x".repeat(500);
        assert!(text.len() < 1 << 20, "users write on a full disk without end");
    }
    let mut marked = Value::clone(&o2.object);
    marked["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    o2 = users.update(key("o2"), marked.clone(), o2.revision).await.unwrap();
    marked["status"] = json!("x".repeat(400));
    assert!(matches!(users.update(key("o2"), marked.clone(), o2.revision).await, Err(StoreError::Full)));
    o2 = store.update(key("o2"), marked, o2.revision).await.unwrap();
    stored.insert("o2".to_owned(), o2.revision);
    for name in ["o3", "o4", "o5"] {
        store.delete(key(name), Preconditions::default()).await.unwrap();
        stored.remove(name);
    }
    assert_eq!(store.health(), Health::Full);
    assert!(store.get(&key("o2")).is_some(), "reads go on");

    std::fs::remove_file(dir.join("hog")).unwrap();
    becomes(&store, Health::Good).await;
    let entry = store.create(key("after"), object("after", "")).await.unwrap();
    stored.insert("after".to_owned(), entry.revision);
    store.close();
    let store = Store::open(&path).unwrap();
    let found: BTreeMap<String, u64> = store
        .list(&Prefix::everything())
        .entries
        .into_iter()
        .map(|(key, entry)| (key.name().to_owned(), entry.revision))
        .collect();
    assert_eq!(found, stored);
}

#[test]
fn a_full_disk_takes_deletions_loses_nothing_and_is_written_again_when_there_is_space() {
    on_a_small_disk("child_on_a_full_disk", 40);
}

#[tokio::test]
async fn a_write_that_failed_is_not_there_after_the_file_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let keys = || Keys::open(&dir.path().join("keys")).unwrap();
    let store = Store::open_with(&path, keys()).unwrap();
    let a = store.create(key("a"), object("a", "1")).await.unwrap();
    store.create(secret("b"), object("b", "1")).await.unwrap();
    store.close();
    let (mut disk, objects, revision, _) = Disk::load(&path, keys(), Damage::Refuse).unwrap();
    // What a commit leaves that reached the disk before its failure was reported.
    let record = |disk: &Disk, key: &Key| disk.record(key, revision + 1, b"{}".to_vec()).unwrap();
    let rows = vec![
        (key("a"), Some(record(&disk, &key("a")))),
        (secret("b"), None),
        (key("c"), Some(record(&disk, &key("c")))),
    ];
    disk.write(revision + 3, &rows).unwrap();
    disk.reopen(&objects, revision).unwrap();
    disk.close();
    let store = Store::open_with(&path, keys()).unwrap();
    assert_eq!(store.revision(), revision);
    assert_eq!(store.get(&key("a")).unwrap().object, a.object);
    assert!(store.get(&secret("b")).is_some() && store.get(&key("c")).is_none());
}

#[tokio::test]
async fn a_flipped_byte_is_named_never_served_and_dropped_on_demand_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    for name in ["a", "b", "c"] {
        store.create(key(name), object(name, &format!("value-of-{name}"))).await.unwrap();
    }
    store.close();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    let live: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"value-of-b")).collect();
    for at in live {
        bytes[at] ^= 1;
    }
    std::fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        match Store::open(&path) {
            Err(StoreError::Damaged { what, .. }) => assert_eq!(what, ["//configmaps/default/b"]),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
    let keys = || Keys::open(&path.with_extension("keys")).unwrap();
    assert_eq!(Store::drop_damaged(&path, keys(), false).unwrap(), ["//configmaps/default/b"]);
    let store = Store::open(&path).unwrap();
    assert!(store.get(&key("b")).is_none());
    assert_eq!(store.get(&key("a")).unwrap().object["data"]["value"], "value-of-a");
    assert_eq!(store.get(&key("c")).unwrap().object["data"]["value"], "value-of-c");
}

#[tokio::test]
async fn every_flipped_byte_is_refused_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    for number in 0..20 {
        let name = format!("o{number}");
        store.create(key(&name), object(&name, "value")).await.unwrap();
    }
    let wanted: Vec<_> = store
        .list(&Prefix::everything())
        .entries
        .into_iter()
        .map(|(key, entry)| (key, entry.object))
        .collect();
    store.close();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for at in used.iter().step_by(used.len() / 40) {
        let mut bytes = whole.clone();
        bytes[*at] ^= 0x11;
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(store) = Store::open(&path) {
            let found: Vec<_> = store
                .list(&Prefix::everything())
                .entries
                .into_iter()
                .map(|(key, entry)| (key, entry.object))
                .collect();
            assert_eq!(found, wanted, "byte {at}");
        }
    }
}

#[tokio::test]
async fn an_object_that_is_missing_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    for name in ["a", "b"] {
        store.create(key(name), object(name, "")).await.unwrap();
    }
    store.close();
    drop(store);
    let records: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(records).unwrap().remove(key("a").as_str()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(Store::open(&path), Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn secrets_are_not_readable_in_the_file_and_move_to_a_new_key_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let file = path.with_extension("keys");
    let store = Store::open(&path).unwrap();
    let made = store.create(secret("s"), object("s", "hunter2hunter2")).await.unwrap();
    store.create(key("c"), object("c", "plainplain")).await.unwrap();
    store.close();
    drop(store);
    assert!(holds(&path, "plainplain") && !holds(&path, "hunter2hunter2"));
    let old = std::fs::read_to_string(&file).unwrap();
    Keys::prepend(&file).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.get(&secret("s")).unwrap().object, made.object);
    store.close();
    drop(store);
    // The old key has done its work.
    let new = std::fs::read_to_string(&file).unwrap().lines().next().unwrap().to_owned();
    std::fs::write(&file, &new).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.get(&secret("s")).unwrap().object, made.object);
    store.close();
    drop(store);
    std::fs::write(&file, &old).unwrap();
    match Store::open(&path) {
        Err(StoreError::NoKey { what, .. }) => assert!(what[0].starts_with("//secrets/default/s (key ")),
        other => panic!("{:?}", other.map(|_| ())),
    }
    let keys = || Keys::open(&file).unwrap();
    assert!(matches!(Store::drop_damaged(&path, keys(), false), Err(StoreError::NoKey { .. })));
    assert_eq!(Store::drop_damaged(&path, keys(), true).unwrap().len(), 1);
    assert!(Store::open(&path).unwrap().get(&key("c")).is_some());
}

#[tokio::test]
async fn a_store_of_the_format_before_is_taken_over_whole_and_leaves_no_secret_in_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let objects: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
    let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    let mut wanted = Vec::new();
    {
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(objects).unwrap();
            for number in 2..60u64 {
                let name = format!("o{number}");
                let key = if number % 2 == 0 { key(&name) } else { secret(&name) };
                let mut object = object(&name, "hunter2hunter2");
                object["metadata"]["resourceVersion"] = json!(number.to_string());
                if number % 2 == 0 {
                    object["data"] = json!({});
                }
                table.insert(key.as_str(), serde_json::to_vec(&object).unwrap().as_slice()).unwrap();
                wanted.push((key, object));
            }
            let mut meta = transaction.open_table(meta).unwrap();
            meta.insert("format", 1).unwrap();
            meta.insert("revision", 99).unwrap();
        }
        transaction.commit().unwrap();
    }
    wanted.sort_by(|one, other| one.0.cmp(&other.0));
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        let found: Vec<(Key, Value)> = store
            .list(&Prefix::everything())
            .entries
            .into_iter()
            .map(|(key, entry)| (key, Value::clone(&entry.object)))
            .collect();
        assert_eq!(found, wanted);
        assert_eq!(store.revision(), 99);
        store.close();
        drop(store);
        assert!(!holds(&path, "hunter2hunter2"));
    }
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "the store, its keys and its reserve: {left:?}");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_read().unwrap();
    let format = transaction.open_table(meta).unwrap().get("format").unwrap().map(|value| value.value());
    assert_eq!(format, Some(2));
    assert!(
        transaction
            .open_table(TableDefinition::<&str, &[u8]>::new("records"))
            .unwrap()
            .iter()
            .unwrap()
            .count()
            == 58
    );
}

#[tokio::test]
async fn the_file_becomes_smaller_after_much_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    let value = "x".repeat(1 << 20);
    for number in 0..40 {
        let name = format!("o{number}");
        store.create(key(&name), object(&name, &value)).await.unwrap();
    }
    let large = std::fs::metadata(&path).unwrap().len();
    for number in 0..39 {
        store.delete(key(&format!("o{number}")), Preconditions::default()).await.unwrap();
    }
    let start = Instant::now();
    while std::fs::metadata(&path).unwrap().len() > large / 4 {
        assert!(start.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.create(key("after"), object("after", "")).await.unwrap();
    store.close();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert!(store.get(&key("o39")).is_some() && store.get(&key("after")).is_some());
}
