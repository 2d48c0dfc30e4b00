//! Admission requests.

use std::collections::BTreeMap;

use ferrovirt_kubernetes::json::{self, text};
use ferrovirt_scc::{
    Admitted, AuditAnnotation, Constraints, Denied, NamespaceValues, Operation, Outcome, Pass, Request,
    exempt_namespace,
};
use serde_json::Value;

use crate::access::Grants;
use crate::meaning::places;
use crate::{sccs, texts};

/// Our answer to one case.
#[derive(Debug)]
enum Answer {
    Ignored,
    Admitted(Admitted),
    Denied(Denied),
}

pub(crate) fn differences(case: &Value, sets: &Value) -> Result<Vec<String>, String> {
    let want = case.get("result").ok_or("a case needs a result")?;
    let mut pod = case.get("pod").cloned().ok_or("a case needs a pod")?;
    let answer = answer(case, sets, &mut pod)?;
    let mut list = Vec::new();
    let mut compare = |what: &str, want: String, have: String| {
        if want != have {
            list.push(format!("{what}: want {want}, have {have}"));
        }
    };
    let flag = |key: &str| want.get(key).and_then(Value::as_bool).unwrap_or_default().to_string();
    compare("allowed", flag("allowed"), (!matches!(answer, Answer::Denied(_))).to_string());
    compare("ignored", flag("ignored"), matches!(answer, Answer::Ignored).to_string());
    let admitted = match &answer {
        Answer::Admitted(admitted) => Some(admitted),
        _ => None,
    };
    let scc = admitted.map_or("", |a| a.scc.as_str());
    compare("scc", text(want, "scc").to_owned(), scc.to_owned());
    if want.get("subjectType").is_some() {
        let subject = admitted.map_or("", |a| a.subject.as_str());
        compare("subjectType", text(want, "subjectType").to_owned(), subject.to_owned());
    }
    let audit: &[AuditAnnotation] = match &answer {
        Answer::Ignored => &[],
        Answer::Admitted(admitted) => &admitted.audit,
        Answer::Denied(denied) => &denied.audit,
    };
    compare("audit", format!("{:?}", wanted_audit(want)), format!("{:?}", our_audit(audit)));
    let denied = match &answer {
        Answer::Denied(denied) => Some(denied),
        _ => None,
    };
    let pass = denied.map_or("", |d| if d.pass == Pass::Mutating { "admit" } else { "validate" });
    compare("phase", text(want, "phase").to_owned(), pass.to_owned());
    let errors = denied.map(Denied::errors).unwrap_or_default();
    let wanted = texts(want, "errors");
    // A refusal that is not about single SCCs may be recorded with the prefix of the whole message.
    let whole = denied.is_some_and(|d| wanted == [d.to_string()]);
    if !whole {
        let first = wanted.iter().zip(&errors).take_while(|(want, have)| want == have).count();
        let show = |list: &[String]| format!("{} of them, {:?} there", list.len(), list.get(first));
        compare(&format!("errors[{first}]"), show(&wanted), show(&errors));
    }
    if want.get("message").is_some() {
        compare(
            "message",
            text(want, "message").to_owned(),
            denied.map(Denied::to_string).unwrap_or_default(),
        );
    } else if let Some(denied) = denied {
        // Longer messages are left out because they follow from the errors.
        compare("message", composed(case, &wanted, denied.pass), denied.to_string());
    }
    if let Some(want) = want.get("mutatedPod") {
        list.extend(places(want, &pod).into_iter().map(|place| format!("pod{place}")));
    }
    Ok(list)
}

/// The message that the recorded errors give.
fn composed(case: &Value, errors: &[String], pass: Pass) -> String {
    let metadata = case.get("pod").and_then(|p| p.get("metadata")).unwrap_or(&Value::Null);
    let names =
        [text(case, "requestName"), text(metadata, "name"), text(metadata, "generateName"), "Unknown"];
    let name = names.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
    let mut unique: Vec<&str> = Vec::new();
    for error in errors {
        if !unique.contains(&error.as_str()) {
            unique.push(error);
        }
    }
    let list = match (pass, unique.as_slice()) {
        (Pass::Validating, _) => format!("[{}]", errors.join(" ")),
        (Pass::Mutating, []) => "<nil>".to_owned(),
        (Pass::Mutating, [one]) => (*one).to_owned(),
        (Pass::Mutating, many) => format!("[{}]", many.join(", ")),
    };
    format!("pods {name:?} is forbidden: unable to validate against any security context constraint: {list}")
}

fn wanted_audit(want: &Value) -> BTreeMap<String, String> {
    let map = json::fields(want, "audit");
    map.into_iter().flatten().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
}

fn our_audit(audit: &[AuditAnnotation]) -> BTreeMap<String, String> {
    let recorded = audit.iter().filter(|a| !a.key.starts_with("too-restrictive-"));
    recorded.map(|a| (a.key.to_string(), a.value.clone())).collect()
}

fn answer(case: &Value, sets: &Value, pod: &mut Value) -> Result<Answer, String> {
    let constraints = Constraints::compile(sccs(case, sets)?);
    let namespace = case.get("namespace").filter(|n| !n.is_null());
    let metadata = namespace.and_then(|n| n.get("metadata")).unwrap_or(&Value::Null);
    let own = text(pod.get("metadata").unwrap_or(&Value::Null), "namespace").to_owned();
    let names = [text(case, "requestNamespace"), text(metadata, "name"), own.as_str()];
    let name = names.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
    // The cache is asked for the request's namespace; an object of another name is not it.
    let namespace = namespace.filter(|_| text(metadata, "name") == name);
    let gated = case.get("namespaceGate").and_then(Value::as_bool).unwrap_or_default();
    if gated && exempt_namespace(name, namespace) {
        return Ok(Answer::Ignored);
    }
    let user = case.get("user").unwrap_or(&Value::Null);
    let groups = texts(user, "groups");
    let operation = match (text(case, "operation"), case.get("oldPod")) {
        ("CREATE", _) => Operation::Create,
        ("UPDATE", Some(old)) => Operation::Update { old },
        (other, _) => {
            return Err(format!("operation {other:?} needs to be CREATE, or UPDATE with an oldPod"));
        }
    };
    let request = Request {
        operation,
        subresource: text(case, "subresource"),
        name: text(case, "requestName"),
        namespace: name,
        values: namespace.map(NamespaceValues::of),
        user: text(user, "name"),
        groups: &groups,
    };
    let grants = Grants::of(case);
    let outcome = if text(case, "onlyPhase") == "validate" {
        constraints.validate(&request, &grants, pod)
    } else {
        constraints.admit(&request, &grants, pod)
    };
    Ok(match outcome {
        Ok(Outcome::Ignored) => Answer::Ignored,
        Ok(Outcome::Admitted(admitted)) => Answer::Admitted(admitted),
        Err(denied) => Answer::Denied(denied),
    })
}
