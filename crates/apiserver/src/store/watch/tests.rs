//! What the history says of changes that it has forgotten.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// As large as a change can be said to be here: the history holds four of them.
const LARGE: usize = MAX_BYTES / 4;

fn event(key: Key, revision: u64, object: &Arc<Value>) -> Event {
    Event { kind: EventKind::Added, revision, key, object: Arc::clone(object), old: None }
}

fn key(resource: &str, namespace: &str) -> Key {
    Key::new("", resource, namespace, "name")
}

/// The oldest revision that a watch can start from.
fn oldest(history: &History, prefix: &Prefix) -> u64 {
    match history.since(0, u64::MAX, prefix) {
        Err(StoreError::Expired { oldest, .. }) => oldest,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flood_expires_watches_of_its_own_kind_and_namespace_and_of_everything() {
    let mut history = History::new(10);
    let object = Arc::new(json!({}));
    let flood = 2 * MAX_EVENTS as u64;
    history.push(event(key("pods", "alpha"), 11, &object), 1);
    history.push(event(key("pods", "beta"), 12, &object), 1);
    for revision in 13..=12 + flood {
        history.push(event(key("configmaps", "alpha"), revision, &object), 1);
    }
    let last = 12 + flood - MAX_EVENTS as u64;
    for (prefix, expected) in [
        (Prefix::everything(), last),
        (Prefix::resource("", "configmaps"), last),
        (Prefix::namespace("", "configmaps", "alpha"), last),
        (Prefix::namespace("", "configmaps", "beta"), 10),
        (Prefix::resource("", "pods"), 12),
        (Prefix::namespace("", "pods", "alpha"), 11),
        (Prefix::namespace("", "pods", "beta"), 12),
        (Prefix::namespace("", "pods", "gamma"), 10),
        (Prefix::resource("", "nodes"), 10),
        (Prefix::resource("apps", "configmaps"), 10),
    ] {
        assert_eq!(oldest(&history, &prefix), expected, "{prefix:?}");
        assert!(history.since(expected, 12 + flood, &prefix).is_ok(), "{prefix:?}");
        assert!(history.since(expected - 1, 12 + flood, &prefix).is_err(), "{prefix:?}");
    }
}

#[test]
fn the_places_that_are_known_apart_are_bounded_and_the_others_share_a_floor() {
    let mut history = History::new(0);
    let object = Arc::new(json!({}));
    let all = MAX_PLACES as u64 + 100;
    for revision in 1..=all {
        history.push(event(key("pods", &format!("n{revision}")), revision, &object), LARGE);
        // Somebody who changes something all the time is never the one who is given up.
        history.push(event(key("nodes", ""), revision, &object), LARGE);
    }
    let forgotten = all - 2;
    // One of the places is that of the nodes.
    let floor = forgotten - (MAX_PLACES as u64 - 1);
    for (place, expected) in [(floor - 1, floor), (floor, floor), (floor + 1, floor + 1), (all, floor)] {
        let prefix = Prefix::namespace("", "pods", &format!("n{place}"));
        assert_eq!(oldest(&history, &prefix), expected, "{place}");
    }
    assert_eq!(oldest(&history, &Prefix::namespace("", "nodes", "")), forgotten);
    assert_eq!(oldest(&history, &Prefix::resource("", "secrets")), floor);
    assert_eq!(oldest(&history, &Prefix::everything()), forgotten);
}

const GROUPS: [&str; 2] = ["", "g"];
const RESOURCES: [&str; 2] = ["vm", "vms"];
const NAMESPACES: [&str; 3] = ["", "a", "ab"];

fn prefixes() -> Vec<Prefix> {
    let mut all = vec![Prefix::everything()];
    for (group, resource) in GROUPS.iter().flat_map(|group| RESOURCES.map(|resource| (group, resource))) {
        all.push(Prefix::resource(group, resource));
        all.extend(NAMESPACES.map(|namespace| Prefix::namespace(group, resource, namespace)));
    }
    all
}

/// A key, how far its revision is from the one before, whether it is large in the ring and whether an answer with it is full.
fn change() -> impl Strategy<Value = (Key, u64, bool, bool)> {
    let key = (proptest::sample::select(&GROUPS[..]), proptest::sample::select(&RESOURCES[..]));
    let key = (key, proptest::sample::select(&NAMESPACES[..]), "[xy]")
        .prop_map(|((group, resource), namespace, name)| Key::new(group, resource, namespace, &name));
    (key, 1u64..3, any::<bool>(), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a history that never forgets: an answer has all of the changes, or says that it has not; and it says so only
    /// where one is lost.
    #[test]
    fn an_answer_is_complete_or_expired(
        changes in proptest::collection::vec(change(), 0..40), start in 0u64..5, most in 1usize..16,
    ) {
        let (slim, fat) = (Arc::new(json!({})), Arc::new(json!("x".repeat(AT_ONCE))));
        let mut history = History::new(start);
        history.forgotten = Forgotten::new(start, most);
        let mut model: Vec<(Key, u64)> = Vec::new();
        let mut now = start;
        for (key, step, large, full) in changes {
            now += step;
            model.push((key.clone(), now));
            let object = if full { &fat } else { &slim };
            history.push(event(key, now, object), if large { LARGE } else { 1 });
        }
        let first = history.events.front().map_or(u64::MAX, |(event, ..)| event.revision);
        // As many places as there are need no common floor.
        let apart = most >= GROUPS.len() * RESOURCES.len() * NAMESPACES.len();
        for prefix in prefixes() {
            let of_prefix: Vec<u64> =
                model.iter().filter(|(key, _)| prefix.contains(key)).map(|(_, revision)| *revision).collect();
            for asked in 0..=now {
                let is_lost = asked < start || of_prefix.iter().any(|known| *known > asked && *known < first);
                match history.since(asked, now, &prefix) {
                    Ok((found, until)) => {
                        prop_assert!(!is_lost);
                        let found: Vec<u64> = found.iter().map(|event| event.revision).collect();
                        let all: Vec<u64> =
                            of_prefix.iter().copied().filter(|known| *known > asked && *known <= until).collect();
                        prop_assert_eq!(found, all);
                    }
                    Err(StoreError::Expired { asked: named, oldest }) => {
                        prop_assert!(is_lost || !apart);
                        prop_assert_eq!(named, asked);
                        prop_assert!(oldest > asked && oldest <= now);
                        prop_assert!(history.since(oldest, now, &prefix).is_ok());
                        prop_assert!(history.since(oldest - 1, now, &prefix).is_err());
                    }
                    Err(other) => return Err(TestCaseError::fail(other.to_string())),
                }
            }
        }
    }
}
