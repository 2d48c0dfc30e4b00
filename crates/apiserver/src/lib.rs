//! The embedded Kubernetes API: durable store, watch, admission, authorization and discovery.
//!
//! Every request takes the same way: authenticate (`auth`), authorize (`auth`), read the body, decode strictly
//! (`registry`), admission (`admission`), store (`store`), answer in the form that the client asked for (`rest`).
//!
//! Where the stages meet, for whoever writes one of them:
//! * `auth::Authenticator::authenticate(&self, &http::HeaderMap, Option<&[u8]>) -> Result<UserInfo, ApiError>`: the
//!   slice is the DER of the verified client certificate.
//! * `auth::authorize(&Store, &UserInfo, &Attributes) -> Decision`.
//! * `auth::review(&Server state, &Kind, &UserInfo, Value) -> Result<Value, ApiError>`: the review kinds (POST only).
//! * `admission::admit(&Store, &mut AdmissionRequest<'_>) -> Result<(), ApiError>`.
//! * `subresource::handle(...)`: everything below an object that is not `status`.
//! * `builtin::spawn(Store, ...)`: in-process controllers that work on the store.

pub mod registry;
pub mod request;
pub mod status;
pub mod store;

pub use request::{AdmissionRequest, Attributes, Decision, Operation, UserInfo};
pub use status::{ApiError, Cause};
pub use store::Store;
