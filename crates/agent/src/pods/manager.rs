//! All pods of the node: watches, one task for each, and what earlier agents left.

use super::{
    Shared,
    inbox::{Message, Refusal, Sender, inbox},
    record,
    record::Record,
    teardown,
    worker::Worker,
};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_handler::machine::serve::ANSWER;
use ferrovirt_kubelet_api::messages;
use ferrovirt_watch::follow;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::watcher::{self, Event},
};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::oneshot;

/// The pods of the node.
#[derive(Debug)]
pub struct Manager {
    pub(super) shared: Arc<Shared>,
    pods: Mutex<HashMap<String, Handle>>,
    /// All pods were listed once.
    listed: AtomicBool,
}

#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) pod: Arc<Pod>,
    namespace: String,
    name: String,
    containers: Vec<String>,
    machine: Option<(String, String)>,
    served: Arc<AtomicBool>,
    pub(super) sender: Sender,
}

/// A pod that somebody asks for.
#[derive(Clone, Debug)]
pub struct Target {
    directory: PathBuf,
    served: Arc<AtomicBool>,
    sender: Sender,
}

impl Target {
    /// The pod's record, once it was started; none that cannot be read now.
    pub fn record(&self) -> Option<Record> {
        let read = Record::read(&self.directory);
        read.inspect_err(|error| tracing::warn!("reading the record of a pod: {error}")).ok().flatten()
    }

    /// False when the pod is not what was started any more: its guest is left alone then.
    pub fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// The log of its container.
    pub fn log(&self) -> PathBuf {
        record::log(&self.directory)
    }

    /// Stops or runs the vCPUs.
    ///
    /// # Errors
    /// When there is no guest, or it does not obey.
    pub async fn switch(&self, pause: bool) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        self.sender.send(Message::Switch { pause, answer }).map_err(|_| Refusal::NotRunning)?;
        match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Refusal::NotRunning),
            Err(_) => Err(Refusal::Silent),
        }
    }
}

impl Manager {
    /// Without any pod yet.
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared, pods: Mutex::default(), listed: AtomicBool::new(false) })
    }

    pub(super) fn pods(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The pod with this name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Target> {
        self.find(|handle| handle.namespace == namespace && handle.name == name)
    }

    /// The pod of the machine with this name: the one that was started, where an earlier one is still ending.
    pub fn machine(&self, namespace: &str, name: &str) -> Option<Target> {
        let of = |handle: &Handle| handle.machine.as_ref().is_some_and(|(known, _)| known == name);
        self.find(|handle| handle.namespace == namespace && of(handle))
    }

    fn find(&self, wanted: impl Fn(&Handle) -> bool) -> Option<Target> {
        let pods = self.pods();
        let mut found: Vec<Target> = pods
            .iter()
            .filter(|(_, handle)| wanted(handle))
            .map(|(uid, handle)| Target {
                directory: self.shared.pod_directory(uid),
                served: handle.served.clone(),
                sender: handle.sender.clone(),
            })
            .collect();
        let alive = found.iter().position(|target| Record::alive(&target.directory).is_some());
        match alive {
            Some(index) => Some(found.swap_remove(index)),
            None => found.pop(),
        }
    }

    /// Metrics of the node in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.shared.policy.metric() + &self.shared.metrics.text()
    }

    /// True when no container and no network of a pod is on this node. Logs of pods that ended may be.
    pub fn idle(&self) -> bool {
        let empty =
            fs::read_dir(self.shared.config.netns()).is_ok_and(|mut entries| entries.next().is_none());
        empty && self.shared.crun.list().is_empty()
    }

    /// The node's pods and their containers, as the pod-resources API shows them. `None` before the API server has said
    /// which there are.
    pub fn shown(&self) -> Option<Vec<messages::Pod>> {
        if !self.listed.load(Ordering::Acquire) {
            return None;
        }
        let container = |name: &String| messages::Container { name: name.clone(), devices: Vec::new() };
        let pods = self.pods();
        let shown = pods.values().map(|handle| messages::Pod {
            name: handle.name.clone(),
            namespace: handle.namespace.clone(),
            containers: handle.containers.iter().map(container).collect(),
        });
        Some(shown.collect())
    }

    /// Watches pods and machines for ever.
    pub async fn run(self: Arc<Self>) {
        // What runs has its resources before anything new gets any.
        for (uid, directory) in record::directories(&self.shared.config.pods()) {
            if let Some(pod) = Record::alive(&directory).and_then(|record| record.accepted) {
                self.shared.room.hold(&uid, &pod);
            }
        }
        tokio::join!(self.clone().watch_pods(), self.watch_machines(), self.keep_disk(), self.keep_volumes());
    }

    async fn watch_pods(self: Arc<Self>) {
        let api: Api<Pod> = Api::all(self.shared.node.client.0.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.shared.config.node));
        let mut listed = BTreeSet::new();
        let mut stream = Box::pin(follow(api, config, "pods".to_owned()));
        while let Some(event) = stream.next().await {
            match event {
                Event::Init => listed.clear(),
                Event::InitApply(pod) => {
                    listed.extend(pod.metadata.uid.clone());
                    self.apply(pod);
                }
                Event::InitDone => {
                    self.compare(&listed);
                    self.listed.store(true, Ordering::Release);
                }
                Event::Apply(pod) => self.apply(pod),
                Event::Delete(pod) => {
                    let uid = pod.metadata.uid.unwrap_or_default();
                    if let Some(handle) = self.pods().get(&uid) {
                        // A task that has just ended has nothing left to do.
                        let _over = handle.sender.send(Message::Gone);
                    }
                }
            }
        }
    }

    async fn watch_machines(&self) {
        let api: Api<VirtualMachineInstance> = Api::all(self.shared.handler.client.0.clone());
        let config =
            watcher::Config::default().labels(&format!("kubevirt.io/nodeName={}", self.shared.config.node));
        let mut stream = Box::pin(follow(api, config, "machines".to_owned()));
        while let Some(event) = stream.next().await {
            if let Event::Apply(vmi) | Event::InitApply(vmi) = event {
                let uid = vmi.metadata.uid.clone().unwrap_or_default();
                let vmi = Arc::new(vmi);
                for handle in self.pods().values() {
                    if handle.machine.as_ref().is_some_and(|(_, known)| *known == uid) {
                        let _over = handle.sender.send(Message::Machine(vmi.clone()));
                    }
                }
            }
        }
    }

    /// Tells a pod's task, or starts one.
    fn apply(self: &Arc<Self>, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        // The UID names directories.
        if uid.is_empty() || !uid.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return tracing::warn!("a pod has the impossible UID {uid:?}");
        }
        let pod = Arc::new(pod);
        let mut pods = self.pods();
        if let Some(handle) = pods.get_mut(&uid) {
            handle.pod = pod.clone();
            if handle.sender.send(Message::Pod(pod.clone())).is_ok() {
                return;
            }
        }
        let (sender, receiver) = inbox();
        let served = Arc::new(AtomicBool::new(true));
        let handle = Handle {
            pod: pod.clone(),
            served: served.clone(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            containers: pod
                .spec
                .iter()
                .flat_map(|spec| &spec.containers)
                .map(|container| container.name.clone())
                .collect(),
            machine: super::pipeline::machine(&pod),
            sender,
        };
        pods.insert(uid.clone(), handle);
        let worker = Worker::new(self.shared.clone(), pod, receiver, served);
        let manager = self.clone();
        tokio::spawn(async move {
            worker.run().await;
            manager.pods().remove(&uid);
        });
    }

    /// After a full list: what is not on it is gone.
    fn compare(self: &Arc<Self>, listed: &BTreeSet<String>) {
        for (uid, handle) in self.pods().iter() {
            if !listed.contains(uid) {
                let _over = handle.sender.send(Message::Gone);
            }
        }
        let tracked: BTreeSet<String> = self.pods().keys().cloned().collect();
        for uid in self.leftovers() {
            if listed.contains(&uid) || tracked.contains(&uid) {
                continue;
            }
            tracing::info!(uid, "removing what a pod that no longer exists left behind");
            let shared = self.shared.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = teardown::forget(&shared, &uid) {
                    tracing::warn!(uid, "removing leftovers: {error}");
                }
            });
        }
    }

    /// UIDs of pods that have something on this node: directories, containers, namespaces. Cgroups go with
    /// them and are not looked at: other agents of one machine name theirs alike.
    fn leftovers(&self) -> BTreeSet<String> {
        let config = &self.shared.config;
        let mut uids: BTreeSet<String> =
            record::directories(&config.pods()).into_iter().map(|(uid, _)| uid).collect();
        uids.extend(self.shared.crun.list());
        uids.extend(self.shared.network.holders());
        uids.extend(self.shared.devices.holders());
        let namespaces = fs::read_dir(config.netns()).into_iter().flatten().flatten();
        uids.extend(namespaces.filter_map(|entry| entry.file_name().into_string().ok()));
        uids
    }
}
