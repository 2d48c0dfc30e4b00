//! The machine API on a cluster whose API server is not ours: what `ferrovirt_machines` decides, as admission webhooks over
//! HTTPS.
//!
//! ```text
//!   API server ──HTTPS──► serve ──► admit (ferrovirt_machines) ──► answer
//!                                     ├── the KubeVirt object, the owner of an instance
//!                                     └── rights: SecurityContextConstraints where the cluster has them, each right asked
//!                                         for by a SubjectAccessReview
//! ```
//!
//! Nothing is kept between two requests, so that any number of replicas may answer, without a leader.

mod admit;
mod rights;
mod serve;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use ferrovirt_https::Certificate;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address and port.
    pub listen: SocketAddr,
    /// The server's certificate.
    pub certificate: Certificate,
}

/// Why it ended.
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
    #[error("a task of the machine API ended; this is a bug, please report it")]
    TaskEnded,
}

/// Runs until the future is dropped.
///
/// # Errors
/// When it cannot start. What the API server refuses later is told in the log and to whoever asked.
pub async fn run(client: kube::Client, options: Options) -> Result<Infallible, Error> {
    let address = options.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    // Dropping the set, with this future, ends every task.
    let mut tasks = JoinSet::new();
    let identity = options.certificate.keep(client.clone(), &mut tasks)?;
    let state = Arc::new(serve::State::new(client, identity));
    tasks.spawn(serve::run(listener, state));
    let _ = tasks.join_next().await;
    Err(Error::TaskEnded)
}
