//! `ferrovirt serve`: parts of the system that run beside another Kubernetes.

mod api;
mod controller;
mod health;
mod verbosity;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use ferrovirt_https::Certificate;
use ferrovirt_plan::render::scc_webhook::{CONFIGURATION, NAME};
use ferrovirt_webhook::Options as Webhook;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Admit pods by SecurityContextConstraints: an admission webhook for any Kubernetes
    Webhook(WebhookOptions),
    /// Run machines: make instances and launcher pods of VirtualMachines; of several replicas one works
    Controller(controller::Options),
    /// Complete, check, start and stop machines: admission webhooks for the kinds of kubevirt.io on any Kubernetes, and
    /// their subresources as an aggregated API
    Api(api::Options),
}

/// Where the certificate of a webhook comes from.
#[derive(Args)]
struct CertificateOptions {
    /// PEM file with the certificate chain, read again when it changes
    #[arg(long, requires = "tls_key", required_unless_present = "self_signed_secret")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the key
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Make a certificate, keep it in this Secret of the program's own namespace (it must exist), replace it in time,
    /// and write its authority into the program's own webhook configurations and APIServices
    #[arg(long, conflicts_with = "tls_cert")]
    self_signed_secret: Option<String>,
    /// One more DNS name or address in the certificate that is made
    #[arg(long, requires = "self_signed_secret")]
    tls_name: Vec<String>,
}

impl CertificateOptions {
    /// The certificate of a Service with this name, and what its authority is written into: the webhook configurations of
    /// a name, and APIServices.
    fn certificate(
        self,
        service: &str,
        namespace: &str,
        configuration: &str,
        services: Vec<String>,
    ) -> Result<Certificate> {
        match (self.tls_cert, self.tls_key, self.self_signed_secret) {
            (Some(certificate), Some(key), _) => Ok(Certificate::Files { certificate, key }),
            (_, _, Some(secret)) => {
                let mut names = vec![format!("{service}.{namespace}.svc")];
                names.extend(self.tls_name);
                let (namespace, configuration) = (namespace.to_owned(), configuration.to_owned());
                Ok(Certificate::SelfSigned { namespace, secret, names, configuration, services })
            }
            _ => bail!("a certificate is needed: --tls-cert and --tls-key, or --self-signed-secret"),
        }
    }
}

#[derive(Args)]
struct WebhookOptions {
    /// Address and port
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    #[command(flatten)]
    certificate: CertificateOptions,
    /// Namespace of the webhook
    #[arg(long, default_value = NAME)]
    namespace: String,
    /// Give each namespace its uid range, where nobody else does
    #[arg(long)]
    ranges: bool,
    /// How to reach the cluster; the pod's own service account when absent
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

pub(crate) fn serve(options: Options) -> Result<()> {
    ferrovirt_log::start("info,kube=warn");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match options.part {
            Part::Webhook(options) => webhook(options).await,
            Part::Controller(options) => controller::run(options).await,
            Part::Api(options) => api::run(options).await,
        }
    })
}

/// A client of the cluster that a kubeconfig names, or of the one in whose pod this runs.
async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client> {
    match kubeconfig {
        Some(path) => crate::client::connect_with(path).await,
        None => {
            let config = kube::Config::incluster()
                .context("this is not a pod of a cluster: name a kubeconfig with --kubeconfig")?;
            Ok(kube::Client::try_from(config)?)
        }
    }
}

/// Returns when somebody wants this process to end.
async fn stop() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn webhook(options: WebhookOptions) -> Result<()> {
    let certificate = options.certificate.certificate(NAME, &options.namespace, CONFIGURATION, Vec::new())?;
    let client = client(options.kubeconfig.as_deref()).await?;
    let webhook = Webhook {
        listen: options.listen,
        certificate,
        ranges_in: options.ranges.then_some(options.namespace),
    };
    tokio::select! {
        ended = ferrovirt_webhook::run(client, webhook) => match ended {
            Err(error) => Err(error.into()),
            Ok(never) => match never {},
        },
        stopped = stop() => stopped,
    }
}
