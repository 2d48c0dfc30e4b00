//! Nobody hands out what they do not have: the check on writes of roles and bindings.
//!
//! A role may be written by who holds all of its rules, or the verb `escalate` on it; a binding by who holds all rules
//! of the role it refers to, or the verb `bind` on that role.

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::rbac::{GROUP, Rule, aggregate, not_covered};
use serde_json::Value;

use super::authorizer::Authorizer;
use crate::request::{AdmissionRequest, Attributes, Operation};
use crate::status::ApiError;
use crate::store::{Key, Prefix, Store};

/// Each combination of a rule's lists is compared alone. A few thousand words in each list would be more than memory.
const MAX_COMBINATIONS: usize = 10_000;

/// Each combination is compared with each rule that is held: so many take some tenths of a second.
const MAX_COMPARISONS: usize = 5_000_000;

/// Checks a create or update of an RBAC object; every other request passes.
///
/// # Errors
/// 403 that lists the rules that the user lacks, 404 when a binding's role does not exist and the user has no `bind`.
pub fn check(store: &Store, authorizer: &Authorizer, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.kind.group != GROUP || request.operation == Operation::Delete {
        return Ok(());
    }
    match request.kind.plural {
        "roles" | "clusterroles" => check_role(authorizer, request),
        "rolebindings" | "clusterrolebindings" => check_binding(store, authorizer, request),
        _ => Ok(()),
    }
}

fn check_role(authorizer: &Authorizer, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let rules = Rule::list(request.object);
    let aggregation = |object: &Value| object.get("aggregationRule").cloned();
    let unchanged = request
        .old
        .is_some_and(|old| Rule::list(old) == rules && aggregation(old) == aggregation(request.object));
    if unchanged || may(authorizer, request, "escalate", request.kind.plural, request.name) {
        return Ok(());
    }
    if request.object.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
        // Anyone who can aggregate can collect anything, so only the holder of everything may without `escalate`.
        refuse_missing(authorizer, request, &Rule::everything())?;
    }
    refuse_missing(authorizer, request, &rules)
}

fn check_binding(
    store: &Store,
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
) -> Result<(), ApiError> {
    let text = |path: &str| json::text(request.object, path);
    let (kind, role) = (text("/roleRef/kind"), text("/roleRef/name"));
    let same = |field: &str| request.old.is_some_and(|old| old.get(field) == request.object.get(field));
    if same("roleRef") && same("subjects") {
        return Ok(());
    }
    let (resource, home) = if kind == "Role" { ("roles", request.namespace) } else { ("clusterroles", "") };
    if may(authorizer, request, "bind", resource, role) {
        return Ok(());
    }
    let entry = store
        .get(&Key::new(GROUP, resource, home, role))
        .ok_or_else(|| ApiError::not_found(GROUP, resource, role))?;
    let rules = if entry.object.get("aggregationRule").is_some() {
        let all = store.list(&Prefix::resource(GROUP, "clusterroles")).entries;
        let all: Vec<&Value> = all.iter().map(|(_, entry)| entry.object.as_ref()).collect();
        aggregate(&entry.object, &all)
    } else {
        Rule::list(&entry.object)
    };
    refuse_missing(authorizer, request, &rules)
}

fn may(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    verb: &str,
    resource: &str,
    name: &str,
) -> bool {
    let attributes = Attributes {
        verb: verb.into(),
        group: GROUP.into(),
        version: "v1".into(),
        resource: resource.into(),
        namespace: request.namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    authorizer.may(request.user, &attributes)
}

fn refuse_missing(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    wanted: &[Rule],
) -> Result<(), ApiError> {
    let combinations = wanted.iter().map(Rule::combinations).fold(0, usize::saturating_add);
    if combinations > MAX_COMBINATIONS {
        let message = format!(
            "{}.{GROUP} {:?} is forbidden: its rules have {combinations} combinations of verb, resource and name; at \
             most {MAX_COMBINATIONS} can be compared with what you hold: split it, or use \"*\" for what you hold entirely",
            request.kind.plural, request.name,
        );
        return Err(ApiError::forbidden(GROUP, request.kind.plural, request.name, message));
    }
    let held = authorizer.rules_of(request.user, request.namespace);
    if combinations.saturating_mul(held.len()) > MAX_COMPARISONS {
        let message = format!(
            "{}.{GROUP} {:?} is forbidden: its {combinations} combinations of verb, resource and name are too many to be \
             compared with the {} rules that you hold: split it",
            request.kind.plural,
            request.name,
            held.len()
        );
        return Err(ApiError::forbidden(GROUP, request.kind.plural, request.name, message));
    }
    let missing = not_covered(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let message = format!(
        "{}.{GROUP} {:?} is forbidden: user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        request.kind.plural,
        request.name,
        request.user.name,
        request.user.groups,
        lines.join("\n")
    );
    Err(ApiError::forbidden(GROUP, request.kind.plural, request.name, message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::UserInfo;

    #[tokio::test]
    async fn rules_that_multiply_beyond_bounds_are_refused_before_they_do() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let authorizer = Authorizer::new(store.clone());
        let many: Vec<String> = (0..300).map(|number| format!("x{number}")).collect();
        let mut object = json!({"rules": [{"apiGroups": many, "resources": many, "verbs": ["get"], "resourceNames": ["a"]}]});
        let request = AdmissionRequest {
            kind: crate::registry::find(GROUP, "roles").unwrap(),
            version: "v1",
            operation: Operation::Create,
            subresource: "",
            namespace: "n",
            name: "r",
            user: &UserInfo::authenticated("u", []),
            old: None,
            object: &mut object,
            dry_run: false,
            warnings: &mut Vec::new(),
        };
        let refused = check(&store, &authorizer, &request).unwrap_err();
        assert!(refused.message.contains("90000 combinations"), "{}", refused.message.len());
    }
}
