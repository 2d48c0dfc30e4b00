//! The serial console of a machine, over the API's websocket.

use crate::{
    client,
    machine::{Target, path},
};
use anyhow::{Context, Result, anyhow};
use futures::{SinkExt, StreamExt};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_tungstenite::tungstenite::Message;

/// Ctrl-], which ends the session.
const ESCAPE: u8 = 0x1d;

/// Attaches standard input and output to the console until Ctrl-] or the end of the machine. Without a terminal, the
/// end of input leaves the output attached.
pub(crate) async fn attach(target: Target) -> Result<()> {
    let (client, preferred) = client::connect().await?;
    let namespace = target.namespace.unwrap_or(preferred);
    let request = http::Request::get(path(&namespace, "virtualmachineinstances", &target.name, "console"))
        .header("sec-websocket-protocol", "plain.kubevirt.io")
        .body(Vec::new())?;
    let connection = client.connect(request).await.map_err(|error| match error {
        kube::Error::Api(status) => anyhow!("{}", status.message),
        other => anyhow::Error::new(other).context("the machine's console does not answer"),
    })?;
    let (mut sink, mut stream) = connection.into_stream().split();

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
