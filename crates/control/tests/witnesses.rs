//! Witnesses of the verbs of controllers and users: each verb is taken out of the role that is installed, and the
//! step that needs it is refused by a 403 that names verb, resource and user.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Cluster, NAMESPACE, eventually};
use ferrovirt_api::kubevirt::{VirtualMachine, VirtualMachineInstance};
use ferrovirt_privilege::{
    Scenario, Subject,
    scenario::{registered, verbs, witnessed},
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const LOCAL_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/kubevirt/roles";
const KUBEVIRT: &str = "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt";

type Verb = (&'static str, &'static str, &'static str);

/// What the API server has refused so far, in its own words.
fn refusals() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    LOG.get_or_init(|| {
        struct Pipe;
        impl Write for Pipe {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                refusals().lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let server = Targets::new().with_target("ferrovirt_apiserver::server", tracing::Level::DEBUG);
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Pipe);
        tracing_subscriber::registry().with(lines.with_filter(server)).init();
        Mutex::default()
    })
}

fn refused(words: &str) -> bool {
    String::from_utf8_lossy(&refusals().lock().unwrap()).contains(words)
}

/// What a refusal says.
fn words(user: &str, (group, resource, verb): Verb) -> String {
    format!("User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{group}\"")
}

async fn request(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let mut request = http::Request::builder().method(method).uri(path);
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    request = request.header("content-type", kind);
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    client.request(request.body(body).unwrap()).await
}

/// A role without one verb on one resource.
fn without(role: &Value, (group, resource, verb): Verb) -> Value {
    let mut role = role.clone();
    let is =
        |value: &Value, text: &str| value.as_array().is_some_and(|all| all.iter().any(|one| one == text));
    let mut rules = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        if !(is(&rule["apiGroups"], group) && is(&rule["resources"], resource) && is(&rule["verbs"], verb)) {
            rules.push(rule.clone());
            continue;
        }
        let rest = |list: &Value, gone: &str| -> Vec<Value> {
            list.as_array().unwrap().iter().filter(|one| *one != gone).cloned().collect()
        };
        let (mut others, mut own) = (rule.clone(), rule.clone());
        others["resources"] = rest(&rule["resources"], resource).into();
        own["resources"] = json!([resource]);
        own["verbs"] = rest(&rule["verbs"], verb).into();
        rules.extend([others, own].into_iter().filter(|rule| {
            [&rule["resources"], &rule["verbs"]].iter().all(|list| !list.as_array().unwrap().is_empty())
        }));
    }
    role["rules"] = rules.into();
    role
}

/// Takes a verb out of a role, or out of that of its name in the namespace of the controllers; the role as it was.
async fn take(admin: &Client, role: &str, verb: Verb) -> Value {
    for path in [format!("{ROLES}/{role}"), format!("{LOCAL_ROLES}/{role}")] {
        let Ok(full) = request(admin, "GET", &path, &Value::Null).await else { continue };
        let lesser = without(&full, verb);
        if lesser["rules"] != full["rules"] {
            request(admin, "PATCH", &path, &json!({"rules": lesser["rules"]})).await.unwrap();
            return full;
        }
    }
    panic!("{role} does not have {verb:?}");
}

/// Kubelet and node agent: pods run, machines report it, deleted ones end.
async fn node(cluster: &Cluster) {
    let pods: Api<Pod> = cluster.api();
    let vmis: Api<VirtualMachineInstance> = cluster.api();
    loop {
        for pod in pods.list(&ListParams::default()).await.unwrap() {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if pod.metadata.deletion_timestamp.is_some() {
                let gone = DeleteParams::default().grace_period(0);
                // Somebody else may be faster.
                let _gone = pods.delete(&pod.name_any(), &gone).await;
            } else if phase == Some("Pending") && pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) {
                cluster.pod_status(&pod, "Running", json!({"running": {}})).await;
            }
        }
        for vmi in vmis.list(&ListParams::default()).await.unwrap() {
            let phase = vmi.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase == Some("Scheduled") {
                cluster.report("Running").await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a controller does in the life of a machine: it starts, its pod vanishes, it starts again and is deleted.
async fn life(cluster: &Cluster) {
    let pods: Api<Pod> = cluster.api();
    let vms: Api<VirtualMachine> = cluster.api();
    cluster.create_vm("Always").await;
    let first = cluster.pod().await;
    cluster.wait_phase("Running").await;
    pods.delete(&first.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("another pod", async || {
        let list = pods.list(&ListParams::default()).await.unwrap().items;
        list.into_iter().find(|pod| pod.uid() != first.uid())
    })
    .await;
    cluster.wait_phase("Running").await;
    vms.delete("m", &DeleteParams::default()).await.unwrap();
    eventually("the machine's end", async || vms.get_opt("m").await.unwrap().is_none().then_some(())).await;
    let vmis: Api<VirtualMachineInstance> = cluster.api();
    eventually("its instance's end", async || vmis.get_opt("m").await.unwrap().is_none().then_some(())).await;
    // And it ends with the configuration.
    cluster.create_vm("Always").await;
    cluster.wait_phase("Running").await;
    let strategy = json!({"spec": {"uninstallStrategy": "RemoveWorkloads"}});
    request(&cluster.admin, "PATCH", KUBEVIRT, &strategy).await.unwrap();
    marked(cluster).await;
    request(&cluster.admin, "DELETE", KUBEVIRT, &Value::Null).await.unwrap();
    eventually("the configuration's end", async || {
        request(&cluster.admin, "GET", KUBEVIRT, &Value::Null).await.is_err().then_some(())
    })
    .await;
    assert!(vms.get_opt("m").await.unwrap().is_none(), "the machine is still there");
    assert!(vmis.get_opt("m").await.unwrap().is_none(), "its instance is still there");
}

/// What a replica does that ends with its namespace. Its account goes here at once; elsewhere after the pods.
async fn end_with_the_namespace(cluster: &Cluster) {
    let controller = cluster.acting_as(CONTROLLER).await;
    request(&cluster.admin, "DELETE", "/api/v1/namespaces/kubevirt", &Value::Null).await.unwrap();
    ferrovirt_control::leave(&controller).await;
}

/// Returns when the controllers have seen that there are machines.
async fn marked(cluster: &Cluster) {
    eventually("the finalizer of the configuration", async || {
        let object = request(&cluster.admin, "GET", KUBEVIRT, &Value::Null).await.unwrap();
        object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
    })
    .await;
}

/// Runs the life of a machine without one verb until the refusal is seen.
async fn without_a_verb(verb: Verb) {
    let mut cluster = Cluster::start_without_controllers().await;
    take(&cluster.admin, "kubevirt-controller", verb).await;
    // What everybody may do, the controllers may too.
    let everybody = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kubevirt.io:default";
    request(&cluster.admin, "DELETE", everybody, &Value::Null).await.unwrap();
    cluster.start_controllers();
    let words = words(CONTROLLER, verb);
    let seen = eventually(&words, async || refused(&words).then_some(()));
    tokio::select! {
        () = seen => {}
        () = node(&cluster) => {}
        // A life that needs no such verb: the refusal may still be under way.
        () = async {
            if verb.1 == "apiservices" {
                end_with_the_namespace(&cluster).await;
            } else {
                life(&cluster).await;
            }
            std::future::pending().await
        } => {}
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_verb_of_the_controllers_is_missed_and_none_else_is() {
    let log = refusals();
    let cluster = Cluster::start().await;
    let whole = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! {
            () = life(&cluster) => {}
            () = node(&cluster) => {}
        }
    });
    whole.await.unwrap_or_else(|_| {
        panic!("the life does not end: {}", String::from_utf8_lossy(&log.lock().unwrap()))
    });
    let enough = || {
        let words = format!("User \"{CONTROLLER}\" cannot");
        let text = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&words)).collect();
        assert!(lines.is_empty(), "the role is not enough: {lines:#?}");
    };
    enough();
    // Both in this test: the log is one for all tests of this program.
    for verb in [
        ("", "secrets", "get"),
        ("", "pods", "patch"),
        ("", "nodes", "patch"),
        ("kubevirt.io", "kubevirts", "patch"),
        ("kubevirt.io", "virtualmachines", "create"),
    ] {
        assert!(
            forbidden(&cluster.controller, CONTROLLER, verb, NAMESPACE).await,
            "the controller may {verb:?}"
        );
    }
    log.lock().unwrap().clear();
    end_with_the_namespace(&cluster).await;
    enough();
    cluster.end().await;

    let all: BTreeSet<Verb> = registered(Scenario::Api)
        .map(|name| witnessed(name).unwrap())
        .filter(|grant| grant.subject == Subject::Controller)
        .flat_map(verbs)
        .collect();
    assert!(all.len() > 15, "{all:?}");
    // A few servers at a time.
    futures::stream::iter(all).for_each_concurrent(3, without_a_verb).await;
}

/// The request that asks for a verb, on an object that need not exist: who may ask learns that it does not.
fn asks((group, resource, verb): Verb, namespace: &str) -> (&'static str, String) {
    let (plural, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
    let collection = format!("{root}/v1/namespaces/{namespace}/{plural}");
    let one = if sub.is_empty() { format!("{collection}/x") } else { format!("{collection}/x/{sub}") };
    match verb {
        "get" => ("GET", one),
        "list" => ("GET", collection),
        "watch" => ("GET", format!("{collection}?watch=true&timeoutSeconds=1")),
        "create" => ("POST", collection),
        "update" => ("PUT", one),
        "patch" => ("PATCH", one),
        "delete" => ("DELETE", one),
        "deletecollection" => ("DELETE", format!("{collection}?labelSelector=none=none")),
        other => panic!("{other}"),
    }
}

/// Whether the server refuses with exactly these words, or lets the user pass to whatever comes next.
async fn forbidden(client: &Client, user: &str, verb: Verb, namespace: &str) -> bool {
    let (method, path) = asks(verb, namespace);
    let body = if matches!(method, "GET" | "DELETE") { Value::Null } else { json!({}) };
    if verb.2 == "watch" {
        // The answer of one who may watch is a stream, which is not waited for.
        let request = http::Request::get(&path).body(Vec::new()).unwrap();
        return match client.request_stream(request).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {
                status.message.contains(&words(user, verb))
            }
            _ => false,
        };
    }
    match request(client, method, &path, &body).await {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let expected = words(user, verb);
            assert!(status.message.contains(&expected), "{}", status.message);
            true
        }
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_verb_of_the_users_is_missed_and_none_else_is() {
    refusals();
    let cluster = Cluster::start_without_controllers().await;
    let admin = &cluster.admin;
    let mut ran = 0;
    for (subject, role) in [
        (Subject::Anybody, "kubevirt.io:default"),
        (Subject::Viewer, "kubevirt.io:view"),
        (Subject::Editor, "kubevirt.io:edit"),
        (Subject::Administrator, "kubevirt.io:admin"),
    ] {
        let user = subject.name();
        let client = cluster.acting_as(user).await;
        if subject != Subject::Anybody {
            let binding = json!({
                "metadata": {"name": user},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            });
            let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings");
            request(admin, "POST", &path, &binding).await.unwrap();
        }
        let grants = registered(Scenario::Api).map(|name| witnessed(name).unwrap());
        let own: Vec<Verb> = grants.filter(|grant| grant.subject == subject).flat_map(verbs).collect();
        for verb in &own {
            assert!(!forbidden(&client, user, *verb, NAMESPACE).await, "{user} may not {verb:?}");
            let full = take(admin, role, *verb).await;
            assert!(forbidden(&client, user, *verb, NAMESPACE).await, "{user} may {verb:?} without the role");
            let path = format!("{ROLES}/{role}");
            request(admin, "PATCH", &path, &json!({"rules": full["rules"]})).await.unwrap();
            ran += 1;
        }
        // Proof 4: the same in a neighbouring namespace, and what is next to the granted verbs.
        if subject != Subject::Anybody {
            for verb in &own {
                assert!(forbidden(&client, user, *verb, "default").await, "{user} may {verb:?} elsewhere");
            }
        }
        let near: &[Verb] = &[
            ("", "pods", "create"),
            ("", "secrets", "get"),
            ("kubevirt.io", "kubevirts", "patch"),
            ("kubevirt.io", "virtualmachines/status", "patch"),
            ("kubevirt.io", "virtualmachines", "deletecollection"),
            ("subresources.kubevirt.io", "virtualmachineinstances/vnc", "get"),
        ];
        for verb in near.iter().filter(|verb| !own.contains(verb)) {
            assert!(forbidden(&client, user, *verb, NAMESPACE).await, "{user} may {verb:?}");
        }
    }
    assert!(ran > 50, "{ran} verbs");
    cluster.end().await;
}
