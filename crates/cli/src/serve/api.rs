//! `ferrovirt serve api`: the machine API beside another Kubernetes, as one of several replicas that know nothing of each
//! other.

use super::{CertificateOptions, client, stop, verbosity};
use anyhow::Result;
use clap::Args;
use ferrovirt_https::mutual::Pair;
use ferrovirt_machine_api as machine_api;
use ferrovirt_plan::{
    config::{NAMESPACE, verbosity::Program},
    render::{
        api::{self, NAME},
        handler,
    },
};
use std::{net::SocketAddr, path::PathBuf};

#[derive(Args)]
pub(super) struct Options {
    /// Address and port
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    #[command(flatten)]
    certificate: CertificateOptions,
    /// How to reach the cluster; the pod's own service account when absent
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

/// Serves until it is asked to end.
///
/// # Errors
/// An address that is taken, and certificates that cannot be used.
pub(super) async fn run(options: Options) -> Result<()> {
    let certificate = options.certificate.certificate(NAME, NAMESPACE, NAME, api::service_names())?;
    let client = client(options.kubeconfig.as_deref()).await?;
    tokio::spawn(verbosity::follow(client.clone(), Program::Api));
    let secret = |secret: &str, name: &str| (secret.to_owned(), name.to_owned());
    let handlers = Pair {
        namespace: NAMESPACE.to_owned(),
        authority: api::AUTHORITY_SECRET.to_owned(),
        server: secret(handler::CERTIFICATE, handler::NAME),
        client: secret(api::CLIENT_SECRET, NAME),
    };
    let options =
        machine_api::Options { listen: options.listen, certificate, handlers, handler_port: handler::PORT };
    tokio::select! {
        ended = machine_api::run(client, options) => match ended {
            Err(error) => Err(error.into()),
            Ok(never) => match never {},
        },
        stopped = stop() => stopped,
    }
}
