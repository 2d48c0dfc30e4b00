//! /healthz and /readyz for the kubelet's probes: two fixed answers, to anybody who reaches the port.

use ferrovirt_control::lease::Standing;
use http::{Method, Request, Response, StatusCode};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// Connections at the same time; the kubelet has two.
const CONNECTIONS: usize = 16;
/// A request and its answer take no longer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request's head; the least that the parser takes.
const HEAD: usize = 8 << 10;

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, standing: watch::Receiver<Standing>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, _)) => {
                let standing = standing.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(TIMEOUT, connection(stream, standing)).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: others will close theirs.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, standing: watch::Receiver<Standing>) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (status, text) = answer(request.method(), request.uri().path(), *standing.borrow());
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(TIMEOUT).max_buf_size(HEAD).keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("connection: {error}");
    }
}

/// A replica is ready when it works, or when it could take over.
fn answer(method: &Method, path: &str, standing: Standing) -> (StatusCode, &'static str) {
    match (path, standing) {
        _ if !matches!(*method, Method::GET | Method::HEAD) => (StatusCode::METHOD_NOT_ALLOWED, "GET alone"),
        // A process that has lost the Lease ends by itself, so that one which answers is healthy.
        ("/healthz", _) => (StatusCode::OK, "ok"),
        ("/readyz", Standing::Working) => (StatusCode::OK, "leads"),
        ("/readyz", Standing::Waiting) => (StatusCode::OK, "waits"),
        ("/readyz", Standing::Leading) => (StatusCode::SERVICE_UNAVAILABLE, "leads and lists the cluster"),
        ("/readyz", Standing::Unknown) => (StatusCode::SERVICE_UNAVAILABLE, "has not seen the Lease"),
        _ => (StatusCode::NOT_FOUND, "/healthz or /readyz"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_replica_is_ready_when_it_works_or_could() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (standing, seen) = watch::channel(Standing::Unknown);
        let serving = tokio::spawn(serve(listener, seen));
        for (now, code) in [
            (Standing::Unknown, "503"),
            (Standing::Waiting, "200"),
            (Standing::Leading, "503"),
            (Standing::Working, "200"),
        ] {
            standing.send_replace(now);
            let ready = ask(address, "GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert!(ready.starts_with(&format!("HTTP/1.1 {code} ")), "{now:?}: {ready}");
            let healthy = ask(address, "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert!(healthy.starts_with("HTTP/1.1 200 "), "{now:?}: {healthy}");
        }
        for (request, code) in [("POST /readyz", "405"), ("GET /metrics", "404"), ("GET /", "404")] {
            let answer = ask(address, &format!("{request} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {answer}");
        }
        serving.abort();
    }
}
