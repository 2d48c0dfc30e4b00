//! The two passes over a pod: the mutating one, which chooses an SCC and applies it, and the validating one.

use std::fmt;

use ferrovirt_kubernetes::{json, object, subject};
use serde_json::Value;

use crate::access::{Authorizer, Bits, Grants, Subject, SubjectType};
use crate::audit::{self, AuditAnnotation};
use crate::compiled::{Compiled, Constraints};
use crate::evaluate::{Evaluation, Record, Resolved};
use crate::names::{REQUIRED_SCC, SCC, SUBJECT_TYPE};
use crate::namespace::NamespaceValues;
use crate::patch::{Patch, annotate};
use crate::pod::Pod;
use crate::quote::quoted;
use crate::refusal::{Refusal, Worded, joined, spaced};
use crate::skip;

/// What is being done to the pod.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// It is made.
    Create,
    /// It replaces this one.
    Update {
        /// The stored pod.
        old: &'a Value,
    },
}

/// One request about a pod, with the state that the decision needs.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Create or update.
    pub operation: Operation<'a>,
    /// Sub-resource of the request; empty for the pod itself.
    pub subresource: &'a str,
    /// Name in the request; may be empty.
    pub name: &'a str,
    /// Namespace of the request. It counts, not the one in the pod.
    pub namespace: &'a str,
    /// The namespace's values; `None` when there is no such namespace.
    pub values: Option<NamespaceValues<'a>>,
    /// Name of the requesting user.
    pub user: &'a str,
    /// Groups of the requesting user.
    pub groups: &'a [String],
}

/// Which of the two passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Chooses an SCC and changes the pod.
    Mutating,
    /// Checks that an SCC still admits the pod as it is.
    Validating,
}

/// The answer where the pod may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request does not concern SCCs; the pod is as it was.
    Ignored,
    /// An SCC admits the pod.
    Admitted(Admitted),
}

/// An SCC admits the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The SCC.
    pub scc: String,
    /// Whose right to use it counted.
    pub subject: SubjectType,
    /// Whether it changed the pod, other than by admission's own annotations.
    pub changed: bool,
    /// What the audit log should say.
    pub audit: Vec<AuditAnnotation>,
}

/// Why a pod may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The object is no pod that could be read.
    NotAPod(String),
    /// The required SCC must not be changed.
    RequiredChanged,
    /// The annotation names another SCC than the required one.
    RequiredMismatch {
        /// Required SCC.
        required: String,
        /// SCC named by the annotation; may be empty.
        named: String,
    },
    /// The required SCC does not exist.
    RequiredMissing(String),
    /// Standard SCCs do not exist, sorted.
    StandardMissing(Vec<&'static str>),
    /// There is no SCC at all.
    NoConstraints,
    /// The namespace does not exist.
    NamespaceMissing(String),
    /// The namespace lacks an annotation.
    NamespaceUnprepared {
        /// Namespace.
        namespace: String,
        /// Missing annotation.
        key: &'static str,
    },
    /// SCCs cannot be used in this namespace, so that nobody's pod can be admitted: one text for each.
    Unusable(Vec<String>),
    /// No SCC admits the pod: the reasons in the order in which the SCCs were tried. Empty when every usable SCC
    /// would have had to change a pod that must not be changed.
    NothingFits(Vec<Refusal>),
}

/// A refusal of the whole request; displays as the message of the 403 answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Name of the pod, as the message shows it.
    pub pod: String,
    /// Which pass refused.
    pub pass: Pass,
    /// Why.
    pub cause: Cause,
    /// What the audit log should say.
    pub audit: Vec<AuditAnnotation>,
}

impl Denied {
    /// Whether waiting for the caches may change the answer: standard SCCs or the namespace are missing. The
    /// API server asks again each second for at most ten.
    pub fn may_pass_later(&self) -> bool {
        matches!(
            self.cause,
            Cause::StandardMissing(_) | Cause::NamespaceMissing(_) | Cause::NamespaceUnprepared { .. }
        )
    }

    /// The reasons one by one, as texts; a cause that is not about single SCCs is one text.
    pub fn errors(&self) -> Vec<String> {
        match &self.cause {
            Cause::NothingFits(refusals) => refusals.iter().map(Refusal::to_string).collect(),
            _ => vec![self.reason()],
        }
    }

    /// The message without the name of the pod.
    pub fn reason(&self) -> String {
        match &self.cause {
            Cause::NotAPod(why) => {
                format!("object was marked as kind pod but was unable to be converted: {why}")
            }
            Cause::RequiredChanged => {
                format!("invalid change of required security context constraint annotation: {REQUIRED_SCC}")
            }
            Cause::RequiredMismatch { required, named } => {
                format!("required scc/{required} does not match the suggested scc/{named}")
            }
            Cause::RequiredMissing(name) => {
                let name = quoted(name);
                format!(
                    "failed to retrieve the required SCC {name}: \
                     securitycontextconstraints.security.openshift.io {name} not found"
                )
            }
            Cause::StandardMissing(names) => format!(
                "securitycontextconstraints.security.openshift.io cache is missing {}",
                names.join(", ")
            ),
            Cause::NoConstraints => "no SecurityContextConstraints found in cluster".to_owned(),
            Cause::NamespaceMissing(name) => {
                let name = quoted(name);
                format!("error fetching namespace {name}: namespace {name} not found")
            }
            Cause::NamespaceUnprepared { namespace, key } => {
                format!("error fetching namespace {}: unable to find annotation {key}", quoted(namespace))
            }
            Cause::Unusable(texts) => joined(texts),
            Cause::NothingFits(refusals) => {
                let list = match self.pass {
                    Pass::Mutating => joined(refusals),
                    Pass::Validating => spaced(refusals),
                };
                format!("unable to validate against any security context constraint: {list}")
            }
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pods {} is forbidden: {}", quoted(&self.pod), self.reason())
    }
}

impl std::error::Error for Denied {}

/// Which SCCs the request's two subjects may use; asked for one by one only where the authorizer cannot list them.
pub(crate) struct Rights<'a, A> {
    constraints: &'a Constraints,
    authorizer: &'a A,
    namespace: &'a str,
    account: Option<(String, [String; 2])>,
    user: Option<Subject<'a>>,
    account_bits: Bits,
    user_bits: Bits,
    ask_account: bool,
    ask_user: bool,
}

impl<'a, A: Authorizer> Rights<'a, A> {
    /// `account` is the name of the pod's service account, empty for none; `user` is the other subject, if any.
    pub(crate) fn new(
        constraints: &'a Constraints,
        authorizer: &'a A,
        namespace: &'a str,
        account: &str,
        user: Option<Subject<'a>>,
    ) -> Self {
        let account = (!account.is_empty()).then(|| {
            (subject::service_account(namespace, account), subject::service_account_groups(namespace))
        });
        let len = constraints.list.len();
        let (mut account_bits, mut user_bits) = (Bits::new(len), Bits::new(len));
        let fill = |bits: &mut Bits, subject: &Subject<'_>| {
            let named = constraints.by_user.get(subject.user).into_iter();
            let grouped = subject.groups.iter().filter_map(|g| constraints.by_group.get(g));
            named.chain(grouped).flatten().for_each(|n| bits.set(*n as usize));
            match authorizer.grants(subject, namespace) {
                Grants::All => bits.set_all(),
                Grants::Named(names) => {
                    names.iter().filter_map(|n| constraints.by_name.get(*n)).for_each(|n| bits.set(*n));
                }
                Grants::Ask => return true,
            }
            false
        };
        let ask_account =
            account.as_ref().is_some_and(|(user, groups)| fill(&mut account_bits, &Subject { user, groups }));
        let ask_user = user.is_some_and(|user| fill(&mut user_bits, &user));
        Rights {
            constraints,
            authorizer,
            namespace,
            account,
            user,
            account_bits,
            user_bits,
            ask_account,
            ask_user,
        }
    }

    /// Whose right it is to use the SCC at this position, the service account's first.
    pub(crate) fn subject(&mut self, at: usize, scc: &str) -> Option<SubjectType> {
        if self.ask_account && !self.account_bits.has(at) {
            let may = self.account.as_ref().is_some_and(|(user, groups)| {
                self.authorizer.may_use(&Subject { user, groups }, scc, self.namespace)
            });
            if may {
                self.account_bits.set(at);
            }
        }
        if self.account_bits.has(at) {
            return Some(SubjectType::ServiceAccount);
        }
        if self.ask_user
            && !self.user_bits.has(at)
            && self.user.is_some_and(|user| self.authorizer.may_use(&user, scc, self.namespace))
        {
            self.user_bits.set(at);
        }
        self.user_bits.has(at).then_some(SubjectType::User)
    }

    /// The next position from `from` on that may be usable.
    fn next(&self, from: usize) -> Option<usize> {
        if self.ask_account || self.ask_user {
            return (from < self.constraints.list.len()).then_some(from);
        }
        self.account_bits.next(&self.user_bits, from).filter(|n| *n < self.constraints.list.len())
    }
}

/// The positions that are walked, in order.
#[derive(Clone, Copy)]
pub(crate) enum Candidates {
    All { first: Option<usize> },
    One(usize),
}

impl Candidates {
    /// Every position in the order in which it is tried.
    pub(crate) fn iter(self, len: usize) -> impl Iterator<Item = usize> {
        let (first, all) = match self {
            Self::All { first } => (first, len),
            Self::One(n) => (Some(n), 0),
        };
        first.into_iter().chain((0..all).filter(move |n| Some(*n) != first))
    }

    /// The position after `last`, skipping those that nobody may use.
    fn after<A: Authorizer>(self, last: Option<usize>, rights: &Rights<'_, A>) -> Option<usize> {
        match (self, last) {
            (Self::One(n), None) => Some(n),
            (Self::One(_), Some(_)) => None,
            (Self::All { first: Some(first) }, None) => Some(first),
            (Self::All { first }, last) => {
                let from = last.filter(|l| Some(*l) != first).map_or(0, |l| l + 1);
                let next = rights.next(from)?;
                if Some(next) == first { rights.next(next + 1) } else { Some(next) }
            }
        }
    }
}

/// Findings of a usable SCC that did not fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tried {
    pub(crate) at: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// What a walk over the candidates needs and leaves behind.
pub(crate) struct Walk<'a, 'r, A> {
    pub(crate) constraints: &'a Constraints,
    pub(crate) pod: &'r Pod<'a>,
    pub(crate) values: &'r Resolved<'a>,
    pub(crate) rights: Rights<'r, A>,
    pub(crate) candidates: Candidates,
    pub(crate) record: Record<'a>,
    pub(crate) tried: Vec<Tried>,
}

/// Which changes an SCC may make.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MayChange {
    Everything,
    EphemeralContainers,
    Nothing,
}

impl<'a, 'r, A: Authorizer> Walk<'a, 'r, A> {
    pub(crate) fn compiled(&self, at: usize) -> Option<&'a Compiled> {
        self.constraints.list.get(at)
    }

    pub(crate) fn evaluation(&self, scc: &'a Compiled) -> Evaluation<'a, 'r> {
        Evaluation { scc, pod: self.pod, values: self.values }
    }

    /// The first usable SCC after `last` that admits the pod.
    pub(crate) fn next_fit(&mut self, last: Option<usize>, may: MayChange) -> Option<(usize, SubjectType)> {
        let mut last = last;
        while let Some(at) = self.candidates.after(last, &self.rights) {
            last = Some(at);
            let Some(scc) = self.compiled(at) else { continue };
            let Some(subject) = self.rights.subject(at, &scc.name) else { continue };
            let from = self.record.findings.len();
            if !self.evaluation(scc).run(&mut self.record) {
                self.tried.push(Tried { at, from, to: self.record.findings.len() });
                continue;
            }
            let fits = match may {
                MayChange::Everything => true,
                MayChange::EphemeralContainers => !self.record.changed(self.pod, true),
                MayChange::Nothing => !self.record.changed(self.pod, false),
            };
            if fits {
                return Some((at, subject));
            }
        }
        None
    }

    /// Does something with the worded findings of one SCC that did not fit.
    pub(crate) fn worded<R>(
        &self,
        tried: Tried,
        with: impl FnOnce(&mut dyn Iterator<Item = Worded<'_, 'a>>) -> R,
    ) -> R {
        let scc = self.compiled(tried.at);
        let groups = scc.map(|scc| self.evaluation(scc).groups_after()).unwrap_or_default();
        let findings = self.record.findings.get(tried.from..tried.to).unwrap_or_default();
        let word = |finding| Some(Worded { finding, scc: scc?, pod: self.pod, groups: &groups });
        with(&mut findings.iter().filter_map(word))
    }

    /// Every reason of every candidate, in order; for when none of them admits the pod.
    fn refusals(&mut self) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let (mut restricted, mut newer) = (None, false);
        for at in self.candidates.iter(self.constraints.list.len()) {
            let Some(scc) = self.compiled(at) else { continue };
            newer |= scc.name == "restricted-v2";
            if self.rights.subject(at, &scc.name).is_none() {
                refusals.push(Refusal::not_usable(&scc.name));
                restricted = restricted.or((scc.name == "restricted").then_some(scc));
            } else if let Some(tried) = self.tried.iter().find(|t| t.at == at) {
                self.worded(*tried, |findings| refusals.extend(findings.map(Worded::refusal)));
            }
        }
        if let Some(scc) = restricted.filter(|_| newer)
            && self.evaluation(scc).run(&mut Record::default())
        {
            refusals.push(Refusal::hint());
        }
        refusals
    }
}

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
        // OKD's answer, which holds where kubelets refuse pods of another system than theirs. Whoever runs pods has to.
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
