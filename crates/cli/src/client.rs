//! A connection to the API server that KUBECONFIG names.

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::{future::Future, path::Path};

/// Runs one short command.
pub(crate) fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// A client, and the namespace that the kubeconfig prefers.
pub(crate) async fn connect() -> Result<(kube::Client, String)> {
    let config = kube::Config::infer().await.context(
        "no cluster: set KUBECONFIG to the file that `ferrovirt up` printed, or use ~/.kube/config",
    )?;
    let namespace = config.default_namespace.clone();
    Ok((kube::Client::try_from(config)?, namespace))
}

/// A client of one kubeconfig.
pub(crate) async fn connect_with(path: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}
