//! Whether somebody may have the privileges that their machine implies; what was decided is recorded on the machine.
//!
//! The decision itself is pure (`ferrovirt_plan::rights`). Here is what it needs of the store, and which requests ask
//! for one: those that make a machine or change its template. Everything else keeps what was decided before.

use ferrovirt_api::ClusterDefaults;
use ferrovirt_api::kubevirt::{KubeVirt, VirtualMachine, VirtualMachineInstance};
use ferrovirt_kubernetes::json::text;
use ferrovirt_kubernetes::object;
use ferrovirt_plan::config::{ClusterConfig, LauncherRights};
use ferrovirt_plan::rights::{self, ANNOTATIONS, Asker, Decision, Problem, Question};
use ferrovirt_scc::NamespaceValues;
use serde_json::{Map, Value};

use super::forbidden;
use super::kubevirt::{GROUP, HOME, is_kubevirt};
use super::scc::{Roles, is_exempt, patiently};
use crate::app::App;
use crate::request::AdmissionRequest;
use crate::status::ApiError;
use crate::store::Key;

/// A VirtualMachine, already defaulted and validated.
pub(super) async fn machine(
    app: &App,
    request: &mut AdmissionRequest<'_>,
    vm: &VirtualMachine,
    defaults: &ClusterDefaults,
) -> Result<(), ApiError> {
    let own = is_kubevirt(request.user);
    let old = request.old.map(recorded);
    let unchanged = request.old.is_some_and(|old| {
        old.pointer("/spec/template/spec") == request.object.pointer("/spec/template/spec")
    });
    let before = old.flatten();
    if unchanged && (own || before.is_some()) {
        record(request.object, before.as_ref());
        return Ok(());
    }
    let groups = &request.user.groups;
    let asker = match own {
        true => Asker::Recorded(before.as_ref()),
        false => Asker::Person { user: &request.user.name, groups },
    };
    match decide(app, request, asker, &rights::instance(vm, defaults)).await {
        Ok(decision) => record(request.object, decision.as_ref()),
        // It was there before anybody asked: whoever changes something else is not stopped.
        Err(_) if unchanged => record(request.object, None),
        Err(refusal) => return Err(refusal),
    }
    Ok(())
}

/// A VirtualMachineInstance that is made, already defaulted and validated.
pub(super) async fn instance(
    app: &App,
    request: &mut AdmissionRequest<'_>,
    vmi: &VirtualMachineInstance,
) -> Result<(), ApiError> {
    let machine = is_kubevirt(request.user).then(|| owner(app, request)).flatten();
    let before = machine.as_ref().map(|machine| recorded(machine));
    let asker = match &before {
        Some(before) => Asker::Recorded(before.as_ref()),
        None => Asker::Person { user: &request.user.name, groups: &request.user.groups },
    };
    let decision = decide(app, request, asker, vmi).await?;
    record(request.object, decision.as_ref());
    Ok(())
}

/// A change that nothing is decided about (of an instance, whose spec users do not change, or of a machine that goes):
/// the decision stays.
pub(super) fn keep(request: &mut AdmissionRequest<'_>) {
    if let Some(old) = request.old {
        record(request.object, recorded(old).as_ref());
    }
}

/// The decision; nothing where nobody asks for one: by the configuration, or in a namespace without SCCs.
async fn decide(
    app: &App,
    request: &AdmissionRequest<'_>,
    asker: Asker<'_>,
    vmi: &VirtualMachineInstance,
) -> Result<Option<Decision>, ApiError> {
    let config = configuration(app).map_err(|why| forbidden(request, &why))?;
    if config.rights() == LauncherRights::Controller {
        return Ok(None);
    }
    let key = Key::new("", "namespaces", "", request.namespace);
    let once = || {
        let namespace = app.store.get(&key);
        let namespace = namespace.as_ref().map(|entry| entry.object.as_ref());
        if is_exempt(request.namespace, namespace) {
            return Ok(None);
        }
        let question = Question {
            constraints: &app.constraints.get(),
            authorizer: &Roles(&app.auth.authorizer),
            namespace: request.namespace,
            values: namespace.map(NamespaceValues::of),
            config: &config,
            asker,
        };
        rights::decide(&question, vmi).map(Some)
    };
    let answer = patiently(&app.store, once, |problem| matches!(problem, Problem::NotReady(_))).await;
    answer.map_err(|problem| forbidden(request, &problem.to_string()))
}

fn configuration(app: &App) -> Result<ClusterConfig, String> {
    use serde::Deserialize as _;
    let Some(entry) = app.store.get(&Key::new(GROUP, "kubevirts", HOME, "kubevirt")) else {
        return Ok(ClusterConfig::default());
    };
    let object = KubeVirt::deserialize(entry.object.as_ref()).map_err(|why| why.to_string())?;
    ClusterConfig::from_kubevirt(&object).map_err(|why| why.to_string())
}

/// The VirtualMachine that an instance says it belongs to, if it exists.
fn owner(app: &App, request: &AdmissionRequest<'_>) -> Option<std::sync::Arc<Value>> {
    let controls = |owner: &&Value| owner.get("controller") == Some(&Value::Bool(true));
    let mut owners = object::owners(request.object).filter(controls);
    let owner = owners.find(|owner| object::kind(owner) == "VirtualMachine")?;
    let key = Key::new(GROUP, "virtualmachines", request.namespace, text(owner, "name"));
    let entry = app.store.get(&key)?;
    let same = object::uid(&entry.object) == text(owner, "uid");
    same.then_some(entry.object)
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
