//! The authorizer: the RBAC index, kept as fresh as the store.

use ferrovirt_kubernetes::rbac::{GROUP, Index, Rule};
use serde_json::Value;

use crate::fresh::Followed;
use crate::request::{Attributes, Decision, UserInfo};
use crate::status::ApiError;
use crate::store::{Key, Store};

/// Answers "may this user do this?" from the stored roles and bindings.
pub struct Authorizer {
    index: Followed<Index>,
}

impl Authorizer {
    /// An authorizer over the roles and bindings of `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { index: Followed::new(store, apply) }
    }

    /// Decides one request. What was written before is counted, and what was taken away is not.
    #[must_use]
    pub fn authorize(&self, user: &UserInfo, request: &Attributes) -> Decision {
        self.index.read(|index| index.authorize(user.subject(), request))
    }

    /// True when the user may.
    #[must_use]
    pub fn may(&self, user: &UserInfo, request: &Attributes) -> bool {
        matches!(self.authorize(user, request), Decision::Allow(_))
    }

    /// Decides one request; a denial is the 403 in Kubernetes' words.
    ///
    /// # Errors
    /// The 403.
    pub fn check(&self, user: &UserInfo, request: &Attributes) -> Result<(), ApiError> {
        match self.authorize(user, request) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) => Err(denied(user, request, &reason)),
        }
    }

    /// All rules that the user has in a namespace (cluster-wide ones included).
    #[must_use]
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        self.index.read(|index| index.rules_of(user.subject(), namespace))
    }
}

/// Takes a change of a stored object into the index; most are none of its business.
fn apply(index: &mut Index, key: &Key, old: Option<&Value>, new: Option<&Value>) {
    let mut parts = key.as_str().split('/').skip(1);
    if parts.next() == Some(GROUP) {
        index.apply(parts.next().unwrap_or_default(), (key.namespace(), key.name()), old, new);
    }
}

/// The 403 for a denied request.
#[must_use]
pub fn denied(user: &UserInfo, request: &Attributes, reason: &str) -> ApiError {
    let (user, verb) = (&user.name, &request.verb);
    let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if request.resource.is_empty() {
        let path = &request.path;
        let message = format!("forbidden: User {user:?} cannot {verb} path {path:?}{tail}");
        return ApiError::forbidden("", "", "", message);
    }
    let (group, name) = (&request.group, &request.name);
    let resource = match request.subresource.as_str() {
        "" => request.resource.clone(),
        sub => format!("{}/{sub}", request.resource),
    };
    let scope = match request.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let qualified =
        if group.is_empty() { request.resource.clone() } else { format!("{}.{group}", request.resource) };
    let which = if name.is_empty() { qualified } else { format!("{qualified} {name:?}") };
    let message = format!(
        "{which} is forbidden: User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}{tail}"
    );
    ApiError::forbidden(group, &request.resource, name, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Preconditions;

    #[test]
    fn denials_are_worded_as_kubernetes_words_them() {
        let user = UserInfo::authenticated("x", []);
        let mut ask = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "n".into(),
            ..Attributes::default()
        };
        assert_eq!(
            denied(&user, &ask, "").message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "n""#
        );
        ask.namespace.clear();
        assert_eq!(
            denied(&user, &ask, "").message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" at the cluster scope"#
        );
        let ask = Attributes {
            verb: "update".into(),
            group: "subresources.kubevirt.io".into(),
            resource: "virtualmachines".into(),
            subresource: "start".into(),
            name: "vm".into(),
            namespace: "n".into(),
            ..Attributes::default()
        };
        assert_eq!(
            denied(&user, &ask, "").message,
            r#"virtualmachines.subresources.kubevirt.io "vm" is forbidden: User "x" cannot update resource "virtualmachines/start" in API group "subresources.kubevirt.io" in the namespace "n""#
        );
        let ask = Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() };
        assert_eq!(denied(&user, &ask, "").message, r#"forbidden: User "x" cannot get path "/metrics""#);
    }

    #[tokio::test]
    async fn a_change_of_a_role_is_in_force_with_the_answer_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let authorizer = Authorizer::new(store.clone());
        let user = UserInfo::authenticated("u", []);
        let ask = Attributes { verb: "get".into(), resource: "pods".into(), ..Attributes::default() };
        assert!(!authorizer.may(&user, &ask));
        let role =
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}], "metadata": {}});
        let binding = json!({"metadata": {}, "roleRef": {"kind": "ClusterRole", "name": "r"},
                             "subjects": [{"kind": "User", "name": "u"}]});
        store.create(Key::new(GROUP, "clusterroles", "", "r"), role).await.unwrap();
        assert!(!authorizer.may(&user, &ask));
        let key = Key::new(GROUP, "clusterrolebindings", "", "b");
        store.create(key.clone(), binding).await.unwrap();
        assert!(authorizer.may(&user, &ask));
        store.create(Key::new("", "pods", "n", "p"), json!({"metadata": {}})).await.unwrap();
        assert!(authorizer.may(&user, &ask));
        store.delete(key, Preconditions::default()).await.unwrap();
        assert!(!authorizer.may(&user, &ask));
    }
}
