//! Subresources of pods.

use bytes::Bytes;
use ferrovirt_kubernetes::json::{self, text};
use ferrovirt_kubernetes::status;
use http::{HeaderMap, Method, Request};
use hyper::body::Incoming;
use serde_json::Value;

use super::agent;
use crate::answer::{self, Answer};
use crate::app::App;
use crate::builtin::{delete, scheduler};
use crate::request::Target;
use crate::status::ApiError;
use crate::store::{Change, Entry, Key, StoreError};

fn find(app: &App, target: &Target) -> Result<(Key, Entry), ApiError> {
    let name = &target.attributes.name;
    let key = Key::new("", "pods", &target.attributes.namespace, name);
    let entry = app.store.get(&key).ok_or_else(|| ApiError::not_found("", "pods", name))?;
    Ok((key, entry))
}

/// The log of one container, from the agent of the pod's node.
pub(super) async fn log(app: &App, target: &Target, request: &Request<Incoming>) -> Result<Answer, ApiError> {
    let (key, entry) = find(app, target)?;
    let pod = &entry.object;
    let query = request.uri().query().unwrap_or_default();
    let mut asked = String::new();
    let mut rest = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("container", name)) => asked = name.to_owned(),
            _ => rest.push(part),
        }
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let names = |list: &str| {
        let containers = json::list(pod, &format!("/spec/{list}"));
        containers.map(|container| text(container, "name").to_owned()).collect::<Vec<_>>()
    };
    let container = if asked.is_empty() {
        let mut main = names("containers");
        match (main.pop(), main.is_empty()) {
            (Some(only), true) => only,
            (last, _) => {
                main.extend(last);
                return Err(ApiError::bad_request(format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    key.name(),
                    main.join(" ")
                )));
            }
        }
    } else {
        asked
    };
    if !lists.iter().any(|list| names(list).contains(&container)) {
        return Err(ApiError::bad_request(format!(
            "container {container} is not valid for pod {}",
            key.name()
        )));
    }
    if text(pod, "/spec/nodeName").is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", key.name())));
    }
    let mut path = format!("/containerLogs/{}/{}/{container}", key.namespace(), key.name());
    if !rest.is_empty() {
        path.push('?');
        path.push_str(&rest.join("&"));
    }
    let answer = agent::send(&app.agent_socket, Method::GET, &path, HeaderMap::new(), Bytes::new()).await?;
    let follow = rest.iter().any(|part| matches!(part.split_once('='), Some(("follow", "true" | "1"))));
    Ok(agent::relay(answer, follow))
}

/// Gives a pod to a node, as a scheduler does.
pub(super) async fn binding(
    app: &App,
    target: &Target,
    body: Value,
    dry_run: bool,
) -> Result<Answer, ApiError> {
    let (key, _) = find(app, target)?;
    let node = text(&body, "/target/name");
    if node.is_empty() {
        return Err(ApiError::bad_request("target.name: Required value: name of the node"));
    }
    let conflict = |why: String| ApiError::conflict("", "pods/binding", key.name(), &why);
    let bound = |pod: &Value| -> Result<Change, Fail> {
        if pod.pointer("/metadata/deletionTimestamp").is_some() {
            return Err(conflict(format!(
                "pod {} is being deleted, cannot be assigned to a host",
                key.name()
            ))
            .into());
        }
        let current = text(pod, "/spec/nodeName");
        if !current.is_empty() {
            let why = format!("pod {} is already assigned to node {current:?}", key.name());
            return Err(conflict(why).into());
        }
        Ok(if dry_run { Change::Keep } else { Change::Write(scheduler::bound(pod, node)) })
    };
    app.writer(&target.requester)
        .guaranteed_update(&key, bound)
        .await
        .map_err(|fail| fail.answer(key.name()))?;
    Ok(created())
}

/// The answer to what was made but is no object to show.
fn created() -> Answer {
    let mut status = status::success();
    json::set(&mut status, &["code"], 201.into());
    answer::json(201, &status)
}

/// A refusal or the store's error, inside an update.
enum Fail {
    Refused(ApiError),
    Store(StoreError),
}

impl From<ApiError> for Fail {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fail {
    fn answer(self, name: &str) -> ApiError {
        match self {
            Self::Refused(error) => error,
            Self::Store(error) => ApiError::from_store(error, "", "pods", name),
        }
    }
}

/// Deletes a pod politely. There are no disruption budgets to ask here.
pub(super) async fn eviction(
    app: &App,
    target: &Target,
    body: Value,
    dry_run: bool,
) -> Result<Answer, ApiError> {
    let (key, entry) = find(app, target)?;
    let wanted = text(&body, "/deleteOptions/preconditions/uid");
    let found = text(&entry.object, "/metadata/uid");
    if !wanted.is_empty() && wanted != found {
        let why =
            format!("the UID in the precondition ({wanted}) does not match the UID in record ({found})");
        return Err(ApiError::conflict("", "pods", key.name(), &why));
    }
    // `kubectl drain --dry-run=server` says it in the body.
    if !dry_run && json::list(&body, "/deleteOptions/dryRun").len() == 0 {
        delete::request(&app.writer(&target.requester), &key)
            .await
            .map_err(|e| ApiError::from_store(e, "", "pods", key.name()))?;
    }
    Ok(created())
}
