//! HTTPS for what a Kubernetes API server calls: our webhooks, and an API of ours behind its aggregator.
//!
//! ```text
//!   Certificate ──► Identity ──► server      from files, or made here and kept in a Secret that all replicas share
//!        └────────► webhook configurations, APIServices   which authority the API server trusts
//!   Authorities ─────────────────► server      whose certificates its clients need, where they need one
//! ```
//!
//! [`mutual`] has the certificates of two parts of ours that speak with each other.
//!
//! [`stream`] carries what is no request any more, between a client and what answers it.
//!
//! Bodies, connections and times are bounded; the caller decides what a request is answered.

mod body;
mod clients;
mod identity;
pub mod mutual;
mod secret;
mod server;
mod share;
mod shown;
mod stored;
pub mod stream;

pub use body::{Bodies, Room};
pub use clients::{Authorities, ClientTrust, Files};
pub use identity::Identity;
pub use server::{Options, Reply, deadline, keep_alive, reply, serve, text};
pub use share::{Place, Share};
pub use shown::Shown;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

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
    /// Made here and kept in a Secret that all replicas share.
    SelfSigned {
        /// Namespace of the Secret, which may be empty.
        namespace: String,
        /// Its name.
        secret: String,
        /// DNS names and addresses under which the server is reached.
        names: Vec<String>,
        /// The name of the webhook configurations, mutating and validating, into which the authority is written.
        configuration: String,
        /// `APIServices` into which it is written, too.
        services: Vec<String>,
    },
}

/// A certificate that cannot be used, in words.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the certificate: {0}")]
pub struct CertificateError(String);

impl Certificate {
    /// The identity of a server, which a task keeps current from now on.
    ///
    /// # Errors
    /// Files that are no certificate and key.
    pub fn keep(
        self,
        client: kube::Client,
        tasks: &mut JoinSet<()>,
    ) -> Result<Arc<Identity>, CertificateError> {
        let identity = Arc::new(Identity::default());
        match self {
            Self::Files { certificate, key } => {
                identity.read(&certificate, &key).map_err(CertificateError)?;
                tasks.spawn(Arc::clone(&identity).follow_files(certificate, key));
            }
            Self::SelfSigned { namespace, secret, names, configuration, services } => {
                let keeper = secret::Keeper::new(client, &namespace, secret, names, configuration, services);
                tasks.spawn(keeper.run(Arc::clone(&identity)));
            }
        }
        Ok(identity)
    }
}
