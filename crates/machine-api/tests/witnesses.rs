//! The machine API beside the embedded API server: it answers what that one answers itself, and each of its rights is missed,
//! by a 403 that names verb, resource and account.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use ferrovirt_plan::scc::rights::POD_SCC;
use ferrovirt_privilege::Scenario;
use ferrovirt_privilege::scenario::{registered, verbs, witnessed};
use serde_json::{Value, json};

mod common;

use common::{
    ACCOUNT, Api, CONTROLLER, Cluster, MACHINES, Verb, eventually, lines, log, machine, request, without,
};

fn host_disk() -> Value {
    machine("m", &json!([{"name": "root", "hostDisk": {"path": "/srv/a.img", "type": "Disk"}}]))
}

/// What the embedded server says to anyone who makes an object.
async fn embedded(cluster: &Cluster, object: &Value) -> String {
    match request(&cluster.admin, "POST", MACHINES, object).await {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => panic!("{other:?}"),
    }
}

/// Defaults, refusals and rights are those of the embedded server.
async fn answers(cluster: &Cluster, api: &Api) {
    let plain = machine("other", &json!([]));
    let whole = api.completed("alice", &plain).await;
    assert_eq!(whole["metadata"]["annotations"][POD_SCC], "restricted-v2");
    api.admits("alice", &whole).await;
    // Whatever was sent of the decision, and anyone who has written it since.
    let mut forged = whole.clone();
    forged["metadata"]["annotations"][POD_SCC] = json!("privileged");
    let said = api.refusal("alice", &forged).await;
    assert!(said.contains("has changed meanwhile"), "{said}");
    assert_eq!(api.completed("alice", &forged).await, whole);

    let mut invalid = plain.clone();
    invalid["spec"]["running"] = json!(true);
    let frame = "admission webhook \"virtualmachine-validator.kubevirt.io\" denied the request: ";
    let said = format!("{frame}{}", api.refusal("alice", &invalid).await);
    assert_eq!(said, embedded(cluster, &invalid).await);

    let said = api.refusal("alice", &host_disk()).await;
    assert!(said.contains("user \"alice\"") && said.contains("hostPath"), "{said}");
    // The validating webhook says why.
    api.completed("alice", &host_disk()).await;
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "system:openshift:scc:kubevirt-controller"});
    let alice = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"});
    let binding = json!({"metadata": {"name": "alice"}, "roleRef": role, "subjects": [alice]});
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/team/rolebindings";
    request(&cluster.admin, "POST", path, &binding).await.unwrap();
    let hers = api.completed("alice", &host_disk()).await;
    assert_eq!(hers["metadata"]["annotations"][POD_SCC], "kubevirt-controller");
    api.admits("alice", &hers).await;

    // The controller makes an instance with what was decided about its machine, and no other.
    let instance = api.completed(CONTROLLER, &cluster.instance()).await;
    assert_eq!(instance["metadata"]["annotations"][POD_SCC], "restricted-v2");
    api.admits(CONTROLLER, &instance).await;
    let mut more = cluster.instance();
    more["spec"]["volumes"] = host_disk()["spec"]["template"]["spec"]["volumes"].clone();
    more["spec"]["domain"]["devices"]["disks"] = json!([{"name": "root"}]);
    let whole = api.completed(CONTROLLER, &more).await;
    let said = api.refusal(CONTROLLER, &whole).await;
    assert!(said.contains("of its admission") && said.contains("hostPath"), "{said}");
}

async fn said_in_log(api: &Api, words: &str) {
    let said = || lines(api.since).iter().any(|line| line.contains(words)).then_some(());
    eventually(words, async || said()).await;
}

/// Runs it without one verb.
async fn without_a_verb(cluster: &Cluster, witness: &str, verb: Verb) {
    let (group, resource, name) = verb;
    let full = cluster.roles().await;
    let mut taken = false;
    for (path, rules) in &full {
        let lesser = without(rules, verb);
        taken |= lesser != without(rules, ("", "", ""));
        cluster.put_rules(path, &lesser).await;
    }
    assert!(taken, "the roles have {verb:?}");
    let api = Api::start(cluster).await;
    let words = format!("User \"{ACCOUNT}\" cannot {name} resource \"{resource}\" in API group \"{group}\"");
    let said = match witness {
        "machine-api-certificate" | "machine-api-trust" => {
            said_in_log(&api, &words).await;
            let shown = api.ask("GET", "/readyz", String::new()).await;
            assert!(shown.is_err(), "a certificate is shown without {verb:?}: {shown:?}");
            words.clone()
        }
        "machine-api-rights" => {
            api.ready().await;
            api.refusal("bob", &machine("other", &json!([]))).await
        }
        "machine-api-front-proxy" => {
            api.ready().await;
            said_in_log(&api, &words).await;
            api.call(cluster, "start").await
        }
        "machine-api-callers" => {
            api.known(cluster).await;
            api.call(cluster, "start").await
        }
        "machine-api-runs" => {
            api.known(cluster).await;
            // What is written where depends on the strategy, and a shorter end on the instance.
            let strategy = if resource == "virtualmachines/status" { "Manual" } else { "Always" };
            cluster.strategy(strategy).await;
            let said = api.call(cluster, "stop").await;
            cluster.strategy("Halted").await;
            said
        }
        "machine-api-handlers" => {
            api.known(cluster).await;
            cluster.status(&json!({"phase": "Running", "nodeName": "node"})).await;
            api.pause(cluster).await
        }
        "machine-api-owner" => {
            api.ready().await;
            let answer = api.review("/mutate", CONTROLLER, &cluster.instance()).await;
            assert_eq!(answer["allowed"], false, "{answer}");
            answer["status"]["message"].as_str().unwrap().to_owned()
        }
        other => panic!("what fails without {other}?"),
    };
    assert!(said.contains(&words), "{witness}: {said}");
    api.stop().await;
    for (path, rules) in &full {
        cluster.put_rules(path, rules).await;
    }
}

/// Runs it without one verb on each of the Secrets of handlers.
async fn without_a_secret(cluster: &Cluster, (group, resource, verb): Verb) {
    let full = cluster.roles().await;
    for name in ["kubevirt-handler-authority", "virt-handler-certificate", "kubevirt-api-client"] {
        let mut taken = false;
        for (path, rules) in &full {
            let mut lesser = rules.clone();
            for rule in lesser.as_array_mut().unwrap() {
                if rule["resources"] == json!([resource]) && rule["resourceNames"] == json!([name]) {
                    rule["verbs"].as_array_mut().unwrap().retain(|of| of != verb);
                    taken = true;
                }
            }
            cluster.put_rules(path, &lesser).await;
        }
        assert!(taken, "{name}");
        let api = Api::start(cluster).await;
        let words =
            format!("User \"{ACCOUNT}\" cannot {verb} resource \"{resource}\" in API group \"{group}\"");
        let named = format!("the Secret {name} cannot be ");
        let said = || {
            lines(api.since).iter().any(|line| line.contains(&words) && line.contains(&named)).then_some(())
        };
        eventually(&named, async || said()).await;
        api.stop().await;
    }
    for (path, rules) in &full {
        cluster.put_rules(path, rules).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_as_the_embedded_server_does_and_each_of_its_verbs_is_missed() {
    log();
    let cluster = Cluster::start().await;
    let api = Api::start(&cluster).await;
    api.ready().await;
    answers(&cluster, &api).await;
    api.stop().await;
    let refused = format!("User \"{ACCOUNT}\" cannot");
    assert!(!lines(0).iter().any(|line| line.contains(&refused)), "the roles are not enough: {:?}", lines(0));

    let all: BTreeSet<(&str, Verb)> = registered(Scenario::MachineApi)
        .flat_map(|name| verbs(witnessed(name).unwrap()).map(move |verb| (name, verb)))
        .collect();
    assert!(all.len() > 8, "{all:?}");
    for (witness, verb) in all {
        match witness {
            "machine-api-handler-certificates" => without_a_secret(&cluster, verb).await,
            _ => without_a_verb(&cluster, witness, verb).await,
        }
    }
    cluster.end().await;
}
