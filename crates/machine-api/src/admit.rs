//! One review: what `ferrovirt_machines` decides about it, with what it needs of the cluster.
//!
//! The mutating pass completes an object and writes down what was decided about rights; the validating one refuses, and sees
//! to it that nobody has written anything else there in between.

use ferrovirt_kubernetes::difference::{Form, difference};
use ferrovirt_kubernetes::{object, time};
use ferrovirt_machines::{self as machines, GROUP, MACHINES, Operation, Refusal, Subject, Surroundings};
use ferrovirt_plan::config::{KUBEVIRT, NAMESPACE};
use ferrovirt_scc::webhook::{Answer, Review};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;

use crate::{objects, rights};

/// Which of the two webhooks of a kind asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Mutating,
    Validating,
}

/// Answers a review; requests about anything but our kinds may pass.
pub(crate) async fn answer(client: &Client, pass: Pass, review: &Review) -> Answer {
    let operation = match review.operation.as_str() {
        "CREATE" => Operation::Create,
        "UPDATE" => Operation::Update,
        _ => return Answer::allowed(),
    };
    if review.resource.group != GROUP {
        return Answer::allowed();
    }
    let cluster = match Cluster::look(client, review).await {
        Ok(cluster) => cluster,
        Err(why) => return failed(&why),
    };
    let mut object = review.object.clone();
    let result = match pass {
        Pass::Mutating => cluster.complete(operation, &mut object).await,
        Pass::Validating => cluster.check(operation, &mut object).await,
    };
    match (result, pass) {
        (Err(Failure::Refused(refusal)), _) => {
            Answer::refused(refusal.code, refusal.reason, refusal.message.clone(), refusal.details())
        }
        (Err(Failure::Failed(why)), _) => failed(&why),
        (Ok(()), Pass::Validating) => Answer::allowed(),
        (Ok(()), Pass::Mutating) => {
            let mut answer = Answer::allowed();
            answer.patch = difference(&review.object, &object, Form::Exact);
            answer
        }
    }
}

fn failed(why: &str) -> Answer {
    tracing::warn!("{why}");
    Answer::refused(500, "InternalError", why.to_owned(), Value::Null)
}

/// Why a request does not pass.
enum Failure {
    Refused(Refusal),
    /// Something could not be found out, in words.
    Failed(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What one review is decided from.
struct Cluster<'a> {
    client: &'a Client,
    review: &'a Review,
    configuration: Option<Value>,
}

impl<'a> Cluster<'a> {
    async fn look(client: &'a Client, review: &'a Review) -> Result<Self, String> {
        let configuration = stored(client, machines::CONFIGURATIONS, NAMESPACE, KUBEVIRT).await?;
        Ok(Self { client, review, configuration })
    }

    fn request<'b>(&'b self, operation: Operation, object: &'b mut Value) -> machines::Request<'b> {
        let review = self.review;
        machines::Request {
            operation,
            resource: &review.resource.resource,
            subresource: &review.sub_resource,
            namespace: &review.namespace,
            name: &review.name,
            user: &review.user_info.username,
            groups: &review.user_info.groups,
            old: Some(&review.old_object).filter(|old| !old.is_null()),
            object,
        }
    }

    /// The mutating pass. What is refused about rights is left to the validating one, which is asked about the whole object.
    async fn complete(&self, operation: Operation, object: &mut Value) -> Result<(), Failure> {
        let mut request = self.request(operation, object);
        match self.decide(&mut request).await {
            Err(Failure::Refused(refusal)) if refusal.code == 403 => Ok(()),
            result => result,
        }
    }

    async fn check(&self, operation: Operation, object: &mut Value) -> Result<(), Failure> {
        let defaults = machines::defaults(self.configuration.as_ref());
        let request = self.request(operation, object);
        machines::uninstalling(&request, self.configuration.as_ref())?;
        let subject = request.subject()?;
        machines::check(&subject, &request, &defaults, || self.configuration.is_some())?;
        if matches!(subject, Subject::Configuration) {
            return Ok(());
        }
        let mut again = object.clone();
        self.decide(&mut self.request(operation, &mut again)).await?;
        if machines::same_decision(object, &again) {
            return Ok(());
        }
        // Somebody's rights, or another webhook.
        let why = "what was decided about its rights has changed meanwhile: try again";
        let request = self.request(operation, object);
        Err(Failure::Refused(Refusal::forbidden(request.resource, request.name, why)))
    }

    /// Completes the object, and writes down what the cluster says about rights.
    async fn decide(&self, request: &mut machines::Request<'_>) -> Result<(), Failure> {
        let defaults = machines::defaults(self.configuration.as_ref());
        let around = Surroundings {
            defaults: &defaults,
            unique: &|| unique().unwrap_or_default(),
            now: &|| time::text(Timestamp::now().as_second()),
        };
        let subject = machines::complete(request, &around)?;
        let owner = match machines::owner(request) {
            Some((name, uid)) => stored(self.client, MACHINES, request.namespace, &name)
                .await
                .map_err(Failure::Failed)?
                .filter(|owner| object::uid(owner) == uid),
            None => None,
        };
        let Some(asked) = machines::question(&subject, request, owner.as_ref(), &defaults) else {
            return Ok(());
        };
        let answer =
            rights::decide(self.client, request, &self.review.user_info, &asked, self.configuration.as_ref())
                .await;
        Ok(machines::settle(request, &asked, answer)?)
    }
}

/// An object of ours as the cluster has it; nothing where there is none.
async fn stored(client: &Client, plural: &str, namespace: &str, name: &str) -> Result<Option<Value>, String> {
    let found = objects::api(client, plural, namespace).get_opt(name).await;
    let found = found.map_err(|why| format!("{plural} {namespace}/{name} cannot be read: {why}"))?;
    found.map(serde_json::to_value).transpose().map_err(|why| why.to_string())
}

/// A random UUID (version 4); nothing when the system's randomness fails.
fn unique() -> Option<String> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0u8; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).ok()?;
    Some(ferrovirt_kubernetes::names::uuid(bytes))
}
