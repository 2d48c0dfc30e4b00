//! What the handler of an instance's node is asked: its pod, over mutual TLS.
//!
//! A stream is carried without a look at it: handler and client speak WebSocket with each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrovirt_https::mutual::Caller;
use ferrovirt_https::{Place, Reply, keep_alive, reply, stream};
use ferrovirt_kubernetes::names;
use ferrovirt_machines::subresource::{Owner, Refused};
use ferrovirt_plan::config::NAMESPACE;
use ferrovirt_plan::render::handler::NAME;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a connection may take to be made, and an answer to begin, and to end. A handler answers within 12 seconds whatever
/// its launcher does: it is to say itself what was late.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(15);
/// Bytes of an answer that is no stream.
const MAX_ANSWER: usize = 64 << 10;

/// The handlers of the cluster.
pub(crate) struct Handlers {
    pods: Api<Pod>,
    caller: Arc<Caller>,
    port: u16,
}

impl Handlers {
    pub(crate) fn new(client: Client, caller: Arc<Caller>, port: u16) -> Self {
        Self { pods: Api::namespaced(client, NAMESPACE), caller, port }
    }

    /// The address of a node's handler.
    async fn find(&self, node: &str) -> Result<SocketAddr, Refused> {
        if !names::is_subdomain(node) {
            return Err(away("the instance is on no node"));
        }
        let asked = ListParams::default()
            .labels(&format!("kubevirt.io={}", NAME))
            .fields(&format!("spec.nodeName={node}"));
        let found = self.pods.list(&asked).await.map_err(|why| {
            let message = format!("the handler of the node {node} cannot be looked for: {why}");
            tracing::warn!("{message}");
            Refused::internal(message)
        })?;
        // A pod that ends answers nobody new.
        let mut addresses =
            found.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).filter_map(|pod| {
                let spec = pod.spec.as_ref().filter(|spec| spec.node_name.as_deref() == Some(node));
                let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Running"));
                spec.and(status)?.pod_ip.as_deref()?.parse::<IpAddr>().ok()
            });
        let address =
            addresses.next().ok_or_else(|| away(&format!("no pod of it runs on the node {node}")))?;
        Ok(SocketAddr::new(address, self.port))
    }

    async fn send(
        &self,
        node: &str,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Refused> {
        let address = self.find(node).await?;
        let config =
            self.caller.config().ok_or_else(|| away("there is no certificate to call it with yet"))?;
        let connected = async {
            let stream = TcpStream::connect(address).await?;
            let _ = stream.set_nodelay(true);
            // A stream may be silent for any time, and the node may be gone.
            keep_alive(&stream)?;
            let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
            TlsConnector::from(config).connect(name, stream).await
        };
        let stream = tokio::time::timeout(CONNECT, connected).await;
        let stream = stream.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|why| away(&format!("{node}: {why}")))?;
        let asked = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(stream)).await?;
            // Ends by itself when the answer (or, after an upgrade, the stream) is over.
            tokio::spawn(connection.with_upgrades());
            let mut request = Request::new(Full::new(body));
            *request.method_mut() = method;
            *request.headers_mut() = headers;
            request.headers_mut().insert(header::HOST, HeaderValue::from_static(NAME));
            match path.parse() {
                Ok(uri) => *request.uri_mut() = uri,
                Err(_) => return Ok(None),
            }
            sender.send_request(request).await.map(Some)
        };
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(Refused::bad_request(format!("no such path: {path}"))),
            Ok(Err(why)) => Err(away(&format!("{node}: {why}"))),
            Err(_) => {
                let message =
                    format!("the handler of the node {node} did not answer in time: see that it works");
                Err(Refused::new(504, message))
            }
        }
    }

    /// Has the handler do something; its answer.
    ///
    /// # Errors
    /// 503 where no handler answers, 504 where it takes too long.
    pub(super) async fn ask(&self, node: &str, path: &str) -> Result<Reply, Refused> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        relay(self.send(node, Method::PUT, path, headers, Bytes::from_static(b"{}")).await?).await
    }

    /// Passes an upgrade through. `place` is given back at its end.
    ///
    /// # Errors
    /// As of [`Self::ask`], and 400 for a request that asks for no upgrade.
    pub(super) async fn stream(
        &self,
        node: &str,
        path: &str,
        mut request: Request<Bytes>,
        place: Place<Owner>,
    ) -> Result<Reply, Refused> {
        let Some(headers) = stream::upgrade_headers(request.headers()) else {
            return Err(Refused::bad_request("this is a stream: ask for it with a WebSocket upgrade"));
        };
        let client = hyper::upgrade::on(&mut request);
        let answer = self.send(node, Method::GET, path, headers, Bytes::new()).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return relay(answer).await;
        }
        Ok(stream::carry(client, answer, place).map(|()| Full::new(Bytes::new())))
    }
}

/// A short answer. A handler that was taken over is nobody who may have users sent elsewhere, asked for a password or shown a
/// page: of what it says there are only a result, the caller's mistake and its own, and these as JSON.
async fn relay(answer: Response<Incoming>) -> Result<Reply, Refused> {
    let code = answer.status();
    if !is_passed_on(code) {
        return Err(Refused::new(
            502,
            format!("the node's handler has answered with the code {}", code.as_u16()),
        ));
    }
    let read = tokio::time::timeout(ANSWER, Limited::new(answer.into_body(), MAX_ANSWER).collect()).await;
    let late = || Refused::new(504, "the handler's answer did not end in time");
    let body =
        read.map_err(|_| late())?.map_err(|why| away(&format!("its answer broke off: {why}")))?.to_bytes();
    Ok(reply(code, "application/json", body))
}

fn is_passed_on(code: StatusCode) -> bool {
    match code.as_u16() {
        200 | 202 | 204 => true,
        // The user is known, to us and to the cluster.
        401 | 407 => false,
        code => (400..600).contains(&code),
    }
}

fn away(why: &str) -> Refused {
    Refused::new(503, format!("the node's handler does not answer ({why}): see that virt-handler runs there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_handlers_answers_only_results_mistakes_and_failures_are_passed_on() {
        let passed = (100..600).filter(|code| is_passed_on(StatusCode::from_u16(*code).unwrap()));
        let wanted = [200, 202, 204].into_iter().chain((400..600).filter(|code| ![401, 407].contains(code)));
        assert!(passed.eq(wanted));
    }
}
