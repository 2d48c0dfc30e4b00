//! Whether the requester may have what a machine implies, by the SecurityContextConstraints of the cluster.
//!
//! Where there are none, nothing is asked beyond the verb on machines: a machine's pod stands under the Pod Security level of
//! its namespace as every pod. Where there are, each right to use one is asked for by a SubjectAccessReview, so that every
//! authorizer of the cluster counts; only those that the decision looks at, all of a round at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use ferrovirt_machines::{self as machines, Asked, Request};
use ferrovirt_plan::config::{ClusterConfig, LauncherRights, World};
use ferrovirt_plan::scc::rights::{self, Decision, Problem, Question};
use ferrovirt_scc::webhook::User;
use ferrovirt_scc::{
    Authorizer, Constraints, NamespaceValues, SecurityContextConstraints, Subject, exempt_namespace,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;

const GROUP: &str = "security.openshift.io";
const RESOURCE: &str = "securitycontextconstraints";
/// Questions to the API server at the same time, for one machine.
const TOGETHER: usize = 8;
/// After so many rounds every right of user, controller and account has been asked for.
const ROUNDS: usize = 4;

/// The decision; nothing where nobody asks for one: by the configuration, without SCCs, or in a namespace that is exempt.
pub(crate) async fn decide(
    client: &Client,
    request: &Request<'_>,
    user: &User,
    asked: &Asked,
    configuration: Option<&Value>,
) -> Result<Option<Decision>, Problem> {
    let config = machines::configuration(configuration).map_err(|why| Problem::NoMachine(vec![why]))?;
    let config = ClusterConfig { world: World::Cluster, ..config };
    if config.rights() == LauncherRights::Controller {
        return Ok(None);
    }
    let Some(constraints) = constraints(client).await? else { return Ok(None) };
    let namespace = Api::<Namespace>::all(client.clone()).get_opt(request.namespace).await;
    let namespace = namespace.map_err(|why| unknown("the namespace", &why))?;
    let namespace =
        namespace.map(serde_json::to_value).transpose().map_err(|why| unknown("the namespace", &why))?;
    if request.namespace != "default" && exempt_namespace(request.namespace, namespace.as_ref()) {
        return Ok(None);
    }
    let reviews = Reviews::default();
    for _ in 0..ROUNDS {
        let answer = {
            let question = Question {
                constraints: &constraints,
                authorizer: &reviews,
                namespace: request.namespace,
                values: namespace.as_ref().map(NamespaceValues::of),
                config: &config,
                asker: asked.asker(request.user, request.groups),
            };
            rights::decide(&question, &asked.instance).map(Some)
        };
        let open = reviews.open.take();
        if open.is_empty() {
            return answer;
        }
        let answers: Vec<_> = stream::iter(open)
            .map(|right| ask(client, request.namespace, user, right))
            .buffer_unordered(TOGETHER)
            .try_collect()
            .await?;
        reviews.known.borrow_mut().extend(answers);
    }
    Err(Problem::NotReady(
        "the rights to use security context constraints change all the time: try again".to_owned(),
    ))
}

fn unknown(what: &str, why: &dyn std::fmt::Display) -> Problem {
    Problem::NotReady(format!("{what} cannot be looked at: {why}"))
}

/// Every SCC of the cluster; nothing where it does not have the kind.
async fn constraints(client: &Client) -> Result<Option<Constraints>, Problem> {
    let kind = GroupVersionKind::gvk(GROUP, "v1", "SecurityContextConstraints");
    let resource = ApiResource::from_gvk_with_plural(&kind, RESOURCE);
    let all =
        match Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await {
            Ok(all) => all,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(why) => return Err(unknown(RESOURCE, &why)),
        };
    let read = |object: DynamicObject| -> Option<SecurityContextConstraints> {
        let name = object.metadata.name.clone();
        match serde_json::to_value(object).and_then(serde_json::from_value) {
            Ok(scc) => Some(scc),
            Err(error) => {
                tracing::error!(?name, %error, "this SCC cannot be read and is left out");
                None
            }
        }
    };
    Ok(Some(Constraints::compile(all.items.into_iter().filter_map(read))))
}

/// A right to use an SCC: user, groups, its name.
type Right = (String, Vec<String>, String);

/// What the cluster has said about rights, and what it has not been asked yet.
#[derive(Default)]
struct Reviews {
    known: RefCell<BTreeMap<Right, bool>>,
    open: RefCell<BTreeSet<Right>>,
}

impl Authorizer for Reviews {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, _: &str) -> bool {
        // Nobody in particular: what was recorded is held against what constraints admit, no matter who may use them.
        if subject.user.is_empty() {
            return false;
        }
        let right = (subject.user.to_owned(), subject.groups.to_vec(), scc.to_owned());
        let known = self.known.borrow().get(&right).copied();
        // The decision is made once more when it is known.
        if known.is_none() {
            self.open.borrow_mut().insert(right);
        }
        known.unwrap_or_default()
    }
}

async fn ask(
    client: &Client,
    namespace: &str,
    requester: &User,
    right: Right,
) -> Result<(Right, bool), Problem> {
    let review = review(namespace, requester, &right);
    let answer =
        Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let answer = answer.map_err(|why| unknown("the right to use a security context constraint", &why))?;
    let allowed = answer.status.is_some_and(|status| status.allowed && status.denied != Some(true));
    Ok((right, allowed))
}

/// The question whether somebody has a right. What is known of the requester alone says nothing about an account that the
/// machine names.
fn review(namespace: &str, requester: &User, (user, groups, scc): &Right) -> SubjectAccessReview {
    let known = Some(requester).filter(|known| known.username == *user && known.groups == *groups);
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.clone()),
            groups: Some(groups.clone()),
            uid: known.map(|known| known.uid.clone()).filter(|uid| !uid.is_empty()),
            extra: known.map(|known| known.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                group: Some(GROUP.to_owned()),
                resource: Some(RESOURCE.to_owned()),
                verb: Some("use".to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(scc.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_authentication_has_said_of_the_requester_is_asked_with_and_of_nobody_else() {
        let extra = BTreeMap::from([("scopes.example.com".to_owned(), vec!["user:info".to_owned()])]);
        let requester = User {
            username: "alice".to_owned(),
            groups: vec!["a".to_owned()],
            uid: "7".to_owned(),
            extra: extra.clone(),
        };
        let right =
            |user: &str, group: &str| (user.to_owned(), vec![group.to_owned()], "restricted".to_owned());
        let asked = review("team", &requester, &right("alice", "a")).spec;
        assert_eq!((asked.uid.as_deref(), asked.extra), (Some("7"), Some(extra)));
        let attributes = asked.resource_attributes.unwrap();
        assert_eq!(
            (attributes.namespace.as_deref(), attributes.name.as_deref()),
            (Some("team"), Some("restricted"))
        );
        for other in [right("system:serviceaccount:team:builder", "a"), right("alice", "b")] {
            let asked = review("team", &requester, &other).spec;
            assert_eq!((asked.uid, asked.extra), (None, None), "{other:?}");
        }
        let nothing = User { username: "bob".to_owned(), groups: vec!["a".to_owned()], ..User::default() };
        let asked = review("team", &nothing, &right("bob", "a")).spec;
        assert_eq!((asked.uid, asked.extra), (None, None));
    }
}
