//! Requests to the review APIs.

use ferrovirt_kubernetes::json::text;
use ferrovirt_scc::{Constraints, NamespaceValues, ReviewKind, ReviewRequest, review};
use serde_json::{Value, json};

use crate::access::Grants;
use crate::meaning::places;
use crate::{sccs, texts};

pub(crate) fn differences(case: &Value, sets: &Value) -> Result<Vec<String>, String> {
    let constraints = Constraints::compile(sccs(case, sets)?);
    let kind = [ReviewKind::Subject, ReviewKind::SelfSubject, ReviewKind::ServiceAccounts];
    let kind = kind.into_iter().find(|k| k.as_str() == text(case, "kind")).ok_or("unknown kind of review")?;
    let namespace = case.get("namespace").filter(|n| !n.is_null());
    let metadata = namespace.and_then(|n| n.get("metadata")).unwrap_or(&Value::Null);
    let requester = case.get("requester").unwrap_or(&Value::Null);
    let groups = texts(requester, "groups");
    let accounts = texts(case, "serviceAccounts");
    let request = ReviewRequest {
        kind,
        namespace: text(metadata, "name"),
        values: namespace.map(NamespaceValues::of),
        user: text(requester, "name"),
        groups: &groups,
        spec: case.get("spec").unwrap_or(&Value::Null),
        account_exists: &|name| accounts.iter().any(|a| a == name),
    };
    let have = match review(&constraints, &request, &Grants::of(case)) {
        Ok(status) => json!({ "status": status }),
        Err(error) => {
            let mut result = json!({ "error": error.message });
            if let Some(map) = result.as_object_mut().filter(|_| error.code != 500) {
                map.insert("code".to_owned(), error.code.into());
                map.insert("reason".to_owned(), error.reason.into());
            }
            result
        }
    };
    let want = case.get("resultWithFreshCopies").or_else(|| case.get("result")).unwrap_or(&Value::Null);
    Ok(places(want, &have))
}
