//! What the audit log gets about a decision.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::admit::access::Authorizer;
use crate::admit::candidates::{MayChange, Walk};
use crate::constraint::order::why_before;
use crate::report::quote::{Quoted, quoted};
use crate::report::refusal::joined;

/// One audit annotation. The key is without its prefix, see [`AuditAnnotation::full_key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditAnnotation {
    /// Key without prefix.
    pub key: Cow<'static, str>,
    /// Text.
    pub value: String,
}

impl AuditAnnotation {
    fn new(key: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }

    /// The key as it stands in the log. One of them has a prefix of its own, which log readers rely on.
    pub fn full_key(&self) -> String {
        match self.key.as_ref() {
            "denied" => "securityserviceconstraints.admission.openshift.io/denied".to_owned(),
            key => format!("securitycontextconstraints.admission.openshift.io/{key}"),
        }
    }
}

/// Adds later annotations; a key keeps its first value, as in the API server's audit event.
pub(crate) fn merge(all: &mut Vec<AuditAnnotation>, later: Vec<AuditAnnotation>) {
    for annotation in later {
        if all.iter().all(|earlier| earlier.key != annotation.key) {
            all.push(annotation);
        }
    }
}

/// Room for the usual reason.
const USUAL_REASON: usize = 192;
/// Room for a name and a comma.
const USUAL_NAME: usize = 16;

/// The SCCs that could not be used, up to a position or all.
fn denied<A: Authorizer>(walk: &mut Walk<'_, '_, A>, until: Option<usize>) -> AuditAnnotation {
    let passed = until.unwrap_or(walk.constraints.list.len());
    let mut names = String::with_capacity(passed * USUAL_NAME);
    for at in walk.candidates.iter(walk.constraints.list.len()).take_while(|at| Some(*at) != until) {
        let Some(scc) = walk.compiled(at) else { continue };
        if walk.rights.subject(at, &scc.name).is_none() {
            if !names.is_empty() {
                names.push(',');
            }
            names.push_str(&scc.name);
        }
    }
    AuditAnnotation::new("denied", names)
}

fn too_restrictive<A: Authorizer>(walk: &Walk<'_, '_, A>) -> Vec<AuditAnnotation> {
    let annotation = |tried: &crate::admit::candidates::Tried| {
        let name = walk.compiled(tried.at).map_or("", |c| c.name.as_str());
        AuditAnnotation::new(
            format!("too-restrictive-{name}"),
            walk.worded(*tried, |findings| joined(findings)),
        )
    };
    walk.tried.iter().map(annotation).collect()
}

/// Annotations of a request that is let in under the SCC at `at`.
pub(crate) fn admitted<A: Authorizer>(
    walk: &mut Walk<'_, '_, A>,
    at: usize,
    may: MayChange,
    hint: &str,
) -> Vec<AuditAnnotation> {
    let chosen = walk.compiled(at).map_or("", |c| c.name.as_str());
    let mut list = Vec::with_capacity(if may == MayChange::Everything { walk.tried.len() + 3 } else { 1 });
    if may == MayChange::Everything {
        list.push(denied(walk, Some(at)));
        list.extend(too_restrictive(walk));
        let second = walk.next_fit(Some(at), may).and_then(|(second, _)| walk.compiled(second));
        let mut reason = String::with_capacity(USUAL_REASON);
        // Writing into a String cannot fail.
        let _ = match (walk.compiled(at), second) {
            (Some(first), Some(second)) => {
                let (a, b) = (Quoted(&first.name), Quoted(&second.name));
                let why = why_before(&first.scc, &second.scc).as_str();
                write!(reason, "{a} is most restrictive, not denied, and chosen over {b} because {a} {why}")
            }
            _ => write!(reason, "{} is the only one not too restrictive and not denied", Quoted(chosen)),
        };
        list.push(AuditAnnotation::new("reason", reason));
        return list;
    }
    if !hint.is_empty() && hint != chosen {
        list.push(hint_failed(walk, hint));
        let reason = format!(
            "originally chosen {} did not pass final validation after mutating admission, but {} did instead",
            quoted(hint),
            quoted(chosen)
        );
        list.push(AuditAnnotation::new("reason-validation", reason));
    }
    list.push(AuditAnnotation::new("chosen", chosen));
    list
}

/// Annotations of a request that no SCC lets in.
pub(crate) fn refused<A: Authorizer>(
    walk: &mut Walk<'_, '_, A>,
    may: MayChange,
    hint: &str,
) -> Vec<AuditAnnotation> {
    let mut list = Vec::new();
    if may == MayChange::Everything {
        let all_denied = walk.tried.is_empty();
        list.push(denied(walk, None));
        list.extend(too_restrictive(walk));
        let reason = if all_denied { "all denied" } else { "all too restrictive or denied" };
        list.push(AuditAnnotation::new("reason", reason));
    } else if !hint.is_empty() {
        list.push(hint_failed(walk, hint));
        let text = format!(
            "originally chosen {} got denied in final validation after mutating admission, and no other matched",
            quoted(hint)
        );
        merge(&mut list, vec![AuditAnnotation::new("denied-validation", text)]);
    }
    list
}

/// Why the SCC that the annotation names did not pass.
fn hint_failed<A: Authorizer>(walk: &mut Walk<'_, '_, A>, hint: &str) -> AuditAnnotation {
    let tried = walk.tried.iter().find(|t| walk.compiled(t.at).is_some_and(|c| c.name == hint)).copied();
    let at = walk.constraints.by_name.get(hint).copied();
    let usable = at.is_some_and(|at| walk.rights.subject(at, hint).is_some());
    match (tried, usable) {
        (Some(tried), _) => AuditAnnotation::new(
            format!("too-restrictive-{hint}"),
            walk.worded(tried, |findings| joined(findings)),
        ),
        // It was tried first and fits, so that it must have wanted to change the pod.
        (None, true) => AuditAnnotation::new(
            format!("too-restrictive-{hint}"),
            "failures final validation after mutating admission",
        ),
        (None, false) => AuditAnnotation::new(
            "denied-validation",
            format!(
                "originally chosen {} got denied in final validation after mutating admission",
                quoted(hint)
            ),
        ),
    }
}
