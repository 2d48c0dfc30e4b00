//! POST and PUT, and the update path that PATCH shares.

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::object;
use http::HeaderMap;
use serde_json::Value;

use super::{Call, Warnings, body, meta};
use crate::answer::{self, Answer};
use crate::registry::{self, Class};
use crate::request::{AdmissionRequest, Attributes, Operation};
use crate::status::{ApiError, Cause};
use crate::store::{Entry, Preconditions, StoreError};

/// How often a generated name that is taken is replaced by another one.
const NAME_ATTEMPTS: usize = 8;

impl Call {
    /// POST.
    pub(super) async fn create(
        &self,
        headers: &HeaderMap,
        bytes: &[u8],
        warnings: &mut Warnings,
    ) -> Result<Answer, ApiError> {
        let object = self.decode(body::read(headers, bytes)?, None, warnings)?;
        let entry = self.create_object(object, warnings).await?;
        Ok(answer::bytes(201, self.output.form.content_type(), self.output.object(&entry.object)))
    }

    /// Makes an object that is already in the stored form.
    pub(super) async fn create_object(
        &self,
        object: Value,
        warnings: &mut Warnings,
    ) -> Result<Entry, ApiError> {
        if !json::text(&object, "/metadata/resourceVersion").is_empty() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        self.check_definition(&object)?;
        let prefix = match object::name(&object) {
            "" => json::text(&object, "/metadata/generateName").to_owned(),
            _ => String::new(),
        };
        if prefix.is_empty() && object::name(&object).is_empty() {
            let cause = Cause {
                reason: "FieldValueRequired".into(),
                message: "Required value: name or generateName is required".into(),
                field: "metadata.name".into(),
            };
            return Err(ApiError::invalid(self.kind.group, self.kind.kind, "", &[cause]));
        }
        for attempt in 1.. {
            let mut object = object.clone();
            meta::prepare_create(self.kind, &self.namespace, &mut object)?;
            if !prefix.is_empty() {
                let name = meta::generate_name(&prefix)?;
                meta::of(&mut object)?.insert("name".to_owned(), name.into());
            }
            self.drop_status(&mut object);
            self.check_meta(&object, None)?;
            let name = object::name(&object).to_owned();
            self.admit(Operation::Create, &name, None, &mut object, warnings).await?;
            let place = (self.namespace.as_str(), name.as_str());
            self.app.quota.check(&self.requester, self.kind, place, &object, None)?;
            let key = self.kind.key(&self.namespace, &name);
            let result = if self.query.dry_run {
                match self.app.store.get(&key) {
                    Some(_) => Err(StoreError::AlreadyExists),
                    None => Ok(Entry { revision: 0, object: object.into() }),
                }
            } else {
                self.writer().create(key, object).await
            };
            match result {
                Err(StoreError::AlreadyExists) if !prefix.is_empty() && attempt < NAME_ATTEMPTS => {}
                result => return result.map_err(|error| self.store_error(error, &name)),
            }
        }
        Err(ApiError::internal("no free name was found"))
    }

    /// Makes an object on behalf of the server itself.
    pub(crate) async fn install(&self, object: Value) -> Result<(), ApiError> {
        let mut warnings = Warnings::new();
        let object = self.decode(object, None, &mut warnings)?;
        match self.create_object(object, &mut warnings).await {
            // Somebody was faster; theirs stays.
            Err(error) if error.reason == "AlreadyExists" => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Replaces an object on behalf of the server itself.
    pub(crate) async fn reinstall(&self, object: Value) -> Result<(), ApiError> {
        let mut warnings = Warnings::new();
        let object = self.decode(object, None, &mut warnings)?;
        self.update(&mut warnings, |old, _| Ok(at_revision_of(old, object.clone()))).await.map(|_| ())
    }

    /// Merges into an object on behalf of the server itself.
    pub(crate) async fn merge(&self, patch: &Value) -> Result<(), ApiError> {
        self.update(&mut Warnings::new(), |old, _| {
            let mut object = old.clone();
            json_patch::merge(&mut object, patch);
            Ok(object)
        })
        .await
        .map(|_| ())
    }

    /// Only the definitions of kinds that this server has can be stored: others would promise an API that is not there.
    fn check_definition(&self, object: &Value) -> Result<(), ApiError> {
        if self.kind.group != "apiextensions.k8s.io" {
            return Ok(());
        }
        let at = |pointer: &str| json::text(object, pointer);
        let (group, plural) = (at("/spec/group"), at("/spec/names/plural"));
        if registry::find(group, plural).is_some() {
            return Ok(());
        }
        let name = object::name(object);
        let message = format!(
            "customresourcedefinitions.apiextensions.k8s.io \"{name}\" is forbidden: not supported yet: this server \
             serves only the custom resources that are built into it"
        );
        Err(ApiError::forbidden(self.kind.group, self.kind.plural, name, message))
    }

    /// A new object has no status yet, except where clients make it with one.
    fn drop_status(&self, object: &mut Value) {
        let registers_itself = self.kind.group.is_empty() && self.kind.plural == "nodes";
        if self.kind.has_status()
            && !registers_itself
            && let Value::Object(fields) = object
        {
            fields.remove("status");
            if self.kind.group == "apiextensions.k8s.io" {
                let status = established(fields);
                fields.insert("status".to_owned(), status);
            }
        }
    }

    /// PUT.
    pub(super) async fn replace(
        &self,
        headers: &HeaderMap,
        bytes: &[u8],
        warnings: &mut Warnings,
    ) -> Result<Answer, ApiError> {
        let object = self.decode(body::read(headers, bytes)?, None, warnings)?;
        self.check_place(&object)?;
        if self.kind.create_on_update && self.subresource.is_empty() && self.stored(&self.name).is_err() {
            // The right to update was asked for; making something is another one.
            let create = Attributes {
                verb: "create".to_owned(),
                group: self.kind.group.to_owned(),
                version: self.version.clone(),
                resource: self.kind.plural.to_owned(),
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                ..Attributes::default()
            };
            self.app.auth.authorizer.check(&self.user, &create)?;
            let entry = self.create_object(object, warnings).await?;
            return Ok(answer::bytes(
                201,
                self.output.form.content_type(),
                self.output.object(&entry.object),
            ));
        }
        let entry = self.update(warnings, |_, _| Ok(object.clone())).await?;
        Ok(answer::bytes(200, self.output.form.content_type(), self.output.object(&entry.object)))
    }

    /// Name and namespace in the body are those of the path.
    fn check_place(&self, object: &Value) -> Result<(), ApiError> {
        let (name, namespace) = (object::name(object), object::namespace(object));
        if name != self.name {
            let url = &self.name;
            return Err(ApiError::bad_request(if name.is_empty() {
                "the name of the object must be set to be updated: metadata.name is missing".to_owned()
            } else {
                format!("the name of the object ({name}) does not match the name on the URL ({url})")
            }));
        }
        if self.kind.namespaced && !namespace.is_empty() && namespace != self.namespace {
            let url = &self.namespace;
            return Err(ApiError::bad_request(format!(
                "the namespace of the object ({namespace}) does not match the namespace on the URL ({url})"
            )));
        }
        Ok(())
    }

    /// Reads, lets `make` produce the new object in the stored form, and writes it, until nobody is in between.
    ///
    /// An object that lost its last finalizer while it was being deleted is removed.
    pub(super) async fn update(
        &self,
        warnings: &mut Warnings,
        mut make: impl FnMut(&Value, &mut Warnings) -> Result<Value, ApiError>,
    ) -> Result<Entry, ApiError> {
        loop {
            let current = self.stored(&self.name)?;
            let old = &*current.object;
            let mut fresh = Warnings::new();
            let mut object = make(old, &mut fresh)?;
            self.check_preconditions(old, &object)?;
            meta::prepare_update(self.kind, &self.subresource, old, &mut object)?;
            self.check_meta(&object, Some(old))?;
            self.admit(Operation::Update, &self.name, Some(old), &mut object, &mut fresh).await?;
            let place = (self.namespace.as_str(), self.name.as_str());
            self.app.quota.check(&self.requester, self.kind, place, &object, Some(old))?;
            if self.subresource.is_empty() {
                meta::bump_generation(self.kind, old, &mut object);
            }
            let result = self.write(&current, object).await;
            match result {
                Err(StoreError::Conflict { .. }) => {}
                result => {
                    warnings.append(&mut fresh);
                    return result.map_err(|error| self.store_error(error, &self.name));
                }
            }
        }
    }

    async fn write(&self, current: &Entry, object: Value) -> Result<Entry, StoreError> {
        if object == *current.object {
            return Ok(current.clone());
        }
        let gone = may_go(&object);
        if self.query.dry_run {
            return Ok(Entry { revision: current.revision, object: object.into() });
        }
        let key = self.kind.key(&self.namespace, &self.name);
        if gone {
            let preconditions = Preconditions { uid: None, revision: Some(current.revision) };
            self.writer().delete(key, preconditions).await?;
            return Ok(Entry { revision: current.revision, object: object.into() });
        }
        self.writer().update(key, object, current.revision).await
    }

    /// Optimistic concurrency: what the client says about the object that it read must still be so.
    fn check_preconditions(&self, old: &Value, object: &Value) -> Result<(), ApiError> {
        let (group, plural) = (self.kind.group, self.kind.plural);
        let uid = object::uid(object);
        let stored_uid = object::uid(old);
        if !uid.is_empty() && uid != stored_uid {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored_uid}");
            return Err(ApiError::conflict(group, plural, &self.name, &why));
        }
        match json::text(object, "/metadata/resourceVersion") {
            "" if self.kind.class == Class::Custom => {
                let cause = Cause {
                    reason: "FieldValueInvalid".into(),
                    message: "Invalid value: 0x0: must be specified for an update".into(),
                    field: "metadata.resourceVersion".into(),
                };
                Err(ApiError::invalid(group, self.kind.kind, &self.name, &[cause]))
            }
            "" => Ok(()),
            version if version == json::text(old, "/metadata/resourceVersion") => Ok(()),
            _ => Err(ApiError::modified(group, plural, &self.name)),
        }
    }

    /// The admission stage.
    pub(super) async fn admit(
        &self,
        operation: Operation,
        name: &str,
        old: Option<&Value>,
        object: &mut Value,
        warnings: &mut Warnings,
    ) -> Result<(), ApiError> {
        let mut request = AdmissionRequest {
            kind: self.kind,
            version: &self.version,
            operation,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name,
            user: &self.user,
            old,
            object,
            dry_run: self.query.dry_run,
            warnings,
        };
        let changed = crate::admission::admit(&self.app, &mut request).await?;
        // What webhooks wrote is held to the same rules as what the client wrote.
        if changed { self.check_meta(object, old) } else { Ok(()) }
    }

    pub(super) fn store_error(&self, error: StoreError, name: &str) -> ApiError {
        ApiError::from_store(error, self.kind.group, self.kind.plural, name)
    }
}

/// The new object as an update of exactly the old one.
fn at_revision_of(old: &Value, mut object: Value) -> Value {
    if let Ok(metadata) = meta::of(&mut object) {
        metadata.insert("resourceVersion".to_owned(), json::text(old, "/metadata/resourceVersion").into());
    }
    object
}

/// True when a deleted object waits for nothing any more.
fn may_go(object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    object::is_deleting(object)
        && grace == 0
        && object::no_finalizers(object)
        // A namespace has finalizers of its own.
        && json::list(object, "/spec/finalizers").len() == 0
}

/// Status of a definition whose kind is built in: it is served from the start.
fn established(definition: &serde_json::Map<String, Value>) -> Value {
    let spec = definition.get("spec").cloned().unwrap_or_default();
    let versions: Vec<&Value> = json::list(&spec, "versions")
        .filter(|version| version.get("storage").and_then(Value::as_bool) == Some(true))
        .filter_map(|version| version.get("name"))
        .collect();
    let condition = |kind: &str, reason: &str, message: &str| {
        serde_json::json!({"type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": crate::clock::stamp()})
    };
    serde_json::json!({
        "acceptedNames": spec.get("names").cloned().unwrap_or_default(),
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": versions,
    })
}
