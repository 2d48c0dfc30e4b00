//! What every stage of a request can reach.

use std::path::PathBuf;
use std::sync::Arc;

use ferrovirt_scc::Constraints;

use crate::audit::Log;
use crate::auth::Auth;
use crate::flow::Flow;
use crate::fresh::Fresh;
use crate::hooks::Hooks;
use crate::metrics::Metrics;
use crate::quota::Quota;
use crate::request::Requester;
use crate::store::Store;

/// Who admits pods by security context constraints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SccAdmission {
    /// The server itself.
    #[default]
    InProcess,
    /// A webhook, as on any Kubernetes: it also checks the SCCs themselves and gives namespaces their uid ranges. Without
    /// a registered one, nobody does.
    Webhook,
}

/// The parts of the running server.
pub struct App {
    /// All objects.
    pub store: Store,
    /// Who is asking, and may they?
    pub auth: Auth,
    /// Security context constraints: `admission::constraints(store)`.
    pub constraints: Fresh<Constraints>,
    /// Registered webhooks.
    pub hooks: Fresh<Hooks>,
    /// Who admits pods by security context constraints.
    pub scc_admission: SccAdmission,
    /// What one user may take of the server at a time.
    pub flow: Flow,
    /// What is counted.
    pub metrics: Metrics,
    /// How much may be stored.
    pub quota: Quota,
    /// Where audit events go, if anywhere.
    pub audit: Option<Arc<Log>>,
    /// Unix socket of the node's agent: logs, consoles, pause.
    pub agent_socket: PathBuf,
    /// Certificate of the cluster's authority, PEM.
    pub ca_pem: String,
    /// No watch lasts longer than this; what the client asks for, when there is nothing.
    pub longest_watch: Option<std::time::Duration>,
    /// Becomes true when the server stops; streams end then.
    pub shutdown: tokio::sync::watch::Receiver<bool>,
}

impl App {
    /// The store, where what `requester` writes counts as a user's or as the system's.
    pub(crate) fn writer(&self, requester: &Requester) -> Store {
        if requester.is_system() { self.store.clone() } else { self.store.of_users() }
    }
}
