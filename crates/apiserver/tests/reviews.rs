//! The review APIs of security.openshift.io, asked as `oc adm policy scc-review` and `scc-subject-review` ask them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses what it needs of it")]
mod common;

use common::world::World;
use serde_json::{Value, json};

const GROUP: &str = "security.openshift.io";

fn template(volumes: Value, account: Option<&str>) -> Value {
    let mut spec =
        json!({"containers": [{"name": "c", "image": "a/b:1", "resources": {}}], "volumes": volumes});
    if let Some(account) = account {
        spec["serviceAccountName"] = account.into();
    }
    json!({"metadata": {"creationTimestamp": null}, "spec": spec})
}

/// Posts a review in the form in which oc's client sends it: with the empty metadata and status of its types.
fn ask(world: &World, who: &[String], namespace: &str, kind: &str, spec: &Value) -> (bool, String) {
    let status = match kind {
        "PodSecurityPolicyReview" => json!({"allowedServiceAccounts": null}),
        _ => json!({"template": {"metadata": {"creationTimestamp": null}, "spec": {"containers": null}}}),
    };
    let body = json!({"kind": kind, "apiVersion": format!("{GROUP}/v1"), "metadata": {"creationTimestamp": null},
        "spec": spec, "status": status});
    let path = format!("/apis/{GROUP}/v1/namespaces/{namespace}/{}s", kind.to_lowercase());
    let args: Vec<&str> =
        who.iter().map(String::as_str).chain(["create", "--raw", &path, "-f", "-"]).collect();
    let output = world.cluster.run_with_input(&args, &body.to_string());
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn status(world: &World, who: &[String], namespace: &str, kind: &str, spec: &Value) -> Value {
    let (ok, said) = ask(world, who, namespace, kind, spec);
    assert!(ok, "{said}");
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&answer["kind"], &answer["apiVersion"]), (&json!(kind), &json!(format!("{GROUP}/v1"))));
    answer["status"].clone()
}

#[test]
fn reviews_are_answered_as_the_real_ones() {
    let world = World::new();
    let kubectl = |args: &str| world.cluster.kubectl(args);
    kubectl("create namespace shop");
    kubectl("create serviceaccount builder -n shop");
    kubectl("create serviceaccount mounter -n shop");
    kubectl(
        "create rolebinding mount -n shop --clusterrole=system:openshift:scc:hostmount-anyuid --serviceaccount=shop:mounter",
    );
    let admin: &[String] = &[];
    let by = |name: &str| json!({"kind": "SecurityContextConstraints", "name": name, "apiVersion": format!("{GROUP}/v1")});
    let host = json!([{"name": "h", "hostPath": {"path": "/srv"}}]);

    // A named user with groups: the groups are those that were given and no others.
    let kind = "PodSecurityPolicySubjectReview";
    let asked = json!({"template": template(json!([]), None), "user": "alice"});
    assert_eq!(status(&world, admin, "shop", kind, &asked), json!({}));
    let asked =
        json!({"template": template(json!([]), None), "user": "alice", "groups": ["system:authenticated"]});
    assert_eq!(status(&world, admin, "shop", kind, &asked), json!({"allowedBy": by("restricted-v2")}));
    // The template's account counts too, and brings the changed template with it.
    let asked = json!({"template": template(host.clone(), Some("mounter")), "user": "alice"});
    let answer = status(&world, admin, "shop", kind, &asked);
    assert_eq!(answer["allowedBy"], by("hostmount-anyuid"));
    let level = &answer["template"]["spec"]["securityContext"]["seLinuxOptions"]["level"];
    let namespace = world.cluster.json("get namespace shop");
    assert_eq!(*level, namespace["metadata"]["annotations"]["openshift.io/sa.scc.mcs"]);
    // Nobody at all is no question.
    let (ok, said) = ask(&world, admin, "shop", kind, &json!({"template": template(json!([]), None)}));
    assert!(
        !ok && said.contains("at least one of user, groups or serviceAccountName must be specified"),
        "{said}"
    );

    // Oneself.
    let kind = "PodSecurityPolicySelfSubjectReview";
    let asked = json!({"template": template(host.clone(), None)});
    let answer = status(&world, admin, "shop", kind, &asked);
    assert_eq!(answer["allowedBy"], by("hostmount-anyuid"));
    assert_eq!(answer["reason"], "CantAssignSecurityContextConstraintProvider");
    let person = world.account("person");
    let answer = status(&world, &person, "shop", kind, &asked);
    assert_eq!(answer, json!({"reason": "CantAssignSecurityContextConstraintProvider"}));

    // Accounts: each must exist, and has an entry for every SCC that would do.
    let kind = "PodSecurityPolicyReview";
    let asked = json!({"template": template(host, None), "serviceAccountNames": ["builder", "mounter"]});
    let answer = status(&world, admin, "shop", kind, &asked);
    assert_eq!(
        answer["allowedServiceAccounts"],
        json!([{"name": "mounter", "allowedBy": by("hostmount-anyuid")}])
    );
    let asked = json!({"template": template(json!([]), None), "serviceAccountNames": ["nobody"]});
    let (ok, said) = ask(&world, admin, "shop", kind, &asked);
    assert!(
        !ok && said
            .contains(r#"unable to retrieve ServiceAccount nobody: serviceaccount "nobody" not found"#),
        "{said}"
    );
    let asked = json!({"template": template(json!([]), None)});
    assert_eq!(status(&world, admin, "shop", kind, &asked), json!({"allowedServiceAccounts": []}));
}

#[test]
fn who_may_ask_and_what_is_no_question() {
    let world = World::new();
    let person = world.account("person");
    let plain = json!({"template": template(json!([]), None), "user": "x"});
    let (ok, said) = ask(&world, &person, "default", "PodSecurityPolicySubjectReview", &plain);
    assert!(!ok && said.contains("cannot create resource \"podsecuritypolicysubjectreviews\""), "{said}");
    world.cluster.kubectl("create rolebinding e --clusterrole=edit --serviceaccount=default:person");
    let (ok, said) = ask(&world, &person, "default", "PodSecurityPolicySubjectReview", &plain);
    assert!(ok, "{said}");

    // Discovery shows them, kubectl finds and posts them, and prints the answer.
    let listed =
        world.cluster.kubectl("api-resources --api-group=security.openshift.io --verbs=create -o name");
    for kind in
        ["podsecuritypolicyreviews", "podsecuritypolicyselfsubjectreviews", "podsecuritypolicysubjectreviews"]
    {
        assert!(listed.contains(kind), "{listed}");
    }
    let review = json!({"apiVersion": "security.openshift.io/v1", "kind": "PodSecurityPolicySelfSubjectReview",
        "spec": {"template": template(json!([]), Some("default"))}});
    let args = ["create", "-n", "default", "-o", "json", "-f", "-"];
    let output = world.cluster.run_with_input(&args, &review.to_string());
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["status"]["allowedBy"]["name"], "anyuid", "{answer}");
    assert_eq!(answer["status"]["template"]["spec"]["serviceAccountName"], "default");

    let refused = |body: Value, wanted: &str| {
        let path = "/apis/security.openshift.io/v1/namespaces/default/podsecuritypolicyselfsubjectreviews";
        let output = world.cluster.run_with_input(&["create", "--raw", path, "-f", "-"], &body.to_string());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(wanted), "{said}");
    };
    let mut named = review.clone();
    named["metadata"] = json!({"name": "x"});
    refused(named, "metadata.name: Invalid value");
    let mut wrong = review.clone();
    wrong["spec"]["template"]["spec"]["containers"] = json!([]);
    refused(wrong, "spec.template.spec.containers: Required value");
    let mut wrong = review;
    wrong["spec"]["template"]["spec"]["containers"] = json!("x");
    refused(wrong, "spec.template.spec.containers");
    let all = world.cluster.kubectl("get --raw /apis/security.openshift.io/v1");
    let all: Value = serde_json::from_str(&all).unwrap();
    let row = all["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "podsecuritypolicyreviews")
        .unwrap();
    assert_eq!((&row["verbs"], &row["namespaced"]), (&json!(["create"]), &json!(true)));
}
