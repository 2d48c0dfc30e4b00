//! The AdmissionReview of a webhook: bytes in, the request out; a decision in, the answer's bytes out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use ferrovirt_kubernetes::difference::{Form, difference};
use ferrovirt_kubernetes::status;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::admit::access::Authorizer;
use crate::admit::decision::{Denied, Operation, Outcome, Pass, Request};
use crate::admit::skip::exempt_namespace;
use crate::constraint::compiled::Constraints;
use crate::constraint::object::prepare;
use crate::namespace::NamespaceValues;
use crate::report::audit::AuditAnnotation;

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Why bytes are no review that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not JSON, or not of the form of a review.
    Form(String),
    /// JSON of another kind or version.
    NotAReview {
        /// `apiVersion` that was found.
        version: String,
        /// `kind` that was found.
        kind: String,
    },
    /// A review without a request, or without its uid.
    NoRequest,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(why) => write!(f, "the body is no AdmissionReview: {why}"),
            Self::NotAReview { version, kind } => {
                let (version, kind) = (shortened(version), shortened(kind));
                write!(f, "expected an {KIND} of {VERSION}, got kind {kind:?} of {version:?}")
            }
            Self::NoRequest => f.write_str("the AdmissionReview has no request with a uid"),
        }
    }
}

/// Foreign text in an error, bounded.
fn shortened(text: &str) -> Cow<'_, str> {
    const MOST: usize = 100;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => Cow::Owned(format!("{}...", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    request: Option<Review>,
}

/// What a review asks.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// To be repeated in the answer.
    #[serde(default)]
    pub uid: String,
    /// What kind of resource the request is for.
    #[serde(default)]
    pub resource: Resource,
    /// Sub-resource or empty.
    #[serde(default)]
    pub sub_resource: String,
    /// Name of the object; may be empty.
    #[serde(default)]
    pub name: String,
    /// Namespace or empty.
    #[serde(default)]
    pub namespace: String,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(default)]
    pub operation: String,
    /// Who asks.
    #[serde(default)]
    pub user_info: User,
    /// The new object, or null.
    #[serde(default)]
    pub object: Value,
    /// The stored object, or null.
    #[serde(default)]
    pub old_object: Value,
}

/// A resource by its plural name.
#[derive(Debug, Default, Deserialize)]
pub struct Resource {
    /// API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// Version.
    #[serde(default)]
    pub version: String,
    /// Plural name.
    #[serde(default)]
    pub resource: String,
}

/// Who asks.
#[derive(Debug, Default, Deserialize)]
pub struct User {
    /// User name.
    #[serde(default)]
    pub username: String,
    /// Groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// What tells accounts of one name from each other, if there is such a thing.
    #[serde(default)]
    pub uid: String,
    /// What else authentication has said about the user, such as the scopes of a token; authorizers other than RBAC may decide
    /// by it.
    #[serde(default)]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Review {
    /// Reads a review.
    ///
    /// # Errors
    /// [`Unreadable`] for anything but an AdmissionReview of version v1 with a request.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        // Each takes many times its bytes when it is read.
        if values(bytes) > MOST_VALUES {
            return Err(Unreadable::Form(format!("it has more than {MOST_VALUES} values")));
        }
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|why| Unreadable::Form(why.to_string()))?;
        if (envelope.api_version.as_str(), envelope.kind.as_str()) != (VERSION, KIND) {
            return Err(Unreadable::NotAReview { version: envelope.api_version, kind: envelope.kind });
        }
        envelope.request.filter(|request| !request.uid.is_empty()).ok_or(Unreadable::NoRequest)
    }

    /// Whether the request is about this resource.
    pub fn is_about(&self, group: &str, resource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource
    }

    /// Decides about a pod. `namespace` is the stored namespace of the request, with its labels and annotations.
    ///
    /// Other requests than the creation and the update of a pod are allowed as they are. The namespace `default` is
    /// not exempt: on OKD it belongs to the platform, elsewhere it is where people start.
    ///
    /// # Errors
    /// [`Denied`] with every reason; [`Denied::may_pass_later`] says whether it helps to wait.
    pub fn decide(
        &self,
        pass: Pass,
        constraints: &Constraints,
        namespace: Option<&Value>,
        authorizer: &impl Authorizer,
    ) -> Result<Answer, Denied> {
        let operation = match self.operation.as_str() {
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update { old: &self.old_object },
            _ => return Ok(Answer::allowed()),
        };
        let exempt = self.namespace != "default" && exempt_namespace(&self.namespace, namespace);
        if !self.is_about("", "pods") || exempt {
            return Ok(Answer::allowed());
        }
        let request = self.request(operation, namespace);
        let (outcome, patch) = match pass {
            Pass::Mutating => {
                let mut pod = self.object.clone();
                let outcome = constraints.mutate(&request, authorizer, &mut pod)?;
                (outcome, difference(&self.object, &pod, Form::Exact))
            }
            Pass::Validating => (constraints.validate(&request, authorizer, &self.object)?, Vec::new()),
        };
        let audit = match outcome {
            Outcome::Admitted(admitted) => admitted.audit,
            Outcome::Ignored => Vec::new(),
        };
        Ok(Answer { patch, audit, ..Answer::allowed() })
    }

    /// The request as the rest of this crate sees it.
    pub fn request<'a>(&'a self, operation: Operation<'a>, namespace: Option<&'a Value>) -> Request<'a> {
        Request {
            operation,
            subresource: &self.sub_resource,
            name: &self.name,
            namespace: &self.namespace,
            values: namespace.map(NamespaceValues::of),
            user: &self.user_info.username,
            groups: &self.user_info.groups,
        }
    }

    /// Decides about an SCC object that is written: filled in by the mutating pass, checked by the validating one.
    pub fn decide_object(&self, pass: Pass) -> Answer {
        if !matches!(self.operation.as_str(), "CREATE" | "UPDATE") {
            return Answer::allowed();
        }
        match (prepare(self.object.clone()), pass) {
            (Ok(prepared), Pass::Mutating) => {
                Answer { patch: difference(&self.object, &prepared, Form::Exact), ..Answer::allowed() }
            }
            // The validating pass says what is wrong.
            (Err(_), Pass::Mutating) | (Ok(_), Pass::Validating) => Answer::allowed(),
            (Err(errors), Pass::Validating) => {
                let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
                let list = match texts.as_slice() {
                    [one] => one.clone(),
                    many => format!("[{}]", many.join(", ")),
                };
                let name = &self.name;
                let message =
                    format!("SecurityContextConstraints.security.openshift.io {name:?} is invalid: {list}");
                let causes: Vec<Value> = errors
                    .iter()
                    .map(|e| json!({"reason": e.reason, "message": e.text, "field": e.field}))
                    .collect();
                let details = json!({"name": name, "group": "security.openshift.io",
                    "kind": "SecurityContextConstraints", "causes": causes});
                Answer::refused(422, "Invalid", message, details)
            }
        }
    }
}

/// What a review is answered.
#[derive(Debug, Default)]
pub struct Answer {
    /// HTTP code, reason, message and details of a refusal; nothing when the request may pass.
    refusal: Option<(u16, &'static str, String, Value)>,
    /// Operations of a JSON patch.
    pub patch: Vec<Value>,
    /// For the person who asked.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub audit: Vec<AuditAnnotation>,
}

impl Answer {
    /// The request may pass.
    pub fn allowed() -> Self {
        Self::default()
    }

    /// The request may not pass. `details` are those of a `metav1.Status`, or null.
    pub fn refused(code: u16, reason: &'static str, message: String, details: Value) -> Self {
        Self { refusal: Some((code, reason, message, details)), ..Self::default() }
    }

    /// The 403 of a pod that no SCC admits.
    pub fn denied(denied: Denied) -> Self {
        let message = denied.to_string();
        Self { audit: denied.audit, ..Self::refused(403, "Forbidden", message, Value::Null) }
    }

    /// Whether the request may pass.
    pub fn is_allowed(&self) -> bool {
        self.refusal.is_none()
    }

    /// The bytes of the answer to the review with this uid. `encode` is base64.
    pub fn render(&self, uid: &str, encode: impl FnOnce(&[u8]) -> String) -> Vec<u8> {
        let audit: Map<String, Value> = self
            .audit
            .iter()
            .map(|annotation| (annotation.key.to_string(), annotation.value.as_str().into()))
            .collect();
        let patch =
            (!self.patch.is_empty()).then(|| encode(&serde_json::to_vec(&self.patch).unwrap_or_default()));
        let response = Response {
            uid,
            allowed: self.is_allowed(),
            status: self.refusal.as_ref().map(|(code, reason, message, details)| {
                let mut fields = Map::from_iter(status::refusal(*code, reason, message, details));
                fields.insert("status".to_owned(), "Failure".into());
                Value::Object(fields)
            }),
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch,
            warnings: &self.warnings,
            audit_annotations: audit,
        };
        let body = Body { api_version: VERSION, kind: KIND, response };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Map::is_empty")]
    audit_annotations: Map<String, Value>,
}

/// Most values of a review: an object of the largest size that people write has some thousand.
const MOST_VALUES: usize = 100_000;

/// How many values a JSON text has at most, without reading it: one for each comma, colon and bracket outside of strings.
fn values(bytes: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b':' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::access::Subject;
    use crate::constraint::defaults;

    fn review(object: &Value) -> Vec<u8> {
        json!({"apiVersion": VERSION, "kind": KIND, "request": {
            "uid": "u", "operation": "CREATE", "namespace": "demo", "object": object,
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": "alice", "groups": ["system:authenticated"]},
        }})
        .to_string()
        .into_bytes()
    }

    #[track_caller]
    fn unreadable(body: &str, expected: &str) {
        let said = Review::read(body.as_bytes()).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn what_would_take_much_memory_is_not_read() {
        assert_eq!(values(br#"{"a,:[{\\\"":[1,2,{"b":"c\\"}]}"#), 7);
        let zeros = format!("[{}0]", "0,".repeat(MOST_VALUES));
        let review =
            format!(r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{zeros}}}"#);
        let error = Review::read(review.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("more than 100000 values"), "{error}");
    }

    #[test]
    fn what_is_no_review_is_refused() {
        unreadable("", "no AdmissionReview");
        unreadable("[1]", "no AdmissionReview");
        unreadable("{}", "got kind \"\" of \"\"");
        let other = r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "a"}}"#;
        unreadable(other, "v1beta1");
        unreadable(
            r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#,
            "no request with a uid",
        );
        let long = format!(r#"{{"kind": "{}"}}"#, "x".repeat(100_000));
        assert!(Review::read(long.as_bytes()).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn a_pod_gets_what_its_scc_fills_in() {
        let pod = json!({"metadata": {"name": "p", "annotations": {"a/b~c": "x"}},
                         "spec": {"containers": [{"name": "c"}]}});
        let review = Review::read(&review(&pod)).unwrap();
        let namespace = json!({"metadata": {"annotations": {
            "openshift.io/sa.scc.uid-range": "1000620000/10000", "openshift.io/sa.scc.mcs": "s0:c25,c10"}}});
        let everyone = |_: &Subject<'_>, scc: &str, _: &str| scc == "restricted-v2";
        let constraints = Constraints::compile(defaults::all());
        let answer = review.decide(Pass::Mutating, &constraints, Some(&namespace), &everyone).unwrap();
        let operation = |path: &str| answer.patch.iter().find(|operation| operation["path"] == path).cloned();
        assert_eq!(operation("/metadata/annotations/openshift.io~1scc").unwrap()["value"], "restricted-v2");
        assert_eq!(
            operation("/spec/containers/0/securityContext").unwrap()["value"]["runAsUser"],
            1_000_620_000
        );
        let bytes = answer.render("u", |bytes| String::from_utf8_lossy(bytes).into_owned());
        let rendered: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(rendered["response"]["allowed"], true);
        assert_eq!(rendered["response"]["patchType"], "JSONPatch");
        // A namespace without values may get them in a moment.
        let denied = review.decide(Pass::Mutating, &constraints, Some(&json!({})), &everyone).unwrap_err();
        assert!(denied.may_pass_later());
        assert!(!Answer::denied(denied).is_allowed());
    }

    #[test]
    fn a_bad_scc_is_refused_with_all_reasons() {
        let bytes = json!({"apiVersion": VERSION, "kind": KIND, "request": {
            "uid": "u", "operation": "CREATE", "name": "bad",
            "resource": {"group": "security.openshift.io", "version": "v1", "resource": "securitycontextconstraints"},
            "object": {"metadata": {"name": "bad"}, "priority": -1, "runAsUser": {"type": "Nobody"},
                       "seLinuxContext": {"type": "RunAsAny"}},
        }});
        let review = Review::read(bytes.to_string().as_bytes()).unwrap();
        assert!(review.decide_object(Pass::Mutating).is_allowed());
        let answer = review.decide_object(Pass::Validating);
        let (code, _, message, details) = answer.refusal.unwrap();
        assert_eq!(code, 422);
        assert!(message.contains("priority") && message.contains("runAsUser"), "{message}");
        assert_eq!(details["causes"].as_array().unwrap().len(), 2);
    }
}
