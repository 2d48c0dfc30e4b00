//! The machine API on a cluster whose API server is not ours: what `ferrovirt_machines` decides, as admission webhooks over
//! HTTPS, and the subresources of machines as an aggregated API.
//!
//! ```text
//!   API server ──HTTPS──► serve ──► admit (ferrovirt_machines) ──► answer
//!                                     ├── the KubeVirt object, the owner of an instance
//!                                     └── rights: SecurityContextConstraints where the cluster has them, each right asked
//!                                         for by a SubjectAccessReview
//!                              └► subresource: start, stop, restart; pause and consoles through the node's handler
//! ```
//!
//! Nothing is kept between two requests, so that any number of replicas may answer, without a leader.

mod admit;
mod objects;
mod rights;
mod serve;
mod subresource;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use ferrovirt_https::Certificate;
use ferrovirt_https::mutual::{Caller, Pair};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address and port.
    pub listen: SocketAddr,
    /// The server's certificate.
    pub certificate: Certificate,
    /// The certificates with which it calls the handlers of nodes, and they answer.
    pub handlers: Pair,
    /// The port on which handlers listen.
    pub handler_port: u16,
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
/// When it cannot start. What the API server refuses later is in the log and in the answer to the one who asked.
pub async fn run(client: kube::Client, options: Options) -> Result<Infallible, Error> {
    let address = options.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    // Dropping the set, with this future, ends every task.
    let mut tasks = JoinSet::new();
    let identity = options.certificate.keep(client.clone(), &mut tasks)?;
    let front_proxy = Arc::new(subresource::FrontProxy::default());
    tasks.spawn(Arc::clone(&front_proxy).follow(client.clone()));
    let caller = Arc::new(Caller::default());
    tasks.spawn(options.handlers.keep(client.clone(), Arc::clone(&caller)));
    let handlers = subresource::Handlers::new(client.clone(), caller, options.handler_port);
    let subresources = subresource::Subresources::new(client.clone(), front_proxy, handlers);
    let state = Arc::new(serve::State::new(client, identity, subresources));
    tasks.spawn(serve::run(listener, state));
    let _ = tasks.join_next().await;
    Err(Error::TaskEnded)
}
