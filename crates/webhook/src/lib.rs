//! SecurityContextConstraints on any Kubernetes: an admission webhook around `ferrovirt_scc`.
//!
//! ```text
//!   follow (one task for each kind) --> cluster: SCCs, namespaces, who may use what
//!                                          |
//!   API server --HTTPS--> serve --> decide (ferrovirt_scc) --> answer
//!                           ^
//!   ferrovirt_https: certificate from files, or made there and kept in a Secret
//!   ranges: gives each namespace its uid range
//! ```
//!
//! Nothing is asked of the API server while a pod is decided: rights come from watched roles and bindings, so that a
//! decision takes microseconds and needs nobody. Where the cluster serves SCCs itself (OKD), everything is allowed
//! with a warning: the cluster's own admission decides.

mod cluster;
mod follow;
mod ranges;
mod serve;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use ferrovirt_https::Certificate;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::cluster::Cluster;

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
    #[error(transparent)]
    Certificate(#[from] ferrovirt_https::CertificateError),
    /// A task that never ends did; the bug is in this program.
    #[error("a task of the webhook ended; this is a bug, please report it")]
    TaskEnded,
}

/// Runs until the future is dropped.
///
/// # Errors
/// When it cannot start. What the API server refuses later is in the log and tried again.
pub async fn run(client: kube::Client, options: Options) -> Result<Infallible, Error> {
    let address = options.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    let cluster = Arc::new(Cluster::default());
    // Dropping the set, with this future, ends every task.
    let mut tasks = JoinSet::new();
    let identity = options.certificate.keep(client.clone(), &mut tasks)?;
    tasks.spawn(cluster::follow(client.clone(), Arc::clone(&cluster)));
    if let Some(namespace) = options.ranges_in {
        tasks.spawn(ranges::run(client.clone(), Arc::clone(&cluster), namespace));
    }
    let state = Arc::new(serve::State::new(client, cluster, identity));
    tasks.spawn(serve::run(listener, state));
    let _ = tasks.join_next().await;
    Err(Error::TaskEnded)
}
