//! The server: opens everything, installs manifests, hands out kubeconfigs, serves.

mod credentials;
mod identity;
mod install;
mod kubeconfig;
mod listen;
mod pipeline;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

pub use credentials::Credentials;
use listen::Door;

use crate::app::{App, SccAdmission};
use crate::audit;
use crate::auth::{Auth, Pki};
use crate::flow::{Flow, workers};
use crate::hooks::Hooks;
use crate::metrics::Metrics;
use crate::quota::Quota;
use crate::store::{Keys, Store, StoreError};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of the store and the keys; made if it is missing.
    pub data_dir: PathBuf,
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Unix socket of the node's agent.
    pub agent_socket: PathBuf,
    /// Who admits pods by security context constraints.
    pub scc_admission: SccAdmission,
    /// No watch lasts longer than this, whatever its client asks for; as long as the client asks for, when there is
    /// nothing.
    pub longest_watch: Option<std::time::Duration>,
    /// Where audit events go, if anywhere.
    pub audit: Option<audit::Options>,
}

/// Why the server does not start, or an installation fails.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody listens there already.
    #[error("{address} is in use by another program; stop it, or choose another address with --listen")]
    InUse {
        /// Address that was asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; choose another address with --listen")]
    Listen {
        /// Address that was asked for.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The data directory cannot be made.
    #[error("cannot create the data directory {path}; choose another one with --data-dir")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// There are keys of a cluster, and its store is missing or empty.
    #[error(
        "{store} is missing or empty, but {keys} belongs to a cluster: restore the store from a backup. To give that cluster \
         up and begin another one, end its machines, then remove {keys} and the node agent's directory, too"
    )]
    StoreIsGone {
        /// The database file.
        store: PathBuf,
        /// The directory of keys.
        keys: PathBuf,
    },
    /// Store and keys are of two clusters.
    #[error(
        "{store} is of the cluster {found}, and {keys} is of the cluster {expected}: restore both from the same backup"
    )]
    OtherCluster {
        /// The database file.
        store: PathBuf,
        /// Its cluster.
        found: String,
        /// The directory of keys.
        keys: PathBuf,
        /// Their cluster.
        expected: String,
    },
    /// The audit log cannot be opened.
    #[error("cannot open the audit log {path}; choose another file with --audit-log")]
    Audit {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Keys and certificates cannot be read or made.
    #[error("cannot prepare the server's certificates")]
    Pki(#[from] crate::auth::pki::PkiError),
    /// Keys and certificates do not fit TLS.
    #[error("cannot use the server's certificates: {0}")]
    Tls(String),
    /// A manifest was refused.
    #[error("cannot install {what}")]
    Install {
        /// Kind and name.
        what: String,
        /// The refusal.
        source: crate::status::ApiError,
    },
    /// A credential cannot be made.
    #[error("cannot make a kubeconfig for {who}")]
    Credential {
        /// User name.
        who: String,
        /// Why.
        source: crate::status::ApiError,
    },
}

/// Where a server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For everybody.
    pub public: std::net::TcpListener,
    /// For the system's own accounts alone, where there is one: their connections have threads of their own, and those of
    /// the others give way to them. On an address of this machine alone.
    pub system: Option<std::net::TcpListener>,
}

/// Listens on an address, for [`Server::open_on`].
///
/// # Errors
/// [`ServerError::InUse`] and [`ServerError::Listen`].
pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener, ServerError> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServerError::InUse { address },
        _ => ServerError::Listen { address, source },
    })
}

/// Gives the listeners to the runtimes that serve them.
fn enter(listeners: Listeners) -> std::io::Result<(TcpListener, Option<System>)> {
    let Some(system) = listeners.system else { return Ok((TcpListener::from_std(listeners.public)?, None)) };
    let users = workers::users()?;
    let system = System { listener: TcpListener::from_std(system)?, users: Some(users) };
    let _entered = system.users.as_ref().map(Runtime::enter);
    let public = TcpListener::from_std(listeners.public)?;
    Ok((public, Some(system)))
}

/// An opened server: listening, not yet answering.
pub struct Server {
    app: Arc<App>,
    cluster: String,
    credentials: Credentials,
    public: TcpListener,
    system: Option<System>,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    stop: watch::Sender<bool>,
}

/// The system's own listener, and where everybody else is served then.
struct System {
    listener: TcpListener,
    /// Always there; taken to end it.
    users: Option<Runtime>,
}

impl Drop for System {
    fn drop(&mut self) {
        // A runtime that waits for its threads may not be dropped in another one.
        if let Some(users) = self.users.take() {
            users.shutdown_background();
        }
    }
}

impl Server {
    /// Opens the store and the keys, listens, and starts the built-in controllers. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// See [`ServerError`]; the port and the store say who is in the way.
    pub async fn open(config: Config) -> Result<Self, ServerError> {
        let public = bind(config.listen)?;
        Self::open_on(config, Listeners { public, system: None }).await
    }

    /// The same on listeners that somebody else has opened; the configuration's address plays no part.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub async fn open_on(config: Config, listeners: Listeners) -> Result<Self, ServerError> {
        let address = config.listen;
        let failed = |source| ServerError::Listen { address, source };
        let (public, system) = enter(listeners).map_err(failed)?;
        let address = public.local_addr().map_err(failed)?;
        let internal =
            system.as_ref().map(|system| system.listener.local_addr()).transpose().map_err(failed)?;
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| ServerError::DataDir { path: config.data_dir.clone(), source })?;
        // The store first: where it is damaged or of another cluster, nothing is written, and keys without a store say
        // that there was one.
        let (path, keys) = (config.data_dir.join("store.redb"), config.data_dir.join("pki"));
        identity::check_file(&path, &keys)?;
        let store = Store::open_with(&path, Keys::open(&keys.join("store.keys"))?)?;
        identity::check(&store, &path, &keys)?;
        crate::bootstrap::install(&store).await?;
        let cluster = identity::of(&store).unwrap_or_default();
        let pki = Pki::open(&keys, &credentials::addresses(address), time::OffsetDateTime::now_utc())?;
        identity::bind(&keys, &cluster)?;
        let shown = Arc::new(credentials::Shown::new(&pki)?);
        let tls = listen::tls(&pki, Arc::clone(&shown))?;
        let audit = match config.audit {
            None => None,
            Some(options) => {
                let path = options.path.clone();
                let log = audit::Log::open(options);
                Some(Arc::new(log.map_err(|source| ServerError::Audit { path, source })?))
            }
        };
        let auth = Auth::new(store.clone(), &pki.token_key)
            .map_err(|source| ServerError::Credential { who: "service accounts".to_owned(), source })?;
        let (stop, shutdown) = watch::channel(false);
        let app = Arc::new(App {
            constraints: crate::admission::constraints(store.clone()),
            hooks: Hooks::of(store.clone()),
            scc_admission: config.scc_admission,
            longest_watch: config.longest_watch,
            flow: Flow::default(),
            metrics: Metrics::default(),
            quota: Quota::new(store.clone()),
            store,
            auth,
            audit,
            agent_socket: config.agent_socket,
            ca_pem: pki.ca_pem.clone(),
            shutdown,
        });
        crate::builtin::spawn(&app);
        let credentials = Credentials::new(Arc::clone(&app), (address, internal), keys, pki, shown);
        Ok(Self { app, cluster, credentials, public, system, address, tls: Arc::new(tls), stop })
    }

    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kubeconfigs, and the renewal of what they hold: [`Credentials::keep`] is to run beside [`Server::serve`].
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// The cluster's identity: the UID of the namespace kube-system.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The parts of the server, for code in the same process.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Answers requests until `stop` becomes true or its sender is gone; then ends all streams and closes the store.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let (app, tls, ending) = (Arc::clone(&self.app), Arc::clone(&self.tls), self.stop.clone());
        let (public, mut end) = (self.public, stop.clone());
        let public = async move {
            // An error means that nobody can stop us any more: the same as a stop.
            let ended = async move { drop(end.wait_for(|stop| *stop).await) };
            listen::run(&app, (&public, Door::Public), &tls, ended, &ending).await;
        };
        match self.system.as_ref().and_then(|system| Some((system, system.users.as_ref()?))) {
            None => public.await,
            Some((system, users)) => {
                let mut public = users.spawn(public);
                let ended = async move { drop(stop.wait_for(|stop| *stop).await) };
                let own =
                    listen::run(&self.app, (&system.listener, Door::System), &self.tls, ended, &self.stop);
                // Whichever ends first: without the other one there is no server, and who started it is to notice.
                let public = tokio::select! {
                    () = own => public.await,
                    ended = &mut public => ended,
                };
                if let Err(error) = public {
                    tracing::error!("the public listener: {error}");
                }
            }
        }
        let (store, audit) = (self.app.store.clone(), self.app.audit.clone());
        // Waits for one commit and the queued audit events at most.
        let close = move || {
            store.close();
            if let Some(audit) = audit {
                audit.close();
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(close).await {
            tracing::warn!("closing the store: {error}");
        }
    }
}
