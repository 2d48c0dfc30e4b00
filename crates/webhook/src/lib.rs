//! SecurityContextConstraints on any Kubernetes: an admission webhook around `ferrovirt_scc`.
//!
//! ```text
//!   follow (one task for each kind) --> cluster: SCCs, namespaces, who may use what
//!                                          |
//!   API server --HTTPS--> serve --> decide (ferrovirt_scc) --> answer
//!                           ^
//!   identity: certificate from files, or made here and kept in a Secret
//!   ranges: gives each namespace its uid range
//! ```
//!
//! Nothing is asked of the API server while a pod is decided: rights come from watched roles and bindings, so that a
//! decision takes microseconds and needs nobody. Where the cluster serves SCCs itself (OKD), everything is allowed
//! with a warning: the cluster's own admission decides.

mod cluster;
mod follow;
mod identity;
mod ranges;
mod secret;
mod serve;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::identity::Identity;

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// PEM files, read again when they change.
    Files {
        /// The chain, the server's own certificate first.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// Made here and kept in a Secret that all replicas share; the authority is written into the webhook
    /// configurations of [`ferrovirt_plan::render::scc_webhook`].
    SelfSigned {
        /// Namespace of the Secret, which must exist; it may be empty.
        namespace: String,
        /// Its name.
        secret: String,
        /// DNS names and addresses under which the server is reached.
        names: Vec<String>,
    },
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address and port.
    pub listen: SocketAddr,
    /// The server's certificate.
    pub certificate: Certificate,
    /// Gives namespaces their uid ranges, with the ledger in this namespace's config map `scc-uid`.
    pub ranges_in: Option<String>,
}

/// Why the webhook ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another one with --listen")]
    Listen {
        /// Address that was asked for.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("cannot use the certificate: {0}")]
    Certificate(String),
    /// A task that never ends did; the bug is in this program.
    #[error("a task of the webhook ended; this is a bug, please report it")]
    TaskEnded,
}

/// Runs until the future is dropped.
///
/// # Errors
/// When it cannot start. What the API server refuses later is told in the log and tried again.
pub async fn run(client: kube::Client, options: Options) -> Result<Infallible, Error> {
    let address = options.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let identity = Arc::new(Identity::default());
    if let Certificate::Files { certificate, key } = &options.certificate {
        identity.read(certificate, key).map_err(Error::Certificate)?;
    }
    let cluster = Arc::new(Cluster::default());
    // Dropping the set, with this future, ends every task.
    let mut tasks = JoinSet::new();
    match options.certificate {
        Certificate::Files { certificate, key } => {
            tasks.spawn(Arc::clone(&identity).follow_files(certificate, key));
        }
        Certificate::SelfSigned { namespace, secret, names } => {
            let keeper = secret::Keeper::new(client.clone(), namespace, secret, names);
            tasks.spawn(keeper.run(Arc::clone(&identity)));
        }
    }
    tasks.spawn(cluster::follow(client.clone(), Arc::clone(&cluster)));
    if let Some(namespace) = options.ranges_in {
        tasks.spawn(ranges::run(client.clone(), Arc::clone(&cluster), namespace));
    }
    let state = Arc::new(serve::State::new(client, cluster, identity));
    tasks.spawn(serve::run(listener, state));
    let _ = tasks.join_next().await;
    Err(Error::TaskEnded)
}
