//! `metav1.Status`, the body of answers that are no object.

use serde_json::{Value, json};

/// The body of a refusal. `details` are left out when null.
#[must_use]
pub fn failure(code: u16, reason: &str, message: &str, details: &Value) -> Value {
    let mut status = status("Failure");
    if let Value::Object(fields) = &mut status {
        fields.extend(refusal(code, reason, message, details));
    }
    status
}

/// The fields that say why something was refused, for answers that hold a Status without saying its kind.
pub fn refusal(
    code: u16,
    reason: &str,
    message: &str,
    details: &Value,
) -> impl Iterator<Item = (String, Value)> {
    let fields = [
        ("message", message.into()),
        ("reason", reason.into()),
        ("code", code.into()),
        ("details", details.clone()),
    ];
    fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value))
}

/// The body of an answer that all is well.
#[must_use]
pub fn success() -> Value {
    status("Success")
}

fn status(status: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": status})
}

/// What API servers answer, with 422, to a JSON patch that does not fit the object.
const PATCH_DOES_NOT_FIT: &str = "rejected our request due to an error in our request";

/// Whether a write was refused because somebody else wrote first. A JSON patch of ours fits what it was made from, so that one
/// that does not fit has met another object.
#[must_use]
pub fn is_overtaken(code: u16, message: &str) -> bool {
    code == 409 || (code == 422 && message.contains(PATCH_DOES_NOT_FIT))
}

/// The reason that clients expect with a code.
#[must_use]
pub fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        410 => "Expired",
        413 => "RequestEntityTooLarge",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        501 => "NotImplemented",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_clients_read() {
        let details = json!({"name": "n"});
        assert_eq!(
            failure(404, reason(404), "no such pod", &details),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no such pod",
                   "reason": "NotFound", "code": 404, "details": {"name": "n"}})
        );
        assert!(failure(500, reason(599), "", &Value::Null).get("details").is_none());
        assert_eq!(
            success(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        );
        assert_eq!((reason(429), reason(599)), ("TooManyRequests", "InternalError"));
    }
}
