//! Requests to one machine, through the subresources that virtctl uses too.

use crate::client;
use anyhow::{Result, anyhow};
use clap::Args;

/// The machine that is meant.
#[derive(Args)]
pub(crate) struct Target {
    /// Name of the machine
    pub(crate) name: String,
    /// Namespace; the kubeconfig's when absent
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

const SUBRESOURCES: &str = "/apis/subresources.kubevirt.io/v1";

/// The path of a subresource.
pub(crate) fn path(namespace: &str, resource: &str, name: &str, verb: &str) -> String {
    format!("{SUBRESOURCES}/namespaces/{namespace}/{resource}/{name}/{verb}")
}

async fn put(target: Target, resource: &str, verb: &str, done: &str) -> Result<()> {
    let (client, preferred) = client::connect().await?;
    let namespace = target.namespace.unwrap_or(preferred);
    let request = http::Request::put(path(&namespace, resource, &target.name, verb))
        .header("content-type", "application/json")
        .body(b"{}".to_vec())?;
    // The answer's body is empty; only an error has one.
    client.request_text(request).await.map_err(|error| match error {
        kube::Error::Api(status) => anyhow!("{}", status.message),
        other => other.into(),
    })?;
    println!("{namespace}/{} {done}", target.name);
    Ok(())
}

pub(crate) async fn start(target: Target) -> Result<()> {
    put(target, "virtualmachines", "start", "was scheduled to start").await
}

pub(crate) async fn stop(target: Target) -> Result<()> {
    put(target, "virtualmachines", "stop", "was scheduled to stop").await
}

pub(crate) async fn restart(target: Target) -> Result<()> {
    put(target, "virtualmachines", "restart", "was scheduled to restart").await
}

pub(crate) async fn pause(target: Target) -> Result<()> {
    put(target, "virtualmachineinstances", "pause", "was paused").await
}

pub(crate) async fn unpause(target: Target) -> Result<()> {
    put(target, "virtualmachineinstances", "unpause", "was unpaused").await
}
