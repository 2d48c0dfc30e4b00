//! What a kubelet does with device plug-ins: it takes registrations, connects to who registered, and listens. The last
//! plug-in of a name wins; when the stream of an earlier one ends, it hangs up on the present one, too.

use ferrovirt_handler::plug::{
    grpc::{self, Channel},
    messages::{Device, Devices, Empty, LIST, LIST_AND_WATCH, Pod, PodList, REGISTER, RegisterRequest},
};
use std::{
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Joins as Go's `filepath.Join` does: `..` goes by the text.
fn join(directory: &Path, endpoint: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in directory.join(endpoint).components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out
}

/// Listens on a connection that is there already, as long as the value lives.
#[allow(dead_code)]
pub(crate) async fn listen(stream: std::os::unix::net::UnixStream) -> impl Sized {
    stream.set_nonblocking(true).unwrap();
    let channel = Channel::over(UnixStream::from_std(stream).unwrap()).await.unwrap();
    let (call, mut list) = channel.streaming::<_, Devices>(LIST_AND_WATCH, Empty {}, 1 << 20).await.unwrap();
    list.message().await.unwrap().unwrap();
    (call, list)
}

struct Shared {
    directory: PathBuf,
    /// Hangs up on the plug-in that is registered now.
    current: Mutex<Option<watch::Sender<bool>>>,
    requests: mpsc::UnboundedSender<RegisterRequest>,
    lists: mpsc::UnboundedSender<(String, Vec<Device>)>,
    tasks: Mutex<JoinSet<()>>,
}

pub(crate) struct Kubelet {
    shared: Arc<Shared>,
    requests: mpsc::UnboundedReceiver<RegisterRequest>,
    lists: mpsc::UnboundedReceiver<(String, Vec<Device>)>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.shared.tasks.lock().unwrap().abort_all();
    }
}

impl Kubelet {
    pub(crate) fn start(directory: &Path) -> Self {
        let socket = directory.join("kubelet.sock");
        drop(std::fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        let ((requests, seen), (lists, listed)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let directory = directory.to_owned();
        let (current, tasks) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { directory, current, requests, lists, tasks });
        shared.tasks.lock().unwrap().spawn(accept(Arc::clone(&shared), listener));
        Self { shared, requests: seen, lists: listed }
    }

    #[allow(dead_code)]
    pub(crate) fn socket(&self) -> PathBuf {
        self.shared.directory.join("kubelet.sock")
    }

    /// The next request.
    #[allow(dead_code)]
    pub(crate) async fn registered(&mut self) -> RegisterRequest {
        self.requests.recv().await.unwrap()
    }

    /// The next list of devices.
    pub(crate) async fn devices(&mut self) -> Vec<Device> {
        self.lists.recv().await.unwrap().1
    }

    /// Waits for a list of such an endpoint that is there while no other is.
    #[allow(dead_code)]
    pub(crate) async fn until(&mut self, wanted: impl Fn(&str) -> bool) {
        while let Some((endpoint, _)) = self.lists.recv().await {
            if wanted(&endpoint) {
                return;
            }
        }
        panic!("the kubelet is gone");
    }
}

async fn accept(shared: Arc<Shared>, listener: UnixListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let on = Arc::clone(&shared);
        let connection = grpc::serve(stream, move |request| {
            let on = Arc::clone(&on);
            async move {
                assert_eq!(request.uri().path(), REGISTER);
                grpc::unary(request, 1 << 16, move |asked| connect(Arc::clone(&on), asked)).await
            }
        });
        // Clients hang up as they like.
        shared.tasks.lock().unwrap().spawn(async { drop(connection.await) });
    }
}

/// Connects before it answers, as the kubelet does.
async fn connect(shared: Arc<Shared>, request: RegisterRequest) -> Result<Empty, tonic::Status> {
    let path = join(&shared.directory, &request.endpoint);
    let channel =
        Channel::connect(&path).await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let (call, mut list) = channel.streaming::<_, Devices>(LIST_AND_WATCH, Empty {}, 1 << 20).await?;
    let (hang_up, mut hung_up) = watch::channel(false);
    *shared.current.lock().unwrap() = Some(hang_up);
    let on = Arc::clone(&shared);
    let endpoint = request.endpoint.clone();
    shared.tasks.lock().unwrap().spawn(async move {
        let _call = call;
        loop {
            let message = tokio::select! {
                message = list.message() => message,
                _ = hung_up.wait_for(|up| *up) => return,
            };
            match message {
                Ok(Some(devices)) => drop(on.lists.send((endpoint.clone(), devices.devices))),
                // The one that is registered now is meant, although this one ended.
                _ => {
                    if let Some(current) = on.current.lock().unwrap().take() {
                        current.send_replace(true);
                    }
                    return;
                }
            }
        }
    });
    drop(shared.requests.send(request));
    Ok(Empty {})
}

/// The pod of the plug-in itself.
#[allow(dead_code)]
pub(crate) fn own() -> Pod {
    Pod { name: "virt-handler-x".to_owned(), namespace: "kubevirt".to_owned(), containers: Vec::new() }
}

/// The API that says who holds what; in the beginning only the plug-in's own pod is there.
#[allow(dead_code)]
pub(crate) struct Pods {
    /// What it says.
    pub(crate) list: Arc<Mutex<PodList>>,
    _tasks: JoinSet<()>,
}

#[allow(dead_code)]
impl Pods {
    pub(crate) fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let list = Arc::new(Mutex::new(PodList { pods: vec![own()] }));
        let shown = Arc::clone(&list);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shown = Arc::clone(&shown);
                let connection = grpc::serve(stream, move |request| {
                    let shown = Arc::clone(&shown);
                    async move {
                        assert_eq!(request.uri().path(), LIST);
                        let list = shown.lock().unwrap().clone();
                        grpc::unary(request, 1 << 16, move |_: Empty| std::future::ready(Ok(list.clone())))
                            .await
                    }
                });
                tokio::spawn(async { drop(connection.await) });
            }
        });
        Self { list, _tasks: tasks }
    }
}
