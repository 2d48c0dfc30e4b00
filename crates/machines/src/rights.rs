//! Whose rights count for what a machine implies, and where that is written down.
//!
//! The decision itself is [`ferrovirt_plan::scc::rights`]. Here is which requests ask for one, those that make a machine or change
//! its template, and that everything else keeps what was decided before.

use super::{Refusal, Request, Subject};
use ferrovirt_api::{ClusterDefaults, kubevirt::KubeVirt, kubevirt::VirtualMachineInstance};
use ferrovirt_kubernetes::{json::text, object};
use ferrovirt_plan::{
    config::ClusterConfig,
    scc::rights::{self, ANNOTATIONS, Asker, Decision, Problem},
};
use serde::Deserialize as _;
use serde_json::{Map, Value};

/// What has to be decided.
#[derive(Debug)]
pub struct Asked {
    /// The instance whose pod is put to the cluster.
    pub instance: VirtualMachineInstance,
    /// What was decided about it before, if the controller asks: then that holds, and nothing where nothing was decided.
    pub(super) recorded: Option<Option<Decision>>,
    /// It was there before anybody asked: changes of something else are not stopped.
    unchanged: bool,
}

impl Asked {
    /// Whose rights count.
    pub fn asker<'a>(&'a self, user: &'a str, groups: &'a [String]) -> Asker<'a> {
        match &self.recorded {
            Some(decision) => Asker::Recorded(decision.as_ref()),
            None => Asker::Person { user, groups },
        }
    }
}

/// Name and UID of the machine to which an instance belongs that the controller makes: what was decided about that machine
/// holds for the instance.
pub fn owner(request: &Request<'_>) -> Option<(String, String)> {
    if !request.is_own() {
        return None;
    }
    let controls = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
    let mut owners = object::owners(request.object).filter(controls);
    let owner = owners.find(|owner| object::kind(owner) == "VirtualMachine")?;
    Some((text(owner, "name").to_owned(), text(owner, "uid").to_owned()))
}

/// What has to be decided about a request; nothing where what was decided before holds, which is written on the object.
/// `owner` is the machine that [`owner()`] names, as stored.
pub fn question(
    subject: &Subject,
    request: &mut Request<'_>,
    owner: Option<&Value>,
    defaults: &ClusterDefaults,
) -> Option<Asked> {
    match subject {
        Subject::Machine(vm) => {
            let own = request.is_own();
            let before = request.old.and_then(recorded);
            let template = "/spec/template/spec";
            let same = |old: &Value| old.pointer(template) == request.object.pointer(template);
            let unchanged = request.old.is_some_and(same);
            if unchanged && (own || before.is_some()) {
                record(request.object, before.as_ref());
                return None;
            }
            let instance = rights::instance(vm, defaults);
            Some(Asked { instance, recorded: own.then_some(before), unchanged })
        }
        Subject::Instance(vmi) => {
            Some(Asked { instance: (**vmi).clone(), recorded: owner.map(recorded), unchanged: false })
        }
        Subject::Changed | Subject::Configuration | Subject::Nothing => None,
    }
}

/// Writes down what the cluster has answered: a decision, or that nobody asks for one there.
///
/// # Errors
/// The requester may not have what the machine implies.
pub fn settle(
    request: &mut Request<'_>,
    asked: &Asked,
    answer: Result<Option<Decision>, Problem>,
) -> Result<(), Refusal> {
    match answer {
        Ok(decision) => record(request.object, decision.as_ref()),
        Err(_) if asked.unchanged => record(request.object, None),
        Err(problem) => {
            return Err(Refusal::forbidden(request.resource, request.name, &problem.to_string()));
        }
    }
    Ok(())
}

/// A change that nothing is decided about (of an instance, whose spec users do not change, or of a machine that goes):
/// the decision stays.
pub(super) fn keep(request: &mut Request<'_>) {
    if let Some(old) = request.old {
        record(request.object, recorded(old).as_ref());
    }
}

/// Whether the same is written on both about rights.
pub fn same_decision(one: &Value, other: &Value) -> bool {
    ANNOTATIONS.iter().all(|key| object::annotation(one, key) == object::annotation(other, key))
}

/// The configuration that the KubeVirt object holds; the default where there is none.
///
/// # Errors
/// One that nothing can act on, in words.
pub fn configuration(object: Option<&Value>) -> Result<ClusterConfig, String> {
    let Some(object) = object else { return Ok(ClusterConfig::default()) };
    let object = KubeVirt::deserialize(object).map_err(|why| why.to_string())?;
    ClusterConfig::from_kubevirt(&object).map_err(|why| why.to_string())
}

/// The defaults that the KubeVirt object sets; Kubevirt's own where it does not, or cannot be read.
pub fn defaults(object: Option<&Value>) -> ClusterDefaults {
    object.and_then(|object| KubeVirt::deserialize(object).ok()).as_ref().map(Into::into).unwrap_or_default()
}

fn recorded(object: &Value) -> Option<Decision> {
    Decision::read(|key| object::annotation(object, key))
}

/// Writes the decision, or that there is none, over whatever was sent.
fn record(object: &mut Value, decision: Option<&Decision>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|key, _| !ANNOTATIONS.contains(&key.as_str()));
    }
    let Some(decision) = decision else { return };
    let annotations = metadata.entry("annotations").or_insert(Value::Null);
    if annotations.is_null() {
        *annotations = Value::Object(Map::new());
    }
    if let Value::Object(annotations) = annotations {
        annotations.extend(decision.annotations().map(|(key, value)| (key.to_owned(), value.into())));
    }
}
