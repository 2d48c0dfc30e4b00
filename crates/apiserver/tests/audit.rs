//! What the audit log says of requests, and what it does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses what it needs")]
mod common;

use std::os::unix::fs::PermissionsExt as _;

use common::Cluster;
use serde_json::Value;

fn events(cluster: &Cluster) -> Vec<Value> {
    let text = std::fs::read_to_string(cluster.audit_log()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The first event that `wanted` is true of; the log is written a moment after the answer.
fn event(cluster: &Cluster, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        if let Some(found) = events(cluster).into_iter().find(&wanted) {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("no such event in {:#?}", events(cluster))
}

#[test]
fn every_request_is_in_the_audit_log_with_who_what_and_whether_and_no_content() {
    let cluster = Cluster::start();
    cluster.kubectl("create secret generic s --from-literal=password=hunter2hunter2");
    let made =
        event(&cluster, |event| event["verb"] == "create" && event["objectRef"]["resource"] == "secrets");
    assert_eq!(made["kind"], "Event");
    assert_eq!(made["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(made["level"], "Metadata");
    assert_eq!(made["stage"], "ResponseComplete");
    assert_eq!(made["user"]["username"], "kubernetes-admin");
    assert_eq!(made["sourceIPs"], serde_json::json!(["127.0.0.1"]));
    assert_eq!(made["objectRef"]["namespace"], "default");
    assert_eq!(made["responseStatus"]["code"], 201);
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    assert!(
        made["auditID"].as_str().unwrap().len() == 36
            && made["userAgent"].as_str().unwrap().contains("kubectl")
    );

    // A line end in a name stays inside its event.
    cluster.fails(&["get", "--raw", "/api/v1/namespaces/default/secrets/a%0A%7B%7D", "--as", "eve"]);
    let denied = event(&cluster, |event| event["objectRef"]["name"] == "a\n{}");
    assert_eq!(denied["user"]["username"], "kubernetes-admin");
    assert_eq!(denied["impersonatedUser"]["username"], "eve");
    assert_eq!(denied["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(denied["responseStatus"]["code"], 403);

    let server = format!("--server=https://{}", cluster.address());
    let nobody =
        ["--kubeconfig=/dev/null", &server, "--insecure-skip-tls-verify", "--token=not-a-token-at-all"];
    cluster.fails(&[&nobody[..], &["get", "--raw", "/api/v1/pods"]].concat());
    event(&cluster, |event| {
        event["responseStatus"]["code"] == 401 && event["user"].get("username").is_none()
    });

    cluster.kubectl("get --raw /api/v1/pods?watch=true&timeoutSeconds=1&token=hunter2hunter2");
    let of_watch = |event: &Value, stage: &str| event["verb"] == "watch" && event["stage"] == stage;
    let started = event(&cluster, |event| of_watch(event, "ResponseStarted"));
    let over = event(&cluster, |event| of_watch(event, "ResponseComplete"));
    assert_eq!(started["auditID"], over["auditID"]);

    // An object whose content is at fault: the answer quotes it.
    let pod = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"t"},"data":{"a":"hunter2hunter2!"}}"#;
    let file = cluster.audit_log().with_extension("json");
    std::fs::write(&file, pod).unwrap();
    cluster.fails(&["create", "--validate=false", "-f", &file.to_string_lossy()]);
    event(&cluster, |event| matches!(event["responseStatus"]["code"].as_u64(), Some(400 | 422)));

    let path = cluster.audit_log();
    let text = std::fs::read_to_string(&path).unwrap();
    for secret in ["hunter2", "aHVudGVyM", "aHVudGVyMmh1", "not-a-token-at-all"] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
