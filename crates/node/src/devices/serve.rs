//! The two sockets of a kubelet: registration of device plug-ins, and pod-resources.

use super::manager::Devices;
use ferrovirt_kubelet_api::{
    grpc::{self, Answer},
    messages::{Empty, GET, GetRequest, GetResponse, LIST, Pod, PodList, REGISTER, RegisterRequest},
};
use hyper::body::Incoming;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tonic::Status;

/// The name of both sockets, each in its directory.
pub const SOCKET: &str = "kubelet.sock";
/// Bytes of a request.
const REQUEST: usize = 64 << 10;
/// Connections at a time, of each socket.
const CONNECTIONS: usize = 16;
/// How long a connection may last. A client that asks more connects again.
const CONNECTION: Duration = Duration::from_secs(60);

/// The two sockets, listened on.
#[derive(Debug)]
pub struct Sockets {
    plugins: UnixListener,
    resources: UnixListener,
}

/// Listens in the directories of device plug-ins and of pod-resources, which are this user's alone and made where they are
/// missing.
///
/// # Errors
/// What the kernel says.
pub fn listen(plugins: &Path, resources: &Path) -> io::Result<Sockets> {
    Ok(Sockets { plugins: socket(plugins)?, resources: socket(resources)? })
}

fn socket(directory: &Path) -> io::Result<UnixListener> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    let path = directory.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The pods of the node, once they are known.
type Pods = dyn Fn() -> Option<Vec<Pod>> + Send + Sync;

impl Devices {
    /// Serves both sockets for ever. `pods` are those of the node, each with its containers and without devices; `None`
    /// before they are known: a plug-in would take a pod that is not shown yet for one that is gone.
    pub async fn serve(
        self: Arc<Self>,
        sockets: Sockets,
        pods: impl Fn() -> Option<Vec<Pod>> + Send + Sync + 'static,
    ) {
        let pods: Arc<Pods> = Arc::new(pods);
        let registers = Arc::clone(&self);
        let register = move |request| register(Arc::clone(&registers), request);
        let show = move |request| show(Arc::clone(&self), Arc::clone(&pods), request);
        tokio::join!(accept(sockets.plugins, register), accept(sockets.resources, show));
    }
}

/// Takes connections of this process's own user, for ever.
async fn accept<H, F>(listener: UnixListener, handle: H)
where
    H: Fn(http::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) if !is_own(&stream) => {}
            Ok((stream, _)) => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    if let Ok(Err(error)) =
                        tokio::time::timeout(CONNECTION, grpc::serve(stream, handle)).await
                    {
                        tracing::debug!("a connection of a device plug-in ended: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("taking a connection of a device plug-in: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_own(stream: &UnixStream) -> bool {
    let user = stream.peer_cred().map(|peer| peer.uid());
    let own = user.as_ref().is_ok_and(|user| *user == rustix::process::geteuid().as_raw());
    if !own {
        tracing::warn!("a process of another user has connected and is not heard: user {user:?}");
    }
    own
}

async fn register(devices: Arc<Devices>, request: http::Request<Incoming>) -> Answer {
    if request.uri().path() != REGISTER {
        return grpc::unimplemented();
    }
    let answer = move |asked: RegisterRequest| {
        let devices = Arc::clone(&devices);
        async move {
            let registered = devices.register(asked).await;
            registered.map(|()| Empty {}).map_err(|error| {
                tracing::warn!("a device plug-in is not taken: {error}");
                Status::invalid_argument(error.to_string())
            })
        }
    };
    grpc::unary(request, REQUEST, answer).await
}

async fn show(devices: Arc<Devices>, pods: Arc<Pods>, request: http::Request<Incoming>) -> Answer {
    let all = move || {
        let pods = pods().ok_or_else(|| Status::unavailable("the node does not know its pods yet"))?;
        Ok(devices.show(pods))
    };
    match request.uri().path() {
        LIST => {
            let answer = |_: Empty| std::future::ready(all().map(|pods| PodList { pods }));
            grpc::unary(request, REQUEST, answer).await
        }
        GET => {
            let find = move |asked: &GetRequest| {
                let found =
                    all()?.into_iter().find(|pod| pod.name == asked.name && pod.namespace == asked.namespace);
                let missing = || {
                    Status::not_found(format!("pod {}/{} is not on this node", asked.namespace, asked.name))
                };
                found.map(|pod| GetResponse { pod: Some(pod) }).ok_or_else(missing)
            };
            grpc::unary(request, REQUEST, move |asked| std::future::ready(find(&asked))).await
        }
        _ => grpc::unimplemented(),
    }
}
