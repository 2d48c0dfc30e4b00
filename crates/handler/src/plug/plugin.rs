//! What a plug-in answers to the kubelet.

use super::{
    grpc::{self, Answer},
    messages::{
        ALLOCATE, AllocateRequest, AllocateResponse, ContainerResponse, Device, Devices, Empty, HEALTHY,
        LIST_AND_WATCH, OPTIONS, Options, PRE_START, PreStartRequest,
    },
};
use ferrovirt_sys::netns;
use futures::{Stream, StreamExt as _, stream};
use hyper::body::Incoming;
use std::{os::fd::AsFd as _, pin::Pin, sync::Arc, task::Poll, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Notify, Semaphore, mpsc},
};
use tonic::Status;

/// Bytes of a request: names of devices, each of which the kubelet has from us.
const REQUEST: usize = 64 << 10;
/// Containers of one request.
const CONTAINERS: usize = 64;
/// Connections at a time; the kubelet has one, and another while it is started again.
const CONNECTIONS: usize = 8;
/// How long a connection may be there without a request. The kubelet connects when it has one.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// What gives a container its devices, of those that are offered.
pub type Allocate = dyn Fn(&[String]) -> Result<ContainerResponse, String> + Send + Sync;

/// What the kubelet has done, for who looks after the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has asked for the list of devices. The cookie of its network namespace, which is the node's own (kernels from
    /// 5.14).
    Opened(Option<u64>),
    /// It does not listen to the list any more.
    Closed,
}

/// The plug-in of one resource.
pub struct Plugin {
    devices: Devices,
    allocate: Box<Allocate>,
    seen: mpsc::UnboundedSender<Seen>,
    user: u32,
    first_request: Duration,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("devices", &self.devices.devices.len()).finish_non_exhaustive()
    }
}

impl Plugin {
    /// A plug-in that offers as many devices as `count`, named by numbers from 0, to the kubelet, which is of this user.
    pub fn new(count: u16, allocate: Box<Allocate>, seen: mpsc::UnboundedSender<Seen>, user: u32) -> Self {
        let device = |number: u16| Device { id: number.to_string(), health: HEALTHY.to_owned() };
        let devices = Devices { devices: (0..count).map(device).collect() };
        Self { devices, allocate, seen, user, first_request: FIRST_REQUEST }
    }

    /// With another time in which a connection must have had its first request.
    #[must_use]
    pub fn first_request_within(self, first_request: Duration) -> Self {
        Self { first_request, ..self }
    }

    /// Serves connections of the kubelet's user, for ever.
    pub async fn run(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) if !self.knows(&stream) => {}
                Ok((stream, _)) => {
                    let plugin = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = plugin.serve(stream).await {
                            tracing::debug!("a connection of the kubelet ended: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("taking a connection of the kubelet: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Whether it is the kubelet's user who has connected.
    fn knows(&self, stream: &UnixStream) -> bool {
        let user = stream.peer_cred().map(|peer| peer.uid());
        let known = user.as_ref().is_ok_and(|user| *user == self.user);
        if !known {
            tracing::warn!("somebody who is not the kubelet has connected and is not heard: user {user:?}");
        }
        known
    }

    async fn serve(self: Arc<Self>, stream: UnixStream) -> Result<(), hyper::Error> {
        // An accepted socket is of the namespace of who connected.
        let cookie = netns::cookie(stream.as_fd()).ok();
        let limit = self.first_request;
        let asks = Arc::new(Notify::new());
        let asked = Arc::clone(&asks);
        let serving = grpc::serve(stream, move |request| {
            asks.notify_one();
            Arc::clone(&self).answer(request, cookie)
        });
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = asked.notified() => {}
            () = tokio::time::sleep(limit) => {
                tracing::warn!("a connection has had no request for {limit:?} and is closed");
                return Ok(());
            }
        }
        serving.await
    }

    async fn answer(self: Arc<Self>, request: http::Request<Incoming>, cookie: Option<u64>) -> Answer {
        match request.uri().path() {
            OPTIONS => grpc::unary(request, REQUEST, |_: Empty| async { Ok(Options::default()) }).await,
            LIST_AND_WATCH => {
                let stream = self.list(cookie);
                grpc::streaming::<Empty, Devices, _>(request, REQUEST, stream).await
            }
            ALLOCATE => {
                grpc::unary(request, REQUEST, move |asked: AllocateRequest| {
                    let answer = self.allocate(&asked);
                    async { answer }
                })
                .await
            }
            PRE_START => grpc::unary(request, REQUEST, |_: PreStartRequest| async { Ok(Empty {}) }).await,
            // Of preferred allocations the options say that there are none.
            _ => grpc::unimplemented(),
        }
    }

    fn list(&self, cookie: Option<u64>) -> impl Stream<Item = Result<Devices, Status>> + Send + 'static {
        // It is not received when the program ends.
        let _ = self.seen.send(Seen::Opened(cookie));
        let all = stream::iter([Ok(self.devices.clone())]).chain(stream::pending());
        Watched { inner: Box::pin(all), seen: self.seen.clone() }
    }

    fn allocate(&self, asked: &AllocateRequest) -> Result<AllocateResponse, Status> {
        if asked.containers.len() > CONTAINERS {
            return Err(Status::invalid_argument(format!("more than {CONTAINERS} containers")));
        }
        let mut containers = Vec::new();
        for container in &asked.containers {
            for name in &container.devices {
                if !self.devices.devices.iter().any(|device| device.id == *name) {
                    return Err(Status::not_found("one of the devices is not offered here"));
                }
            }
            containers.push((self.allocate)(&container.devices).map_err(Status::failed_precondition)?);
        }
        Ok(AllocateResponse { containers })
    }
}

/// The list of devices as long as somebody listens.
struct Watched {
    inner: Pin<Box<dyn Stream<Item = Result<Devices, Status>> + Send>>,
    seen: mpsc::UnboundedSender<Seen>,
}

impl Stream for Watched {
    type Item = Result<Devices, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Devices, Status>>> {
        self.inner.as_mut().poll_next(context)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.seen.send(Seen::Closed);
    }
}
