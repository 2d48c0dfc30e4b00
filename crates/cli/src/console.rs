//! The serial console of a machine, over the API's websocket.

use crate::{
    client,
    machine::{Target, path},
};
use anyhow::{Context, Result, bail, ensure};
use ferrovirt_kubernetes::json;
use futures::{SinkExt, StreamExt};
use http::{StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

/// Ctrl-], which ends the session.
const ESCAPE: u8 = 0x1d;

/// Attaches standard input and output to the console until Ctrl-] or the end of the machine. Without a terminal, the
/// end of input leaves the output attached.
pub(crate) async fn attach(target: Target) -> Result<()> {
    let (client, preferred) = client::connect().await?;
    let namespace = target.namespace.unwrap_or(preferred);
    let socket = open(&client, &path(&namespace, "virtualmachineinstances", &target.name, "console")).await?;
    let (mut sink, mut stream) = socket.split();

    let terminal = Raw::enter()?;
    if terminal.is_some() {
        eprint!("Connected to {namespace}/{}. The escape sequence is ^]\r\n", target.name);
    }
    let (keys, mut typed) = mpsc::channel::<Vec<u8>>(16);
    // Reading a terminal cannot be cancelled, so a thread does it and ends with the process.
    std::thread::spawn(move || read_keys(&keys));
    let mut output = tokio::io::stdout();
    let mut typing = true;
    loop {
        tokio::select! {
            bytes = typed.recv(), if typing => match bytes {
                Some(bytes) => match bytes.iter().position(|byte| *byte == ESCAPE) {
                    Some(_) if terminal.is_some() => break,
                    _ => sink.send(Message::binary(bytes)).await.context("the console was closed")?,
                },
                None => typing = false,
            },
            message = stream.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    output.write_all(&bytes).await?;
                    output.flush().await?;
                }
                Some(Ok(Message::Close(_))) | None => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the console was closed"),
            },
        }
    }
    drop(terminal);
    // The thread that waits for keys would keep an orderly end of the runtime waiting.
    std::process::exit(0);
}

/// Opens the websocket. The client's own way to do so insists on the subprotocol of `kubectl exec`.
pub(crate) async fn open(client: &kube::Client, path: &str) -> Result<WebSocketStream<TokioIo<Upgraded>>> {
    let key = generate_key();
    let request = http::Request::get(path)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, "plain.kubevirt.io")
        .body(Body::empty())?;
    let response = client.send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = response.status();
        let body = response.into_body().collect_bytes().await?;
        let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        match json::string(&status, "message") {
            Some(message) => bail!("{message}"),
            None => bail!("the API server answers {code}"),
        }
    }
    let accept = derive_accept_key(key.as_bytes());
    ensure!(
        response
            .headers()
            .get(header::SEC_WEBSOCKET_ACCEPT)
            .is_some_and(|value| value.as_bytes() == accept.as_bytes()),
        "the API server's answer is no websocket handshake"
    );
    let upgraded = hyper::upgrade::on(response).await?;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

fn read_keys(keys: &mpsc::Sender<Vec<u8>>) {
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = std::io::Read::read(&mut std::io::stdin(), &mut chunk) {
        if keys.blocking_send(chunk.get(..count).unwrap_or_default().to_vec()).is_err() {
            return;
        }
    }
}

/// A terminal in raw mode, as it was before on drop.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Option<Self>> {
        let input = std::io::stdin();
        if !isatty(&input) {
            return Ok(None);
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
