//! Request bodies: JSON, YAML or protobuf into a value.

use ferrovirt_api::document::{self, DocumentError, MAX_DEPTH};
use http::{HeaderMap, header};
use serde_json::Value;

use super::query::FieldValidation;
use super::{Call, Warnings, protobuf};
use crate::registry::decode::WrongType;
use crate::status::{ApiError, Cause};

/// The media type of a request body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

/// Reads a body. Length is bounded by the server, nesting by the readers and, for what is stored, by [`Call::decode`].
pub(crate) fn read(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, ApiError> {
    match media_type(headers) {
        // Clients that say nothing, and curl's default, mean JSON.
        "" | "application/json" | "*/*" | "application/x-www-form-urlencoded" => json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(bytes),
        "application/vnd.kubernetes.protobuf" => protobuf::read(bytes),
        other => {
            let accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
            Err(unsupported(other, accepted))
        }
    }
}

pub(super) fn json(bytes: &[u8]) -> Result<Value, ApiError> {
    document::json(bytes).map_err(|error| refused("JSON", &error))
}

/// Bounds JSON that another reader than [`json`] reads.
pub(super) fn scan(bytes: &[u8]) -> Result<(), ApiError> {
    document::scan(bytes).map_err(|error| refused("JSON", &error))
}

fn yaml(bytes: &[u8]) -> Result<Value, ApiError> {
    document::yaml(bytes).map_err(|error| refused("YAML", &error))
}

fn refused(language: &str, error: &DocumentError) -> ApiError {
    if error.is_size() {
        let message = format!("the request body is too large for {language}: {error}");
        return ApiError::new(413, "RequestEntityTooLarge", message);
    }
    ApiError::bad_request(format!("the request body is not valid {language}: {error}"))
}

/// Refuses what is nested too deep. Not every reader has the same limit, and patches and embedded JSON add to it.
fn check_depth(value: &Value) -> Result<(), ApiError> {
    let mut todo = vec![(value, 0)];
    while let Some((value, around)) = todo.pop() {
        if around >= MAX_DEPTH && (value.is_array() || value.is_object()) {
            return Err(ApiError::bad_request(format!(
                "the object is nested deeper than {MAX_DEPTH} levels"
            )));
        }
        match value {
            Value::Array(items) => todo.extend(items.iter().map(|item| (item, around + 1))),
            Value::Object(fields) => todo.extend(fields.values().map(|field| (field, around + 1))),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn unsupported(found: &str, accepted: &str) -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        format!(
            "the body of the request was in an unknown format ({found}) - accepted media types include: {accepted}"
        ),
    )
}

impl Call {
    /// Kind and version in the body must be those of the path. Absent ones are filled in by decoding.
    pub(super) fn check_type(&self, object: &Value) -> Result<(), ApiError> {
        let Value::Object(fields) = object else {
            return Err(ApiError::bad_request("the request body is not an object"));
        };
        let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let expected = self.kind.api_version(&self.version);
        if !kind.is_empty() && kind != self.kind.kind {
            return Err(ApiError::bad_request(format!(
                "{kind} in version \"{api_version}\" cannot be handled as a {}",
                self.kind.kind
            )));
        }
        if !api_version.is_empty() && api_version != expected {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({expected})"
            )));
        }
        Ok(())
    }

    /// Upstream's sentence for a body that does not fit the kind.
    pub(super) fn wrong_type(&self, error: &WrongType) -> ApiError {
        ApiError::bad_request(format!("{}: {error}", self.cannot_be_handled()))
    }

    fn cannot_be_handled(&self) -> String {
        let (kind, version) = (self.kind.kind, &self.version);
        format!("{kind} in version \"{version}\" cannot be handled as a {kind}")
    }

    /// Decodes an object of this kind in the version of the path and turns it into the stored form. Unknown fields go
    /// the way that the client chose.
    pub(super) fn decode(
        &self,
        mut object: Value,
        patch: Option<&[u8]>,
        warnings: &mut Warnings,
    ) -> Result<Value, ApiError> {
        self.check_type(&object)?;
        check_depth(&object)?;
        if let Value::Object(fields) = &mut object {
            // The types know one version; others are the same in everything but this string.
            fields.insert("apiVersion".to_owned(), self.kind.api_version(self.decoded_version()).into());
            fields.insert("kind".to_owned(), self.kind.kind.into());
        }
        let decoded = (self.kind.decode)(&object).map_err(|error| self.wrong_type(&error))?;
        let unknown: Vec<String> =
            decoded.unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
        match self.query.field_validation {
            FieldValidation::Strict if !unknown.is_empty() => {
                let why = format!("strict decoding error: {}", unknown.join(", "));
                return Err(match patch {
                    None => ApiError::bad_request(format!("{}: {why}", self.cannot_be_handled())),
                    Some(patch) => {
                        let message = format!("Invalid value: {:?}: {why}", super::patch::quoted(patch));
                        let cause =
                            Cause { reason: "FieldValueInvalid".into(), message, field: "patch".into() };
                        ApiError::invalid(self.kind.group, self.kind.kind, &self.name, &[cause])
                    }
                });
            }
            FieldValidation::Warn => warnings.extend(unknown),
            FieldValidation::Strict | FieldValidation::Ignore => {}
        }
        let mut object = decoded.object;
        self.kind.to_stored(&mut object);
        Ok(object)
    }

    fn decoded_version(&self) -> &str {
        self.kind.versions.first().copied().unwrap_or(&self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_can_be_read_again() {
        let nested = |depth: usize| (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        for depth in MAX_DEPTH - 2..MAX_DEPTH + 3 {
            let value = nested(depth);
            let readable = serde_json::from_slice::<Value>(value.to_string().as_bytes()).is_ok();
            assert_eq!(check_depth(&value).is_ok(), readable, "{depth}");
        }
    }
}
