//! The agent's own HTTP API on a Unix socket, for the API server: logs, consoles, pause and unpause.

mod console;
mod logs;

use crate::pods::Manager;
use bytes::Bytes;
use ferrovirt_handler::machine::serve;
use ferrovirt_qemu::protocol::Console;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

type Body = BoxBody<Bytes, io::Error>;

/// Connections at a time: each is a log, a console or a question. The API server lets users have 256 streams and 48 requests
/// at a time, so that there is always room for its own.
const MAX_CONNECTIONS: usize = 1024;

/// The server.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    manager: Arc<Manager>,
    user: u32,
}

impl Server {
    /// Listens on `path`, to which only `user` and root can connect; both are checked again for each connection. A
    /// socket that an earlier agent left is replaced. The directory must be root's.
    ///
    /// # Errors
    /// What bind(2) and chown(2) say.
    pub fn bind(path: &Path, user: u32, manager: Arc<Manager>) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        std::os::unix::fs::lchown(path, Some(user), None)?;
        Ok(Self { listener, path: path.to_owned(), manager, user })
    }

    /// Serves for ever.
    pub async fn run(&self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut said: Option<Instant> = None;
        loop {
            // Never closed; a connection that finds no place waits in the kernel's queue.
            let place = places.clone().acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (user, manager) = (self.user, self.manager.clone());
                    tokio::spawn(async move {
                        connection(stream, user, manager).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    if said.is_none_or(|said| said.elapsed() >= Duration::from_secs(1)) {
                        tracing::warn!("accepting on {}: {error}", self.path.display());
                        said = Some(Instant::now());
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A later agent replaces it in any case.
        let _gone = fs::remove_file(&self.path);
    }
}

async fn connection(stream: UnixStream, user: u32, manager: Arc<Manager>) {
    // Only the API server's processes and root's; the mode of the socket says the same.
    if !stream.peer_cred().is_ok_and(|peer| [0, user].contains(&peer.uid())) {
        return;
    }
    let service = hyper::service::service_fn(move |request| {
        let manager = manager.clone();
        async move { Ok::<_, Infallible>(answer(&manager, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!("connection: {error}");
    }
}

async fn answer(manager: &Manager, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let get = request.method() == Method::GET;
    let put = request.method() == Method::PUT;
    match parts.as_slice() {
        ["healthz"] if get => text(StatusCode::OK, "ok"),
        ["metrics"] if get => Response::new(full(manager.metrics())),
        ["containerLogs", namespace, pod, container] if get => match manager.pod(namespace, pod) {
            Some(target) if *container == "compute" => logs::answer(&target, request.uri().query()).await,
            Some(_) => {
                refuse(StatusCode::BAD_REQUEST, &format!("container {container} is not valid for pod {pod}"))
            }
            None => refuse(StatusCode::NOT_FOUND, &format!("pods \"{pod}\" not found on this node")),
        },
        ["v1", "namespaces", namespace, "virtualmachineinstances", name, verb] => {
            let Some(target) = manager.machine(namespace, name) else {
                return refuse(StatusCode::NOT_FOUND, &serve::not_here(name));
            };
            match *verb {
                "console" if get => console::answer(target, Console::Serial, request),
                "vnc" if get => console::answer(target, Console::Vnc, request),
                "pause" | "unpause" if put => match target.switch(*verb == "pause").await {
                    Ok(()) => text(StatusCode::OK, ""),
                    Err(error) => refuse(error.code(), &error.to_string()),
                },
                _ => refuse(StatusCode::NOT_FOUND, "there is no such subresource"),
            }
        }
        _ => refuse(StatusCode::NOT_FOUND, "there is no such path"),
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

/// An error as Kubernetes says it.
fn refuse(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = Response::new(full(serve::failure(code, message)));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
