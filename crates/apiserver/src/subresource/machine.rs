//! Subresources of machines and their instances (group subresources.kubevirt.io).

use ferrovirt_api::kubevirt::{VirtualMachine, VirtualMachineInstance};
use ferrovirt_kubernetes::condition;
use ferrovirt_kubernetes::json::{self, text};
use ferrovirt_plan::subresource::{self as plan, Patches, Refusal};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{agent, empty};
use crate::app::{self, Answer, App};
use crate::request::Target;
use crate::status::ApiError;
use crate::store::{Change, Key, StoreError};

const GROUP: &str = "kubevirt.io";
const MACHINES: &str = "virtualmachines";
const INSTANCES: &str = "virtualmachineinstances";

fn key(target: &Target, resource: &str) -> Key {
    Key::new(GROUP, resource, &target.attributes.namespace, &target.attributes.name)
}

fn get(app: &App, target: &Target, resource: &str) -> Result<std::sync::Arc<Value>, ApiError> {
    let missing = || ApiError::not_found(GROUP, resource, &target.attributes.name);
    app.store.get(&key(target, resource)).map(|entry| entry.object).ok_or_else(missing)
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<T, ApiError> {
    T::deserialize(object).map_err(|why| ApiError::internal(format!("a stored object cannot be read: {why}")))
}

fn options<T: DeserializeOwned>(body: Value) -> Result<T, ApiError> {
    serde_json::from_value(body).map_err(|why| {
        ApiError::bad_request(format!("Can not unmarshal Request body to struct, error: {why}"))
    })
}

/// `start`, `stop` and `restart`: the decision is pure, its patches are performed here.
pub(super) async fn run(app: &App, target: &Target, body: Value) -> Result<Answer, ApiError> {
    let vm: VirtualMachine = typed(&*get(app, target, MACHINES)?)?;
    let vmi: Option<VirtualMachineInstance> = match app.store.get(&key(target, INSTANCES)) {
        Some(entry) => Some(typed(&entry.object)?),
        None => None,
    };
    let patches = match target.attributes.subresource.as_str() {
        "start" => plan::start(&vm, vmi.as_ref(), &options(body)?),
        "stop" => plan::stop(&vm, vmi.as_ref(), &options(body)?),
        _ => plan::restart(&vm, vmi.as_ref(), &options(body)?),
    };
    let Patches { vmi, vm, vm_status } = patches.map_err(|Refusal { code, reason, message }| {
        let message = match code {
            409 => format!(
                "Operation cannot be fulfilled on {MACHINES}.{GROUP} {:?}: {message}",
                target.attributes.name
            ),
            _ => message,
        };
        ApiError::new(code, reason, message)
    })?;
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
    Ok(app::json(200, &*get(app, target, MACHINES)?))
}

fn conflict(target: &Target, why: &str) -> ApiError {
    ApiError::conflict(GROUP, INSTANCES, &target.attributes.name, why)
}

/// `pause` and `unpause`: done by the agent, refused here when the state is wrong.
pub(super) async fn pause(app: &App, target: &Target, body: Value) -> Result<Answer, ApiError> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Options {
        dry_run: Vec<String>,
    }
    let wanted: Options = options(body)?;
    let vmi = get(app, target, INSTANCES)?;
    if text(&vmi, "/status/phase") != "Running" {
        return Err(conflict(target, "VMI is not running"));
    }
    let paused = condition::is_true(&vmi, "Paused");
    let action = target.attributes.subresource.as_str();
    match (action, paused) {
        ("pause", true) => return Err(conflict(target, "VMI is already paused")),
        ("unpause", false) => return Err(conflict(target, "VMI is not paused")),
        _ => {}
    }
    let probe = json::at(&vmi, "/spec/livenessProbe");
    if action == "pause" && probe.is_some_and(|probe| probe.get("guestAgentPing").is_none()) {
        let message = "Pausing VMIs with LivenessProbe is currently not supported";
        return Err(ApiError::forbidden(GROUP, INSTANCES, &target.attributes.name, message));
    }
    if !wanted.dry_run.is_empty() {
        return Ok(empty(200));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = agent::send(&app.agent_socket, Method::PUT, &path(target), headers, "{}".into()).await?;
    Ok(agent::relay(answer, false))
}

fn path(target: &Target) -> String {
    let asked = &target.attributes;
    format!("/v1/namespaces/{}/virtualmachineinstances/{}/{}", asked.namespace, asked.name, asked.subresource)
}

/// `console` and `vnc`: a WebSocket with the agent.
pub(super) async fn stream(
    app: &App,
    target: &Target,
    request: Request<Incoming>,
    place: &std::sync::Arc<crate::flow::Place>,
) -> Result<Answer, ApiError> {
    let vmi = get(app, target, INSTANCES)?;
    let console = target.attributes.subresource == "console";
    let (device, message) = if console {
        ("autoattachSerialConsole", "No serial consoles are present.")
    } else {
        ("autoattachGraphicsDevice", "No graphics devices are present.")
    };
    if vmi.pointer(&format!("/spec/domain/devices/{device}")) == Some(&Value::Bool(false)) {
        return Err(ApiError::bad_request(message));
    }
    if text(&vmi, "/status/phase") != "Running" {
        return Err(ApiError::bad_request("VMI is not running"));
    }
    let mut path = path(target);
    if let Some(query) = request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    agent::upgrade(&app.agent_socket, &path, request, std::sync::Arc::clone(place)).await
}
