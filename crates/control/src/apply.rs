//! Performing actions: one request each, no choices left.

use std::fmt::Debug;

use ferrovirt_api::{
    kubevirt::{VirtualMachine, VirtualMachineInstance},
    text::plain,
};
use ferrovirt_kubernetes::status::is_overtaken;
use ferrovirt_plan::decide::{self, Action, CREATED_BY_LABEL, Dropped, Event, Refused};
use ferrovirt_plan::user_namespace::UserNamespaces;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::reconcile::Controller;
use crate::{Key, Name};

/// Most characters of a refusal in a condition.
const LONGEST: usize = 4096;

/// The object that a round is about.
pub(crate) struct About<'a> {
    pub(crate) reference: ObjectReference,
    pub(crate) name: &'a Name,
}

/// Why a round ended before its last action.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Somebody else wrote first, or the cache lags: decide again.
    #[error("somebody else wrote first")]
    Overtaken,
    /// The API server refused to create something.
    #[error("{}", .0.message)]
    Refused(Refused),
    /// The API server refused something else.
    #[error("{message}")]
    Forbidden {
        /// Reason of the event that tells it.
        reason: &'static str,
        message: String,
    },
    /// The API server could not be asked, or failed.
    #[error("the API server does not answer as it should: {0}")]
    Unavailable(#[source] Box<kube::Error>),
    /// The decision cannot be written as a request: a bug.
    #[error("a patch of ours is not valid, please report this: {0}")]
    Patch(#[source] serde_json::Error),
}

impl Failure {
    /// What to tell the people who watch the object.
    pub(crate) fn event(&self) -> Option<Event> {
        match self {
            Self::Forbidden { reason, message } => {
                Some(Event { warning: true, reason, message: message.clone() })
            }
            _ => None,
        }
    }
}

impl Controller {
    /// Performs actions in order up to the first that fails.
    pub(crate) async fn apply_all(&self, about: &About<'_>, actions: Vec<Action>) -> Result<(), Failure> {
        for action in actions {
            self.apply(about, action).await?;
        }
        Ok(())
    }

    async fn apply(&self, about: &About<'_>, action: Action) -> Result<(), Failure> {
        let Name { namespace, name } = about.name;
        let vms: Api<VirtualMachine> = Api::namespaced(self.client.clone(), namespace);
        let vmis: Api<VirtualMachineInstance> = Api::namespaced(self.client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match action {
            Action::CreateVmi(vmi) => match vmis.create(&PostParams::default(), &vmi).await {
                Ok(_) => Ok(()),
                // The cache does not show it yet; the watch will.
                Err(kube::Error::Api(status)) if status.code == 409 => Err(Failure::Overtaken),
                Err(error) => Err(create_failure(error)),
            },
            Action::DeleteVmi { uid } => {
                gone_is_fine(vmis.delete(name, &deletion(uid, None)).await.map(drop), "FailedDelete")
            }
            Action::CreatePod(pod) => self.create_pod(about, &pods, &pod).await,
            Action::DeletePod { name, uid, grace_seconds } => {
                let grace = grace_seconds.and_then(|seconds| u32::try_from(seconds).ok());
                gone_is_fine(pods.delete(&name, &deletion(uid, grace)).await.map(drop), "FailedDelete")
            }
            Action::ConfirmPodGone { name } => match pods.get_opt(&name).await {
                Ok(None) => Ok(()),
                Ok(Some(_)) => Err(Failure::Overtaken),
                Err(error) => Err(failure(error, "FailedUpdate")),
            },
            Action::PatchVm(ops) => self.patch(&vms, name, &ops).await,
            Action::PatchVmStatus(ops) => self.patch_status(&vms, name, &ops).await,
            Action::PatchVmi(ops) => self.patch(&vmis, name, &ops).await,
            Action::Event(event) => {
                self.recorder.tell(about.reference.clone(), event);
                Ok(())
            }
        }
    }

    /// Makes a launcher pod, whole or not at all. Of a pod with image volumes, containers of images or a user namespace the API
    /// server is asked first what it would make, until it has kept them once: one that was made without its disks would begin to
    /// run, and its end would count as the machine's. Where it takes them out of it, the pod is decided again, with containers
    /// that give out what is in the images, or as one with users of the node.
    async fn create_pod(&self, about: &About<'_>, pods: &Api<Pod>, pod: &Pod) -> Result<(), Failure> {
        let spec = pod.spec.as_ref();
        let served = spec.is_some_and(|spec| spec.init_containers.is_some());
        let images = spec
            .into_iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
            .any(|volume| volume.image.is_some());
        let own_users = spec.is_some_and(|spec| spec.host_users == Some(false));
        let unknown = |wanted: bool, kept: Option<bool>| wanted && kept != Some(true);
        if served || unknown(images, self.kept.images()) || unknown(own_users, self.kept.users()) {
            let dry_run = PostParams { dry_run: true, ..PostParams::default() };
            match pods.create(&dry_run, pod).await {
                Ok(made) => match decide::dropped(pod, &made) {
                    None => {
                        if self.kept.has(images, own_users) {
                            self.pending.send(Key::Cluster);
                        }
                    }
                    Some(dropped) => return Err(self.dropped(about, dropped)),
                },
                Err(kube::Error::Api(status)) if status.code == 409 => return self.existing(pods, pod).await,
                Err(kube::Error::Api(status)) if decide::misses_images(pod, causes(&status)) => {
                    return Err(self.dropped(about, Dropped::Images));
                }
                Err(error) => return Err(create_failure(error)),
            }
        }
        match pods.create(&PostParams::default(), pod).await {
            Ok(made) => match decide::dropped(pod, &made) {
                None => Ok(()),
                Some(dropped) => {
                    // Another API server than the one that was asked, or one that was started with other features.
                    let params = deletion(made.uid().unwrap_or_default(), None);
                    let deleted = pods.delete(&made.name_any(), &params).await.map(drop);
                    let failure = self.dropped(about, dropped);
                    gone_is_fine(deleted, "FailedDelete")?;
                    Err(failure)
                }
            },
            Err(kube::Error::Api(status)) if status.code == 409 => self.existing(pods, pod).await,
            Err(error) => Err(create_failure(error)),
        }
    }

    /// What follows from a pod without some of its volumes, or its user namespace: it holds for this instance, and the next pod
    /// is asked about before it is made.
    fn dropped(&self, about: &About<'_>, dropped: Dropped) -> Failure {
        let uid = about.reference.uid.as_deref().unwrap_or_default();
        let news = self.kept.lacks(uid, &dropped, Timestamp::now());
        match dropped {
            Dropped::Images => {
                self.tell_lack(news, "NoImageVolumes", decide::NO_IMAGE_VOLUMES);
                Failure::Overtaken
            }
            Dropped::UserNamespace => {
                self.tell_lack(news, "NoUserNamespaces", decide::NO_USER_NAMESPACE);
                match self.config().map(|config| config.user_namespaces) {
                    Ok(UserNamespaces::Always) => {
                        let message = decide::NO_USER_NAMESPACE.to_owned();
                        Failure::Refused(Refused { code: 422, message })
                    }
                    _ => Failure::Overtaken,
                }
            }
            Dropped::Others(message) => Failure::Refused(Refused { code: 422, message }),
        }
    }

    /// Says that the cluster lacks something, where it was not the last answer: in an event of the KubeVirt object and, by a round
    /// about it, in its conditions.
    fn tell_lack(&self, news: bool, reason: &'static str, message: &str) {
        if !news {
            return;
        }
        tracing::warn!("{message}");
        if let Some(cluster) = self.kubevirt() {
            let event = Event { warning: true, reason, message: message.to_owned() };
            self.recorder.tell(cluster.object_ref(&()), event);
        }
        self.pending.send(Key::Cluster);
    }

    /// A pod of the name exists: ours, which the cache does not show yet, or somebody else's in our way.
    async fn existing(&self, pods: &Api<Pod>, wanted: &Pod) -> Result<(), Failure> {
        let name = wanted.name_any();
        match pods.get_opt(&name).await {
            Ok(Some(pod)) if pod.labels().get(CREATED_BY_LABEL) != wanted.labels().get(CREATED_BY_LABEL) => {
                let message =
                    format!("a pod named {name} exists that does not belong to this machine; delete it");
                Err(Failure::Refused(Refused { code: 409, message }))
            }
            Ok(_) => Err(Failure::Overtaken),
            Err(error) => Err(failure(error, "FailedCreate")),
        }
    }

    /// Deletes a machine; one that is gone, or another one of its name, is left alone.
    pub(crate) async fn end<K>(&self, name: &Name, uid: Option<String>) -> Result<(), Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &name.namespace);
        let params = deletion(uid.unwrap_or_default(), None);
        gone_is_fine(api.delete(&name.name, &params).await.map(drop), "FailedDelete")
    }

    pub(crate) async fn patch<K>(&self, api: &Api<K>, name: &str, ops: &[Value]) -> Result<(), Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let patch: Patch<()> = Patch::Json(json_patch(ops)?);
        written(api.patch(name, &PatchParams::default(), &patch).await)
    }

    pub(crate) async fn patch_status<K>(&self, api: &Api<K>, name: &str, ops: &[Value]) -> Result<(), Failure>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let patch: Patch<()> = Patch::Json(json_patch(ops)?);
        written(api.patch_status(name, &PatchParams::default(), &patch).await)
    }
}

/// Reasons and fields of a refusal.
fn causes(status: &Status) -> impl Iterator<Item = (&str, &str)> {
    let all = status.details.iter().flat_map(|details| &details.causes);
    all.map(|cause| (cause.reason.as_str(), cause.field.as_str()))
}

pub(crate) fn json_patch(ops: &[Value]) -> Result<json_patch::Patch, Failure> {
    serde_json::from_value(Value::Array(ops.to_vec())).map_err(Failure::Patch)
}

fn deletion(uid: String, grace_period_seconds: Option<u32>) -> DeleteParams {
    DeleteParams {
        grace_period_seconds,
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// An object that no longer exists ends the round: what comes after the write, such as a pod, would be for nobody.
fn written<K>(answer: kube::Result<K>) -> Result<(), Failure> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Err(Failure::Overtaken),
        answer => answer.map(drop).map_err(|error| failure(error, "FailedUpdate")),
    }
}

/// What no longer exists needs no deletion.
fn gone_is_fine(answer: kube::Result<()>, reason: &'static str) -> Result<(), Failure> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        answer => answer.map_err(|error| failure(error, reason)),
    }
}

/// What the server said, which may be the words of a webhook or of an object: it goes into conditions and events.
fn message_of(status: &Status) -> String {
    plain(&status.message, LONGEST)
}

fn failure(error: kube::Error, reason: &'static str) -> Failure {
    match error {
        kube::Error::Api(status) if is_overtaken(status.code, &status.message) => Failure::Overtaken,
        kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            Failure::Forbidden { reason, message: message_of(&status) }
        }
        error => Failure::Unavailable(Box::new(error)),
    }
}

fn create_failure(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            Failure::Refused(Refused { code: status.code, message: message_of(&status) })
        }
        error => Failure::Unavailable(Box::new(error)),
    }
}
