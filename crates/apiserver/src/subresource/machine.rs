//! Subresources of machines and their instances (group subresources.kubevirt.io).

use ferrovirt_machines::subresource::{Call, Refused};
use ferrovirt_machines::{GROUP, INSTANCES, MACHINES};
use ferrovirt_plan::decide::subresource::Patches;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use hyper::body::Incoming;
use serde_json::Value;

use super::{agent, empty};
use crate::answer::{self, Answer};
use crate::app::App;
use crate::request::Target;
use crate::status::ApiError;
use crate::store::{Change, Key, StoreError};

fn key(target: &Target, resource: &str) -> Key {
    Key::new(GROUP, resource, &target.attributes.namespace, &target.attributes.name)
}

fn get(app: &App, target: &Target, resource: &str) -> Result<std::sync::Arc<Value>, ApiError> {
    let missing = || Refused::missing(resource, &target.attributes.name).into();
    app.store.get(&key(target, resource)).map(|entry| entry.object).ok_or_else(missing)
}

/// `start`, `stop` and `restart`: the decision is pure, its patches are performed here.
pub(super) async fn run(app: &App, target: &Target, call: Call, body: Value) -> Result<Answer, ApiError> {
    let vm = get(app, target, MACHINES)?;
    let vmi = app.store.get(&key(target, INSTANCES)).map(|entry| entry.object);
    let Patches { vmi, vm, vm_status } = call.patches(&vm, vmi.as_deref(), body)?;
    patch(app, target, INSTANCES, vmi).await?;
    patch(app, target, MACHINES, vm).await?;
    patch(app, target, MACHINES, vm_status).await?;
    Ok(empty(202))
}

/// Performs a JSON patch on a stored object. A failed `test` means that something else happened first.
async fn patch(app: &App, target: &Target, resource: &str, operations: Vec<Value>) -> Result<(), ApiError> {
    if operations.is_empty() {
        return Ok(());
    }
    let name = &target.attributes.name;
    let operations: json_patch::Patch = serde_json::from_value(Value::Array(operations))
        .map_err(|why| ApiError::internal(format!("the patch of {resource} is malformed: {why}")))?;
    let result = app
        .writer(&target.requester)
        .guaranteed_update(&key(target, resource), |object| -> Result<Change, Fail> {
            let mut new = object.clone();
            json_patch::patch(&mut new, &operations).map_err(Fail::Patch)?;
            if new.get("spec") != object.get("spec") {
                let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
                if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
                    metadata.insert("generation".into(), generation.saturating_add(1).into());
                }
            }
            Ok(Change::Write(new))
        })
        .await;
    match result {
        Ok(_) => Ok(()),
        Err(Fail::Patch(why)) => {
            Err(ApiError::conflict(GROUP, resource, name, &format!("unable to complete request: {why}")))
        }
        Err(Fail::Store(error)) => Err(ApiError::from_store(error, GROUP, resource, name)),
    }
}

enum Fail {
    Patch(json_patch::PatchError),
    Store(StoreError),
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The machine with everything resolved that it refers to. There are no instance types yet, so that is itself.
pub(super) fn expand(app: &App, target: &Target) -> Result<Answer, ApiError> {
    Ok(answer::json(200, &*get(app, target, MACHINES)?))
}

/// `pause` and `unpause`: done by the agent, refused here when the state is wrong.
pub(super) async fn pause(app: &App, target: &Target, call: Call, body: Value) -> Result<Answer, ApiError> {
    if !call.switch(&*get(app, target, INSTANCES)?, body)? {
        return Ok(empty(200));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer =
        agent::send(&app.agent_socket, Method::PUT, &path(target, call), headers, "{}".into()).await?;
    Ok(agent::relay(answer, false))
}

fn path(target: &Target, call: Call) -> String {
    call.at_handler(&target.attributes.namespace, &target.attributes.name)
}

/// `console` and `vnc`: a WebSocket with the agent.
pub(super) async fn stream(
    app: &App,
    target: &Target,
    call: Call,
    request: Request<Incoming>,
    place: &std::sync::Arc<crate::flow::Place>,
) -> Result<Answer, ApiError> {
    call.stream(&*get(app, target, INSTANCES)?)?;
    let mut path = path(target, call);
    if let Some(query) = request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    agent::upgrade(&app.agent_socket, &path, request, std::sync::Arc::clone(place)).await
}
