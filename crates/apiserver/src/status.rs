//! Refusals as Kubernetes clients read them: `metav1.Status`.

use std::borrow::Cow;

use ferrovirt_kubernetes::status;
use ferrovirt_machines::subresource::Refused;
use serde_json::{Value, json};

use crate::store::StoreError;

/// One reason inside an `Invalid` or `NotFound` answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable, for example `FieldValueInvalid`.
    pub reason: String,
    /// For the person.
    pub message: String,
    /// Path of the field, for example `spec.domain.cpu.cores`.
    pub field: String,
}

/// A request that failed: becomes the HTTP code and the `Status` body.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP code.
    pub code: u16,
    /// `Status.reason`, for example `NotFound`; clients act on it.
    pub reason: Cow<'static, str>,
    /// `Status.message`.
    pub message: String,
    /// `Status.details`, or null.
    pub details: Value,
}

impl ApiError {
    /// An error without details.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason: Cow::Borrowed(reason), message: message.into(), details: Value::Null }
    }

    /// 400: the request itself is wrong.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: who are you?
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: `message` names user, verb and resource. Details are those of the object.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(403, "Forbidden", message);
        error.details = details(group, resource, name);
        error
    }

    /// 404 for an object, in upstream's words.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let mut error =
            Self::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(group, resource)));
        error.details = details(group, resource, name);
        error
    }

    /// 404 for a path that no resource has.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 404: a resource that is not served. One of KubeVirt's groups is named: its clients show people this message alone.
    #[must_use]
    pub fn no_such_resource(group: &str, resource: &str) -> Self {
        if group == "kubevirt.io" || group.ends_with(".kubevirt.io") {
            Self::new(404, "NotFound", format!("not supported yet: {}", qualified(group, resource)))
        } else {
            Self::no_such_path()
        }
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, resource));
        let mut error = Self::new(409, "AlreadyExists", message);
        error.details = details(group, resource, name);
        error
    }

    /// 409: optimistic concurrency; `why` is the end of the sentence.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        let mut error = Self::new(409, "Conflict", message);
        error.details = details(group, resource, name);
        error
    }

    /// 409 for a lost race: upstream's sentence, which clients show and people know.
    #[must_use]
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 422 with one cause for each field. `kind` is the kind's name, for example `Pod`.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let parts: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let list = match parts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {list}", qualified(group, kind));
        let mut error = Self::new(422, "Invalid", message);
        error.details = details(group, kind, name);
        if let Value::Object(fields) = &mut error.details {
            let causes: Vec<Value> = causes
                .iter()
                .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
                .collect();
            fields.insert("causes".to_owned(), Value::Array(causes));
        }
        error
    }

    /// 405: the resource does not do this.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 410: the resource version of a watch or a continue token is too old.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500: our fault.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {}", message.into()))
    }

    /// A store error about one object.
    #[must_use]
    pub fn from_store(error: StoreError, group: &str, resource: &str, name: &str) -> Self {
        match error {
            StoreError::AlreadyExists => Self::already_exists(group, resource, name),
            StoreError::NotFound => Self::not_found(group, resource, name),
            StoreError::Conflict { .. } => Self::modified(group, resource, name),
            StoreError::UidMismatch { .. } => {
                Self::conflict(group, resource, name, &format!("Precondition failed: {error}"))
            }
            StoreError::Expired { .. } => Self::expired(error.to_string()),
            StoreError::FromTheFuture { .. } => {
                let mut timeout = Self::new(504, "Timeout", error.to_string());
                timeout.details = json!({"retryAfterSeconds": 1, "causes": [
                    {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]});
                timeout
            }
            StoreError::Closed => Self::new(503, "ServiceUnavailable", error.to_string()),
            StoreError::Full => Self::later(507, "InsufficientStorage", error.to_string()),
            StoreError::Unavailable => Self::later(503, "ServiceUnavailable", error.to_string()),
            // Of opening alone; what it says names files of the host.
            StoreError::Disk(_)
            | StoreError::Damaged { .. }
            | StoreError::NoKey { .. }
            | StoreError::Keys { .. } => Self::internal("the store failed"),
        }
    }

    /// An error that is over soon: `Retry-After` is a second, after which clients try again by themselves.
    fn later(code: u16, reason: &'static str, message: String) -> Self {
        let mut error = Self::new(code, reason, message);
        error.details = json!({"retryAfterSeconds": 1});
        error
    }

    /// The `Status` object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        status::failure(self.code, &self.reason, &self.message, &self.details)
    }
}

/// `resource.group`, or the bare resource in the core group: how messages name resources.
impl From<Refused> for ApiError {
    fn from(Refused { code, reason, message, details }: Refused) -> Self {
        Self { code, reason: Cow::Borrowed(reason), message, details }
    }
}

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn details(group: &str, resource: &str, name: &str) -> Value {
    let mut details = serde_json::Map::new();
    for (field, value) in [("name", name), ("group", group), ("kind", resource)] {
        if !value.is_empty() {
            details.insert(field.to_owned(), Value::String(value.to_owned()));
        }
    }
    Value::Object(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_says_is_for_the_log_and_users_see_no_path_of_the_host() {
        let path = "/var/lib/ferrovirt/api/store.redb";
        let errors = [
            StoreError::Disk(format!("{path}: Input/output error")),
            StoreError::Keys { path: path.into(), why: "cannot be read".to_owned() },
            StoreError::NoKey {
                path: path.into(),
                keys: path.into(),
                what: vec!["Secret beta/s: key 2".to_owned()],
            },
        ];
        for error in errors {
            let said = error.to_string();
            assert!(said.contains(path), "{said}");
            let answer = ApiError::from_store(error, "", "secrets", "s");
            assert_eq!((answer.code, &*answer.reason), (500, "InternalError"));
            assert!(!answer.to_json().to_string().contains("store.redb"), "{answer:?}");
        }
    }
}
