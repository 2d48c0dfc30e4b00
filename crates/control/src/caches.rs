//! What is known: a cache for each kind, kept by a watch, and the keys that a change concerns.

use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;

use ferrovirt_api::kubevirt::{KubeVirt, VirtualMachine, VirtualMachineInstance};
use ferrovirt_plan::config::{NAMESPACE, World};
use ferrovirt_plan::decide::uninstall;
use ferrovirt_plan::decide::{DOMAIN_ANNOTATION, claim_names};
use ferrovirt_plan::render::{api, controller, handler};
use ferrovirt_plan::user_namespace;
use futures::StreamExt;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::pending::Pending;
use crate::{Key, Name};

/// Marks launcher pods.
const LAUNCHER_SELECTOR: &str = "kubevirt.io=virt-launcher";

/// The caches; clones share them.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) vms: Store<VirtualMachine>,
    pub(crate) vmis: Store<VirtualMachineInstance>,
    pub(crate) pods: Store<Pod>,
    pub(crate) claims: Store<PersistentVolumeClaim>,
    pub(crate) clusters: Store<KubeVirt>,
    pub(crate) nodes: Store<Node>,
    pub(crate) parts: Option<Parts>,
}

/// The parts of the installation beside this one; on a cluster.
#[derive(Clone)]
pub(crate) struct Parts {
    controller: Store<Deployment>,
    api: Store<Deployment>,
    daemons: Store<DaemonSet>,
    mutating: Store<MutatingWebhookConfiguration>,
    validating: Store<ValidatingWebhookConfiguration>,
    services: Vec<Store<APIService>>,
}

/// What of the installation is there.
pub(crate) struct Found {
    pub(crate) controller: Option<Arc<Deployment>>,
    pub(crate) api: Option<Arc<Deployment>>,
    pub(crate) handler: Option<Arc<DaemonSet>>,
    pub(crate) mutating: Option<Arc<MutatingWebhookConfiguration>>,
    pub(crate) validating: Option<Arc<ValidatingWebhookConfiguration>>,
    pub(crate) services: Vec<Arc<APIService>>,
}

impl Parts {
    /// Starts to follow them. Nothing but the condition of the KubeVirt object waits for them.
    fn follow(client: &Client, keys: &Pending<Key>, tasks: &mut JoinSet<()>) -> Self {
        let (controller, controller_writer) = reflector::store();
        let (api, api_writer) = reflector::store();
        let (daemons, daemon_writer) = reflector::store();
        let (mutating, mutating_writer) = reflector::store();
        let (validating, validating_writer) = reflector::store();
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut services = Vec::new();
        for name in api::service_names() {
            let (store, writer) = reflector::store();
            let cluster = |_: &APIService| vec![Key::Cluster];
            tasks.spawn(follow(Api::all(client.clone()), named(&name), writer, keys.clone(), cluster));
            services.push(store);
        }
        let parts = Self { controller, api, daemons, mutating, validating, services };
        for (name, writer) in [(controller::NAME, controller_writer), (api::NAME, api_writer)] {
            let (api, config) = (Api::namespaced(client.clone(), NAMESPACE), named(name));
            tasks.spawn(follow(api, config, writer, keys.clone(), |_: &Deployment| vec![Key::Cluster]));
        }
        let (api, config) = (Api::namespaced(client.clone(), NAMESPACE), named(handler::NAME));
        tasks.spawn(follow(api, config, daemon_writer, keys.clone(), |_: &DaemonSet| vec![Key::Cluster]));
        let (all, config) = (Api::all(client.clone()), named(api::NAME));
        let cluster = |_: &MutatingWebhookConfiguration| vec![Key::Cluster];
        tasks.spawn(follow(all, config, mutating_writer, keys.clone(), cluster));
        let (all, config) = (Api::all(client.clone()), named(api::NAME));
        let cluster = |_: &ValidatingWebhookConfiguration| vec![Key::Cluster];
        tasks.spawn(follow(all, config, validating_writer, keys.clone(), cluster));
        parts
    }

    /// Returns when all have been listed once.
    pub(crate) async fn ready(&self) {
        // A writer that was dropped has ended its task, which ends the controllers.
        let _ = self.controller.wait_until_ready().await;
        let _ = self.api.wait_until_ready().await;
        let _ = self.daemons.wait_until_ready().await;
        let _ = self.mutating.wait_until_ready().await;
        let _ = self.validating.wait_until_ready().await;
        for service in &self.services {
            let _ = service.wait_until_ready().await;
        }
    }

    /// The Deployments of controllers and machine API, the DaemonSet, the configurations of webhooks and the APIServices, each if
    /// there is one.
    pub(crate) fn now(&self) -> Found {
        let deployment = |store: &Store<Deployment>| store.state().first().cloned();
        let handler = self.daemons.state().first().cloned();
        Found {
            controller: deployment(&self.controller),
            api: deployment(&self.api),
            handler,
            mutating: self.mutating.state().first().cloned(),
            validating: self.validating.state().first().cloned(),
            services: self.services.iter().filter_map(|store| store.state().first().cloned()).collect(),
        }
    }
}

impl Caches {
    /// Starts to follow every kind, and in a cluster the parts of the installation.
    pub(crate) fn follow(
        client: &Client,
        world: World,
        keys: &Pending<Key>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let (vms, vm_writer) = reflector::store();
        let (vmis, vmi_writer) = reflector::store();
        let (pods, pod_writer) = reflector::store();
        let (claims, claim_writer) = reflector::store();
        let (clusters, cluster_writer) = reflector::store();
        let (nodes, node_writer) = reflector::store();
        let parts = (world == World::Cluster).then(|| Parts::follow(client, keys, tasks));
        let caches = Self { vms, vmis, pods, claims, clusters, nodes, parts };

        let all = watcher::Config::default;
        let known = caches.clone();
        tasks.spawn(follow(
            Api::all(client.clone()),
            all(),
            vm_writer,
            keys.clone(),
            move |vm: &VirtualMachine| {
                let machine = known.counts().then_some(Key::Cluster);
                machine.into_iter().chain([Key::Vm(name_of(vm))]).collect()
            },
        ));
        let known = caches.clone();
        tasks.spawn(follow(
            Api::all(client.clone()),
            all(),
            vmi_writer,
            keys.clone(),
            move |vmi: &VirtualMachineInstance| {
                let said = known.counts() || user_namespace::gave_up(vmi);
                let machine = said.then_some(Key::Cluster);
                // The machine has the instance's name; one that does not exist is no harm.
                machine.into_iter().chain([Key::Vmi(name_of(vmi)), Key::Vm(name_of(vmi))]).collect()
            },
        ));
        let launchers = all().labels(LAUNCHER_SELECTOR);
        tasks.spawn(follow(Api::all(client.clone()), launchers, pod_writer, keys.clone(), |pod: &Pod| {
            let namespace = pod.namespace().unwrap_or_default();
            let vmi = pod.annotations().get(DOMAIN_ANNOTATION).cloned();
            vmi.map(|name| Key::Vmi(Name { namespace, name })).into_iter().collect()
        }));
        let known = caches.clone();
        tasks.spawn(follow(
            Api::all(client.clone()),
            all(),
            claim_writer,
            keys.clone(),
            move |claim: &PersistentVolumeClaim| known.users_of(claim),
        ));
        let known = caches.clone();
        tasks.spawn(follow(
            Api::all(client.clone()),
            all(),
            cluster_writer,
            keys.clone(),
            move |_: &KubeVirt| {
                // Machines that wait may wait for a change of the configuration.
                let waiting =
                    known.vmis.state_filter(|vmi| vmi.status.as_ref().is_none_or(|s| s.node_name.is_none()));
                waiting.iter().map(|vmi| Key::Vmi(name_of(&**vmi))).chain([Key::Cluster]).collect()
            },
        ));
        // No machine waits for a node, what it says holds for the next pod; but the KubeVirt object says what nodes say.
        let cluster = |_: &Node| vec![Key::Cluster];
        tasks.spawn(follow(Api::all(client.clone()), all(), node_writer, keys.clone(), cluster));
        caches
    }

    /// Returns when every kind has been listed once.
    pub(crate) async fn ready(&self) {
        // A writer that was dropped has ended its task, which ends the controllers.
        let _ = self.vms.wait_until_ready().await;
        let _ = self.vmis.wait_until_ready().await;
        let _ = self.pods.wait_until_ready().await;
        let _ = self.claims.wait_until_ready().await;
        let _ = self.clusters.wait_until_ready().await;
        let _ = self.nodes.wait_until_ready().await;
    }

    /// Whether there are machines, as far as is known.
    pub(crate) fn has_machines(&self) -> bool {
        !self.vms.is_empty() || !self.vmis.is_empty()
    }

    /// Whether it concerns the KubeVirt object that a machine comes, changes or goes: it may be the first or the last one, or
    /// one that the object's end waits for. Asked before the cache shows the change, for machines and instances at the same time.
    fn counts(&self) -> bool {
        let few = self.vms.len() + self.vmis.len() <= 2;
        let clusters = self.clusters.state();
        few || clusters.iter().any(|cluster| uninstall::is_ending(cluster) || !uninstall::is_marked(cluster))
    }

    /// Instances and machines that name a claim.
    fn users_of(&self, claim: &PersistentVolumeClaim) -> Vec<Key> {
        let (namespace, name) = (claim.namespace(), claim.name_any());
        let vmis =
            self.vmis.state_filter(|o| o.namespace() == namespace && claim_names(&o.spec).contains(&name));
        let vms = self.vms.state_filter(|o| {
            o.namespace() == namespace && claim_names(&o.spec.template.spec).contains(&name)
        });
        let vmis = vmis.iter().map(|o| Key::Vmi(name_of(&**o)));
        vmis.chain(vms.iter().map(|o| Key::Vm(name_of(&**o)))).collect()
    }
}

/// The key of an object in its cache.
pub(crate) fn reference<K>(name: &Name) -> ObjectRef<K>
where
    K: Resource<DynamicType = ()>,
{
    ObjectRef::new(&name.name).within(&name.namespace)
}

pub(crate) fn name_of(object: &impl ResourceExt) -> Name {
    Name { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

/// Keeps the cache of a kind and sends the keys that each change concerns. Never ends.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    mut writer: Writer<K>,
    keys: Pending<Key>,
    concerned: impl Fn(&K) -> Vec<Key> + Send,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let reader = writer.as_reader();
    let mut events = pin!(ferrovirt_watch::follow(api, config, K::plural(&()).into_owned()));
    while let Some(event) = events.next().await {
        let event = event.modify(|object| object.meta_mut().managed_fields = None);
        let mut changed: Vec<Key> = Vec::new();
        match &event {
            watcher::Event::Apply(object) | watcher::Event::Delete(object) => {
                changed.extend(concerned(object))
            }
            // What was known before is concerned too: it may have gone unseen.
            watcher::Event::InitDone => changed.extend(reader.state().iter().flat_map(|o| concerned(o))),
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
        }
        let listed = matches!(event, watcher::Event::InitDone);
        writer.apply_watcher_event(&event);
        if listed {
            changed.extend(reader.state().iter().flat_map(|o| concerned(o)));
            // All may have gone unseen.
            changed.push(Key::Cluster);
        }
        for key in changed {
            keys.send(key);
        }
    }
}
