//! The mount point of machines: what `ferrovirt_machines` decides about objects of kubevirt.io, with what it needs of the
//! store.

use ferrovirt_kubernetes::object;
use ferrovirt_machines::{self as machines, Asked, GROUP, MACHINES, Refusal, Surroundings};
use ferrovirt_plan::config::{KUBEVIRT, LauncherRights, NAMESPACE};
use ferrovirt_plan::scc::rights::{self, Decision, Problem, Question};
use ferrovirt_scc::NamespaceValues;
use serde_json::{Value, json};

use super::scc::{Roles, is_exempt, patiently};
use crate::app::App;
use crate::auth::unique;
use crate::clock;
use crate::request::{AdmissionRequest, Operation};
use crate::status::ApiError;
use crate::store::{Entry, Key, Prefix};

/// Admits an object of kubevirt.io.
pub(super) async fn admit(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let stored = app.store.get(&Key::new(GROUP, "kubevirts", NAMESPACE, KUBEVIRT));
    let stored = stored.as_ref().map(|entry| entry.object.as_ref());
    let defaults = machines::defaults(stored);
    let (user, groups) = (request.user.name.as_str(), request.user.groups.as_slice());
    let (resource, name) = (request.kind.plural, request.name);
    let mut asking = machines::Request {
        operation: match request.operation {
            Operation::Create => machines::Operation::Create,
            Operation::Update => machines::Operation::Update,
            Operation::Delete => machines::Operation::Delete,
        },
        resource,
        subresource: request.subresource,
        namespace: request.namespace,
        name,
        user,
        groups,
        old: request.old,
        object: &mut *request.object,
    };
    let refused = |refusal: Refusal| answer(refusal, resource, name);
    let around =
        Surroundings { defaults: &defaults, unique: &|| unique().unwrap_or_default(), now: &clock::stamp };
    machines::uninstalling(&asking, stored).map_err(refused)?;
    let subject = machines::complete(&mut asking, &around).map_err(refused)?;
    let installed = || !app.store.list(&Prefix::resource(GROUP, "kubevirts")).entries.is_empty();
    machines::check(&subject, &asking, &defaults, installed).map_err(refused)?;
    let owner = machines::owner(&asking).and_then(|(name, uid)| {
        let entry = app.store.get(&Key::new(GROUP, MACHINES, asking.namespace, &name))?;
        (object::uid(&entry.object) == uid).then_some(entry)
    });
    let owner = owner.as_ref().map(|entry: &Entry| entry.object.as_ref());
    let Some(asked) = machines::question(&subject, &mut asking, owner, &defaults) else { return Ok(()) };
    let answer = decide(app, &asking, &asked, stored).await;
    machines::settle(&mut asking, &asked, answer).map_err(refused)
}

/// The decision; nothing where nobody asks for one: by the configuration, or in a namespace without SCCs.
async fn decide(
    app: &App,
    request: &machines::Request<'_>,
    asked: &Asked,
    stored: Option<&Value>,
) -> Result<Option<Decision>, Problem> {
    let config = machines::configuration(stored).map_err(|why| Problem::NoMachine(vec![why]))?;
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
            asker: asked.asker(request.user, request.groups),
        };
        rights::decide(&question, &asked.instance).map(Some)
    };
    patiently(&app.store, once, |problem| matches!(problem, Problem::NotReady(_))).await
}

/// The refusal as the client gets it.
fn answer(refusal: Refusal, resource: &str, name: &str) -> ApiError {
    let text = refusal.text();
    if refusal.code == 403 {
        return ApiError::forbidden(GROUP, resource, name, text);
    }
    let mut error = ApiError::new(refusal.code, refusal.reason, text);
    if !refusal.causes.is_empty() {
        error.details = json!({"causes": refusal.causes});
    }
    error
}
