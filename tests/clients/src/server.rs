//! An API server, as a kubeconfig names it: requests and WebSockets over TLS, HTTP/1.1.

use crate::Request;
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use std::{
    fmt, io,
    io::{ErrorKind, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket, client::IntoClientRequest as _};

/// How long a read may take: only ends a test that has failed.
const READ: Duration = Duration::from_secs(120);

/// A WebSocket.
pub type Socket = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

type Connect = Box<dyn Fn(SocketAddr) -> io::Result<TcpStream>>;

/// Where a server is, how it is known, and who asks.
pub struct Server {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    token: Option<String>,
    connect: Connect,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP code.
    pub code: u16,
    /// The body as JSON; null where it is none.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// The message of the Status that it is.
    #[must_use]
    pub fn message(&self) -> &str {
        self.body.get("message").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns where the code is this one.
    ///
    /// # Errors
    /// What was answered instead.
    pub fn expect(self, code: u16) -> Result<Self> {
        ensure!(self.code == code, "{} instead of {code}: {}", self.code, self.text);
        Ok(self)
    }
}

impl Server {
    /// The server and the user of a kubeconfig, given as JSON. `connect` makes the connections.
    ///
    /// # Errors
    /// What is missing in it, or cannot be read.
    pub fn of(
        kubeconfig: &Value,
        connect: impl Fn(SocketAddr) -> io::Result<TcpStream> + 'static,
    ) -> Result<Self> {
        let text = |path: &str| kubeconfig.pointer(path).and_then(Value::as_str);
        let pem =
            |path: &str| -> Result<Vec<u8>> { Ok(STANDARD.decode(text(path).context(path.to_owned())?)?) };
        let url = text("/clusters/0/cluster/server").context("no server")?;
        let mut roots = RootCertStore::empty();
        let authority = pem("/clusters/0/cluster/certificate-authority-data")?;
        roots.add(CertificateDer::from_pem_slice(&authority)?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let tls = if text("/users/0/user/client-certificate-data").is_some() {
            let chain = CertificateDer::pem_slice_iter(&pem("/users/0/user/client-certificate-data")?)
                .collect::<Result<Vec<_>, _>>()?;
            let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
            builder.with_client_auth_cert(chain, key)?
        } else {
            builder.with_no_client_auth()
        };
        let address =
            url.trim_start_matches("https://").trim_end_matches('/').parse().context(url.to_owned())?;
        let token = text("/users/0/user/token").map(str::to_owned);
        Ok(Self { address, tls: Arc::new(tls), token, connect: Box::new(connect) })
    }

    fn open(&self) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let socket = (self.connect)(self.address)?;
        socket.set_read_timeout(Some(READ))?;
        socket.set_write_timeout(Some(READ))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        Ok(StreamOwned::new(ClientConnection::new(Arc::clone(&self.tls), name)?, socket))
    }

    /// Sends one request on a connection of its own. One for a WebSocket is sent as it is too: its answer is a refusal.
    ///
    /// # Errors
    /// A connection that breaks off, and what is no HTTP.
    pub fn ask(&self, request: &Request) -> Result<Answer> {
        let body = if request.body.is_null() { String::new() } else { request.body.to_string() };
        let separator = if request.query.is_empty() { "" } else { "?" };
        let mut head = format!(
            "{} {}{separator}{} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n",
            request.method,
            request.path,
            request.query,
            self.address,
            body.len()
        );
        let mut line = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        for (name, value) in &request.headers {
            line(name, value);
        }
        if let Some(token) = &self.token {
            line("authorization", &format!("Bearer {token}"));
        }
        if request.is_stream() {
            line("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
        } else {
            line("connection", "close");
        }
        let mut stream = self.open()?;
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        answer(&mut stream)
    }

    /// Opens the WebSocket that a request asks for.
    ///
    /// # Errors
    /// What was answered instead.
    pub fn stream(&self, request: &Request) -> Result<Socket> {
        ensure!(request.is_stream(), "{request:?} asks for no stream");
        let url = format!("wss://{}{}?{}", self.address, request.path, request.query);
        let mut asked = url.trim_end_matches('?').into_client_request()?;
        if let Some(protocol) = request.headers.get("sec-websocket-protocol") {
            asked.headers_mut().insert("sec-websocket-protocol", protocol.parse()?);
        }
        if let Some(token) = &self.token {
            asked.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
        }
        match tungstenite::client(asked, self.open()?) {
            Ok((socket, _)) => Ok(socket),
            Err(error) => bail!("{}: {error}", request.path),
        }
    }
}

/// Reads a stream until it has said these bytes, and closes it; `typed` is sent first.
///
/// # Errors
/// What it has said instead.
pub fn until(mut stream: Socket, typed: &str, wanted: &[u8]) -> Result<()> {
    if !typed.is_empty() {
        stream.send(Message::binary(typed.as_bytes().to_vec()))?;
    }
    let mut said = Vec::new();
    while !said.windows(wanted.len()).any(|bytes| bytes == wanted) {
        let message = stream.read().with_context(|| String::from_utf8_lossy(&said).into_owned())?;
        said.extend_from_slice(&message.into_data());
    }
    Ok(stream.close(None)?)
}

/// Reads an answer to the end of its body.
fn answer(stream: &mut impl io::Read) -> Result<Answer> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            break String::from_utf8(std::mem::replace(&mut bytes, body))?.to_lowercase();
        }
        ensure!(more(stream, &mut bytes)?, "it broke off: {}", String::from_utf8_lossy(&bytes));
    };
    let code = head.split(' ').nth(1).context("no code")?.parse()?;
    let length = head.split_once("\r\ncontent-length: ").and_then(|(_, rest)| rest.lines().next());
    let body = if code == 101 {
        Vec::new()
    } else if let Some(length) = length.map(str::parse::<usize>).transpose()? {
        while bytes.len() < length {
            ensure!(more(stream, &mut bytes)?, "its body broke off");
        }
        bytes.truncate(length);
        bytes
    } else {
        while more(stream, &mut bytes)? {}
        if head.contains("transfer-encoding: chunked") { unchunked(&bytes)? } else { bytes }
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { code, body: serde_json::from_str(&text).unwrap_or_default(), text })
}

/// Reads on; whether there was anything.
fn more(stream: &mut impl io::Read, bytes: &mut Vec<u8>) -> Result<bool> {
    let mut piece = [0; 4096];
    match stream.read(&mut piece) {
        Ok(read) => {
            bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
            Ok(read > 0)
        }
        // A server that closes without a word of TLS has said all that it had to say.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The content of a body that came in pieces.
fn unchunked(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").context("a piece without a length")?;
        let (line, rest) = bytes.split_at(end);
        let length =
            usize::from_str_radix(std::str::from_utf8(line)?.split(';').next().unwrap_or_default(), 16)?;
        let rest = rest.get(2..).unwrap_or_default();
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..length).context("a piece broke off")?);
        bytes = rest.get(length.saturating_add(2)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_whatever_says_where_they_end() {
        let read = |text: &str| answer(&mut text.as_bytes()).unwrap();
        let said = read("HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\n{\"message\":\"m\"}and more");
        assert_eq!((said.code, said.message()), (404, "m"));
        let said = read(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4;x\r\n\":1}\r\n0\r\n\r\n",
        );
        assert_eq!(said.body["a"], 1);
        assert_eq!(read("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok").text, "ok");
        assert!(answer(&mut &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"[..]).is_err());
    }
}
