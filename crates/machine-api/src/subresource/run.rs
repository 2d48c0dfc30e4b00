//! `start`, `stop` and `restart`: what is decided from the objects is written into them, unless somebody was faster.

use ferrovirt_kubernetes::status;
use ferrovirt_machines::subresource::{Asked, Call, Refused};
use ferrovirt_machines::{INSTANCES, MACHINES};
use ferrovirt_plan::decide::subresource::Patches;
use kube::api::{Patch, PatchParams};
use kube::{Client, Error};
use serde_json::Value;

use crate::objects;

/// The controller writes machines that begin or end several times in a second.
const TRIES: usize = 4;

/// Performs the call.
///
/// # Errors
/// What the state of machine and instance does not allow, and what the cluster does not let be written.
pub(super) async fn run(client: &Client, asked: &Asked<'_>, call: Call, body: &Value) -> Result<(), Refused> {
    // The instance comes first: a controller that stops it is to find the shorter grace period.
    let mut shortened = false;
    let tried = try_to_run(client, asked, call, body, &mut shortened).await;
    tried.map_err(|why| half_done(why, shortened))
}

/// Who is refused is to know what was done all the same.
fn half_done(why: Refused, shortened: bool) -> Refused {
    match shortened {
        true => {
            let message = format!(
                "{}; the instance has the shorter grace period already, and nothing was written into the machine",
                why.message
            );
            Refused { message, ..why }
        }
        false => why,
    }
}

async fn try_to_run(
    client: &Client,
    asked: &Asked<'_>,
    call: Call,
    body: &Value,
    shortened: &mut bool,
) -> Result<(), Refused> {
    for _ in 0..TRIES {
        let vm = object(client, asked, MACHINES).await?;
        let vm = vm.ok_or_else(|| Refused::missing(MACHINES, asked.name))?;
        let vmi = object(client, asked, INSTANCES).await?;
        let patches = call.patches(&vm, vmi.as_ref(), body.clone())?;
        if write(client, asked, patches, shortened).await? {
            return Ok(());
        }
    }
    let why = "unable to complete request: it changes all the time; try again";
    Err(Refused::conflict(MACHINES, asked.name, why))
}

/// An object of the name that the path says; nothing where there is none.
pub(super) async fn object(
    client: &Client,
    asked: &Asked<'_>,
    resource: &str,
) -> Result<Option<Value>, Refused> {
    let found = objects::api(client, resource, asked.namespace).get_opt(asked.name).await;
    let found = found.map_err(|why| failed(asked, resource, "cannot be read", &why))?;
    found.map(serde_json::to_value).transpose().map_err(|why| Refused::internal(why.to_string()))
}

/// Whether all was written; if not, the objects are not any more what was decided from.
async fn write(
    client: &Client,
    asked: &Asked<'_>,
    patches: Patches,
    shortened: &mut bool,
) -> Result<bool, Refused> {
    let Patches { vmi, vm, vm_status } = patches;
    for (resource, is_status, operations) in
        [(INSTANCES, false, vmi), (MACHINES, false, vm), (MACHINES, true, vm_status)]
    {
        if operations.is_empty() {
            continue;
        }
        let patch = serde_json::from_value(Value::Array(operations));
        let patch =
            patch.map_err(|why| Refused::internal(format!("the patch of {resource} is malformed: {why}")))?;
        let (api, params) = (objects::api(client, resource, asked.namespace), PatchParams::default());
        let patch = Patch::Json::<()>(patch);
        let written = match is_status {
            true => api.patch_status(asked.name, &params, &patch).await,
            false => api.patch(asked.name, &params, &patch).await,
        };
        match written {
            Ok(_) => *shortened |= resource == INSTANCES,
            Err(Error::Api(status)) if is_lost(&status) => return Ok(false),
            Err(why) => return Err(failed(asked, resource, "cannot be written", &why)),
        }
    }
    Ok(true)
}

/// Whether somebody has changed or removed the object since it was read.
fn is_lost(status: &kube::core::Status) -> bool {
    status.code == 404 || status::is_overtaken(status.code, &status.message)
}

fn failed(asked: &Asked<'_>, resource: &str, what: &str, why: &Error) -> Refused {
    let code = match why {
        // The requester may; that we may not is ours to mend.
        Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 401 | 403) => {
            status.code
        }
        _ => 500,
    };
    let message = format!("the {resource} {}/{} {what}: {why}", asked.namespace, asked.name);
    if code == 500 {
        tracing::warn!("{message}");
    }
    Refused { reason: status::reason(code), ..Refused::new(code, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_was_done_all_the_same() {
        let refused = || Refused::conflict(MACHINES, "m", "it changes all the time");
        assert_eq!(half_done(refused(), false).message, refused().message);
        let half = half_done(refused(), true);
        assert!(half.message.contains("the instance has the shorter grace period already"), "{half:?}");
        assert_eq!((half.code, half.reason), (409, refused().reason));
    }
}
