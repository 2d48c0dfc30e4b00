//! A connection to the API server that KUBECONFIG names.

use anyhow::{Context, Result};
use std::future::Future;

/// Runs one short command.
pub(crate) fn run(future: impl Future<Output = Result<()>>) -> Result<()> {
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
