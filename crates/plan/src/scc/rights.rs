//! Whether somebody may have the privileges that a machine implies.
//!
//! A machine's pod is made by the controller, so the cluster's own admission sees the controller's rights and not the
//! user's. Here the pod that the machine implies is put to the SCCs with the rights of the one who makes or changes the
//! machine. The answer is recorded on the machine, and the pod is later bound to one SCC by it
//! (`openshift.io/required-scc`). Pure: API server and webhook bring the state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ferrovirt_api::ClusterDefaults;
use ferrovirt_api::kubevirt::{VirtualMachine, VirtualMachineInstance};
use ferrovirt_kubernetes::subject;
use ferrovirt_model::Machine;
use ferrovirt_privilege::{Right, Surface, Surroundings, machine_grants};
use ferrovirt_scc::{
    Authorizer, Constraints, Denied, NamespaceValues, Operation, Pass, Refused, Request, SubjectType, Verdict,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::config::{ClusterConfig, NAMESPACE};
use crate::render;
use crate::scc::excess::{Excess, excess};

/// Annotation of machines: the SCC that was found to admit the machine for the one who asked.
pub const SCC: &str = "ferrovirt.io/scc";
/// Annotation of machines: whose right counted, `user NAME` or `serviceaccount NAMESPACE/NAME`.
pub const SUBJECT: &str = "ferrovirt.io/scc-subject";
/// Annotation of machines: the one SCC under which their pods may run.
pub const POD_SCC: &str = "ferrovirt.io/pod-scc";
/// The three of them. Admission alone writes these: whatever a person sends is replaced.
pub const ANNOTATIONS: [&str; 3] = [SCC, SUBJECT, POD_SCC];

/// The SCC that everybody may use: the bound of machines for which nothing is recorded.
pub const EVERYBODYS: &str = "restricted-v2";
/// Recorded as the subject where nobody's right was asked for.
const EVERYBODY: &str = "everybody";

/// What was decided about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The SCC that admits the machine's pod and that the subject may use.
    pub scc: String,
    /// Whose right counted.
    pub subject: String,
    /// The SCC that the pod is bound to: the same one when the controller may use it too, otherwise the first one that
    /// the controller may use and that admits the pod.
    pub pod_scc: String,
}

impl Decision {
    /// What holds where nothing was recorded.
    fn nothing_recorded() -> Self {
        Self { scc: EVERYBODYS.to_owned(), subject: EVERYBODY.to_owned(), pod_scc: EVERYBODYS.to_owned() }
    }

    /// Reads it off the annotations of a machine.
    pub fn read<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let text = |key| annotation(key).map(str::to_owned);
        Some(Self { scc: text(SCC)?, subject: text(SUBJECT)?, pod_scc: text(POD_SCC)? })
    }

    /// The annotations that record it.
    pub fn annotations(&self) -> [(&'static str, &str); 3] {
        [(SCC, &self.scc), (SUBJECT, &self.subject), (POD_SCC, &self.pod_scc)]
    }
}

/// The SCC that the pod of a machine with these annotations is bound to.
pub fn pod_scc(annotations: Option<&BTreeMap<String, String>>) -> &str {
    // An empty name would bind it to none.
    let recorded = annotations.and_then(|all| all.get(POD_SCC)).filter(|scc| !scc.is_empty());
    recorded.map_or(EVERYBODYS, String::as_str)
}

/// Whose rights count.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// Somebody makes a machine or changes what it is.
    Person {
        /// Name of the user.
        user: &'a str,
        /// Groups of the user.
        groups: &'a [String],
    },
    /// The controller makes the instance of a machine about which this was recorded. The decision holds, no matter whose
    /// rights have changed since; the instance may not need more than the recorded SCC allows. Which SCC its pod gets is found
    /// again: whatever is recorded of that leads to nothing that the decision does not lead to.
    Recorded(Option<&'a Decision>),
}

/// The state that a decision depends on.
pub struct Question<'a, A> {
    /// The cluster's SCCs.
    pub constraints: &'a Constraints,
    /// Who may use them by role.
    pub authorizer: &'a A,
    /// The machine's namespace.
    pub namespace: &'a str,
    /// That namespace's values; `None` when there is no such namespace.
    pub values: Option<NamespaceValues<'a>>,
    /// The configuration.
    pub config: &'a ClusterConfig,
    /// Whose rights count.
    pub asker: Asker<'a>,
}

/// Why a machine may not be made.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// It is no valid machine: each reason with its field.
    NoMachine(Vec<String>),
    /// The namespace or the SCCs are not ready; asking again may help.
    NotReady(String),
    /// Nobody who counts may use an SCC that admits it.
    Forbidden(Box<Forbidden>),
}

/// What a machine needs beyond the rights of the one who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Forbidden {
    /// The namespace.
    pub namespace: String,
    /// Who was asked for.
    pub who: Vec<String>,
    /// The features that need more, each with its privileges.
    pub needs: Vec<Need>,
    /// What the SCC that is nearest to admitting the pod says, among those that may be used.
    pub reasons: Vec<String>,
    /// The SCCs that would admit the machine, in the order in which they are tried.
    pub would_do: Vec<String>,
}

/// A feature of the machine and the privileges that it lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The feature, as in the privilege table.
    pub feature: String,
    /// Rights of the table.
    pub rights: Vec<String>,
    /// Why the feature needs them.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMachine(causes) => f.write_str(&causes.join("; ")),
            Self::NotReady(why) => f.write_str(why),
            Self::Forbidden(forbidden) => forbidden.fmt(f),
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, who, needs, reasons, would_do } = self;
        write!(f, "this machine needs more than {} may have in namespace {namespace:?}", who.join(" or "))?;
        for need in needs {
            write!(f, "; {} needs {} ({})", need.feature, need.rights.join(" and "), need.reason)?;
        }
        match reasons.as_slice() {
            [] => f.write_str("; no security context constraint may be used")?,
            reasons => write!(f, "; the nearest security context constraint says: {}", reasons.join(", "))?,
        }
        match would_do.as_slice() {
            [] => {
                f.write_str("; no security context constraint of this cluster admits the machine: change it")
            }
            names => write!(
                f,
                "; change the machine, or ask an administrator for the verb \"use\" on one of the security context \
                 constraints that admit it: {}",
                names.join(", ")
            ),
        }
    }
}

/// The instance that a VirtualMachine's template makes, defaulted.
pub fn instance(vm: &VirtualMachine, defaults: &ClusterDefaults) -> VirtualMachineInstance {
    let template = vm.spec.template.clone();
    let metadata = ObjectMeta {
        name: vm.metadata.name.clone(),
        namespace: vm.metadata.namespace.clone(),
        ..template.metadata
    };
    let mut instance =
        VirtualMachineInstance { metadata, spec: template.spec, ..VirtualMachineInstance::default() };
    ferrovirt_api::default_vmi(&mut instance, defaults);
    instance
}

/// Decides about a machine.
///
/// # Errors
/// [`Problem`], which displays as what the person reads.
pub fn decide<A: Authorizer>(
    question: &Question<'_, A>,
    vmi: &VirtualMachineInstance,
) -> Result<Decision, Problem> {
    let machine = ferrovirt_api::machine(vmi)
        .map_err(|causes| Problem::NoMachine(causes.iter().map(ToString::to_string).collect()))?;
    let pod = serde_json::to_value(render::pod(&machine, vmi, question.config))
        .map_err(|why| Problem::NoMachine(vec![why.to_string()]))?;
    match question.asker {
        Asker::Person { user, groups } => person(question, &machine, &pod, user, groups),
        Asker::Recorded(decision) => {
            let decision = decision.cloned().unwrap_or_else(Decision::nothing_recorded);
            let verdicts = question.consider(&pod, "", &[])?;
            if verdicts.iter().any(|verdict| verdict.scc == decision.scc && verdict.admits.is_ok()) {
                let pod_scc = question.pod_scc(&question.controllers(&pod)?, &decision.scc);
                return Ok(Decision { pod_scc, ..decision });
            }
            let bound = verdicts.iter().filter(|verdict| verdict.scc == decision.scc);
            let who = vec![format!("the security context constraint {:?} of its admission", decision.scc)];
            Err(question.forbidden(&machine, &pod, who, bound, &verdicts))
        }
    }
}

fn person<A: Authorizer>(
    question: &Question<'_, A>,
    machine: &Machine,
    pod: &Value,
    user: &str,
    groups: &[String],
) -> Result<Decision, Problem> {
    let theirs = question.consider(pod, user, groups)?;
    let controllers = question.controllers(pod)?;
    let account = machine.scheduling.service_account.as_deref();
    let shared = |scc: &str| controllers.iter().filter(fits).any(|verdict| verdict.scc == scc);
    let chosen = theirs.iter().filter(fits).find(|v| shared(&v.scc)).or_else(|| theirs.iter().find(fits));
    let Some(chosen) = chosen else {
        let mut who = vec![format!("user {user:?}")];
        who.extend(account.map(|name| format!("service account {name:?}")));
        let usable = theirs.iter().filter(|verdict| verdict.subject.is_some());
        return Err(question.forbidden(machine, pod, who, usable, &theirs));
    };
    let subject = match (chosen.subject, account) {
        (Some(SubjectType::ServiceAccount), Some(name)) => {
            format!("serviceaccount {}/{name}", question.namespace)
        }
        _ => format!("user {user}"),
    };
    let pod_scc = question.pod_scc(&controllers, &chosen.scc);
    Ok(Decision { scc: chosen.scc.clone(), subject, pod_scc })
}

/// It may be used, and admits the pod.
fn fits(verdict: &&Verdict) -> bool {
    verdict.subject.is_some() && verdict.admits.is_ok()
}

impl<A: Authorizer> Question<'_, A> {
    /// The pod, put to the SCCs with the controller's rights.
    fn controllers(&self, pod: &Value) -> Result<Vec<Verdict>, Problem> {
        let controller = subject::service_account(NAMESPACE, render::scc::CONTROLLER);
        let mut groups = subject::service_account_groups(NAMESPACE).to_vec();
        groups.push(subject::AUTHENTICATED.to_owned());
        self.consider(pod, &controller, &groups)
    }

    /// The SCC that the pod is bound to: the one that was chosen if the controller may use it, too, otherwise the first one
    /// that it may use and that admits the pod.
    fn pod_scc(&self, controllers: &[Verdict], chosen: &str) -> String {
        let shared = controllers.iter().filter(fits).find(|verdict| verdict.scc == chosen);
        let found = shared.or_else(|| controllers.iter().find(fits));
        found.map_or(chosen, |verdict| &verdict.scc).to_owned()
    }

    fn consider(&self, pod: &Value, user: &str, groups: &[String]) -> Result<Vec<Verdict>, Problem> {
        let request = Request {
            operation: Operation::Create,
            subresource: "",
            name: "",
            namespace: self.namespace,
            values: self.values,
            user,
            groups,
        };
        self.constraints.consider(&request, self.authorizer, pod).map_err(|cause| {
            let denied = Denied { pod: String::new(), pass: Pass::Mutating, cause, audit: Vec::new() };
            let reason = denied.reason();
            if denied.may_pass_later() { Problem::NotReady(reason) } else { Problem::NoMachine(vec![reason]) }
        })
    }

    fn forbidden<'v>(
        &self,
        machine: &Machine,
        pod: &Value,
        who: Vec<String>,
        usable: impl Iterator<Item = &'v Verdict>,
        all: &[Verdict],
    ) -> Problem {
        let refusals = |verdict: &Verdict| match &verdict.admits {
            Err(Refused::Rules(rules)) => rules.len(),
            _ => usize::MAX,
        };
        let nearest = usable.min_by_key(|verdict| (refusals(verdict), verdict.points));
        let reasons = match nearest.map(|verdict| &verdict.admits) {
            Some(Err(Refused::Rules(rules))) => {
                let texts: BTreeSet<String> = rules.iter().map(ToString::to_string).collect();
                texts.into_iter().collect()
            }
            Some(Err(Refused::Unusable(why))) => vec![why.clone()],
            _ => Vec::new(),
        };
        let nearest = nearest.and_then(|verdict| self.constraints.get(&verdict.scc));
        let would_do = all.iter().filter(|v| v.admits.is_ok()).map(|v| v.scc.clone()).collect();
        Problem::Forbidden(Box::new(Forbidden {
            namespace: self.namespace.to_owned(),
            who,
            needs: needs(machine, pod, self.config, nearest),
            reasons,
            would_do,
        }))
    }
}

/// The rights of the table that the machine's features ask for, its pod makes use of, and the SCC does not allow.
fn needs(
    machine: &Machine,
    pod: &Value,
    config: &ClusterConfig,
    nearest: Option<&ferrovirt_scc::SecurityContextConstraints>,
) -> Vec<Need> {
    let surroundings = Surroundings { emulation: config.use_emulation, ..Surroundings::default() };
    let granted = machine_grants(machine, &surroundings, config.profile);
    let used = ferrovirt_scc::minimal("used", pod).unwrap_or_default();
    let nothing = ferrovirt_scc::SecurityContextConstraints::default();
    let lacking: BTreeSet<Right<String>> =
        excess(&used, nearest.unwrap_or(&nothing)).into_iter().map(|Excess { right, .. }| right).collect();
    let mut needs: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (held, origins) in granted.iter() {
        if held.right.surface() != Surface::Scc || !lacking.contains(&held.right) {
            continue;
        }
        for origin in origins {
            let key = (origin.feature.to_string(), origin.grant.reason.to_string());
            needs.entry(key).or_default().push(held.right.to_string());
        }
    }
    needs.into_iter().map(|((feature, reason), rights)| Need { feature, rights, reason }).collect()
}

#[cfg(test)]
mod tests;
