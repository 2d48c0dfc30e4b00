//! The embedded Kubernetes API: durable store, watch, admission, authorization and discovery.
//!
//! Every request takes the same way: authenticate (`auth`), authorize (`auth`), read the body, decode strictly
//! (`registry`), admission (`admission`), store (`store`), answer in the form that the client asked for (`rest`).
//!
//! Where the stages meet, for anyone who writes one of them:
//! * `app::App` holds what every stage can reach; `answer::{Body, Answer, json, refusal}` make answers.
//! * `Auth::authenticate(&self, &HeaderMap, Option<&[u8]>) -> Result<UserInfo, ApiError>`: the slice is the DER of
//!   the verified client certificate. `Auth::authorize(&self, &UserInfo, &Attributes) -> Decision`.
//! * `Auth::review(&self, &Kind, &UserInfo, namespace: &str, Value) -> Result<Value, ApiError>`: the review kinds.
//! * `admission::admit(&App, &mut AdmissionRequest<'_>) -> Result<(), ApiError>`.
//! * `subresource::handle(&Arc<App>, Target, Request<Incoming>) -> Result<Answer, ApiError>` (async): everything below
//!   an object that is not `status`, and all of subresources.kubevirt.io but its discovery.
//! * `builtin::spawn(Arc<App>)`: in-process controllers that work on the store.

pub mod admission;
pub mod answer;
pub mod app;
pub mod audit;
pub mod auth;
pub mod bootstrap;
pub mod builtin;
pub mod clock;
mod discovery;
pub mod flow;
pub mod fresh;
pub mod hooks;
pub mod metrics;
mod openapi;
pub mod quota;
pub mod registry;
pub mod request;
pub mod rest;
pub mod server;
pub mod status;
pub mod store;
pub mod subresource;

pub use request::{AdmissionRequest, Attributes, Decision, Operation, UserInfo};
pub use status::{ApiError, Cause};
pub use store::Store;
