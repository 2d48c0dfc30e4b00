//! HTTP over TLS by hand, for what no honest client does: bodies of any form, answers that are not read, connections that
//! are only held.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

/// How long a read may take: only ends a test that has failed.
const READ: Duration = Duration::from_secs(120);

/// Where a server is and how it is known.
#[derive(Clone, Debug)]
pub struct Server {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// One connection, HTTP/1.1.
pub struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// HTTP code.
    pub code: u16,
    /// The lines before the body.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| String::from_utf8_lossy(&self.body).into_owned())
    }

    /// A field of the `Status` that it is.
    pub fn status(&self, field: &str) -> String {
        let value = self.json().ok().and_then(|status| status.get(field).cloned()).unwrap_or_default();
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }
}

impl Server {
    /// The server of a kubeconfig in JSON or in the YAML that `ferrovirt up` writes.
    pub fn of(kubeconfig: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let field = |name: &str| -> Result<String> {
            let (_, rest) = text.split_once(name).with_context(|| format!("no {name}"))?;
            // A long value may stand on a line of its own.
            let value = rest.trim_start_matches(['"', ':', ' ', '>', '-', '\n']);
            Ok(value.split(['"', '\n', ',']).next().unwrap_or_default().trim().to_owned())
        };
        let pem = base64::engine::general_purpose::STANDARD.decode(field("certificate-authority-data")?)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem)?)?;
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let url = field("https://")?;
        Ok(Self { address: url.trim_matches('/').parse()?, tls: Arc::new(tls) })
    }

    /// A connection. The handshake is done with the first request.
    pub fn connect(&self) -> Result<Connection> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(READ))?;
        socket.set_write_timeout(Some(READ))?;
        let connection = ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from("localhost")?)?;
        Ok(Connection { stream: StreamOwned::new(connection, socket) })
    }

    /// One request on a connection of its own.
    pub fn ask(&self, token: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Answer> {
        let mut connection = self.connect()?;
        connection.send(token, method, path, kind, body)?;
        connection.answer()
    }

    /// GET on a connection of its own.
    pub fn get(&self, token: &str, path: &str) -> Result<Answer> {
        self.ask(token, "GET", path, "application/json", b"")
    }

    /// POST of JSON on a connection of its own.
    pub fn post(&self, token: &str, path: &str, body: &Value) -> Result<Answer> {
        self.ask(token, "POST", path, "application/json", body.to_string().as_bytes())
    }
}

impl Connection {
    /// Sends a request and reads nothing.
    pub fn send(&mut self, token: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body)?;
        Ok(self.stream.flush()?)
    }

    /// Code and lines before the body of the next answer.
    pub fn head(&mut self) -> Result<(u16, String)> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte)?;
            head.extend(byte);
            ensure!(head.len() < 64 << 10, "a head without end");
        }
        let head = String::from_utf8(head)?;
        let code = head.split(' ').nth(1).context("no code")?.parse()?;
        Ok((code, head.to_lowercase()))
    }

    /// The next answer with its body.
    pub fn answer(&mut self) -> Result<Answer> {
        let (code, head) = self.head()?;
        let mut body = Vec::new();
        if let Some((_, length)) = head.split_once("content-length: ") {
            body.resize(length.lines().next().unwrap_or_default().trim().parse()?, 0);
            self.stream.read_exact(&mut body)?;
        } else if head.contains("transfer-encoding: chunked") {
            loop {
                let mut line = Vec::new();
                let mut byte = [0];
                while !line.ends_with(b"\r\n") {
                    self.stream.read_exact(&mut byte)?;
                    line.extend(byte);
                }
                let length = usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16)?;
                let start = body.len();
                body.resize(start + length + 2, 0);
                self.stream.read_exact(body.get_mut(start..).context("no room")?)?;
                body.truncate(start + length);
                if length == 0 {
                    break;
                }
            }
        }
        Ok(Answer { code, head, body })
    }

    /// True when the server has ended the connection; waits for it, or for bytes.
    pub fn is_ended(&mut self) -> bool {
        let mut byte = [0];
        matches!(self.stream.read(&mut byte), Ok(0) | Err(_))
    }
}
