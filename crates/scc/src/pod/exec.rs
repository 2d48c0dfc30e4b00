//! Entering a running pod: only somebody who could have made it may do so.

use serde_json::Value;

use crate::admit::access::Authorizer;
use crate::admit::decision::{Operation, Request};
use crate::constraint::compiled::Constraints;

/// Whether the requester may `exec` into or `attach` to a stored pod: the pod is judged as if the requester made it
/// now. `request` carries the caller, the namespace and the pod's name; its operation and sub-resource do not matter.
///
/// # Errors
/// The message of the 403 answer.
pub fn may_enter(
    constraints: &Constraints,
    request: &Request<'_>,
    authorizer: &impl Authorizer,
    subresource: &str,
    pod: &Value,
) -> Result<(), String> {
    let request = Request { operation: Operation::Create, subresource: "", ..*request };
    let entered = constraints.mutate(&request, authorizer, &mut pod.clone());
    entered.map(|_| ()).map_err(|denied| {
        format!(
            "{subresource} operation is not allowed because the pod's security context exceeds your permissions: \
             {denied}"
        )
    })
}
