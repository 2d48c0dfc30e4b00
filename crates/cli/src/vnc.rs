//! The screen of a machine for a VNC viewer on this computer, over the API's websocket.

use crate::{
    client,
    console::open,
    machine::{Target, path},
};
use anyhow::{Context, Result};
use clap::Args;
use futures::{SinkExt, StreamExt};
use std::net::Ipv4Addr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::Message;

const PIECE: usize = 16 << 10;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Port for the viewer on 127.0.0.1; a free one when 0
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Listens for viewers, one after the other, until it is ended. A viewer that is refused leaves a line.
pub(crate) async fn serve(options: Options) -> Result<()> {
    let (client, preferred) = client::connect().await?;
    let Target { name, namespace } = options.target;
    let path = path(&namespace.unwrap_or(preferred), "virtualmachineinstances", &name, "vnc");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await;
    let listener = listener.with_context(|| format!("listening on 127.0.0.1:{}", options.port))?;
    println!("open 127.0.0.1:{} with a VNC viewer; Ctrl-C ends this", listener.local_addr()?.port());
    loop {
        let (viewer, _) = listener.accept().await?;
        if let Err(error) = show(&client, &path, viewer).await {
            eprintln!("error: {error:#}");
        }
    }
}

/// Copies in both directions until one side is done.
async fn show(client: &kube::Client, path: &str, mut viewer: TcpStream) -> Result<()> {
    let (mut sink, mut stream) = open(client, path).await?.split();
    let mut bytes = vec![0; PIECE];
    loop {
        tokio::select! {
            read = viewer.read(&mut bytes) => match read? {
                0 => break,
                count => {
                    let bytes = bytes.get(..count).unwrap_or_default().to_vec();
                    sink.send(Message::binary(bytes)).await.context("the screen was closed")?;
                }
            },
            message = stream.next() => match message {
                Some(Ok(Message::Binary(bytes))) => viewer.write_all(&bytes).await?,
                Some(Ok(Message::Close(_))) | None => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the screen was closed"),
            },
        }
    }
    // The viewer may be gone first.
    let _gone = sink.close().await;
    Ok(())
}
