//! GET of one object and of lists.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Call;
use super::output::ListMeta;
use super::pages;
use crate::answer::{self, Answer};
use crate::flow::Place;
use crate::status::ApiError;
use crate::store::{Entry, Key, Prefix};

/// What a continue token carries: where the next page starts, and the revision of the first page.
#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: u64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Call {
    /// One object.
    pub(super) fn get(&self) -> Result<Answer, ApiError> {
        self.check_revision()?;
        let entry = self.stored(&self.name)?;
        Ok(answer::bytes(200, self.output.form.content_type(), self.output.object(&entry.object)))
    }

    /// One stored object, or 404.
    pub(super) fn stored(&self, name: &str) -> Result<Entry, ApiError> {
        self.app
            .store
            .get(&self.kind.key(&self.namespace, name))
            .ok_or_else(|| ApiError::not_found(self.kind.group, self.kind.plural, name))
    }

    /// The keys that a list or watch is about.
    pub(super) fn prefix(&self) -> Prefix {
        if self.kind.namespaced && !self.namespace.is_empty() {
            self.kind.prefix_in(&self.namespace)
        } else {
            self.kind.prefix()
        }
    }

    /// True when the selectors want this stored object.
    pub(super) fn selects(&self, object: &serde_json::Value) -> bool {
        self.query.labels.matches(object) && self.query.fields.matches(object)
    }

    /// Reads always see the latest state, so a revision in the query can only be too new or not what is wanted.
    fn check_revision(&self) -> Result<(), ApiError> {
        let current = self.app.store.revision();
        match self.query.resource_version {
            Some(asked) if asked > current => {
                let error = crate::store::StoreError::FromTheFuture { asked, current };
                Err(ApiError::from_store(error, self.kind.group, self.kind.plural, ""))
            }
            Some(asked) if self.query.resource_version_match == "Exact" && asked != current => Err(
                ApiError::expired(format!("The resourceVersion for the provided list is too old: {asked}.")),
            ),
            _ => Ok(()),
        }
    }

    /// A part of what answers on their way may keep: all that the namespace has.
    pub(super) async fn keep(&self) -> Result<Place, ApiError> {
        let weight = self.app.quota.stored(&self.namespace);
        self.app.flow.snapshots.take(&self.requester, weight / 1024 + 1).await
    }

    /// A list, or a page of it.
    ///
    /// Later pages show the state of their own time but carry the revision of the first page: a watch from there
    /// repeats what the pages may have missed.
    pub(super) async fn list(self) -> Result<Answer, ApiError> {
        self.query.fields.check(self.kind.group, self.kind.plural)?;
        self.check_revision()?;
        // Before there is something to count.
        let kept = self.keep().await?;
        let snapshot = self.app.store.list(&self.prefix());
        let mut meta = ListMeta { revision: snapshot.revision, ..ListMeta::default() };
        let mut start = String::new();
        if let Some(token) = &self.query.continue_from {
            let token = read_token(token)?;
            meta.revision = token.rv;
            start = token.start;
        }
        let mut selected: Vec<(Key, Entry)> = snapshot
            .entries
            .into_iter()
            .filter(|(key, entry)| key.as_str() > start.as_str() && self.selects(&entry.object))
            .collect();
        if let Some(limit) = self.query.limit {
            let all = selected.len();
            if all > limit {
                selected.truncate(limit);
                let last = selected.last().map(|(key, _)| key.as_str()).unwrap_or_default();
                let token =
                    Continue { v: TOKEN_VERSION.to_owned(), rv: meta.revision, start: last.to_owned() };
                let token =
                    serde_json::to_vec(&token).map_err(|error| ApiError::internal(error.to_string()))?;
                meta.continue_from = Some(URL_SAFE_NO_PAD.encode(token));
                // Upstream cannot count what it has not filtered yet and says nothing then.
                if self.query.labels.is_empty() && self.query.fields.is_empty() {
                    meta.remaining = Some(all - limit);
                }
            }
        }
        let objects = selected.into_iter().map(|(_, entry)| entry.object).collect();
        pages::answer(self.app, (self.requester, kept), self.output, &meta, objects).await
    }
}

fn read_token(token: &str) -> Result<Continue, ApiError> {
    let bad = || ApiError::bad_request("continue key is not valid: list again without it");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
    let token: Continue = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    if token.v == TOKEN_VERSION { Ok(token) } else { Err(bad()) }
}
