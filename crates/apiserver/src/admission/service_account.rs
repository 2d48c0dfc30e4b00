//! The account that a pod runs as: its name, and the volume with its token.

use std::time::Duration;

use ferrovirt_kubernetes::json::{self, default, text};
use serde_json::{Value, json};

use super::forbidden;
use crate::request::AdmissionRequest;
use crate::status::ApiError;
use crate::store::{Entry, Key, Prefix, Store};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A namespace gets its default account right after it is made; a pod that is faster waits this long for it.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn admit(store: &Store, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(spec) = request.object.get_mut("spec") else { return Ok(()) };
    let name = assign(spec);
    let Some(account) = wait_for(store, request.namespace, &name).await else {
        let namespace = request.namespace;
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        );
        return Err(forbidden(request, &why));
    };
    if let Some(spec) = request.object.get_mut("spec") {
        let wanted = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
        if wanted(spec).or_else(|| wanted(&account.object)).unwrap_or(true) {
            mount_token(spec);
        }
        if let Some(secrets) = account.object.get("imagePullSecrets") {
            default(spec, "imagePullSecrets", secrets.clone());
        }
    }
    Ok(())
}

/// Names the account in both fields; `serviceAccount` is the old name, and both are shown.
fn assign(spec: &mut Value) -> String {
    let name = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", "") => "default".to_owned(),
        ("", old) => old.to_owned(),
        (name, _) => name.to_owned(),
    };
    if let Value::Object(fields) = spec {
        fields.insert("serviceAccountName".into(), name.as_str().into());
        fields.insert("serviceAccount".into(), name.as_str().into());
    }
    name
}

/// What this does where the account itself says nothing about tokens.
pub(super) fn complete(spec: &mut Value) {
    assign(spec);
    if spec.get("automountServiceAccountToken") != Some(&Value::Bool(false)) {
        mount_token(spec);
    }
}

pub(super) async fn wait_for(store: &Store, namespace: &str, name: &str) -> Option<Entry> {
    let key = Key::new("", "serviceaccounts", namespace, name);
    let revision = store.revision();
    if let Some(found) = store.get(&key) {
        return Some(found);
    }
    if name != "default" {
        return None;
    }
    let mut watcher = store.watch(Prefix::namespace("", "serviceaccounts", namespace), revision).ok()?;
    let appear = async {
        loop {
            watcher.next().await.ok()?;
            if let Some(found) = store.get(&key) {
                return Some(found);
            }
        }
    };
    tokio::time::timeout(TIMEOUT, appear).await.ok()?
}

fn mount_token(spec: &mut Value) {
    let needs = |container: &Value| {
        !json::list(container, "volumeMounts").any(|m| text(m, "mountPath") == MOUNT_PATH)
    };
    let lists = ["initContainers", "containers"];
    if !lists.iter().any(|list| json::list(spec, list).any(needs)) {
        return;
    }
    let existing =
        json::list(spec, "volumes").map(|v| text(v, "name")).find(|n| n.starts_with("kube-api-access-"));
    let volume = match existing {
        Some(name) => name.to_owned(),
        None => {
            // Five characters, as Kubernetes has it; unique within the pod is all that is needed.
            let random = crate::auth::unique().unwrap_or_default();
            format!("kube-api-access-{}", random.get(..5).unwrap_or("token"))
        }
    };
    if existing.is_none() {
        default(spec, "volumes", json!([]));
        if let Some(Value::Array(volumes)) = spec.get_mut("volumes") {
            volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]}}));
        }
    }
    for list in lists {
        for container in super::items_mut(spec, list) {
            if needs(container) {
                default(container, "volumeMounts", json!([]));
                if let Some(Value::Array(mounts)) = container.get_mut("volumeMounts") {
                    mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                }
            }
        }
    }
}
