//! The SCCs that a requester may use, tried in order.

use ferrovirt_kubernetes::subject;

use crate::admit::access::{Authorizer, Bits, Grants, Subject, SubjectType};
use crate::admit::evaluate::{Evaluation, Record, Resolved};
use crate::constraint::compiled::{Compiled, Constraints};
use crate::pod::Pod;
use crate::report::refusal::{Refusal, Worded};

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
    pub(super) fn refusals(&mut self) -> Vec<Refusal> {
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
