//! `virt-handler plug` as a process, beside a kubelet of the tests: what it does, what it holds, and which right is
//! missed how. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../handler/tests/plug/kubelet.rs"]
mod kubelet;

use ferrovirt_handler::plug::{
    KVM, MACHINE, MOUNT_POINT, TUN,
    grpc::Channel,
    messages::{
        ALLOCATE, AllocateRequest, AllocateResponse, Container, ContainerDevices, ContainerRequest,
        ContainerResponse, Pod,
    },
    store::{Host, Store},
    table::{Holder, Record, State},
};
use ferrovirt_node::devices::{
    self, Devices,
    table::{Count, Holder as OfPod},
};
use ferrovirt_privilege::{
    Right, Scenario,
    scenario::{registered, witnessed},
};
use kubelet::{Kubelet, Pods};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    task::JoinSet,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A node's directories, and what a kubelet serves there.
struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["own", "plugins", "resources"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn arguments(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        vec![
            format!("--directory={}", path("own")),
            format!("--device-plugins={}", path("plugins")),
            format!("--pod-resources={}", path("resources/kubelet.sock")),
            format!("--pod-name={}", kubelet::own().name),
            format!("--pod-namespace={}", kubelet::own().namespace),
            "--slots=3".to_owned(),
            "--keep-seconds=0".to_owned(),
        ]
    }

    fn records(&self) -> Vec<(String, Record)> {
        let entries = fs::read_dir(self.path("own/records")).unwrap().map(Result::unwrap);
        let names =
            entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name != "part");
        let read = |name: String| {
            let text = fs::read_to_string(self.path("own/records").join(&name)).ok()?;
            Some((name, serde_json::from_str(&text).unwrap()))
        };
        names.filter_map(read).collect()
    }

    fn directories(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path("own/slots")).unwrap().map(Result::unwrap);
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }
}

struct Plug {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Plug {
    fn start(before: &[&str], arguments: &[String]) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_virt-handler")), before, arguments)
    }

    fn start_program(program: &Path, before: &[&str], arguments: &[String]) -> Self {
        let mut words = before.to_vec();
        words.extend([program.to_str().unwrap(), "plug"]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments).env("RUST_LOG", "info").kill_on_drop(true);
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// Waits for a line with these words.
    async fn says(&mut self, words: &str) -> String {
        let mut all = Vec::new();
        let line = tokio::time::timeout(LIMIT, async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(words) {
                    return Some(line);
                }
                all.push(line);
            }
            None
        });
        let line = line.await.ok().flatten();
        line.unwrap_or_else(|| panic!("it did not say `{words}` but {all:#?}"))
    }

    /// The program itself, below what it was started with.
    fn pid(&self) -> u32 {
        let pid = self.child.id().unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().map_or(pid, |child| child.parse().unwrap())
    }

    async fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut left = Vec::new();
        while let Some(line) = self.log.next_line().await.unwrap() {
            left.push(line);
        }
        assert!(self.child.wait().await.unwrap().success(), "{left:#?}");
    }
}

/// Looks until it is so.
async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn allocate(socket: &Path, devices: &[&str]) -> Result<ContainerResponse, tonic::Status> {
    let devices = devices.iter().map(|&name| name.to_owned()).collect();
    let request = AllocateRequest { containers: vec![ContainerRequest { devices }] };
    let answer: AllocateResponse =
        Channel::connect(socket).await.unwrap().unary(ALLOCATE, request, 1 << 20).await?;
    Ok(answer.containers[0].clone())
}

fn pod(name: &str, slot: &str) -> Pod {
    let devices = ContainerDevices { resource_name: MACHINE.to_owned(), ids: vec![slot.to_owned()] };
    let container = Container { name: "compute".to_owned(), devices: vec![devices] };
    Pod { name: name.to_owned(), namespace: "vms".to_owned(), containers: vec![container] }
}

fn held(name: &str) -> State {
    State::Held(Holder { namespace: "vms".to_owned(), pod: name.to_owned(), container: "compute".to_owned() })
}

/// Calls that are granted and not made in the test, and when they are.
const ELSEWHERE: &[(&str, &[&str])] = &[
    (
        "a C library or kernel without the faster way: no vDSO, older or newer calls for the same function",
        &["clock_gettime", "epoll_pwait", "fstat", "gettimeofday", "lstat", "newfstatat"],
    ),
    (
        "memory that comes and goes, and the seed of a table",
        &["getrandom", "madvise", "mmap", "mprotect", "mremap"],
    ),
    (
        "a signal or a stop at an inconvenient moment, an abort",
        &["getpid", "gettid", "restart_syscall", "rt_sigprocmask", "sched_yield", "tgkill"],
    ),
];

fn granted() -> BTreeSet<String> {
    let rights = witnessed("plug-calls").unwrap().rights.iter();
    let names = rights.filter_map(|right| match right {
        Right::OwnSyscall(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

/// What was called after the filter was put on.
fn made(trace: &Path) -> BTreeSet<String> {
    let (mut made, mut filtered) = (BTreeSet::new(), false);
    for line in fs::read_to_string(trace).unwrap().lines() {
        let Some((_, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        if filtered && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
            made.insert(name.to_owned());
        }
        filtered |= call.contains("PR_SET_SECCOMP");
    }
    assert!(filtered, "there is no filter");
    made
}

/// The witness `plug-calls`: the life of a slot, a restart of kubelet and program, under strace.
#[tokio::test]
async fn every_call_of_the_program_is_granted_and_every_granted_one_has_its_use() {
    let node = Node::new();
    let mut kubelet = Kubelet::start(&node.path("plugins"));
    let pods = Pods::start(&node.path("resources/kubelet.sock"));
    let trace = node.path("trace");
    let strace = ["strace", "-f", "-qq", "-o", trace.to_str().unwrap()];
    let mut arguments = node.arguments();
    arguments.extend(["--with-device=tun", "--offer=tun", "--offer=kvm", "--offer=kvm"].map(str::to_owned));
    let plug = Plug::start(&strace, &arguments);
    // Where there is no KVM, none is offered.
    let kvm = Path::new("/sys/class/misc/kvm").exists();
    let wanted: BTreeSet<_> = [Some(MACHINE), Some(TUN), kvm.then_some(KVM)].into_iter().flatten().collect();
    let mut offered = BTreeSet::new();
    for _ in &wanted {
        offered.insert(kubelet.registered().await.resource_name);
    }
    assert_eq!(offered, wanted.into_iter().map(str::to_owned).collect());
    for (socket, path) in
        [Some(("tun.sock", "/dev/net/tun")), kvm.then_some(("kvm.sock", "/dev/kvm"))].into_iter().flatten()
    {
        let nodes = allocate(&node.path("own/sockets").join(socket), &["0"]).await.unwrap().devices;
        let paths: Vec<_> = nodes.iter().map(|node| node.host_path.as_str()).collect();
        assert_eq!(paths, [path]);
    }
    let machine = node.path("own/sockets/machine.sock");
    pods.list.lock().unwrap().pods.push(pod("a", "1"));
    let given = allocate(&machine, &["1"]).await.unwrap();
    let mount = &given.mounts[0];
    assert_eq!((mount.container_path.as_str(), mount.read_only), (MOUNT_POINT, true));
    assert_eq!(given.devices[0].host_path, "/dev/net/tun");
    assert_eq!(fs::metadata(&mount.host_path).unwrap().mode() & 0o777, 0o711);
    let two = allocate(&machine, &["1", "2"]).await.unwrap_err();
    assert_eq!(two.message(), "a container can have one devices.ferrovirt.io/machine, and it asks for 2");

    until("the holder", || (node.records().first()?.1.state == held("a")).then_some(())).await;
    let here = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let here = ferrovirt_sys::netns::cookie(std::os::fd::AsFd::as_fd(&here)).unwrap();
    let host = until("the node's namespace", || fs::read_to_string(node.path("own/host")).ok()).await;
    assert_eq!(serde_json::from_str::<Host>(&host).unwrap().network_namespace, here);

    // Its directory goes with it.
    fs::write(Path::new(&mount.host_path).join("file"), "").unwrap();
    pods.list.lock().unwrap().pods.truncate(1);
    allocate(&machine, &["0"]).await.unwrap();
    until("the end of the directory", || (!Path::new(&mount.host_path).exists()).then_some(())).await;

    drop(kubelet);
    until("no kubelet", || (!node.path("own/host").exists()).then_some(())).await;
    let mut kubelet = Kubelet::start(&node.path("plugins"));
    kubelet.devices().await;
    plug.stop().await;
    let made = made(&trace);
    let granted = granted();
    let lacking: Vec<_> = made.difference(&granted).collect();
    assert!(lacking.is_empty(), "made and not granted: {lacking:?}");
    let elsewhere: BTreeSet<_> = ELSEWHERE.iter().flat_map(|(_, calls)| calls.iter().copied()).collect();
    // Some of these are made on one machine and not on the next.
    let idle = granted.iter().map(String::as_str).filter(|call| !made.contains(*call));
    let idle: Vec<_> = idle.filter(|call| !elsewhere.contains(call)).collect();
    assert!(idle.is_empty(), "granted, not made, and without a reason: {idle:?}");
    let odd: Vec<_> = elsewhere.iter().filter(|call| !granted.contains(**call)).collect();
    assert!(odd.is_empty(), "with a reason and not granted: {odd:?}");
}

#[tokio::test]
async fn it_holds_nothing_and_knows_its_slots_again_after_it_was_killed() {
    let node = Node::new();
    let mut kubelet = Kubelet::start(&node.path("plugins"));
    let pods = Pods::start(&node.path("resources/kubelet.sock"));
    let mut plug = Plug::start(&["env"], &node.arguments());
    kubelet.devices().await;
    let status = fs::read_to_string(format!("/proc/{}/status", plug.pid())).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
    }
    for line in ["NoNewPrivs:\t1\n", "Seccomp:\t2\n", "Threads:\t1\n"] {
        assert!(status.contains(line), "{status}");
    }
    let socket = node.path("own/sockets/machine.sock");
    for (slot, name) in [("0", "a"), ("2", "b")] {
        pods.list.lock().unwrap().pods.push(pod(name, slot));
        allocate(&socket, &[slot]).await.unwrap();
    }
    let known = || {
        let records = node.records();
        let states: Vec<_> = records.iter().map(|(_, record)| record.state.clone()).collect();
        [held("a"), held("b")].iter().all(|state| states.contains(state)).then_some(records)
    };
    let before = until("the holders", known).await;
    plug.child.kill().await.unwrap();
    // One goes meanwhile, and there is a directory that nobody knows.
    pods.list.lock().unwrap().pods.remove(1);
    fs::create_dir(node.path("own/slots").join("f".repeat(32))).unwrap();
    let whole = std::mem::take(&mut pods.list.lock().unwrap().pods);
    let mut plug = Plug::start(&["env"], &node.arguments());
    kubelet.devices().await;
    // Of a kubelet that does not even know the program's own pod nothing is believed.
    plug.says("does not show kubevirt/virt-handler-x").await;
    assert_eq!(node.directories(), before.iter().map(|(name, _)| name.clone()).collect());
    pods.list.lock().unwrap().pods = whole;
    let kept: BTreeSet<_> =
        before.iter().filter(|(_, record)| record.state == held("b")).map(|(name, _)| name.clone()).collect();
    // With no time to keep it, the other one goes with the second look in which its pod is missing.
    until("the directory of the other", || (node.directories() == kept).then_some(())).await;
    let left = node.records();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1.state, held("b"));
    plug.stop().await;
}

/// The next one of a rolling update, which comes while the last one is still there.
#[tokio::test]
async fn one_that_waits_for_another_can_be_ended_and_comes_in_its_turn() {
    let node = Node::new();
    let mut kubelet = Kubelet::start(&node.path("plugins"));
    let other = Store::open(&node.path("own")).unwrap();
    // The first process of a pid namespace, as in a container.
    let first = ["unshare", "--pid", "--fork", "--kill-child"];
    let mut plug = Plug::start(&first, &node.arguments());
    plug.says("waiting for the end of another process").await;
    plug.stop().await;
    let mut plug = Plug::start(&first, &node.arguments());
    plug.says("waiting for the end of another process").await;
    drop(other);
    kubelet.devices().await;
    plug.stop().await;
}

/// The witnesses of paths and user: what is said without them.
#[tokio::test]
async fn each_right_is_missed() {
    let all = ["plug-calls", "plug-holders", "plug-registers", "plug-slots", "plug-user"];
    assert_eq!(registered(Scenario::Plug).collect::<Vec<_>>(), all);
    let node = Node::new();
    let with = |node: &Node, option: &str, path: PathBuf| {
        let mut arguments = node.arguments();
        arguments.retain(|argument| !argument.starts_with(option));
        arguments.push(format!("{option}={}", path.display()));
        arguments
    };

    // plug-registers
    let mut plug = Plug::start(&["env"], &with(&node, "--device-plugins", node.path("missing")));
    plug.says("there is no kubelet at").await;
    plug.stop().await;

    // plug-holders
    let mut kubelet = Kubelet::start(&node.path("plugins"));
    let resources = node.path("missing/kubelet.sock");
    let mut plug = Plug::start(&["env"], &with(&node, "--pod-resources", resources));
    kubelet.devices().await;
    allocate(&node.path("own/sockets/machine.sock"), &["0"]).await.unwrap();
    plug.says("who holds the slots: No such file or directory").await;
    plug.stop().await;

    // plug-slots
    let mut plug = Plug::start(&["env"], &with(&node, "--directory", node.path("missing")));
    plug.says("No such file or directory").await;

    // plug-user: with everything else its own.
    fs::set_permissions(node.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(node.path("own")).unwrap();
    fs::create_dir(node.path("own")).unwrap();
    chown(node.path("own"), Some(65_532), Some(65_532)).unwrap();
    fs::set_permissions(node.path("plugins/kubelet.sock"), fs::Permissions::from_mode(0o755)).unwrap();
    let somebody = ["setpriv", "--reuid", "65532", "--regid", "65532", "--clear-groups"];
    // The way to the program may be closed to others.
    let program = node.path("virt-handler");
    // By another process: one that this one starts meanwhile would have the file open for writing, and it could not be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_virt-handler")).arg(&program).status().await;
    assert!(copied.unwrap().success());
    let mut plug = Plug::start_program(&program, &somebody, &node.arguments());
    let said = plug.says("registering devices.ferrovirt.io/machine").await;
    assert!(said.contains("Permission denied"), "{said}");
}

/// The pods that a node knows, once it knows any.
type Known = Arc<Mutex<Option<Vec<Pod>>>>;

/// The device manager of `ferrovirt up`, which ends with the tasks.
fn manage(node: &Node, pods: &Known) -> (Arc<Devices>, JoinSet<()>) {
    let devices = Devices::open(node.path("plugins"), node.path("devices.json"), []).unwrap();
    let sockets = devices::listen(&node.path("plugins"), &node.path("resources")).unwrap();
    let (mut tasks, pods) = (JoinSet::new(), Arc::clone(pods));
    tasks.spawn(devices.clone().serve(sockets, move || pods.lock().unwrap().clone()));
    (devices, tasks)
}

async fn offered(devices: &Devices, allocatable: usize) {
    let wanted = Count { capacity: 3, allocatable };
    until("the places", || (devices.counts().get(MACHINE) == Some(&wanted)).then_some(())).await;
}

/// One way for both worlds: what a kubelet of a cluster does here, the node agent does under `ferrovirt up`.
#[tokio::test]
async fn the_nodes_own_device_manager_gives_places_that_outlive_it_and_the_program() {
    let node = Node::new();
    let pods = Known::default();
    let (devices, tasks) = manage(&node, &pods);
    let mut arguments = node.arguments();
    arguments.retain(|argument| !argument.starts_with("--pod-n"));
    arguments.push("--with-device=tun".to_owned());
    let mut plug = Plug::start(&["env"], &arguments);
    offered(&devices, 3).await;

    let give = async |devices: &Devices, name: &str| {
        let holder =
            OfPod { namespace: "vms".to_owned(), pod: name.to_owned(), container: "compute".to_owned() };
        let wanted = BTreeMap::from([(MACHINE.to_owned(), 1)]);
        let granted = devices.allocate(&format!("uid-{name}"), holder, &wanted).await.unwrap();
        assert_eq!(granted.devices[0].path(), "/dev/net/tun");
        assert_eq!(granted.mounts[0].destination, MOUNT_POINT);
        assert!(granted.mounts[0].options.contains(&"ro".to_owned()));
        granted.mounts[0].source.clone()
    };
    let own = |name: &str| {
        let container = Container { name: "compute".to_owned(), devices: Vec::new() };
        Pod { name: name.to_owned(), namespace: "vms".to_owned(), containers: vec![container] }
    };
    let first = give(&devices, "a").await;
    // Nothing is said of the holder, and so nothing believed, before the node knows its pods.
    plug.says("the node does not know its pods yet").await;
    *pods.lock().unwrap() = Some(vec![own("a")]);
    let holds = |name: &str| {
        let state = held(name);
        node.records().into_iter().any(|(_, record)| record.state == state).then_some(())
    };
    until("the holder", || holds("a")).await;

    // Another agent, which does not know yet that the pod is there.
    drop((devices, tasks));
    *pods.lock().unwrap() = None;
    let (devices, _tasks) = manage(&node, &pods);
    offered(&devices, 3).await;
    give(&devices, "b").await;
    plug.says("the node does not know its pods yet").await;
    *pods.lock().unwrap() = Some(vec![own("a"), own("b")]);
    until("the other holder", || holds("b")).await;
    assert!(first.is_dir() && holds("a").is_some(), "a running pod has lost its place");

    // Without the program nothing is given; the next one knows who has what.
    plug.child.kill().await.unwrap();
    offered(&devices, 0).await;
    let plug = Plug::start(&["env"], &arguments);
    offered(&devices, 3).await;
    assert!(first.is_dir() && holds("a").is_some(), "a running pod has lost its place");
    devices.release("uid-a");
    *pods.lock().unwrap() = Some(vec![own("b")]);
    give(&devices, "c").await;
    until("the end of the directory", || (!first.exists()).then_some(())).await;
    assert_eq!(holds("b"), Some(()));
    plug.stop().await;
}
