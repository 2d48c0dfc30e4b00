//! Looking at every SCC instead of stopping at the first: for reviews by people.

use serde_json::Value;

use crate::admit::access::{Authorizer, Subject, SubjectType};
use crate::admit::candidates::Rights;
use crate::admit::decision::{Cause, Request};
use crate::admit::evaluate::{Evaluation, Record, Resolved};
use crate::admit::patch::Patch;
use crate::constraint::compiled::Constraints;
use crate::constraint::order::points;
use crate::pod::Pod;
use crate::report::refusal::{Refusal, Worded};

/// What one SCC would do with a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The SCC.
    pub scc: String,
    /// Its points: the lower, the less it grants.
    pub points: u32,
    /// Whose right to use it would count; `None` when neither the user nor the service account may use it.
    pub subject: Option<SubjectType>,
    /// The pod as it would become, without admission's own two annotations.
    pub admits: Result<Value, Refused>,
}

/// Why an SCC would not admit a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every rule that the pod breaks.
    Rules(Vec<Refusal>),
    /// The SCC cannot be used in this namespace; while it exists, no pod without `openshift.io/required-scc` is admitted.
    Unusable(String),
}

impl Constraints {
    /// What each SCC would do with a pod, in the order in which they are tried, whether or not somebody may use it.
    ///
    /// # Errors
    /// [`Cause`] when the pod cannot be read or the namespace is not there.
    pub fn consider(
        &self,
        request: &Request<'_>,
        authorizer: &impl Authorizer,
        pod: &Value,
    ) -> Result<Vec<Verdict>, Cause> {
        let read = Pod::read(pod).map_err(|e| Cause::NotAPod(e.to_string()))?;
        let namespace = || request.namespace.to_owned();
        let values = request.values.ok_or_else(|| Cause::NamespaceMissing(namespace()))?;
        if let Some(key) = values.missing() {
            return Err(Cause::NamespaceUnprepared { namespace: namespace(), key });
        }
        let resolved = Resolved::of(&values);
        let user = Subject { user: request.user, groups: request.groups };
        let mut rights = Rights::new(self, authorizer, request.namespace, read.service_account, Some(user));
        let mut record = Record::default();
        let mut verdicts = Vec::with_capacity(self.list.len());
        for (at, scc) in self.list.iter().enumerate() {
            let evaluation = Evaluation { scc, pod: &read, values: &resolved };
            record.findings.clear();
            let admits = if let Some(error) = scc.build_error(request.namespace, &values) {
                Err(Refused::Unusable(error))
            } else if evaluation.run(&mut record) {
                let mut changed = pod.clone();
                Patch::of(&evaluation, &record).apply(&mut changed);
                Ok(changed)
            } else {
                let groups = evaluation.groups_after();
                let word = |finding| Worded { finding, scc, pod: &read, groups: &groups }.refusal();
                Err(Refused::Rules(record.findings.iter().map(word).collect()))
            };
            let subject = rights.subject(at, &scc.name);
            verdicts.push(Verdict { scc: scc.name.clone(), points: points(&scc.scc), subject, admits });
        }
        Ok(verdicts)
    }
}

/// The verdict of the SCC that grants least among those that would admit the pod, no matter who may use it.
pub fn least(verdicts: &[Verdict]) -> Option<&Verdict> {
    verdicts.iter().filter(|v| v.admits.is_ok()).min_by(|a, b| (a.points, &a.scc).cmp(&(b.points, &b.scc)))
}
