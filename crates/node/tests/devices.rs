//! The device manager with a plug-in of the tests, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use ferrovirt_kubelet_api::{
    grpc::{self, Channel},
    messages::{
        ALLOCATE, AllocateRequest, AllocateResponse, ContainerResponse, Device, DeviceSpec, Devices as List,
        Empty, GET, GetRequest, GetResponse, HEALTHY, LIST, LIST_AND_WATCH, Mount, OPTIONS, Options,
        PRE_START, Pod, PodList, PreStartRequest, REGISTER, RegisterRequest, VERSION,
    },
};
use ferrovirt_node::{
    devices::{
        Devices, Error, listen,
        table::{Count, Holder},
    },
    oci::granted::Granted,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use std::{
    collections::BTreeMap,
    fs,
    future::ready,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::UnixListener, sync::watch, task::JoinSet};
use tonic::Status;

const THING: &str = "vendor.example/thing";
const LIMIT: Duration = Duration::from_secs(30);

/// What a plug-in of the tests says, and what it was asked.
#[derive(Clone)]
struct Script {
    list: watch::Receiver<List>,
    answer: Result<ContainerResponse, Status>,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    started: Arc<Mutex<Vec<Vec<String>>>>,
    /// How long it takes for each call about devices that a pod gets.
    pause: Arc<Mutex<Duration>>,
}

/// A plug-in that ends with the value.
struct Plugin {
    say: watch::Sender<List>,
    script: Script,
    _tasks: JoinSet<()>,
}

fn list(devices: &[(&str, bool)]) -> List {
    let device = |(id, healthy): &(&str, bool)| Device {
        id: (*id).to_owned(),
        health: if *healthy { HEALTHY } else { "Unhealthy" }.to_owned(),
    };
    List { devices: devices.iter().map(device).collect() }
}

impl Plugin {
    fn start(socket: &Path, devices: &[(&str, bool)], answer: Result<ContainerResponse, Status>) -> Self {
        let (say, heard) = watch::channel(list(devices));
        let script = Script {
            list: heard,
            answer,
            asked: Arc::default(),
            started: Arc::default(),
            pause: Arc::default(),
        };
        drop(fs::remove_file(socket));
        let listener = UnixListener::bind(socket).unwrap();
        let mut tasks = JoinSet::new();
        let serve = script.clone();
        tasks.spawn(async move {
            // They end with the plug-in.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let script = serve.clone();
                let connection = grpc::serve(stream, move |request| script.clone().handle(request));
                connections.spawn(async { drop(connection.await) });
            }
        });
        Self { say, script, _tasks: tasks }
    }
}

impl Script {
    fn handle(self, request: http::Request<hyper::body::Incoming>) -> BoxFuture<'static, grpc::Answer> {
        match request.uri().path() {
            OPTIONS => {
                let options = Options { pre_start_required: true, preferred_allocation: false };
                Box::pin(grpc::unary(request, 1 << 16, move |_: Empty| ready(Ok(options))))
            }
            LIST_AND_WATCH => {
                let changes = stream::unfold((self.list, true), |(mut list, first)| async move {
                    if !first {
                        list.changed().await.ok()?;
                    }
                    let now = list.borrow_and_update().clone();
                    Some((Ok(now), (list, false)))
                });
                Box::pin(grpc::streaming::<Empty, List, _>(request, 1 << 16, changes.boxed()))
            }
            ALLOCATE => Box::pin(grpc::unary(request, 1 << 16, move |request: AllocateRequest| {
                self.asked.lock().unwrap().push(request.containers[0].devices.clone());
                let one = |answer| AllocateResponse { containers: vec![answer] };
                let (answer, pause) = (self.answer.clone().map(one), *self.pause.lock().unwrap());
                tokio::time::sleep(pause).map(|()| answer)
            })),
            PRE_START => Box::pin(grpc::unary(request, 1 << 16, move |request: PreStartRequest| {
                self.started.lock().unwrap().push(request.devices);
                let pause = *self.pause.lock().unwrap();
                tokio::time::sleep(pause).map(|()| Ok(Empty {}))
            })),
            _ => Box::pin(ready(grpc::unimplemented())),
        }
    }
}

/// A node whose pods are `p` and `q`.
struct Node {
    directory: tempfile::TempDir,
    devices: Arc<Devices>,
    _tasks: JoinSet<()>,
}

fn pod(name: &str) -> Pod {
    let container = ferrovirt_kubelet_api::messages::Container { name: "c".to_owned(), devices: Vec::new() };
    Pod { name: name.to_owned(), namespace: "n".to_owned(), containers: vec![container] }
}

impl Node {
    fn start(directory: tempfile::TempDir) -> Self {
        let at = |name: &str| directory.path().join(name);
        let reserved = ["vendor.example/own".to_owned()];
        let devices = Devices::open(at("plugins"), at("devices.json"), reserved).unwrap();
        let sockets = listen(&at("plugins"), &at("resources")).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(devices.clone().serve(sockets, || Some(vec![pod("p"), pod("q")])));
        Self { directory, devices, _tasks: tasks }
    }

    fn new() -> Self {
        Self::start(tempfile::tempdir().unwrap())
    }

    /// The process ends and another one starts.
    fn again(self) -> Self {
        let Self { directory, devices, _tasks } = self;
        drop((devices, _tasks));
        Self::start(directory)
    }

    fn plugin(&self) -> PathBuf {
        self.directory.path().join("plugins/thing.sock")
    }

    async fn register(&self, resource: &str, version: &str) -> Result<Empty, Status> {
        let socket = self.directory.path().join("plugins/kubelet.sock");
        let request = RegisterRequest {
            version: version.to_owned(),
            endpoint: "thing.sock".to_owned(),
            resource_name: resource.to_owned(),
            options: None,
        };
        Channel::connect(&socket).await.unwrap().unary(REGISTER, request, 1 << 16).await
    }

    async fn counts(&self, capacity: usize, allocatable: usize) {
        let wanted = Count { capacity, allocatable };
        let until = async {
            while self.devices.counts().get(THING) != Some(&wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let late = tokio::time::timeout(LIMIT, until).await;
        assert!(late.is_ok(), "{:?} and not {wanted:?}", self.devices.counts());
    }

    async fn allocate(&self, pod: &str, count: u64) -> Result<Granted, Error> {
        let holder = Holder { namespace: "n".to_owned(), pod: pod.to_owned(), container: "c".to_owned() };
        let wanted = BTreeMap::from([(THING.to_owned(), count)]);
        self.devices.allocate(&format!("uid-{pod}"), holder, &wanted).await
    }

    async fn shown(&self) -> Vec<Pod> {
        let socket = self.directory.path().join("resources/kubelet.sock");
        let channel = Channel::connect(&socket).await.unwrap();
        channel.unary::<_, PodList>(LIST, Empty {}, 1 << 20).await.unwrap().pods
    }
}

fn response() -> ContainerResponse {
    let mount = Mount {
        container_path: "/run/thing".to_owned(),
        host_path: "/srv/thing".to_owned(),
        read_only: true,
    };
    let device = DeviceSpec {
        container_path: "/dev/thing".to_owned(),
        host_path: "/dev/null".to_owned(),
        permissions: "rw".to_owned(),
    };
    ContainerResponse {
        mounts: vec![mount],
        devices: vec![device],
        variables: BTreeMap::from([("THING".to_owned(), "1".to_owned())]),
        annotations: BTreeMap::from([("vendor.example/note".to_owned(), "x".to_owned())]),
        ..ContainerResponse::default()
    }
}

#[tokio::test]
async fn a_pod_gets_devices_and_what_comes_with_them_and_others_see_who_has_them() {
    let node = Node::new();
    let plugin = Plugin::start(&node.plugin(), &[("a", true), ("b", true), ("c", false)], Ok(response()));
    node.register(THING, VERSION).await.unwrap();
    node.counts(3, 2).await;

    let granted = node.allocate("p", 2).await.unwrap();
    let both = ["a", "b"].map(str::to_owned).to_vec();
    assert_eq!(*plugin.script.asked.lock().unwrap(), std::slice::from_ref(&both));
    assert_eq!(*plugin.script.started.lock().unwrap(), std::slice::from_ref(&both), "its options ask for it");
    assert_eq!(granted.mounts[0].destination, "/run/thing");
    assert_eq!(granted.mounts[0].source, Path::new("/srv/thing"));
    assert!(granted.mounts[0].options.contains(&"ro".to_owned()));
    assert_eq!(granted.devices[0].path(), "/dev/thing");
    assert_eq!(granted.variables["THING"], "1");
    assert_eq!(granted.annotations["vendor.example/note"], "x");

    let shown = node.shown().await;
    assert_eq!(shown.len(), 2);
    let devices = &shown[0].containers[0].devices;
    assert_eq!((devices[0].resource_name.as_str(), &devices[0].ids), (THING, &both));
    assert!(shown[1].containers[0].devices.is_empty());
    let get = async |name: &str| {
        let socket = node.directory.path().join("resources/kubelet.sock");
        let request = GetRequest { name: name.to_owned(), namespace: "n".to_owned() };
        Channel::connect(&socket).await.unwrap().unary::<_, GetResponse>(GET, request, 1 << 20).await
    };
    assert_eq!(get("p").await.unwrap().pod.as_ref(), Some(&shown[0]));
    assert_eq!(get("x").await.unwrap_err().code(), tonic::Code::NotFound);

    assert!(matches!(node.allocate("q", 1).await, Err(Error::Short { free: 0, .. })));
    plugin.say.send_replace(list(&[("a", true), ("b", true), ("c", true)]));
    node.counts(3, 3).await;
    node.allocate("q", 1).await.unwrap();
    node.devices.release("uid-p");
    node.devices.release("uid-q");
    assert!(node.shown().await.iter().all(|pod| pod.containers[0].devices.is_empty()));
    node.allocate("q", 3).await.unwrap();
}

#[tokio::test]
async fn a_plug_in_that_ends_leaves_a_capacity_and_comes_back_by_registering() {
    let node = Node::new();
    let plugin = Plugin::start(&node.plugin(), &[("a", true), ("b", true)], Ok(response()));
    node.register(THING, VERSION).await.unwrap();
    node.counts(2, 2).await;
    drop(plugin);
    node.counts(2, 0).await;
    assert!(matches!(node.allocate("p", 1).await, Err(Error::Short { free: 0, .. })));
    let _plugin = Plugin::start(&node.plugin(), &[("a", true)], Ok(response()));
    node.register(THING, VERSION).await.unwrap();
    node.counts(1, 1).await;
    node.allocate("p", 1).await.unwrap();
}

#[tokio::test]
async fn what_a_pod_has_is_its_own_after_a_restart_of_the_node() {
    let node = Node::new();
    let plugin = Plugin::start(&node.plugin(), &[("a", true), ("b", true)], Ok(response()));
    node.register(THING, VERSION).await.unwrap();
    node.counts(2, 2).await;
    node.allocate("p", 1).await.unwrap();
    let node = node.again();
    node.counts(0, 0).await;
    assert_eq!(node.devices.holders(), ["uid-p".to_owned()].into());
    node.register(THING, VERSION).await.unwrap();
    node.counts(2, 2).await;
    assert!(matches!(node.allocate("q", 2).await, Err(Error::Short { free: 1, .. })));
    node.allocate("q", 1).await.unwrap();
    assert_eq!(*plugin.script.asked.lock().unwrap(), [["a".to_owned()], ["b".to_owned()]]);
    // A record that says nothing is no reason to give devices twice.
    let at = |name: &str| node.directory.path().join(name);
    fs::write(at("devices.json"), "{").unwrap();
    assert!(matches!(Devices::open(at("plugins"), at("devices.json"), []), Err(Error::File { .. })));
}

#[tokio::test]
async fn a_plug_in_that_refuses_or_gives_nonsense_leaves_the_devices_free() {
    let nonsense = ContainerResponse {
        mounts: vec![Mount { container_path: "/run/../etc".to_owned(), ..response().mounts[0].clone() }],
        ..response()
    };
    for (answer, said) in
        [(Err(Status::internal("it is broken")), "it is broken"), (Ok(nonsense), "no absolute path")]
    {
        let node = Node::new();
        let _plugin = Plugin::start(&node.plugin(), &[("a", true)], answer);
        node.register(THING, VERSION).await.unwrap();
        node.counts(1, 1).await;
        let error = node.allocate("p", 1).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(node.devices.holders().is_empty());
    }
}

/// It says nothing yet: what the one before it had is no longer given.
#[tokio::test]
async fn a_plug_in_vouches_for_its_own_devices_alone() {
    let node = Node::new();
    let _plugin = Plugin::start(&node.plugin(), &[("a", true)], Ok(response()));
    node.register(THING, VERSION).await.unwrap();
    node.counts(1, 1).await;
    let _next = UnixListener::bind(node.directory.path().join("plugins/next.sock")).unwrap();
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: "next.sock".to_owned(),
        resource_name: THING.to_owned(),
        options: Some(Options::default()),
    };
    let socket = node.directory.path().join("plugins/kubelet.sock");
    let channel = Channel::connect(&socket).await.unwrap();
    channel.unary::<_, Empty>(REGISTER, request, 1 << 16).await.unwrap();
    assert_eq!(node.devices.counts()[THING], Count { capacity: 1, allocatable: 0 });
    assert!(matches!(node.allocate("p", 1).await, Err(Error::Short { free: 0, .. })));
}

/// Its calls end in time one by one, and together they do not.
#[tokio::test]
async fn what_a_pod_asks_for_is_there_in_time_or_not_at_all() {
    let node = Node::new();
    let plugin = Plugin::start(&node.plugin(), &[("a", true)], Ok(response()));
    node.register(THING, VERSION).await.unwrap();
    node.counts(1, 1).await;
    *plugin.script.pause.lock().unwrap() = Duration::from_secs(6);
    let error = node.allocate("p", 1).await.unwrap_err().to_string();
    assert!(error.contains("it does not answer"), "{error}");
    assert!(node.devices.holders().is_empty());
}

#[tokio::test]
async fn only_the_nodes_user_registers_and_only_a_resource_of_its_own() {
    let node = Node::new();
    for (name, mode) in [
        ("plugins", 0o700),
        ("plugins/kubelet.sock", 0o600),
        ("resources", 0o700),
        ("resources/kubelet.sock", 0o600),
    ] {
        let data = fs::metadata(node.directory.path().join(name)).unwrap();
        assert_eq!(data.permissions().mode() & 0o7777, mode, "{name}");
    }
    // Somebody else is not heard, even if the modes are others.
    for name in ["", "plugins", "plugins/kubelet.sock"] {
        fs::set_permissions(node.directory.path().join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let socket = node.directory.path().join("plugins/kubelet.sock");
    let somebody = move || {
        rustix::thread::set_thread_uid(rustix::thread::Uid::from_raw(65_534)).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        std::io::Read::read(&mut stream, &mut [0]).unwrap()
    };
    let heard = tokio::task::spawn_blocking(|| std::thread::spawn(somebody).join().unwrap());
    assert_eq!(heard.await.unwrap(), 0, "the connection was not ended at once");
    let refused = async |resource: &str, version: &str| node.register(resource, version).await.unwrap_err();
    assert!(refused(THING, VERSION).await.message().contains("thing.sock"), "there is no plug-in");
    let plugin = Plugin::start(&node.plugin(), &[("a", true)], Ok(response()));
    assert!(refused(THING, "v1alpha").await.message().contains("use v1beta1"));
    assert!(refused("cpu", VERSION).await.message().contains("no name of an extended resource"));
    assert!(refused("vendor.example/own", VERSION).await.message().contains("offered by the node itself"));
    assert!(node.devices.counts().is_empty());
    // A list that makes no sense ends the plug-in, not the node.
    node.register(THING, VERSION).await.unwrap();
    node.counts(1, 1).await;
    plugin.say.send_replace(list(&[("a", true), ("a", true)]));
    node.counts(1, 0).await;
}

/// A plug-in would take a pod that is not shown for one that is gone.
#[tokio::test]
async fn a_node_that_does_not_know_its_pods_yet_shows_none_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let devices = Devices::open(at("plugins"), at("devices.json"), []).unwrap();
    let sockets = listen(&at("plugins"), &at("resources")).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(devices.serve(sockets, || None));
    let channel = Channel::connect(&at("resources/kubelet.sock")).await.unwrap();
    let all = channel.unary::<_, PodList>(LIST, Empty {}, 1 << 20).await.map(drop);
    let request = GetRequest { name: "p".to_owned(), namespace: "n".to_owned() };
    let channel = Channel::connect(&at("resources/kubelet.sock")).await.unwrap();
    let one = channel.unary::<_, GetResponse>(GET, request, 1 << 20).await.map(drop);
    for answer in [all, one] {
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
    }
}

#[tokio::test]
async fn who_waits_for_devices_hears_of_each_change() {
    let node = Node::new();
    let wanted = async |capacity: usize, allocatable: usize| {
        let wanted = Count { capacity, allocatable };
        let until = async {
            while node.devices.counts().get(THING) != Some(&wanted) {
                node.devices.changed().await;
            }
        };
        let late = tokio::time::timeout(LIMIT, until).await;
        assert!(late.is_ok(), "{:?} and not {wanted:?}", node.devices.counts());
    };
    let plugin = Plugin::start(&node.plugin(), &[("a", true)], Ok(ContainerResponse::default()));
    node.register(THING, VERSION).await.unwrap();
    wanted(1, 1).await;
    plugin.say.send_replace(list(&[("a", true), ("b", false)]));
    wanted(2, 1).await;
    drop(plugin);
    wanted(2, 0).await;
}
