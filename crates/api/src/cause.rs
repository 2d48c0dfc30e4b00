//! Why an object is refused, in the shape of a Kubernetes status.

use std::fmt;

use serde::Serialize;

/// One reason for a refusal (`metav1.StatusCause`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// The kind of problem.
    pub reason: Reason,
    /// What is wrong, for people.
    pub message: String,
    /// The field, such as `spec.domain.cpu.sockets`; empty when no single field is to blame.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The kinds of problems that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Reason {
    /// The value is not allowed.
    FieldValueInvalid,
    /// The value is missing.
    FieldValueRequired,
    /// The value is not one of those that are known, or the field is not supported.
    FieldValueNotSupported,
    /// The value is there twice.
    FieldValueDuplicate,
    /// What the value refers to is missing.
    FieldValueNotFound,
    /// The combination is never allowed.
    FieldValueForbidden,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The message of a refusal: the first ten causes, and how many more there are, as upstream words it.
pub fn rejection(causes: &[Cause]) -> String {
    let mut text = causes.iter().take(10).map(|cause| cause.message.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(more) = causes.len().checked_sub(10).filter(|more| *more > 0) {
        text.push_str(&format!(", and {more} more validation errors"));
    }
    text
}

/// The path of a field.
#[derive(Clone, Debug)]
pub(crate) struct Path(String);

impl Path {
    pub(crate) fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    /// A field below; `name` may contain dots.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// An element of a list.
    pub(crate) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collects causes.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) causes: Vec<Cause>,
}

impl Report {
    pub(crate) fn add(&mut self, reason: Reason, field: impl fmt::Display, message: impl Into<String>) {
        self.causes.push(Cause { reason, message: message.into(), field: field.to_string() });
    }

    pub(crate) fn invalid(&mut self, field: impl fmt::Display, message: impl Into<String>) {
        self.add(Reason::FieldValueInvalid, field, message);
    }

    pub(crate) fn required(&mut self, field: impl fmt::Display, message: impl Into<String>) {
        self.add(Reason::FieldValueRequired, field, message);
    }

    pub(crate) fn unsupported(&mut self, field: impl fmt::Display, message: impl Into<String>) {
        self.add(Reason::FieldValueNotSupported, field, message);
    }

    pub(crate) fn duplicate(&mut self, field: impl fmt::Display, message: impl Into<String>) {
        self.add(Reason::FieldValueDuplicate, field, message);
    }
}
