//! One HTTPS request to a webhook.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::service;
use crate::app::App;
use crate::hooks::{Hook, Place};

/// A patch can be as large as the object that it makes.
const MAX_ANSWER: usize = 2 * ferrovirt_api::document::MAX_BYTES;

/// Posts a review; answers the body. The error is worded as upstream's client words it.
///
/// Each call has a connection of its own: reviews are few on one machine, and no state has to be kept.
pub(super) async fn post(app: &App, hook: &Hook, body: Bytes) -> Result<Bytes, String> {
    let seconds = hook.timeout.as_secs();
    let (url, shown, connect, server_name) = match &hook.place {
        Place::Url(url) => {
            let uri: http::Uri = url.parse().map_err(|_| format!("{url:?} is not a URL"))?;
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(443);
            let path = if uri.path().is_empty() { "/" } else { uri.path() };
            (format!("{path}?timeout={seconds}s"), url.clone(), Ok((host.clone(), port)), host)
        }
        Place::Service { namespace, name, path, port } => {
            let host = format!("{name}.{namespace}.svc");
            let found = service::resolve(&app.store, namespace, name, *port);
            let path = if path.is_empty() { "/" } else { path };
            (format!("{path}?timeout={seconds}s"), format!("https://{host}:{port}{path}"), found, host)
        }
    };
    let in_words = |why: String| format!("Post \"{shown}?timeout={seconds}s\": {why}");
    let (host, port) = connect.map_err(in_words)?;
    let exchange = exchange(hook, &host, port, server_name, url, body);
    match tokio::time::timeout(hook.timeout.max(Duration::from_secs(1)), exchange).await {
        Ok(Ok((status, bytes))) if status.is_success() => Ok(bytes),
        Ok(Ok((status, bytes))) => Err(refused(status, &bytes)),
        Ok(Err(why)) => Err(in_words(why)),
        Err(_) => Err(in_words("context deadline exceeded".to_owned())),
    }
}

async fn exchange(
    hook: &Hook,
    host: &str,
    port: u16,
    server_name: String,
    path: String,
    body: Bytes,
) -> Result<(StatusCode, Bytes), String> {
    let tls = hook.tls.clone()?;
    let name = ServerName::try_from(server_name.clone())
        .map_err(|_| format!("{server_name:?} is not the name of a host"))?;
    let stream = TcpStream::connect((host, port)).await.map_err(|why| dial(host, port, &why))?;
    // One small message in each direction: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|why| handshake(&why))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|why| why.to_string())?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, format!("{server_name}:{port}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|why| why.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|why| why.to_string())?;
        let status = answer.status();
        let collected = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let collected = collected.map_err(|why| format!("the answer cannot be read: {why}"))?;
        Ok((status, collected.to_bytes()))
    };
    tokio::pin!(answer);
    // The connection does the work of the request and ends with it.
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => match ended {
            Err(why) => Err(why.to_string()),
            Ok(()) => answer.await,
        },
    }
}

fn dial(host: &str, port: u16, why: &std::io::Error) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let why = match why.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => why.to_string(),
    };
    format!("dial tcp {host}:{port}: {why}")
}

fn handshake(why: &std::io::Error) -> String {
    let cause = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        // A bundle whose authority only has the same name is as foreign.
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
        )) => "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned(),
        Some(rustls::Error::InvalidCertificate(why)) => {
            format!("tls: failed to verify certificate: x509: {why}")
        }
        Some(why) => format!("tls: {why}"),
        None => why.source().map_or_else(|| why.to_string(), ToString::to_string),
    }
}

/// What upstream's client makes of an answer that is no success.
fn refused(status: StatusCode, body: &[u8]) -> String {
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => "the server does not allow access to the requested resource".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        500 => {
            let said: String = String::from_utf8_lossy(body).chars().take(200).collect();
            format!("an error on the server ({said:?}) has prevented the request from succeeding")
        }
        503 => "the server is currently unable to handle the request".to_owned(),
        code => {
            format!("the server responded with the status code {code} but did not return more information")
        }
    }
}
