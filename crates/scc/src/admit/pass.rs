//! The two passes over a pod: the mutating one, which chooses an SCC and applies it, and the validating one.

use ferrovirt_kubernetes::{json, object};
use serde_json::Value;

use crate::admit::access::{Authorizer, Subject};
use crate::admit::candidates::{Candidates, MayChange, Rights, Walk};
use crate::admit::decision::{Admitted, Cause, Denied, Operation, Outcome, Pass, Request};
use crate::admit::evaluate::{Record, Resolved};
use crate::admit::patch::{Patch, annotate};
use crate::admit::skip;
use crate::constraint::compiled::Constraints;
use crate::names::{REQUIRED_SCC, SCC, SUBJECT_TYPE};
use crate::namespace::NamespaceValues;
use crate::pod::Pod;
use crate::report::audit;

impl Constraints {
    /// Both passes, one after the other, as for one request without any webhook in between.
    ///
    /// # Errors
    /// [`Denied`] with every reason; the pod is then as far changed as the mutating pass came.
    pub fn admit(
        &self,
        request: &Request<'_>,
        authorizer: &impl Authorizer,
        pod: &mut Value,
    ) -> Result<Outcome, Denied> {
        let Outcome::Admitted(mut admitted) = self.mutate(request, authorizer, pod)? else {
            return Ok(Outcome::Ignored);
        };
        match self.validate(request, authorizer, pod) {
            Ok(Outcome::Admitted(validated)) => audit::merge(&mut admitted.audit, validated.audit),
            Ok(Outcome::Ignored) => {}
            Err(mut denied) => {
                let own = std::mem::take(&mut denied.audit);
                denied.audit = admitted.audit;
                audit::merge(&mut denied.audit, own);
                return Err(denied);
            }
        }
        Ok(Outcome::Admitted(admitted))
    }

    /// The mutating pass: chooses an SCC, applies its defaults and writes the two annotations.
    ///
    /// # Errors
    /// [`Denied`] with every reason; the pod is then as it was.
    pub fn mutate(
        &self,
        request: &Request<'_>,
        authorizer: &impl Authorizer,
        pod: &mut Value,
    ) -> Result<Outcome, Denied> {
        let chosen = self.choose(request, authorizer, pod, Pass::Mutating)?;
        let Some((admitted, patch)) = chosen else { return Ok(Outcome::Ignored) };
        patch.apply(pod);
        annotate(pod, SCC, admitted.scc.clone());
        annotate(pod, SUBJECT_TYPE, admitted.subject.as_str().to_owned());
        Ok(Outcome::Admitted(admitted))
    }

    /// The validating pass: some usable SCC admits the pod as it is.
    ///
    /// # Errors
    /// [`Denied`] with every reason.
    pub fn validate(
        &self,
        request: &Request<'_>,
        authorizer: &impl Authorizer,
        pod: &Value,
    ) -> Result<Outcome, Denied> {
        let chosen = self.choose(request, authorizer, pod, Pass::Validating)?;
        Ok(chosen.map_or(Outcome::Ignored, |(admitted, _)| Outcome::Admitted(admitted)))
    }

    fn choose(
        &self,
        request: &Request<'_>,
        authorizer: &impl Authorizer,
        value: &Value,
        pass: Pass,
    ) -> Result<Option<(Admitted, Patch)>, Denied> {
        if skip::subresource(request.subresource) {
            return Ok(None);
        }
        let pod = Pod::read(value).map_err(|e| {
            let cause = Cause::NotAPod(e.to_string());
            Denied { pod: shown_name(request.name, value), pass, cause, audit: Vec::new() }
        })?;
        // OKD's answer, which holds where kubelets refuse pods of another system than theirs. Anyone who runs pods has to.
        if pod.windows {
            return Ok(None);
        }
        let deny = |cause| {
            let name = [request.name, pod.name, pod.generate_name, "Unknown"];
            let pod = name.into_iter().find(|n| !n.is_empty()).unwrap_or_default().to_owned();
            Denied { pod, pass, cause, audit: Vec::new() }
        };
        let required = pod.annotation(REQUIRED_SCC).unwrap_or_default();
        let named = pod.annotation(SCC).unwrap_or_default();
        if let Operation::Update { old } = request.operation {
            if skip::nothing_relevant_changed(old, value) {
                return Ok(None);
            }
            if pass == Pass::Mutating && required_of(old) != required {
                return Err(deny(Cause::RequiredChanged));
            }
        }
        if pass == Pass::Validating && !required.is_empty() && required != named {
            let (required, named) = (required.to_owned(), named.to_owned());
            return Err(deny(Cause::RequiredMismatch { required, named }));
        }
        let hint = if pass == Pass::Validating { named } else { "" };
        let candidates = self.candidates(required, hint).map_err(deny)?;
        let values = self.namespace(request, candidates).map_err(deny)?;
        let resolved = Resolved::of(&values);
        let subject = Subject { user: request.user, groups: request.groups };
        let mut walk = Walk {
            constraints: self,
            pod: &pod,
            values: &resolved,
            rights: Rights::new(self, authorizer, request.namespace, pod.service_account, Some(subject)),
            candidates,
            record: Record::default(),
            tried: Vec::new(),
        };
        let create = matches!(request.operation, Operation::Create);
        let may = match (pass, create) {
            (Pass::Mutating, true) => MayChange::Everything,
            (Pass::Mutating, false) if request.subresource == "ephemeralcontainers" => {
                MayChange::EphemeralContainers
            }
            _ => MayChange::Nothing,
        };
        let Some((at, subject)) = walk.next_fit(None, may) else {
            let cause = Cause::NothingFits(walk.refusals());
            return Err(Denied { audit: audit::refused(&mut walk, may, hint), ..deny(cause) });
        };
        let Some(scc) = walk.compiled(at) else { return Ok(None) };
        let patch = Patch::of(&walk.evaluation(scc), &walk.record);
        let changed = !patch.is_empty();
        let audit = audit::admitted(&mut walk, at, may, hint);
        Ok(Some((Admitted { scc: scc.name.clone(), subject, changed, audit }, patch)))
    }

    fn candidates(&self, required: &str, hint: &str) -> Result<Candidates, Cause> {
        if !self.missing.is_empty() {
            return Err(Cause::StandardMissing(self.missing.clone()));
        }
        if !required.is_empty() {
            let at = self.by_name.get(required).copied();
            return at.map(Candidates::One).ok_or_else(|| Cause::RequiredMissing(required.to_owned()));
        }
        if self.list.is_empty() {
            return Err(Cause::NoConstraints);
        }
        Ok(Candidates::All { first: self.by_name.get(hint).copied() })
    }

    /// The namespace's values, after making sure that every candidate can be used with them.
    pub(crate) fn namespace<'v>(
        &self,
        request: &Request<'v>,
        candidates: Candidates,
    ) -> Result<NamespaceValues<'v>, Cause> {
        let namespace = || request.namespace.to_owned();
        let values = request.values.ok_or_else(|| Cause::NamespaceMissing(namespace()))?;
        if let Some(key) = values.missing() {
            return Err(Cause::NamespaceUnprepared { namespace: namespace(), key });
        }
        let errors = self.build_errors(candidates, request.namespace, &values);
        if errors.is_empty() { Ok(values) } else { Err(Cause::Unusable(errors)) }
    }
}

fn required_of(pod: &Value) -> &str {
    object::annotation(pod, REQUIRED_SCC).unwrap_or_default()
}

/// The name of an object that could not be read as a pod.
fn shown_name(name: &str, pod: &Value) -> String {
    let names = [name, object::name(pod), json::text(pod, "/metadata/generateName"), "Unknown"];
    names.into_iter().find(|n| !n.is_empty()).unwrap_or_default().to_owned()
}
