//! `ferrovirt serve api`: the machine API beside another Kubernetes, as one of several replicas that know nothing of each
//! other.

use super::{client, stop};
use anyhow::{Result, bail};
use clap::Args;
use ferrovirt_https::Certificate;
use ferrovirt_machine_api as machine_api;
use ferrovirt_plan::{config::NAMESPACE, render::api::NAME};
use std::{net::SocketAddr, path::PathBuf};

#[derive(Args)]
pub(super) struct Options {
    /// Address and port
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// PEM file with the certificate chain, read again when it changes
    #[arg(long, requires = "tls_key", required_unless_present = "self_signed_secret")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the key
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Make a certificate, keep it in this Secret of the namespace `kubevirt` (it must exist), replace it in time, and
    /// write its authority into the webhook configurations `kubevirt-api`
    #[arg(long, conflicts_with = "tls_cert")]
    self_signed_secret: Option<String>,
    /// One more DNS name or address in the certificate that is made
    #[arg(long, requires = "self_signed_secret")]
    tls_name: Vec<String>,
    /// How to reach the cluster; the pod's own service account when absent
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

/// Serves until it is told to end.
///
/// # Errors
/// An address that is taken, and certificates that cannot be used.
pub(super) async fn run(options: Options) -> Result<()> {
    let certificate = match (options.tls_cert, options.tls_key, options.self_signed_secret) {
        (Some(certificate), Some(key), _) => Certificate::Files { certificate, key },
        (_, _, Some(secret)) => {
            let mut names = vec![format!("{NAME}.{NAMESPACE}.svc")];
            names.extend(options.tls_name);
            let (namespace, configuration) = (NAMESPACE.to_owned(), NAME.to_owned());
            Certificate::SelfSigned { namespace, secret, names, configuration }
        }
        _ => bail!("a certificate is needed: --tls-cert and --tls-key, or --self-signed-secret"),
    };
    let client = client(options.kubeconfig.as_deref()).await?;
    let options = machine_api::Options { listen: options.listen, certificate };
    tokio::select! {
        ended = machine_api::run(client, options) => match ended {
            Err(error) => Err(error.into()),
            Ok(never) => match never {},
        },
        stopped = stop() => stopped,
    }
}
