//! What form of answer a client accepts.

use http::{HeaderMap, header};

use crate::status::ApiError;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects as they are.
    Whole,
    /// A `Table` of meta.k8s.io/v1.
    Table,
    /// `PartialObjectMetadata` or its list.
    Metadata,
}

impl Form {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Whole => "application/json",
            Self::Table => "application/json;as=Table;v=v1;g=meta.k8s.io",
            Self::Metadata => "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        }
    }
}

/// One entry of an `Accept` header.
pub(crate) struct Accepted<'a> {
    pub(crate) media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Accepted<'_> {
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// JSON is among what this entry means.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.media, "application/json" | "application/*" | "*/*")
    }
}

/// The entries of the `Accept` header, in the client's order of preference; `*/*` when there is none.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<Accepted<'_>> {
    let text = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    text.split(',')
        .map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            Accepted { media, parameters: parts.filter_map(|parameter| parameter.split_once('=')).collect() }
        })
        .filter(|entry| !entry.media.is_empty())
        .collect()
}

/// Chooses the first form that we can give.
pub(crate) fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    let entries = accepted(headers);
    for entry in entries.iter().filter(|entry| entry.is_json()) {
        match (entry.parameter("as"), entry.parameter("g"), entry.parameter("v")) {
            ("", _, _) => return Ok(Form::Whole),
            ("Table", "meta.k8s.io", "v1") => return Ok(Form::Table),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                return Ok(Form::Metadata);
            }
            _ => {}
        }
    }
    Err(ApiError::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, and its forms as Table and \
         PartialObjectMetadata of meta.k8s.io/v1",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &'static str, expected: Option<Form>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
        assert_eq!(form(&headers).ok(), expected, "{accept}");
    }

    #[test]
    fn forms() {
        assert_eq!(form(&HeaderMap::new()).ok(), Some(Form::Whole));
        check("application/json", Some(Form::Whole));
        check("application/vnd.kubernetes.protobuf, application/json", Some(Form::Whole));
        check("application/vnd.kubernetes.protobuf", None);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some(Form::Table),
        );
        check("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", Some(Form::Metadata));
        check("application/json;as=Table;v=v1beta1;g=meta.k8s.io", None);
    }
}
