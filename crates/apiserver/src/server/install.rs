//! Manifests that the server brings with it.
//!
//! What is missing is made. What this server installed itself, and a later version has otherwise, is replaced. What
//! somebody changed stays changed until then, and what somebody else made is left alone. The configuration (the
//! KubeVirt object) belongs to the administrator once it is there.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::object;
use futures::future::try_join_all;
use http::HeaderMap;
use serde_json::{Value, json};

use super::{Server, ServerError};
use crate::registry;
use crate::request::Requester;
use crate::request::UserInfo;
use crate::rest::Call;
use crate::rest::path::ResourcePath;
use crate::rest::query::Query;
use crate::status::ApiError;

/// Says which manifest an object was made from.
const INSTALLED: &str = "ferrovirt.io/installed";
/// Group, namespace and name of the configuration.
const KUBEVIRT: (&str, &str, &str) = ("kubevirt.io", "kubevirt", "kubevirt");

impl Server {
    /// Makes sure that these objects exist, namespaces first.
    ///
    /// # Errors
    /// [`ServerError::Install`] with the first refusal.
    pub async fn ensure(&self, manifests: &[Value]) -> Result<(), ServerError> {
        let is_namespace = |manifest: &&Value| manifest.get("kind") == Some(&json!("Namespace"));
        // All at once: they share commits.
        try_join_all(manifests.iter().filter(is_namespace).map(|manifest| self.ensure_one(manifest))).await?;
        try_join_all(manifests.iter().filter(|m| !is_namespace(m)).map(|manifest| self.ensure_one(manifest)))
            .await?;
        Ok(())
    }

    async fn ensure_one(&self, manifest: &Value) -> Result<(), ServerError> {
        let text = |pointer: &str| json::text(manifest, pointer);
        let what = format!("{} {}", text("/kind"), text("/metadata/name"));
        self.put(manifest).await.map_err(|source| ServerError::Install { what, source })
    }

    async fn put(&self, manifest: &Value) -> Result<(), ApiError> {
        let text = |pointer: &str| json::text(manifest, pointer);
        let call = self.call(
            text("/apiVersion"),
            text("/kind"),
            text("/metadata/namespace"),
            text("/metadata/name"),
        )?;
        let digest = ring::digest::digest(&ring::digest::SHA256, manifest.to_string().as_bytes());
        let mark = URL_SAFE_NO_PAD.encode(digest.as_ref());
        let mut wanted = manifest.clone();
        annotate(&mut wanted, &mark);
        match self.app.store.get(&call.kind.key(&call.namespace, &call.name)) {
            None => call.install(wanted).await,
            Some(entry) => {
                let found = object::annotation(&entry.object, INSTALLED);
                let stale = found.is_some_and(|found| found != mark);
                if !stale || call.kind.kind == "KubeVirt" { Ok(()) } else { call.reinstall(wanted).await }
            }
        }
    }

    /// Tells the installation whether guests can run on KVM, which depends on the machine and not on the administrator.
    ///
    /// # Errors
    /// [`ServerError::Install`] when the configuration cannot be written.
    pub async fn set_emulation(&self, emulate: bool) -> Result<(), ServerError> {
        let (group, namespace, name) = KUBEVIRT;
        let change = async {
            let call = self.call(&format!("{group}/v1"), "KubeVirt", namespace, name)?;
            let patch =
                json!({"spec": {"configuration": {"developerConfiguration": {"useEmulation": emulate}}}});
            call.merge(&patch).await
        };
        change.await.map_err(|source| ServerError::Install { what: format!("KubeVirt {name}"), source })
    }

    /// A request of the server itself.
    fn call(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<Call, ApiError> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let row = registry::find_kind(group, kind)
            .filter(|row| row.versions.contains(&version))
            .ok_or_else(|| ApiError::bad_request(format!("no such kind: {kind} of {api_version}")))?;
        let path = ResourcePath {
            kind: Some(row),
            group: group.to_owned(),
            version: version.to_owned(),
            resource: row.plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: String::new(),
            rest: Vec::new(),
        };
        let user = UserInfo::server();
        let requester = Requester::of(&user);
        Call::new(Arc::clone(&self.app), (user, requester), row, path, Query::default(), &HeaderMap::new())
    }
}

fn annotate(object: &mut Value, mark: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Value::Object(annotations) = annotations {
        annotations.insert(INSTALLED.to_owned(), mark.into());
    }
}
