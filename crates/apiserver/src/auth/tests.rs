use http::HeaderMap;
use serde_json::{Value, json};

use super::token::ISSUER;
use super::*;
use crate::store::{Key, Preconditions};
use ferrovirt_kubernetes::rbac::GROUP;

async fn fixture() -> (tempfile::TempDir, Store, Auth) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    let auth = Auth::new(store.clone(), &rcgen::KeyPair::generate().unwrap().serialize_der()).unwrap();
    (dir, store, auth)
}

async fn put(store: &Store, group: &str, resource: &str, namespace: &str, name: &str, object: Value) {
    store.create(Key::new(group, resource, namespace, name), object).await.unwrap();
}

async fn account(store: &Store, namespace: &str, name: &str, uid: &str) {
    put(store, "", "serviceaccounts", namespace, name, json!({"metadata": {"name": name, "uid": uid}})).await;
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    list.iter().map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap())).collect()
}

#[tokio::test]
async fn a_token_is_good_while_its_account_lives_and_bad_after() {
    let (_dir, store, auth) = fixture().await;
    account(&store, "n", "sa", "u-1").await;
    let token = auth.service_account_token("n", "sa", 600, vec![], Tie::to_node("node-1")).unwrap();
    let bearer = headers(&[("authorization", &format!("Bearer {token}"))]);
    let user = auth.authenticate(&bearer, None).unwrap();
    assert_eq!(user.name, "system:serviceaccount:n:sa");
    assert_eq!(node_of(&user), Some("node-1"));
    store.delete(Key::new("", "serviceaccounts", "n", "sa"), Preconditions::default()).await.unwrap();
    assert_eq!(auth.authenticate(&bearer, None).unwrap_err().code, 401);
    account(&store, "n", "sa", "u-2").await;
    assert_eq!(auth.authenticate(&bearer, None).unwrap_err().code, 401);
}

#[tokio::test]
async fn bad_credentials_are_401_and_none_are_anonymous() {
    let (_dir, store, auth) = fixture().await;
    account(&store, "n", "sa", "u-1").await;
    assert_eq!(auth.authenticate(&HeaderMap::new(), None).unwrap(), UserInfo::anonymous());
    for value in ["Bearer nonsense", "Bearer ", "Basic YTpi", "Bearer a.b.c"] {
        assert_eq!(
            auth.authenticate(&headers(&[("authorization", value)]), None).unwrap_err().code,
            401,
            "{value}"
        );
    }
    let other = auth.service_account_token("n", "sa", 600, vec!["vault".into()], Tie::default()).unwrap();
    let refused = auth.authenticate(&headers(&[("authorization", &format!("Bearer {other}"))]), None);
    assert_eq!(refused.unwrap_err().code, 401, "a token for another audience");
    let node = auth.node_token("n1", 600).unwrap();
    let user = auth.authenticate(&headers(&[("authorization", &format!("bearer {node}"))]), None).unwrap();
    assert_eq!(user.name, "system:node:n1");
    assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
}

#[tokio::test]
async fn impersonation_needs_the_verb() {
    let (_dir, store, auth) = fixture().await;
    account(&store, "n", "sa", "u-1").await;
    let token = auth.service_account_token("n", "sa", 600, vec![], Tie::default()).unwrap();
    let bearer = format!("Bearer {token}");
    let as_jane = headers(&[("authorization", &bearer), ("impersonate-user", "jane")]);
    let refused = auth.authenticate(&as_jane, None).unwrap_err();
    assert_eq!(
        refused.message,
        r#"users "jane" is forbidden: User "system:serviceaccount:n:sa" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
    let rules = json!({"metadata": {}, "rules": [{"apiGroups": [""], "resources": ["users"],
        "resourceNames": ["jane"], "verbs": ["impersonate"]}]});
    put(&store, GROUP, "clusterroles", "", "imp", rules).await;
    let binding = json!({"metadata": {}, "roleRef": {"kind": "ClusterRole", "name": "imp"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "n"}]});
    put(&store, GROUP, "clusterrolebindings", "", "imp", binding).await;
    let jane = auth.authenticate(&as_jane, None).unwrap();
    assert_eq!(
        (jane.name.as_str(), jane.groups.as_slice()),
        ("jane", &["system:authenticated".to_owned()][..])
    );
    let with_group = headers(&[
        ("authorization", &bearer),
        ("impersonate-user", "jane"),
        ("impersonate-group", "system:masters"),
    ]);
    assert_eq!(auth.authenticate(&with_group, None).unwrap_err().code, 403);
}

#[tokio::test]
async fn an_impersonation_header_that_is_not_ascii_is_read_or_refused_never_skipped() {
    let (_dir, store, auth) = fixture().await;
    account(&store, "n", "sa", "u-1").await;
    let token = auth.service_account_token("n", "sa", 600, vec![], Tie::default()).unwrap();
    let mut headers = headers(&[("authorization", &format!("Bearer {token}"))]);
    for (name, code) in [("m\u{fc}ller".as_bytes(), 403), (&b"m\xfcller"[..], 400)] {
        headers.insert("impersonate-user", http::HeaderValue::from_bytes(name).unwrap());
        assert_eq!(auth.authenticate(&headers, None).unwrap_err().code, code);
    }
}

#[tokio::test]
async fn reviews_answer_for_the_asker_or_the_named_subject() {
    let (_dir, store, auth) = fixture().await;
    let admin = UserInfo::server();
    let who = auth.answer("SelfSubjectReview", &admin, "", json!({})).unwrap();
    assert_eq!(who["status"]["userInfo"]["username"], "system:apiserver");
    let ask = json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "n"}}});
    let answer = auth.answer("SubjectAccessReview", &admin, "", ask.clone()).unwrap();
    assert_eq!(answer["status"], json!({"allowed": false}));
    let mine = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let answer = auth.answer("SelfSubjectAccessReview", &admin, "", mine).unwrap();
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(auth.answer("LocalSubjectAccessReview", &admin, "other", ask).unwrap_err().code, 422);
    assert_eq!(auth.answer("SubjectAccessReview", &admin, "", json!({"spec": {}})).unwrap_err().code, 422);
    let rules =
        auth.answer("SelfSubjectRulesReview", &admin, "", json!({"spec": {"namespace": "n"}})).unwrap();
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));

    account(&store, "n", "sa", "u-1").await;
    let made = auth.token_request("n", "sa", json!({"spec": {"expirationSeconds": 700}})).unwrap();
    let token = made["status"]["token"].as_str().unwrap();
    let review = auth.answer("TokenReview", &admin, "", json!({"spec": {"token": token}})).unwrap();
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:n:sa");
    assert_eq!(review["status"]["audiences"], json!([ISSUER]));
    let bad = auth.answer("TokenReview", &admin, "", json!({"spec": {"token": "x"}})).unwrap();
    assert_eq!(bad["status"]["authenticated"], false);
    assert_eq!(
        auth.token_request("n", "sa", json!({"spec": {"expirationSeconds": 5}})).unwrap_err().code,
        422
    );
    assert_eq!(auth.token_request("n", "none", json!({"spec": {}})).unwrap_err().code, 404);
}

#[test]
fn unique_names_are_version_4_uuids() {
    let one = unique().unwrap();
    assert_eq!((one.len(), one.as_bytes()[14], one.matches('-').count()), (36, b'4', 4));
    assert!(matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    assert_ne!(one, unique().unwrap());
}
