//! The aggregated API beside the embedded API server, which does the same in process: who is believed, who may, and that both
//! say and write the same.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

mod common;

use common::{
    Api, Authority, Cluster, INSTANCES, MACHINES, PROXY, SUBRESOURCES, asked, eventually, log, request,
};

/// Bodies of one user that may be on their way at the same time, and requests that are worked on.
const BODIES: usize = 16;

/// A path of the machine or instance `m`.
fn path(resource: &str, subresource: &str) -> String {
    format!("{SUBRESOURCES}/namespaces/team/{resource}/m/{subresource}")
}

/// What is answered to somebody whom the front proxy names.
async fn ask(cluster: &Cluster, api: &Api, user: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    api.send(Some(&cluster.proxy.client(PROXY)), asked(method, path, user), body).await
}

/// What the embedded server answers to an administrator.
async fn embedded(cluster: &Cluster, method: &str, path: &str, body: &Value) -> (u16, String) {
    match request(&cluster.admin, method, path, body).await {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("{method} {path}: {other:?}"),
    }
}

/// Headers count where the front proxy has sent them, and nowhere else.
async fn forged(cluster: &Cluster, api: &Api) {
    let start = path("virtualmachines", "start");
    let root = || asked("PUT", &start, "root").header("x-remote-group", "system:masters");
    let own = cluster.proxy.client(PROXY);
    let (stranger, somebody) = (Authority::new().client(PROXY), cluster.proxy.client("somebody"));
    let unauthorized = async |shown, asked, words: &str| {
        let (code, said) = api.send(shown, asked, "").await;
        assert!(code == 401 && said["message"].as_str().unwrap().contains(words), "{words}: {code} {said}");
    };
    unauthorized(None, root(), "through the cluster's API server alone").await;
    unauthorized(Some(&stranger), root(), "the client certificate is not good").await;
    unauthorized(Some(&somebody), root(), "not that of the front proxy").await;
    unauthorized(Some(&own), http::Request::put(&start), "names no user").await;
    unauthorized(Some(&own), root().header("x-remote-user", "alice"), "more than one user").await;
    unauthorized(None, asked("GET", "/version", "root"), "through the cluster's API server alone").await;
    for hostile in ["m%2f..", "..", "M", "m%00", "virtualmachines"] {
        let path = format!("{SUBRESOURCES}/namespaces/team/virtualmachines/{hostile}/start/x");
        assert_eq!(ask(cluster, api, "root", "PUT", &path, "").await.0, 404, "{path}");
    }
    assert_eq!(cluster.get(&format!("{MACHINES}/m")).await["spec"]["runStrategy"], "Halted");
    // The webhooks need no certificate, and take any.
    for shown in [None, Some(&own)] {
        let review = api.send(shown, http::Request::post("/validate"), "{}").await;
        assert_eq!(review.0, 400, "{review:?}");
    }
}

/// The documents are those of the embedded server.
async fn documents(cluster: &Cluster, api: &Api) {
    for path in ["/apis/subresources.kubevirt.io", SUBRESOURCES, "/apis/subresources.kubevirt.io/v1alpha3"] {
        let (code, document) = ask(cluster, api, "alice", "GET", path, "").await;
        assert_eq!((code, document), (200, cluster.get(path).await), "{path}");
    }
    for path in [format!("{SUBRESOURCES}/version"), format!("{SUBRESOURCES}/healthz")] {
        assert_eq!(ask(cluster, api, "alice", "GET", &path, "").await, (200, cluster.get(&path).await));
    }
    for path in ["/apis", "/openapi/v2", "/openapi/v3", "/version"] {
        assert_eq!(ask(cluster, api, "alice", "GET", path, "").await.0, 200, "{path}");
        assert_eq!(ask(cluster, api, "system:anonymous", "GET", path, "").await.0, 403, "{path}");
    }
    assert_eq!(ask(cluster, api, "alice", "GET", "/apis/kubevirt.io/v1", "").await.0, 404);
}

/// Each call needs its own right, also of who is known.
async fn rights(cluster: &Cluster, api: &Api) {
    for (user, role) in [("alice", "edit"), ("victor", "view")] {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
        let binding =
            json!({"metadata": {"name": format!("{user}-runs")}, "roleRef": role, "subjects": [subject]});
        let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/team/rolebindings";
        request(&cluster.admin, "POST", path, &binding).await.unwrap();
    }
    let (code, said) = ask(cluster, api, "victor", "PUT", &path("virtualmachines", "start"), "").await;
    assert_eq!((code, said["reason"].as_str()), (403, Some("Forbidden")));
    assert_eq!(
        said["message"],
        "virtualmachines.subresources.kubevirt.io \"m\" is forbidden: User \"victor\" cannot update resource \
         \"virtualmachines/start\" in API group \"subresources.kubevirt.io\" in the namespace \"team\""
    );
    for subresource in ["console", "vnc"] {
        let path = path("virtualmachineinstances", subresource);
        assert_eq!(ask(cluster, api, "victor", "GET", &path, "").await.0, 403);
    }
    let elsewhere = format!("{SUBRESOURCES}/namespaces/default/virtualmachines/m/start");
    assert_eq!(ask(cluster, api, "alice", "PUT", &elsewhere, "").await.0, 403);
    assert_eq!(cluster.get(&format!("{MACHINES}/m")).await["spec"]["runStrategy"], "Halted");
}

/// What is written is what the plan says, and what is refused is refused in the embedded server's words.
async fn runs(cluster: &Cluster, api: &Api) {
    let run = async |verb: &str, body: &str| {
        ask(cluster, api, "alice", "PUT", &path("virtualmachines", verb), body).await
    };
    let same = async |verb: &str, body: &str| {
        let (code, said) = run(verb, body).await;
        let wanted = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
        let (same_code, words) = embedded(cluster, "PUT", &path("virtualmachines", verb), &wanted).await;
        assert_eq!((code, said["message"].as_str().unwrap()), (same_code, words.as_str()));
        code
    };
    assert_eq!(same("start", "").await, 409, "it runs");
    assert_eq!(same("restart", "").await, 409, "by its strategy");
    assert_eq!(same("stop", "[]").await, 400);
    assert_eq!(same("stop", r#"{"gracePeriod":-1}"#).await, 400);
    let machine = format!("{MACHINES}/m");
    cluster.strategy("Always").await;
    assert_eq!(run("stop", r#"{"dryRun":["All"]}"#).await, (202, Value::Null));
    assert_eq!(cluster.get(&machine).await["spec"]["runStrategy"], "Always");
    assert_eq!(run("stop", r#"{"gracePeriod":1}"#).await, (202, Value::Null));
    assert_eq!(cluster.get(&machine).await["spec"]["runStrategy"], "Halted");
    assert_eq!(cluster.get(&format!("{INSTANCES}/m")).await["spec"]["terminationGracePeriodSeconds"], 1);
    cluster.status(&json!({"phase": "Succeeded"})).await;
    assert_eq!(run("start", "{}").await, (202, Value::Null));
    assert_eq!(cluster.get(&machine).await["spec"]["runStrategy"], "Always");
    cluster.status(&json!({"phase": "Running"})).await;
    assert_eq!(run("restart", "").await, (202, Value::Null));
    let requests = cluster.get(&machine).await["status"]["stateChangeRequests"].clone();
    assert_eq!((&requests[0]["action"], &requests[1]["action"]), (&json!("Stop"), &json!("Start")));
    assert_eq!(same("restart", "").await, 409, "one is open");
    let missing = format!("{SUBRESOURCES}/namespaces/team/virtualmachines/other/start");
    let (code, said) = ask(cluster, api, "alice", "PUT", &missing, "").await;
    let (same_code, words) = embedded(cluster, "PUT", &missing, &Value::Null).await;
    assert_eq!((code, said["message"].as_str().unwrap()), (same_code, words.as_str()));
    let large = format!("{{\"dryRun\":[\"{}\"]}}", "a".repeat(70_000));
    assert_eq!(run("stop", &large).await.0, 413);
    let path_given = format!("{SUBRESOURCES}/namespaces/team/expand-vm-spec");
    let mut given = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "new"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}});
    let (code, whole) = ask(cluster, api, "victor", "PUT", &path_given, &given.to_string()).await;
    assert_eq!((code, &whole), (200, &given));
    let (code, said) = ask(cluster, api, "stranger", "PUT", &path_given, &given.to_string()).await;
    assert_eq!(code, 403, "{said}");
    given["spec"]["instancetype"] = json!({"name": "u1.small"});
    let (code, said) = ask(cluster, api, "victor", "PUT", &path_given, &given.to_string()).await;
    let (same_code, words) = embedded(cluster, "PUT", &path_given, &given).await;
    assert_eq!((code, said["message"].as_str().unwrap()), (same_code, words.as_str()));
    assert_eq!((code, words.as_str()), (501, "not supported yet: spec.instancetype"));
    // Also for who may only look.
    let (code, whole) = ask(cluster, api, "victor", "GET", &path("virtualmachines", "expand-spec"), "").await;
    assert_eq!((code, &whole["spec"]), (200, &cluster.get(&machine).await["spec"]));
}

/// What is not there is refused by its name, and what is there with the method that it has, as by the embedded server.
async fn missing(cluster: &Cluster, api: &Api) {
    for (method, name, code) in [
        ("PUT", "virtualmachines/m/migrate", 501),
        ("PUT", "virtualmachines/m/evacuate/cancel", 501),
        ("GET", "virtualmachineinstances/m/portforward/22/tcp", 501),
        ("GET", "virtualmachineinstances/m/vnc/screenshot", 501),
        ("GET", "expand-vm-spec", 405),
        ("PUT", "expand-vm-spec/other", 404),
        ("GET", "virtualmachines/m/start", 405),
        ("PUT", "virtualmachineinstances/m/console", 405),
        ("PUT", "virtualmachines/m/start/now", 404),
        ("PUT", "virtualmachines/m/nothing", 404),
    ] {
        let path = format!("{SUBRESOURCES}/namespaces/team/{name}");
        let (same_code, words) = embedded(cluster, method, &path, &Value::Null).await;
        let (own, said) = ask(cluster, api, "alice", method, &path, "").await;
        assert_eq!((own, said["message"].as_str().unwrap()), (same_code, words.as_str()), "{path}");
        assert_eq!(own, code, "{path}: {said}");
        assert_eq!(words.contains("not supported yet: "), code == 501, "{path}: {words}");
    }
    assert_eq!(cluster.get(&format!("{MACHINES}/m")).await["spec"]["runStrategy"], "Halted");
}

/// Bodies that do not come hold nothing of what is worked on.
async fn slow(cluster: &Cluster, api: &Api) {
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: h\r\nx-remote-user: root\r\nx-remote-group: system:masters\r\n\
         content-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n",
        path("virtualmachines", "start")
    );
    let mut all = Vec::new();
    for _ in 0..BODIES {
        let mut stream = api.connect(Some(&cluster.proxy.client(PROXY))).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        // Said when the body is waited for.
        let mut said = [0; 12];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 100");
        all.push(stream);
    }
    let root = asked("GET", &path("virtualmachines", "expand-spec"), "root")
        .header("x-remote-group", "system:masters");
    assert_eq!(api.send(Some(&cluster.proxy.client(PROXY)), root, "").await.0, 200);
}

/// Another front proxy is believed when the cluster says so, and none when there is none.
async fn followed(cluster: &Cluster, api: &Api) {
    let other = Authority::new();
    cluster.show_proxy(&other).await;
    let version = || asked("GET", "/version", "alice");
    let (new, old) = (other.client(PROXY), cluster.proxy.client(PROXY));
    let code = async |shown| api.send(Some(shown), version(), "").await.0;
    eventually("the new front proxy", async || (code(&new).await == 200).then_some(())).await;
    assert_eq!(code(&old).await, 401);
    cluster.hide_proxy().await;
    eventually("its removal", async || (code(&new).await == 503).then_some(())).await;
    let (_, said) = api.send(Some(&new), version(), "").await;
    assert!(said["message"].as_str().unwrap().contains("there is no ConfigMap kube-system/"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_front_proxy_alone_is_believed_and_machines_are_run_as_the_embedded_server_runs_them() {
    log();
    let cluster = Cluster::start().await;
    let api = Api::start(&cluster).await;
    api.known(&cluster).await;
    forged(&cluster, &api).await;
    documents(&cluster, &api).await;
    rights(&cluster, &api).await;
    missing(&cluster, &api).await;
    runs(&cluster, &api).await;
    slow(&cluster, &api).await;
    followed(&cluster, &api).await;
    api.stop().await;
    cluster.end().await;
}
