//! DELETE: at once, after a grace period, or when finalizers let go.

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::object;
use ferrovirt_kubernetes::status;
use ferrovirt_kubernetes::time;
use http::HeaderMap;
use serde_json::{Value, json};

use super::output::ListMeta;
use super::{Call, Warnings, body, meta};
use crate::answer::{self, Answer};
use crate::clock;
use crate::request::Operation;
use crate::status::{ApiError, Cause};
use crate::store::{Entry, Preconditions, StoreError};

/// Finalizer that lets dependents go first; the garbage collector takes it off.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that cuts dependents loose first; the garbage collector takes it off.
const ORPHAN: &str = "orphan";
/// Kubernetes' default for pods that do not say.
const POD_GRACE: i64 = 30;

/// `metav1.DeleteOptions`, from the body and the query.
#[derive(Clone, Debug, Default)]
struct Options {
    grace: Option<i64>,
    uid: Option<String>,
    revision: Option<u64>,
    policy: Option<Policy>,
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// How a delete ended.
struct Deleted {
    object: std::sync::Arc<Value>,
    /// Removed from the store, not only marked.
    gone: bool,
}

impl Call {
    /// DELETE of one object.
    pub(super) async fn delete(
        mut self,
        headers: &HeaderMap,
        bytes: &[u8],
        warnings: &mut Warnings,
    ) -> Result<Answer, ApiError> {
        let options = self.options(headers, bytes)?;
        self.query.dry_run = options.dry_run;
        let deleted = self.delete_one(&self.name, &options, warnings).await?;
        if deleted.gone && !self.answers_with_object() {
            let uid = object::uid(&deleted.object);
            let mut details = json!({"name": self.name, "kind": self.kind.plural, "uid": uid});
            if !self.kind.group.is_empty()
                && let Value::Object(fields) = &mut details
            {
                fields.insert("group".to_owned(), self.kind.group.into());
            }
            let mut status = status::success();
            json::set(&mut status, &["details"], details);
            return Ok(answer::json(200, &status));
        }
        Ok(answer::bytes(200, self.output.form.content_type(), self.output.object(&deleted.object)))
    }

    /// Upstream answers with the object instead of a status for these kinds.
    fn answers_with_object(&self) -> bool {
        let with = ["pods", "persistentvolumes", "persistentvolumeclaims", "serviceaccounts", "services"];
        self.kind.group.is_empty() && with.contains(&self.kind.plural)
    }

    /// DELETE of everything that the selectors want.
    pub(super) async fn delete_collection(
        mut self,
        headers: &HeaderMap,
        bytes: &[u8],
        warnings: &mut Warnings,
    ) -> Result<Answer, ApiError> {
        self.query.fields.check(self.kind.group, self.kind.plural)?;
        let options = self.options(headers, bytes)?;
        self.query.dry_run = options.dry_run;
        let snapshot = self.app.store.list(&self.prefix());
        let mut deleted = Vec::new();
        for (key, entry) in snapshot.entries {
            if !self.selects(&entry.object) {
                continue;
            }
            match self.delete_one(key.name(), &options, warnings).await {
                Ok(one) => deleted.push(one.object),
                // Somebody else was faster.
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let meta = ListMeta { revision: self.app.store.revision(), ..ListMeta::default() };
        let bytes = self.output.list(&meta, deleted.iter().map(AsRef::as_ref));
        Ok(answer::bytes(200, self.output.form.content_type(), bytes))
    }

    /// Options in the body win over those in the query.
    fn options(&self, headers: &HeaderMap, bytes: &[u8]) -> Result<Options, ApiError> {
        let body = if bytes.is_empty() { Value::Null } else { body::read(headers, bytes)? };
        let text = |pointer: &str| json::string(&body, pointer).map(str::to_owned);
        let kind = text("/kind").unwrap_or_default();
        if !matches!(kind.as_str(), "" | "DeleteOptions") {
            return Err(ApiError::bad_request(format!(
                "the body of a DELETE is a DeleteOptions, not a {kind}"
            )));
        }
        let orphan = body
            .get("orphanDependents")
            .and_then(Value::as_bool)
            .or(self.query.orphan_dependents)
            .map(|orphan| if orphan { Policy::Orphan } else { Policy::Background });
        let policy = match text("/propagationPolicy")
            .or_else(|| self.query.propagation_policy.clone())
            .as_deref()
        {
            None | Some("") => orphan,
            Some("Background") => Some(Policy::Background),
            Some("Foreground") => Some(Policy::Foreground),
            Some("Orphan") => Some(Policy::Orphan),
            Some(other) => {
                let cause = Cause {
                    reason: "FieldValueNotSupported".into(),
                    message: format!(
                        "Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
                    ),
                    field: "propagationPolicy".into(),
                };
                return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[cause]));
            }
        };
        let revision = match text("/preconditions/resourceVersion") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                ApiError::bad_request(format!("preconditions.resourceVersion must be a number: {text}"))
            })?),
        };
        let dry_run = json::list(&body, "dryRun").len() > 0;
        Ok(Options {
            grace: body.get("gracePeriodSeconds").and_then(Value::as_i64).or(self.query.grace_period_seconds),
            uid: text("/preconditions/uid"),
            revision,
            policy,
            dry_run: dry_run || self.query.dry_run,
        })
    }

    async fn delete_one(
        &self,
        name: &str,
        options: &Options,
        warnings: &mut Warnings,
    ) -> Result<Deleted, ApiError> {
        let key = self.kind.key(&self.namespace, name);
        loop {
            let current = self.stored(name)?;
            self.check_delete(name, &current, options)?;
            self.admit(Operation::Delete, name, Some(&current.object), &mut Value::Null, warnings).await?;
            let marked = self.mark(&current.object, options)?;
            if options.dry_run {
                let gone = marked.is_none();
                return Ok(Deleted { object: marked.map_or(current.object, Into::into), gone });
            }
            let result = match marked {
                None => {
                    let preconditions = Preconditions { uid: None, revision: Some(current.revision) };
                    let result = self.writer().delete(key.clone(), preconditions).await;
                    result.map(|entry| Deleted { object: entry.object, gone: true })
                }
                // Asked again while it is on its way: nothing new.
                Some(object) if object == *current.object => {
                    return Ok(Deleted { object: current.object, gone: false });
                }
                Some(mut object) => {
                    meta::bump_deletion(self.kind, &mut object);
                    let result = self.writer().update(key.clone(), object, current.revision).await;
                    result.map(|entry| Deleted { object: entry.object, gone: false })
                }
            };
            match result {
                Err(StoreError::Conflict { .. }) => {}
                result => return result.map_err(|error| self.store_error(error, name)),
            }
        }
    }

    fn check_delete(&self, name: &str, current: &Entry, options: &Options) -> Result<(), ApiError> {
        let found = object::uid(&current.object);
        if let Some(expected) = options.uid.as_deref().filter(|expected| *expected != found) {
            let error = StoreError::UidMismatch { expected: expected.to_owned(), found: found.to_owned() };
            return Err(self.store_error(error, name));
        }
        match options.revision {
            Some(expected) if expected != current.revision => {
                let why = format!(
                    "Precondition failed: ResourceVersion in precondition: {expected}, ResourceVersion in object \
                     meta: {}",
                    current.revision
                );
                Err(ApiError::conflict(self.kind.group, self.kind.plural, name, &why))
            }
            _ => Ok(()),
        }
    }

    /// The object as it is while it waits to be removed, or nothing when it can go at once.
    fn mark(&self, old: &Value, options: &Options) -> Result<Option<Value>, ApiError> {
        let mut object = old.clone();
        let is = |group: &str, plural: &str| self.kind.group == group && self.kind.plural == plural;
        let grace = if is("", "pods") { pod_grace(old, options.grace) } else { 0 };

        let before: Vec<String> = object::finalizers(old).map(str::to_owned).collect();
        let mut finalizers = before.clone();
        if let Some(policy) = options.policy {
            finalizers.retain(|finalizer| finalizer != FOREGROUND && finalizer != ORPHAN);
            match policy {
                Policy::Background => {}
                Policy::Foreground => finalizers.push(FOREGROUND.to_owned()),
                Policy::Orphan => finalizers.push(ORPHAN.to_owned()),
            }
        }
        let held =
            !finalizers.is_empty() || (is("", "namespaces") && json::list(old, "/spec/finalizers").len() > 0);
        let metadata = meta::of(&mut object)?;
        if before != finalizers {
            metadata.insert("finalizers".to_owned(), json!(finalizers));
        }
        let already = object::is_deleting(old);
        let pending = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
        let grace = match (already, pending) {
            // A second delete can only shorten the wait.
            (true, Some(pending)) if grace >= pending => pending,
            _ => grace,
        };
        if grace == 0 && !held {
            return Ok(None);
        }
        if !already || pending != Some(grace) {
            let now = clock::now();
            let asked = match (already, pending, time::parse(json::text(old, "/metadata/deletionTimestamp")))
            {
                (true, Some(pending), Some(end)) => end.saturating_sub(pending),
                _ => now,
            };
            let end = asked.saturating_add(grace).max(if already { now } else { asked });
            metadata.insert("deletionTimestamp".to_owned(), time::text(end).into());
            metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
        }
        if is("", "namespaces")
            && let Some(Value::Object(status)) = object.get_mut("status")
        {
            status.insert("phase".to_owned(), "Terminating".into());
        }
        Ok(Some(object))
    }
}

/// How long a pod may take to end. One that never ran or has ended needs no time.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let text = |pointer: &str| json::text(pod, pointer);
    if text("/spec/nodeName").is_empty() || matches!(text("/status/phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    match asked.or(own).unwrap_or(POD_GRACE) {
        // Negative means "as soon as possible" upstream too.
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_running_pods_get_time() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 7}, "status": {"phase": phase}});
        assert_eq!(pod_grace(&pod("n", "Running"), None), 7);
        assert_eq!(pod_grace(&pod("n", "Running"), Some(0)), 0);
        assert_eq!(pod_grace(&pod("n", "Running"), Some(-1)), 1);
        assert_eq!(pod_grace(&pod("", "Pending"), None), 0);
        assert_eq!(pod_grace(&pod("n", "Succeeded"), Some(30)), 0);
        assert_eq!(pod_grace(&json!({"spec": {"nodeName": "n"}}), None), 30);
    }
}
