//! Who may make an object hold up the deletion of its owner, and who may change owners: upstream's admission plug-in
//! `OwnerReferencesPermissionEnforcement`, which OKD has switched on.

use ferrovirt_kubernetes::json::{list, text};
use serde_json::Value;

use super::forbidden;
use crate::auth::Authorizer;
use crate::registry::find_kind;
use crate::request::{AdmissionRequest, Attributes, Operation};
use crate::status::ApiError;

/// A reference that blocks asks for update of the owner's finalizers; changed references of an object that exists
/// ask for its deletion, since that is what a wrong owner leads to.
pub(super) fn check(authorizer: &Authorizer, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation == Operation::Delete || !request.subresource.is_empty() {
        return Ok(());
    }
    let references =
        |object: &Value| -> Vec<Value> { list(object, "/metadata/ownerReferences").cloned().collect() };
    let (new, old) = (references(request.object), request.old.map(references).unwrap_or_default());
    if new == old {
        return Ok(());
    }
    if request.operation == Operation::Update {
        let delete = Attributes {
            verb: "delete".into(),
            group: request.kind.group.into(),
            version: request.version.into(),
            resource: request.kind.plural.into(),
            namespace: request.namespace.into(),
            name: request.name.into(),
            ..Attributes::default()
        };
        if !authorizer.may(request.user, &delete) {
            let why = "cannot set an ownerRef on a resource you can't delete";
            return Err(forbidden(request, why));
        }
    }
    for reference in new.iter().filter(|reference| !old.contains(reference)) {
        if reference.get("blockOwnerDeletion") != Some(&Value::Bool(true)) {
            continue;
        }
        let (api_version, kind) = (text(reference, "apiVersion"), text(reference, "kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(owner) = find_kind(group, kind) else {
            let why = format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}"
            );
            return Err(forbidden(request, &why));
        };
        let finalizers = Attributes {
            verb: "update".into(),
            group: owner.group.into(),
            version: version.into(),
            resource: owner.plural.into(),
            subresource: "finalizers".into(),
            namespace: if owner.namespaced { request.namespace.into() } else { String::new() },
            name: text(reference, "name").into(),
            ..Attributes::default()
        };
        if !authorizer.may(request.user, &finalizers) {
            let why = format!(
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: \
                 User {:?} cannot update resource \"{}/finalizers\" in API group {group:?}",
                request.user.name, owner.plural
            );
            return Err(forbidden(request, &why));
        }
    }
    Ok(())
}
