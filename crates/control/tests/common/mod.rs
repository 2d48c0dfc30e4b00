//! A server with controllers in this process. The tests play the kubelet and the node agent.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::fmt::Debug;
use std::time::Duration;

use ferrovirt_api::kubevirt::{VirtualMachine, VirtualMachineInstance};
use ferrovirt_apiserver::server::{Config, Server};
use ferrovirt_plan::config::ClusterConfig;
use ferrovirt_plan::render;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub(crate) const NAMESPACE: &str = "team";
/// Far more than anything here takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    _data: tempfile::TempDir,
    stop: tokio::sync::watch::Sender<bool>,
    server: JoinHandle<()>,
    pub(crate) controllers: Option<JoinHandle<()>>,
    pub(crate) controller: Client,
    pub(crate) handler: Client,
    pub(crate) admin: Client,
    admin_kubeconfig: String,
    pub(crate) controller_kubeconfig: String,
    pub(crate) address: std::net::SocketAddr,
}

pub(crate) async fn client(kubeconfig: &str) -> Client {
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

pub(crate) fn config() -> ClusterConfig {
    ClusterConfig { use_emulation: true, ..ClusterConfig::default() }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let mut cluster = Self::start_without_controllers().await;
        cluster.start_controllers();
        cluster
    }

    pub(crate) async fn start_without_controllers() -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Server::open(Config {
            data_dir: data.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            agent_socket: data.path().join("agent.sock"),
            scc_admission: Default::default(),
            longest_watch: None,
            audit: None,
        })
        .await
        .unwrap();
        server.ensure(&render::install(&config())).await.unwrap();
        server.ensure(&render::install::embedded(&config())).await.unwrap();
        let admin_kubeconfig = server.admin_kubeconfig();
        let admin = client(&admin_kubeconfig).await;
        let account =
            async |name: &str| server.kubeconfig_for_service_account("kubevirt", name).await.unwrap();
        let controller_kubeconfig = account("kubevirt-controller").await;
        let controller = client(&controller_kubeconfig).await;
        let handler = client(&account("kubevirt-handler").await).await;
        let address = server.address();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let server = tokio::spawn(server.serve(stopped));
        let cluster = Self {
            _data: data,
            stop,
            server,
            controllers: None,
            controller,
            handler,
            admin,
            admin_kubeconfig,
            controller_kubeconfig,
            address,
        };
        let namespace = Namespace { metadata: named(NAMESPACE), ..Namespace::default() };
        let namespaces: Api<Namespace> = Api::all(cluster.admin.clone());
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        cluster.add_node().await;
        cluster
    }

    /// A client that acts as another user.
    pub(crate) async fn acting_as(&self, user: &str) -> Client {
        let config = kube::config::Kubeconfig::from_yaml(&self.admin_kubeconfig).unwrap();
        let mut config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.unwrap();
        config.auth_info.impersonate = Some(user.to_owned());
        Client::try_from(config).unwrap()
    }

    pub(crate) fn start_controllers(&mut self) {
        let client = self.controller.clone();
        self.controllers = Some(tokio::spawn(async move {
            let Err(error) = ferrovirt_control::run(client, config()).await;
            panic!("the controllers ended: {error}");
        }));
    }

    pub(crate) async fn stop_controllers(&mut self) {
        if let Some(task) = self.controllers.take() {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled(), "the controllers ran until now");
        }
    }

    pub(crate) async fn end(mut self) {
        self.stop_controllers().await;
        self.stop.send_replace(true);
        self.server.await.unwrap();
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    pub(crate) async fn add_node(&self) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "node", "labels": {
                "kubevirt.io/schedulable": "true", "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
            }},
            "status": {
                "capacity": {"cpu": "8", "memory": "16Gi", "pods": "100", "ephemeral-storage": "100Gi",
                    "devices.kubevirt.io/kvm": "100"},
                "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "100", "ephemeral-storage": "100Gi",
                    "devices.kubevirt.io/kvm": "100"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Test"}],
            },
        }))
        .unwrap();
        let nodes: Api<Node> = Api::all(self.admin.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }

    pub(crate) async fn create_vm(&self, strategy: &str) -> VirtualMachine {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "m"},
            "spec": {"runStrategy": strategy, "template": {
                "metadata": {"labels": {"app": "x"}},
                "spec": {"terminationGracePeriodSeconds": 0, "domain": {
                    "memory": {"guest": "64Mi"},
                    "devices": {"disks": [{"name": "scratch", "disk": {"bus": "virtio"}}]},
                }, "volumes": [{"name": "scratch", "emptyDisk": {"capacity": "1Mi"}}]},
            }},
        }))
        .unwrap();
        self.api().create(&PostParams::default(), &vm).await.unwrap()
    }

    /// The launcher pod, once it is there.
    pub(crate) async fn pod(&self) -> Pod {
        let pods: Api<Pod> = self.api();
        let launchers = ListParams::default().labels("kubevirt.io=virt-launcher");
        eventually("a launcher pod", async || {
            let list = pods.list(&launchers).await.unwrap().items;
            assert!(list.len() <= 1, "two launcher pods");
            list.into_iter().next()
        })
        .await
    }

    /// Plays the kubelet.
    pub(crate) async fn pod_status(&self, pod: &Pod, phase: &str, state: Value) {
        let ready = if phase == "Running" { "True" } else { "False" };
        let status = json!({"status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": ready}, {"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{
                "name": "compute", "image": "i", "imageID": "", "ready": phase == "Running", "restartCount": 0,
                "state": state,
            }],
        }});
        let pods: Api<Pod> = self.api();
        pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// Plays the node agent, as itself.
    pub(crate) async fn report(&self, phase: &str) {
        let vmis: Api<VirtualMachineInstance> = Api::namespaced(self.handler.clone(), NAMESPACE);
        let vmi = vmis.get("m").await.unwrap();
        let mut transitions = vmi.status.map(|s| s.phase_transition_timestamps).unwrap_or_default();
        transitions.push(serde_json::from_value(json!({"phase": phase})).unwrap());
        let status = json!({"status": {"phase": phase, "phaseTransitionTimestamps": transitions}});
        vmis.patch("m", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    pub(crate) async fn wait<K>(&self, what: &str, holds: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = self.api();
        eventually(what, async || api.get_opt("m").await.unwrap().filter(|object| holds(object))).await
    }

    pub(crate) async fn wait_phase(&self, phase: &str) -> VirtualMachineInstance {
        self.wait(phase, |vmi: &VirtualMachineInstance| {
            vmi.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase)
        })
        .await
    }

    pub(crate) async fn boot(&self) -> Pod {
        let pod = self.pod().await;
        self.wait_phase("Scheduling").await;
        self.pod_status(&pod, "Running", json!({"running": {}})).await;
        self.wait_phase("Scheduled").await;
        self.report("Running").await;
        self.wait("a running machine", |vm: &VirtualMachine| printable(vm) == "Running").await;
        self.pod().await
    }

    pub(crate) async fn reasons(&self) -> Vec<String> {
        let events: Api<Event> = self.api();
        events.list(&ListParams::default()).await.unwrap().into_iter().filter_map(|e| e.reason).collect()
    }
}

pub(crate) fn named(name: &str) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: Some(name.into()),
        ..Default::default()
    }
}

pub(crate) fn printable(vm: &VirtualMachine) -> &str {
    vm.status.as_ref().and_then(|s| s.printable_status.as_deref()).unwrap_or_default()
}

/// Looks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("there never was {what}"))
}
