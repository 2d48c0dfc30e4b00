//! Consoles, screens, pause and unpause of this node's machines over HTTPS, for the cluster's API: with a certificate of that
//! alone.
//!
//! The paths and the answers are those of the node agent of `ferrovirt up`. A console is opened in three steps, each of which
//! can be refused in words: `net` listens in the slot, the launcher is informed where, and it connects. Then alone the
//! WebSocket begins.

#[cfg(test)]
mod tests;

use super::{
    node::{Found, Node, Target},
    stream::{Failure, Stream, Streams},
};
use crate::{
    machine::{
        serve::{self, NOT_RUNNING, Refusal},
        websocket,
    },
    net::talk::NotOpened,
};
use bytes::Bytes;
use ferrovirt_https::{Authorities, ClientTrust, Files, Identity, Options, Reply, reply, text};
use ferrovirt_plan::decide::place::Ask;
use ferrovirt_qemu::protocol::Console;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use std::{future::ready, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, timeout_at},
};

/// The name that a client's certificate must have.
const CLIENT: &str = "kubevirt-api";
/// Between two looks at whether there is a certificate, and two tries to listen.
const AGAIN: Duration = Duration::from_secs(1);
/// Connections at the same time, and of one address: one of the cluster's API may hold most of them. A console counts until it
/// is open; then it counts with `net`.
const CONNECTIONS: usize = 256;
const OF_ADDRESS: usize = 128;
/// How long an answer may take: a refusal has to be there before the 15 seconds are over that the cluster's API waits for it.
/// `net` waits 10 seconds for the launcher alone.
const OPENING: Duration = Duration::from_secs(11);
/// How long a guest that is not served yet is waited for, of that.
const SERVED: Duration = Duration::from_secs(5);

/// What answers.
pub(super) struct Http {
    node: Arc<Node>,
    streams: Streams,
    /// [`OPENING`].
    opening: Duration,
    /// [`SERVED`].
    served: Duration,
}

/// Serves with the certificate in a directory, once it is there. Never ends.
pub(super) async fn run(listen: SocketAddr, directory: &Path, node: Arc<Node>, streams: Streams) {
    let (identity, authorities) = match Authorities::of_name(CLIENT) {
        Ok(authorities) => (Arc::<Identity>::default(), Arc::new(authorities)),
        Err(error) => return tracing::error!("nothing is served: {error}"),
    };
    let file = |name| directory.join(name);
    let files = Files { certificate: file("tls.crt"), key: file("tls.key"), authorities: file("ca.crt") };
    let server = Arc::new(Http { node, streams, opening: OPENING, served: SERVED });
    let follow = files.follow(Arc::clone(&identity), Arc::clone(&authorities));
    tokio::join!(follow, serve(listen, identity, authorities, server));
}

async fn serve(
    listen: SocketAddr,
    identity: Arc<Identity>,
    authorities: Arc<Authorities>,
    server: Arc<Http>,
) {
    while !(identity.is_there() && authorities.is_there()) {
        sleep(AGAIN).await;
    }
    let mut logged = String::new();
    let listener = loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => break listener,
            Err(error) => {
                let text = format!("listening on {listen}: {error}");
                if text != logged {
                    tracing::warn!("{text}");
                    logged = text;
                }
            }
        }
        sleep(AGAIN).await;
    };
    tracing::info!("consoles, pause and unpause are served on {listen}");
    answer(listener, identity, authorities, server).await;
}

async fn answer(
    listener: TcpListener,
    identity: Arc<Identity>,
    authorities: Arc<Authorities>,
    server: Arc<Http>,
) {
    let clients = ClientTrust::Required(authorities);
    let options = Options { clients, connections: CONNECTIONS, of_address: OF_ADDRESS };
    let respond = move |request| {
        let server = Arc::clone(&server);
        async move { server.respond(request).await }
    };
    ferrovirt_https::serve(listener, identity, options, respond).await;
}

impl Http {
    async fn respond(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let get = request.method() == Method::GET;
        let put = request.method() == Method::PUT;
        let ["v1", "namespaces", namespace, "virtualmachineinstances", name, verb] = parts[..] else {
            return match parts[..] {
                ["healthz"] if get => text(StatusCode::OK, "ok".to_owned()),
                _ => refuse(StatusCode::NOT_FOUND, "there is no such path"),
            };
        };
        let console = match verb {
            "console" if get => Some(Console::Serial),
            "vnc" if get => Some(Console::Vnc),
            "pause" | "unpause" if put => None,
            _ => return refuse(StatusCode::NOT_FOUND, "there is no such subresource"),
        };
        let begin = Instant::now();
        let target = match self.node.served(namespace, name, begin + self.served).await {
            Found::Served(target) => target,
            Found::NotServed => return refuse(StatusCode::CONFLICT, NOT_RUNNING),
            Found::Nowhere => return refuse(StatusCode::NOT_FOUND, &serve::not_here(name)),
        };
        let deadline = begin + self.opening;
        match console {
            Some(console) => self.console(target, console, request, deadline).await,
            None => switch(target, verb == "pause", deadline).await,
        }
    }

    async fn console(
        &self,
        target: Target,
        console: Console,
        mut request: Request<Incoming>,
        deadline: Instant,
    ) -> Reply {
        let there = match console {
            Console::Serial => target.serial,
            Console::Vnc => target.graphics,
        };
        if !there {
            return refuse(StatusCode::BAD_REQUEST, serve::no_console(console));
        }
        let (response, upgrade) = match websocket::handshake(&mut request) {
            Ok(handshake) => handshake,
            Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
        };
        // `net` listens, and the launcher connects.
        let opened = timeout_at(deadline, self.open(target, console)).await;
        let stream = match opened.unwrap_or_else(|_| Err(silent())) {
            Ok(stream) => stream,
            Err((code, why)) => return refuse(code, &why),
        };
        tokio::spawn(async move {
            if let Err(error) = websocket::carry(upgrade, ready(Ok(stream))).await {
                tracing::debug!("console: {error}");
            }
        });
        response.map(|()| Full::new(Bytes::new()))
    }

    async fn open(&self, target: Target, console: Console) -> Result<Stream, (StatusCode, String)> {
        let Target { slot, link, sender, .. } = target;
        let awaited = self.streams.open(slot, link).await.map_err(|failure| {
            if let Failure::Net(error) = &failure {
                tracing::warn!("a console cannot be opened: {error}");
            }
            (code(&failure), failure.to_string())
        })?;
        let answer = sender.ask(Ask::Console { link, socket: awaited.socket.clone(), console });
        tokio::select! {
            biased;
            connected = awaited.connected() => connected.map_err(|_| silent()),
            // There is an answer only where the launcher does not connect.
            Ok(Err(refusal)) = answer => Err((refusal.code(), refusal.to_string())),
        }
    }
}

/// For a launcher that has said nothing in time.
fn silent() -> (StatusCode, String) {
    (StatusCode::GATEWAY_TIMEOUT, Refusal::Silent.to_string())
}

/// Of the answer where `net` does not listen.
fn code(failure: &Failure) -> StatusCode {
    match failure {
        Failure::Refused(NotOpened::Full, _) => StatusCode::TOO_MANY_REQUESTS,
        Failure::Refused(NotOpened::Away, _) => StatusCode::CONFLICT,
        Failure::Refused(NotOpened::Failed, _) | Failure::Net(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn switch(target: Target, pause: bool, deadline: Instant) -> Reply {
    let refusal = match timeout_at(deadline, target.sender.ask(Ask::Switch { pause })).await {
        Ok(Ok(Ok(()))) => return text(StatusCode::OK, String::new()),
        Ok(Ok(Err(refusal))) => refusal,
        Ok(Err(_)) => Refusal::NotRunning,
        Err(_) => Refusal::Silent,
    };
    refuse(refusal.code(), &refusal.to_string())
}

/// An error as Kubernetes says it.
fn refuse(code: StatusCode, message: &str) -> Reply {
    reply(code, "application/json", serve::failure(code, message))
}
