//! Watches as clients see them on the wire.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, reason = "each test file uses what it needs")]
mod common;

use common::Cluster;
use serde_json::Value;

/// The events of a watch that ends by itself. kubectl succeeds for status 200 alone.
///
/// Of volumes: nothing in the server makes any by itself.
fn events(cluster: &Cluster, query: &str) -> Vec<Value> {
    let text = cluster.ok(&["get", "--raw", &format!("/api/v1/persistentvolumes?watch=true&{query}")]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn revision(cluster: &Cluster) -> u64 {
    let list: Value = serde_json::from_str(&cluster.kubectl("get --raw /api/v1/configmaps?limit=1")).unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_revision_that_is_gone_or_never_was_is_an_error_event_that_ends_the_watch() {
    let cluster = Cluster::start();
    // A server remembers nothing from before its start.
    cluster.kubectl("create configmap one");
    let cluster = cluster.restart();
    let future = revision(&cluster) + 1000;
    for gone in ["resourceVersion=1".to_owned(), format!("resourceVersion={future}")] {
        let events = events(&cluster, &format!("{gone}&allowWatchBookmarks=true"));
        let [event] = events.as_slice() else { panic!("{gone}: {events:?}") };
        assert_eq!(event["type"], "ERROR", "{gone}");
        let status = &event["object"];
        assert_eq!(status["kind"], "Status");
        assert_eq!((&status["code"], status["reason"].as_str()), (&410.into(), Some("Expired")), "{gone}");
    }
    // Initial events that are newer than what there is do not exist; upstream names another cause for that.
    let asked = format!("resourceVersion={future}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    let events = events(&cluster, &asked);
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event["object"]["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[test]
fn a_watch_that_times_out_ends_with_a_bookmark_from_which_it_goes_on() {
    let cluster = Cluster::start();
    let start = revision(&cluster);
    // Changes of other kinds move the revision on.
    cluster.kubectl("create serviceaccount other");
    let now = revision(&cluster);
    assert!(now > start);
    let events = |query: &str| events(&cluster, &format!("resourceVersion={start}&timeoutSeconds=1{query}"));
    assert_eq!(events(""), [] as [Value; 0], "bookmarks are for those who asked");
    let seen = events("&allowWatchBookmarks=true");
    let [event] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(
        (event["type"].as_str(), event["object"]["kind"].as_str()),
        (Some("BOOKMARK"), Some("PersistentVolume"))
    );
    let said: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(said >= now, "{said} is before {now}");
}
