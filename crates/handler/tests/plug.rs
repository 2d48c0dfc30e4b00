//! The plug-in beside a kubelet of the tests, over real sockets.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "plug/kubelet.rs"]
mod kubelet;

use ferrovirt_handler::plug::{
    MACHINE,
    grpc::Channel,
    look,
    messages::{
        ALLOCATE, AllocateRequest, AllocateResponse, ContainerRequest, ContainerResponse, Empty, Mount,
        OPTIONS, Options, PREFERRED, Pod,
    },
    plugin::Plugin,
    registration::Entry,
};
use kubelet::{Kubelet, Pods};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::AsyncReadExt as _,
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

/// A plug-in with four devices; the second of the channels says with which cookie the kubelet listens.
struct Running {
    socket: PathBuf,
    listens: watch::Receiver<Option<Option<u64>>>,
    _tasks: JoinSet<()>,
}

fn start(kubelet: &Path, socket: &Path) -> Running {
    start_with(kubelet, socket, rustix::process::geteuid().as_raw(), Duration::from_secs(60))
}

/// With another user who is heard, and time for a first request.
fn start_with(kubelet: &Path, socket: &Path, user: u32, limit: Duration) -> Running {
    let (seen, events) = mpsc::unbounded_channel();
    let allocate = |devices: &[String]| match devices {
        [one] => Ok(ContainerResponse {
            mounts: vec![Mount {
                container_path: "/run/ferrovirt".to_owned(),
                host_path: format!("/slots/{one}"),
                read_only: true,
            }],
            ..ContainerResponse::default()
        }),
        _ => Err("one for each container".to_owned()),
    };
    let plugin = Arc::new(Plugin::new(4, Box::new(allocate), seen, user).first_request_within(limit));
    let listener = UnixListener::bind(socket).unwrap();
    let entry = Entry { resource: MACHINE, kubelet: kubelet.to_owned(), socket: socket.to_owned() };
    let (say, listens) = watch::channel(None);
    let mut tasks = JoinSet::new();
    tasks.spawn(plugin.run(listener));
    tasks.spawn(entry.keep(events, move |cookie| {
        say.send_replace(cookie);
    }));
    Running { socket: socket.to_owned(), listens, _tasks: tasks }
}

async fn allocate(socket: &Path, devices: &[&str]) -> Result<AllocateResponse, tonic::Status> {
    let devices = devices.iter().map(|&name| name.to_owned()).collect();
    let request = AllocateRequest { containers: vec![ContainerRequest { devices }] };
    Channel::connect(socket).await.unwrap().unary(ALLOCATE, request, 1 << 20).await
}

#[tokio::test]
async fn the_kubelet_learns_the_devices_and_gets_a_directory_for_one_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut kubelet = Kubelet::start(directory.path());
    // Elsewhere than in the kubelet's directory, and far from it.
    let own = tempfile::tempdir().unwrap();
    let plug = start(&kubelet.socket(), &own.path().join("machine.sock"));
    let request = kubelet.registered().await;
    assert_eq!((request.version.as_str(), request.resource_name.as_str()), ("v1beta1", MACHINE));
    assert_eq!(request.options, Some(Options::default()));
    let names: Vec<_> =
        kubelet.devices().await.into_iter().map(|device| (device.id, device.health)).collect();
    let healthy = |name: &str| (name.to_owned(), "Healthy".to_owned());
    assert_eq!(names, ["0", "1", "2", "3"].map(healthy));

    let answer = allocate(&plug.socket, &["2"]).await.unwrap();
    let mount = &answer.containers[0].mounts[0];
    assert_eq!((mount.host_path.as_str(), mount.read_only), ("/slots/2", true));
    let refused = allocate(&plug.socket, &["2", "3"]).await.unwrap_err();
    assert_eq!(refused.message(), "one for each container");
    assert!(allocate(&plug.socket, &["4"]).await.unwrap_err().message().contains("not offered"));

    let call = || async { Channel::connect(&plug.socket).await.unwrap() };
    let options: Options = call().await.unary(OPTIONS, Empty {}, 1 << 20).await.unwrap();
    assert_eq!(options, Options::default());
    let preferred = call().await.unary::<_, Empty>(PREFERRED, Empty {}, 1 << 20).await;
    assert_eq!(preferred.unwrap_err().code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let plug = start(&directory.path().join("none"), &directory.path().join("machine.sock"));
    let names: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = allocate(&plug.socket, &names).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    assert!(allocate(&plug.socket, &["1"]).await.is_ok());
}

#[tokio::test]
async fn a_kubelet_that_is_started_again_knows_the_plug_in_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut kubelet = Kubelet::start(directory.path());
    let mut plug = start(&kubelet.socket(), &directory.path().join("machine.sock"));
    kubelet.devices().await;
    plug.listens.wait_for(Option::is_some).await.unwrap();
    drop(kubelet);
    plug.listens.wait_for(Option::is_none).await.unwrap();
    let mut kubelet = Kubelet::start(directory.path());
    assert_eq!(kubelet.devices().await.len(), 4);
}

#[tokio::test]
async fn a_kubelet_that_comes_late_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let plug = start(&directory.path().join("kubelet.sock"), &directory.path().join("machine.sock"));
    assert!(plug.listens.borrow().is_none());
    let mut kubelet = Kubelet::start(directory.path());
    assert_eq!(kubelet.devices().await.len(), 4);
}

/// As the kubelet does: the last one wins, and it hangs up on both when the one before ends.
#[tokio::test]
async fn of_two_with_one_name_the_one_that_lives_is_known_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut kubelet = Kubelet::start(directory.path());
    let mut first = start(&kubelet.socket(), &directory.path().join("first.sock"));
    kubelet.devices().await;
    first.listens.wait_for(Option::is_some).await.unwrap();
    let mut second = start(&kubelet.socket(), &directory.path().join("second.sock"));
    second.listens.wait_for(Option::is_some).await.unwrap();
    drop(first);
    let socket = second.socket.clone();
    kubelet.until(move |endpoint| endpoint.ends_with(socket.to_str().unwrap())).await;
    second.listens.wait_for(Option::is_some).await.unwrap();
}

/// The cookie is that of the namespace from which the kubelet connects, not ours.
#[tokio::test]
async fn the_nodes_namespace_is_known_by_the_kubelets_connection() {
    let directory = tempfile::tempdir().unwrap();
    let here = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let here = ferrovirt_sys::netns::cookie(std::os::fd::AsFd::as_fd(&here)).unwrap();
    let mut kubelet = Kubelet::start(directory.path());
    let mut plug = start(&kubelet.socket(), &directory.path().join("machine.sock"));
    kubelet.devices().await;
    assert_eq!(*plug.listens.wait_for(Option::is_some).await.unwrap(), Some(Some(here)));

    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root makes a network namespace");
        return;
    }
    let path = directory.path().join("ns");
    ferrovirt_sys::netns::create(&path).unwrap();
    let namespace = ferrovirt_sys::netns::open(&path).unwrap();
    let (there, stream) = ferrovirt_sys::netns::run_in(&namespace, || {
        let stream = std::os::unix::net::UnixStream::connect(&plug.socket)?;
        Ok((ferrovirt_sys::netns::cookie(std::os::fd::AsFd::as_fd(&stream))?, stream))
    })
    .unwrap();
    assert_ne!(there, here);
    let _listener = kubelet::listen(stream).await;
    assert_eq!(*plug.listens.wait_for(|seen| *seen != Some(Some(here))).await.unwrap(), Some(Some(there)));
    ferrovirt_sys::netns::delete(&path).unwrap();
}

/// Static pods alone are what a kubelet shows that was started again while the API server is away.
#[tokio::test]
async fn a_list_without_the_plug_ins_own_pod_says_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kubelet.sock");
    let pods = Pods::start(&socket);
    let own = kubelet::own();
    let us = look::Own { namespace: own.namespace.clone(), pod: own.name.clone() };
    assert_eq!(look::list(&socket, Some(&us)).await.unwrap().pods, std::slice::from_ref(&own));
    let fixed = Pod { name: "etcd".to_owned(), ..own.clone() };
    let elsewhere = Pod { namespace: "vms".to_owned(), ..own };
    for shown in [vec![], vec![fixed, elsewhere]] {
        let count = shown.len();
        pods.list.lock().unwrap().pods = shown;
        let error = look::list(&socket, Some(&us)).await.unwrap_err();
        assert!(error.contains("does not show kubevirt/virt-handler-x"), "{error}");
        // Beside a node that knows its pods when it answers, there is none.
        assert_eq!(look::list(&socket, None).await.unwrap().pods.len(), count);
    }
}

/// Nobody else can take the kubelet's place and say which namespace is the node's.
#[tokio::test]
async fn who_is_of_another_user_than_the_kubelet_is_not_heard() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("machine.sock");
    let another = rustix::process::geteuid().as_raw() + 1;
    let plug = start_with(&directory.path().join("none"), &socket, another, Duration::from_secs(60));
    for _ in 0..20 {
        let Ok(channel) = Channel::connect(&socket).await else { continue };
        let request = AllocateRequest { containers: Vec::new() };
        assert!(channel.unary::<_, AllocateResponse>(ALLOCATE, request, 1 << 20).await.is_err());
    }
    assert!(plug.listens.borrow().is_none());
}

#[tokio::test]
async fn connections_without_a_request_do_not_keep_the_kubelet_out() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("machine.sock");
    let user = rustix::process::geteuid().as_raw();
    let _plug = start_with(&directory.path().join("none"), &socket, user, Duration::from_secs(1));
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(UnixStream::connect(&socket).await.unwrap());
    }
    // Each is closed in its turn, after what HTTP/2 says in the beginning.
    for mut stream in idle {
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    assert!(allocate(&socket, &["1"]).await.is_ok());
}

/// What has asked once may listen as long as it likes.
#[tokio::test]
async fn a_connection_with_a_request_stays() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("machine.sock");
    let user = rustix::process::geteuid().as_raw();
    let limit = Duration::from_millis(300);
    let mut plug = start_with(&directory.path().join("none"), &socket, user, limit);
    let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let _listener = kubelet::listen(stream).await;
    plug.listens.wait_for(Option::is_some).await.unwrap();
    // One without a request, which comes later, is closed meanwhile.
    let mut idle = UnixStream::connect(&socket).await.unwrap();
    idle.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(plug.listens.borrow().is_some());
}
