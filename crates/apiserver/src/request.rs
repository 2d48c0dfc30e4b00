//! The vocabulary that the stages of a request share: who asks, and for what.

use std::collections::BTreeMap;

pub use ferrovirt_kubernetes::rbac::{Attributes, Decision};
use serde_json::Value;

use crate::flow::Requester;
use crate::registry::Kind;

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name, for example `system:serviceaccount:kubevirt:kubevirt-controller`.
    pub name: String,
    /// UID, empty when the credential has none.
    pub uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` included.
    pub groups: Vec<String>,
    /// What else the credential says.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The verb of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST of a new object.
    Create,
    /// PUT or PATCH.
    Update,
    /// DELETE; `object` is null.
    Delete,
}

/// One request at the admission stage. Admission may change `object`.
pub struct AdmissionRequest<'a> {
    /// Which kind of object.
    pub kind: &'static Kind,
    /// The version in the request's path (objects are always handed over in the stored version).
    pub version: &'a str,
    /// Create, update or delete.
    pub operation: Operation,
    /// `status` or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Name; generated names are already there.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The stored object, for update and delete.
    pub old: Option<&'a Value>,
    /// The new object; null for delete.
    pub object: &'a mut Value,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// For the `Warning:` headers of the answer.
    pub warnings: &'a mut Vec<String>,
}

/// An authorized request for a subresource: who, and for what.
pub struct Target {
    /// Kind of the parent object. For subresources.kubevirt.io the kind in kubevirt.io.
    pub kind: Option<&'static Kind>,
    /// The request as it was authorized.
    pub attributes: Attributes,
    /// Path segments after the subresource, for example the port and protocol of a port-forward.
    pub rest: Vec<String>,
    /// Who asks.
    pub user: UserInfo,
    /// Who it counts for.
    pub requester: Requester,
}
