//! The generic REST layer: what every kind does in the same way.

pub(crate) mod body;
mod delete;
mod meta;
pub(crate) mod negotiate;
mod output;
mod pages;
mod patch;
pub(crate) mod path;
mod protobuf;
pub(crate) mod query;
mod read;
pub mod selector;
mod size;
mod strategic;
mod watch;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::admission;
use crate::answer::Answer;
use crate::app::App;
use crate::registry::{Class, Kind};
use crate::request::Requester;
use crate::request::UserInfo;
use crate::status::ApiError;
use crate::store::Store;
pub(crate) use meta::settle;
use output::Output;
pub(crate) use patch::apply_json as apply_patch;
use path::ResourcePath;
use query::Query;

/// One request on its way: all that the verbs need to know.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) user: UserInfo,
    /// Who it counts for.
    pub(crate) requester: Requester,
    pub(crate) kind: &'static Kind,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    pub(crate) query: Query,
    pub(crate) output: Output,
}

/// Text for the `Warning:` headers of an answer.
pub(crate) type Warnings = Vec<String>;

impl Call {
    /// Takes what authentication and routing found.
    pub(crate) fn new(
        app: Arc<App>,
        (user, requester): (UserInfo, Requester),
        kind: &'static Kind,
        path: ResourcePath,
        query: Query,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        let form = negotiate::form(headers)?;
        let output = Output {
            kind,
            version: path.version.clone(),
            form,
            include_object: query.include_object.clone(),
        };
        let ResourcePath { version, namespace, name, subresource, .. } = path;
        Ok(Self { app, user, requester, kind, version, namespace, name, subresource, query, output })
    }

    /// Does what the method asks for.
    pub(crate) async fn run(
        self,
        method: &Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer, ApiError> {
        let mut warnings = Warnings::new();
        let result = self.dispatch(method, headers, body, &mut warnings).await;
        let mut answer = result?;
        for warning in warnings {
            // 299: a warning that has no other code. Header values hold no line breaks.
            let text: String = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                answer.headers_mut().append(header::WARNING, value);
            }
        }
        Ok(answer)
    }

    async fn dispatch(
        self,
        method: &Method,
        headers: &HeaderMap,
        body: Bytes,
        warnings: &mut Warnings,
    ) -> Result<Answer, ApiError> {
        if !matches!(self.subresource.as_str(), "" | "status" | "finalize") {
            return Err(ApiError::no_such_path());
        }
        // A namespaced kind without a namespace can only be listed and watched.
        let collection = self.name.is_empty();
        let everywhere = self.kind.namespaced && self.namespace.is_empty();
        if !self.kind.namespaced && !self.namespace.is_empty() {
            return Err(ApiError::no_such_path());
        }
        if self.kind.class == Class::Review {
            let asks = *method == Method::POST && collection && !everywhere;
            return if asks { self.review(headers, &body).await } else { Err(self.no_method()) };
        }
        match *method {
            Method::GET | Method::HEAD if collection && self.query.watch => self.watch().await,
            Method::GET | Method::HEAD if collection => self.list().await,
            _ if everywhere => Err(self.no_method()),
            Method::GET | Method::HEAD => self.get(),
            Method::POST if collection => self.create(headers, &body, warnings).await,
            Method::PUT if !collection => self.replace(headers, &body, warnings).await,
            Method::PATCH if !collection => self.patch(headers, &body, warnings).await,
            Method::DELETE if !self.subresource.is_empty() => Err(self.no_method()),
            Method::DELETE if collection => self.delete_collection(headers, &body, warnings).await,
            Method::DELETE => self.delete(headers, &body, warnings).await,
            _ => Err(self.no_method()),
        }
    }

    /// The store, where what a user writes counts as that.
    pub(crate) fn writer(&self) -> Store {
        self.app.writer(&self.requester)
    }

    fn no_method(&self) -> ApiError {
        ApiError::method_not_allowed()
    }

    async fn review(&self, headers: &HeaderMap, bytes: &[u8]) -> Result<Answer, ApiError> {
        let object = body::read(headers, bytes)?;
        self.check_type(&object)?;
        let decoded = (self.kind.decode)(&object).map_err(|error| self.wrong_type(&error))?;
        let mut answer = match self.kind.group {
            "security.openshift.io" => {
                let (user, namespace) = (&self.user, &self.namespace);
                admission::review(&self.app, self.kind, user, namespace, decoded.object).await?
            }
            _ => self.app.auth.review(self.kind, &self.user, &self.namespace, decoded.object)?,
        };
        // A question has no metadata worth telling, but clients decode the field.
        if let Some(fields) = answer.as_object_mut() {
            fields.entry("metadata").or_insert_with(|| serde_json::json!({"creationTimestamp": null}));
        }
        Ok(crate::answer::json(201, &answer))
    }
}
