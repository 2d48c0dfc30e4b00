//! Why a request is refused.

use ferrovirt_api::Cause;
use serde_json::{Value, json};

/// A refusal, as Kubernetes' Status says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The webhook of KubeVirt's that people know it by; none where admission itself speaks.
    pub webhook: Option<&'static str>,
    /// HTTP code.
    pub code: u16,
    /// Reason of the Status.
    pub reason: &'static str,
    /// What is wrong, without the webhook's name.
    pub message: String,
    /// Each field at fault.
    pub causes: Vec<Cause>,
}

impl Refusal {
    pub(crate) fn invalid(webhook: &'static str, causes: Vec<Cause>) -> Self {
        let message = ferrovirt_api::rejection(&causes);
        Self { causes, ..Self::denied(webhook, message) }
    }

    pub(crate) fn denied(webhook: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { webhook: Some(webhook), code: 422, reason: "Invalid", message, causes: Vec::new() }
    }

    pub(crate) fn bad_request(webhook: &'static str, message: String) -> Self {
        Self { code: 400, reason: "BadRequest", ..Self::denied(webhook, message) }
    }

    pub(crate) fn internal(message: String) -> Self {
        Self { webhook: None, code: 500, reason: "InternalError", message, causes: Vec::new() }
    }

    /// The 403 of admission itself, about an object.
    pub fn forbidden(resource: &str, name: &str, why: &str) -> Self {
        let message = format!("{resource}.{} {name:?} is forbidden: {why}", crate::GROUP);
        Self { webhook: None, code: 403, reason: "Forbidden", message, causes: Vec::new() }
    }

    /// What the person reads: what the API server makes of a webhook's answer.
    pub fn text(&self) -> String {
        match self.webhook {
            Some(webhook) => {
                format!("admission webhook \"{webhook}\" denied the request: {}", self.message)
            }
            None => self.message.clone(),
        }
    }

    /// The details of the Status; null where no field is at fault.
    pub fn details(&self) -> Value {
        if self.causes.is_empty() { Value::Null } else { json!({"causes": self.causes}) }
    }
}
