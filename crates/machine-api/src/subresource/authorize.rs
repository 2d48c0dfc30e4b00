//! Whether the requester may: the cluster's API server knows, for each call again.

use ferrovirt_machines::subresource::{Asked, Call, GROUP, Refused, Requester};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

/// Returns where the cluster allows it, and nowhere else.
///
/// # Errors
/// 403 in Kubernetes' words; 500 where the question was not answered.
pub(super) async fn authorize(
    client: &Client,
    requester: &Requester,
    asked: &Asked<'_>,
    call: Call,
) -> Result<(), Refused> {
    let owned = |text: &str| Some(text.to_owned());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: owned(&requester.name),
            uid: owned(&requester.uid).filter(|uid| !uid.is_empty()),
            groups: Some(requester.groups.clone()),
            extra: Some(requester.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                group: owned(GROUP),
                version: owned(asked.version),
                resource: owned(asked.resource),
                subresource: owned(asked.subresource),
                namespace: owned(asked.namespace),
                name: owned(asked.name),
                verb: owned(call.verb()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer =
        Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|why| {
        Refused::internal(format!("whether {:?} may do this cannot be found out: {why}", requester.name))
    })?;
    if answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)) {
        return Ok(());
    }
    let whole = format!("{}/{}", asked.resource, asked.subresource);
    let named = if asked.name.is_empty() { String::new() } else { format!(" {:?}", asked.name) };
    let message = format!(
        "{}.{GROUP}{named} is forbidden: User {:?} cannot {} resource {:?} in API group {GROUP:?} in the namespace {:?}",
        asked.resource,
        requester.name,
        call.verb(),
        whole.trim_end_matches('/'),
        asked.namespace
    );
    let details = json!({"name": asked.name, "group": GROUP, "kind": asked.resource});
    Err(Refused { details, ..Refused::new(403, message) })
}
