//! One round for one key: a snapshot of the caches, a decision, its actions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferrovirt_api::kubevirt::{
    KubeVirt, KubeVirtCondition, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceSpec,
};
use ferrovirt_plan::config::{ClusterConfig, KUBEVIRT, NAMESPACE, World};
use ferrovirt_plan::decide::uninstall::{self, Uninstall};
use ferrovirt_plan::decide::{
    self, CREATED_BY_LABEL, Claim, ClaimState, DOMAIN_ANNOTATION, Decision, NodeLack, Parts, Refused,
    VmSnapshot, VmiSnapshot,
};
use ferrovirt_plan::render;
use ferrovirt_plan::selinux::label::Mcs;
use ferrovirt_plan::user_namespace::{self, UserNamespaces};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};

use crate::apply::{About, Failure};
use crate::caches::{Caches, name_of, reference};
use crate::kept::Kept;
use crate::pending::Pending;
use crate::queue::{End, jitter};
use crate::recorder::Recorder;
use crate::{Key, Name};

/// Machines that one round deletes.
const AT_ONCE: usize = 100;
/// Machines that a condition names.
const SHOWN: usize = 5;
/// Characters of the reason why one cannot be deleted.
const REASON: usize = 300;
/// When machines that end are looked at again, if nothing is heard of them.
const LOOK: Duration = Duration::from_secs(5);

/// What the rounds share.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) defaults: ClusterConfig,
    pub(crate) kept: Kept,
    pub(crate) pending: Pending<Key>,
}

impl Controller {
    /// Looks at the whole state of one object and does what follows from it.
    pub(crate) async fn round(&self, key: &Key) -> End {
        match key {
            Key::Vm(name) => self.vm(name).await,
            Key::Vmi(name) => self.vmi(name).await,
            Key::Cluster => self.cluster().await,
        }
    }

    async fn vm(&self, name: &Name) -> End {
        let vm = self.caches.vms.get(&reference::<VirtualMachine>(name));
        let vmi = self.caches.vmis.get(&reference::<VirtualMachineInstance>(name));
        match (vm, vmi) {
            (Some(vm), vmi) => {
                let claims = self.claims(name, &vm.spec.template.spec);
                let snapshot = VmSnapshot { vm: &vm, vmi: vmi.as_deref(), claims: &claims };
                let now = Timestamp::now();
                let decision = decide::vm(&snapshot, now, jitter());
                let about = About { reference: vm.object_ref(&()), name };
                self.perform(&about, decision, |refused| decide::vm_refused(&vm, refused, now)).await
            }
            (None, Some(vmi)) if is_owned_by_machine(&vmi) => {
                let about = About { reference: vmi.object_ref(&()), name };
                self.perform(&about, decide::vm_gone(&vmi), |_| Vec::new()).await
            }
            _ => End::Done(None),
        }
    }

    async fn vmi(&self, name: &Name) -> End {
        let Some(vmi) = self.caches.vmis.get(&reference::<VirtualMachineInstance>(name)) else {
            return End::Done(None);
        };
        let pods = self.caches.pods.state_filter(|pod| {
            pod.metadata.namespace.as_deref() == Some(name.namespace.as_str())
                && (pod.annotations().get(DOMAIN_ANNOTATION) == Some(&name.name)
                    || pod.labels().get(CREATED_BY_LABEL) == vmi.metadata.uid.as_ref())
        });
        let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let claims = self.claims(name, &vmi.spec);
        let config = self.config_for(&vmi);
        let nodes = self.caches.nodes.state();
        let labelled =
            config.as_ref().is_ok_and(|config| config.labels_pods(nodes.iter().map(|node| &**node)));
        let taken = labelled.then(|| self.pairs_of_others(&vmi));
        let launcher = |vmi: &VirtualMachineInstance| match &config {
            Ok(config) => decide::launcher_pod(vmi, config, &claims, labelled),
            Err(problem) => Err(vec![problem.clone()]),
        };
        let about = About { reference: vmi.object_ref(&()), name };
        let look = match (decide::unrecorded(&vmi, &pods), &config) {
            (Some(pod), Ok(config)) => self.look(&vmi, pod, config, &claims, labelled).await,
            _ => Ok(None),
        };
        let now = Timestamp::now();
        let decision = {
            let (taken, launcher) = (taken.as_ref(), &launcher);
            let look = look.as_ref().ok().and_then(Option::as_ref);
            let lack = |name: &str| {
                let node = self.caches.nodes.get(&ObjectRef::new(name))?;
                user_namespace::lack(&node)
            };
            let auto = config.as_ref().is_ok_and(|config| config.user_namespaces == UserNamespaces::Auto);
            let lack: Option<&NodeLack<'_>> = if auto { Some(&lack) } else { None };
            let claims = &claims;
            decide::vmi(&VmiSnapshot { vmi: &vmi, pods: &pods, claims, taken, launcher, lack, look }, now)
        };
        let end = self.perform(&about, decision, |refused| decide::vmi_refused(&vmi, refused, now)).await;
        match (end, look) {
            // The machine does not wait for its record; it is tried again.
            (End::Done(_), Err(error)) => {
                self.complain(&about, &format!("its pod cannot be recorded: {error}"));
                End::Failed
            }
            (end, _) => end,
        }
    }

    /// Says on the KubeVirt object what of the installation is there; on a cluster it makes the object first.
    async fn cluster(&self) -> End {
        let api: Api<KubeVirt> = Api::namespaced(self.client.clone(), NAMESPACE);
        let Some(cluster) = self.kubevirt() else {
            return if self.defaults.world == World::Cluster {
                self.configure(&api).await
            } else {
                End::Done(None)
            };
        };
        let (ending, done) = match self.uninstall(&api, &cluster).await {
            Ok(ending) => {
                let again = ending.is_some().then_some(LOOK);
                (ending, End::Done(again))
            }
            Err(Failure::Overtaken) => return End::Overtaken,
            Err(failure) => {
                tracing::warn!("the uninstallStrategy of the KubeVirt object cannot be followed: {failure}");
                (None, End::Failed)
            }
        };
        let config = self.config();
        let lacks = config.as_ref().map(|config| self.found(config)).unwrap_or_default();
        let problem = config.err();
        let found = match &self.caches.parts {
            Some(parts) => match parts.ready().now_or_never() {
                Some(()) => Some(parts.now()),
                // The key comes back when all are known.
                None => return End::Done(None),
            },
            None => None,
        };
        let parts = found.as_ref().map(|found| Parts {
            controller: found.controller.as_deref(),
            api: found.api.as_deref(),
            handler: found.handler.as_deref(),
            mutating: found.mutating.as_deref(),
            validating: found.validating.as_deref(),
            services: &found.services,
        });
        let (version, now) = (env!("CARGO_PKG_VERSION"), Timestamp::now());
        let ops = decide::cluster_status(
            &cluster,
            version,
            problem.as_deref(),
            parts,
            ending.as_deref(),
            lacks,
            now,
        );
        if ops.is_empty() {
            return done;
        }
        match self.patch_status(&api, KUBEVIRT, &ops).await {
            Ok(()) => done,
            Err(Failure::Overtaken) => End::Overtaken,
            Err(failure) => {
                tracing::warn!("the status of the KubeVirt object cannot be written: {failure}");
                End::Failed
            }
        }
    }

    /// What the KubeVirt object's `uninstallStrategy` asks for: its finalizer while there are machines, and their end with it.
    /// Says what its end waits for.
    async fn uninstall(&self, api: &Api<KubeVirt>, cluster: &KubeVirt) -> Result<Option<String>, Failure> {
        let machines = self.caches.has_machines();
        let mut decided = uninstall::uninstall(cluster, machines, false);
        // Who goes with the namespace ends nothing any more, and leaves nothing that it would wait for.
        if machines && decided != Uninstall::Nothing && is_leaving(&self.client).await? {
            decided = uninstall::uninstall(cluster, machines, true);
        }
        match decided {
            Uninstall::Nothing => Ok(None),
            Uninstall::Patch(ops) => {
                self.patch(api, KUBEVIRT, &ops).await?;
                // What is decided now was decided about another version.
                Err(Failure::Overtaken)
            }
            Uninstall::EndMachines => self.end_machines().await.map(Some),
        }
    }

    /// Deletes machines, owners first, so that nobody makes what was deleted; so many in a round. Those that are waited for, in
    /// words.
    async fn end_machines(&self) -> Result<String, Failure> {
        let (vms, vmis) = (self.caches.vms.state(), self.caches.vmis.state());
        let stays = |meta: &ObjectMeta| meta.deletion_timestamp.is_none();
        // One whose deletion somebody refuses holds up no other one.
        let mut refused = String::new();
        let mut look = |name: &Name, ended: Result<(), Failure>| {
            if let (Err(why), true) = (ended, refused.is_empty()) {
                let why: String = why.to_string().chars().take(REASON).collect();
                refused = format!("; {}/{} cannot be deleted: {why}", name.namespace, name.name);
            }
        };
        for vm in vms.iter().filter(|vm| stays(&vm.metadata)).take(AT_ONCE) {
            let name = name_of(&**vm);
            look(&name, self.end::<VirtualMachine>(&name, vm.uid()).await);
        }
        if vms.iter().all(|vm| !stays(&vm.metadata)) {
            for vmi in vmis.iter().filter(|vmi| stays(&vmi.metadata)).take(AT_ONCE) {
                let name = name_of(&**vmi);
                look(&name, self.end::<VirtualMachineInstance>(&name, vmi.uid()).await);
            }
        }
        let names: BTreeSet<Name> =
            vms.iter().map(|vm| name_of(&**vm)).chain(vmis.iter().map(|vmi| name_of(&**vmi))).collect();
        let shown: Vec<_> =
            names.iter().take(SHOWN).map(|name| format!("{}/{}", name.namespace, name.name)).collect();
        let more = if names.len() > SHOWN { ", ..." } else { "" };
        let shown = shown.join(", ");
        Ok(format!("waiting for the end of machines ({}): {shown}{more}{refused}", names.len()))
    }

    /// Makes the KubeVirt object, with the profile that holds without one.
    async fn configure(&self, api: &Api<KubeVirt>) -> End {
        let object = match serde_json::from_value(render::install::kubevirt(&self.defaults)) {
            Ok(object) => object,
            Err(error) => {
                tracing::error!("the KubeVirt object cannot be made, please report this: {error}");
                return End::Done(None);
            }
        };
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {
                tracing::info!("made the KubeVirt object: it is the configuration");
                End::Done(None)
            }
            // The cache does not show it yet; the watch will.
            Err(kube::Error::Api(status)) if status.code == 409 => End::Done(None),
            Err(error) => {
                tracing::warn!("the KubeVirt object cannot be made: {error}");
                End::Failed
            }
        }
    }

    /// Performs a decision. `refused` says what to write when a creation is refused.
    async fn perform(
        &self,
        about: &About<'_>,
        decision: Decision,
        refused: impl FnOnce(&Refused) -> Vec<decide::Action> + Send,
    ) -> End {
        if !decision.actions.is_empty() {
            tracing::debug!(kind = ?about.reference.kind, namespace = %about.name.namespace, name = %about.name.name,
                actions = decision.actions.len(), "{}", decision.explanation);
        }
        match self.apply_all(about, decision.actions).await {
            Ok(()) => End::Done(decision.requeue_after),
            Err(Failure::Overtaken) => End::Overtaken,
            Err(Failure::Refused(answer)) => {
                self.complain(about, &answer.message);
                // What cannot be written either is in the log.
                if let Err(failure) = self.apply_all(about, refused(&answer)).await {
                    tracing::debug!("the refusal could not be written: {failure}");
                }
                End::Failed
            }
            Err(failure) => {
                self.complain(about, &failure.to_string());
                if let Some(event) = failure.event() {
                    self.recorder.tell(about.reference.clone(), event);
                }
                End::Failed
            }
        }
    }

    fn complain(&self, about: &About<'_>, message: &str) {
        let kind = about.reference.kind.as_deref().unwrap_or_default();
        tracing::warn!("{kind} {}/{}: {message}", about.name.namespace, about.name.name);
    }

    pub(crate) fn kubevirt(&self) -> Option<Arc<KubeVirt>> {
        let name = Name { namespace: NAMESPACE.to_owned(), name: KUBEVIRT.to_owned() };
        self.caches.clusters.get(&reference::<KubeVirt>(&name))
    }

    /// The configuration in force, or what is wrong with it.
    pub(crate) fn config(&self) -> Result<ClusterConfig, String> {
        let config = ClusterConfig::in_force(self.kubevirt().as_deref(), &self.defaults)?;
        Ok(ClusterConfig { cluster_has_user_namespaces: self.nodes().may_have(), ..config })
    }

    /// The same for the pod of an instance, by what the API server has said of it.
    fn config_for(&self, vmi: &VirtualMachineInstance) -> Result<ClusterConfig, String> {
        let config = self.config()?;
        let without = self.kept.without(vmi.metadata.uid.as_deref().unwrap_or_default(), Timestamp::now());
        Ok(ClusterConfig {
            serves_images: without.images,
            cluster_has_user_namespaces: config.cluster_has_user_namespaces && !without.users,
            ..config
        })
    }

    fn nodes(&self) -> user_namespace::Nodes {
        let nodes = self.caches.nodes.state();
        user_namespace::nodes(nodes.iter().map(|node| &**node))
    }

    /// What the cluster gives launcher pods, and what it lacks, for the KubeVirt object.
    fn found(&self, config: &ClusterConfig) -> Vec<KubeVirtCondition> {
        if config.world == World::Machine {
            return Vec::new();
        }
        let given_up = self.caches.vmis.state_filter(user_namespace::gave_up);
        let name = |vmi: &Arc<VirtualMachineInstance>| {
            let name = name_of(&**vmi);
            format!("{}/{}", name.namespace, name.name)
        };
        let mut names: Vec<_> = given_up.iter().map(name).collect();
        names.sort();
        let keeps_users = self.kept.users() != Some(false);
        let users = user_namespace::condition(config, keeps_users, &self.nodes(), &names);
        let images = decide::images(self.kept.images());
        images.into_iter().chain(users).collect()
    }

    /// The MCS pairs of all other instances and of their pods.
    fn pairs_of_others(&self, own: &VirtualMachineInstance) -> BTreeSet<Mcs> {
        let uid = own.metadata.uid.as_ref();
        let vmis = self.caches.vmis.state();
        let vmis = vmis.iter().filter(|vmi| vmi.metadata.uid.as_ref() != uid);
        let pods = self.caches.pods.state();
        let pods = pods.iter().filter(|pod| pod.labels().get(CREATED_BY_LABEL) != uid);
        let recorded = vmis.filter_map(|vmi| decide::held_pair(vmi));
        recorded.chain(pods.filter_map(|pod| decide::pod_pair(pod))).collect()
    }

    /// The claims that a machine names, as the cache shows them.
    fn claims(&self, name: &Name, spec: &VirtualMachineInstanceSpec) -> Vec<Claim> {
        let known = |claim: &str| {
            let name = Name { namespace: name.namespace.clone(), name: claim.to_owned() };
            self.caches.claims.get(&reference::<PersistentVolumeClaim>(&name))
        };
        decide::claim_names(spec)
            .into_iter()
            .map(|name| {
                let claim = known(&name);
                let phase = claim.as_ref().and_then(|c| c.status.as_ref()?.phase.as_deref());
                let mode = claim.as_ref().and_then(|c| c.spec.as_ref()?.volume_mode.as_deref());
                let state = match (&claim, phase) {
                    (None, _) => ClaimState::Missing,
                    (Some(claim), Some("Bound")) if is_filled_later(claim) => ClaimState::Filling,
                    (_, Some("Bound")) => ClaimState::Bound,
                    _ => ClaimState::Pending,
                };
                Claim { name, state, block: mode == Some("Block") }
            })
            .collect()
    }
}

/// Whether the namespace of the controllers is being deleted.
pub(crate) async fn is_leaving(client: &Client) -> Result<bool, Failure> {
    let own = Api::<Namespace>::all(client.clone()).get_opt(NAMESPACE).await;
    let own = own.map_err(|why| Failure::Unavailable(Box::new(why)))?;
    Ok(own.is_none_or(|own| own.metadata.deletion_timestamp.is_some()))
}

/// Whether CDI has a pod that fills the claim and has not ended well. Where it fills another volume first there is no such
/// annotation on the claim, which is bound when that is done.
fn is_filled_later(claim: &PersistentVolumeClaim) -> bool {
    const PHASE: &str = "cdi.kubevirt.io/storage.pod.phase";
    claim.annotations().get(PHASE).is_some_and(|phase| phase != "Succeeded")
}

/// A machine once owned the instance; without an owner there is nothing to let go of.
fn is_owned_by_machine(vmi: &VirtualMachineInstance) -> bool {
    vmi.metadata
        .owner_references
        .iter()
        .flatten()
        .any(|o| o.controller == Some(true) && o.kind == "VirtualMachine")
}
