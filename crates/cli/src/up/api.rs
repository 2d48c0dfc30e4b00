//! The API server with the controllers: a process without rights. Its directory is its working directory, and what it
//! has beside that are the descriptors that it was started with.

use super::control::{self, File, Heard, Kvm, Lines, Said, Settings};
use crate::{log, memory};
use anyhow::{Context, Result, ensure};
use ferrovirt_apiserver::server::{Config, Server};
use ferrovirt_plan::{config::ClusterConfig, render};
use ferrovirt_sys::{process::inherited, rights};
use std::{
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Numbers of the descriptors: where it listens, what it hears the supervisor on, the directory of the agent's socket,
/// and the lock on the data directory.
pub(super) const LISTENER: i32 = 3;
pub(super) const CONTROL: i32 = 4;
pub(super) const RUN: i32 = 5;
pub(super) const LOCK: i32 = 6;
/// The agent's socket in that directory.
pub(super) const AGENT_SOCKET: &str = "agent.sock";
/// How long answers may take to end once the server stops.
const LAST: Duration = Duration::from_secs(4);

/// Runs until SIGTERM. `settings` is what [`super::supervisor`] wrote.
pub(crate) fn api_server(settings: &str) -> Result<()> {
    rights::hide_memory()?;
    log::start();
    ensure!(rights::has_none()?, "`ferrovirt up` starts this; it does not run with rights of its own");
    let settings: Settings = serde_json::from_str(settings)?;
    if let Err(error) = ferrovirt_sys::process::raise_open_files() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    memory::watch();
    let place = settings.directory.display().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(settings)).with_context(|| format!("the API server in {place}"))
}

async fn run(settings: Settings) -> Result<()> {
    let listener = TcpListener::from(inherited(LISTENER)?);
    let supervisor = UnixStream::from(inherited(CONTROL)?);
    // Both are open as long as this process runs: one is a way, the other a lock.
    let _kept: [OwnedFd; 2] = [inherited(RUN)?, inherited(LOCK)?];
    let told = supervisor.try_clone()?;
    let kvm = tokio::task::spawn_blocking(move || match Lines::new(told).next()? {
        Heard::Message(Kvm { emulate }) => Ok(emulate),
        Heard::Nothing | Heard::Closed => Err(anyhow::anyhow!("the supervisor is gone")),
    });
    let server = Server::open_on(
        Config {
            data_dir: PathBuf::from("."),
            listen: listener.local_addr()?,
            agent_socket: PathBuf::from(format!("/proc/self/fd/{RUN}/{AGENT_SOCKET}")),
            scc_admission: settings.options.scc_admission.into(),
            longest_watch: settings.options.longest_watch.map(Duration::from_secs),
            audit: settings.options.audit_log.map(|path| ferrovirt_apiserver::audit::Options {
                path,
                max_size: settings.options.audit_log_maxsize.saturating_mul(1 << 20),
                max_backups: settings.options.audit_log_maxbackup,
            }),
        },
        listener,
    )
    .await?;
    let emulate = kvm.await??;
    let config = ClusterConfig { use_emulation: emulate, ..ClusterConfig::default() };
    let manifests = [render::install(&config), render::install::embedded(&config)].concat();
    server.ensure(&manifests).await?;
    server.set_emulation(emulate).await?;
    let handler = server.kubeconfig_for_service_account("kubevirt", "kubevirt-handler").await?;
    hand_over(&supervisor, File::Admin, &server.admin_kubeconfig())?;
    hand_over(&supervisor, File::Handler, &handler)?;
    hand_over(&supervisor, File::Node, &server.kubeconfig_for_node(&settings.node_name)?)?;
    let controller = server.kubeconfig_for_service_account("kubevirt", "kubevirt-controller").await?;

    let mut terminate = signal(SignalKind::terminate())?;
    // Ctrl-C reaches every process of the terminal; the supervisor says when it is this one's turn.
    let _interrupt = signal(SignalKind::interrupt())?;
    let cluster = server.cluster().to_owned();
    let (stop, stopped) = watch::channel(false);
    let mut serving = tokio::spawn(server.serve(stopped));
    let mut controllers = tokio::spawn(ferrovirt_control::run(client(&controller).await?, config));
    control::say(&supervisor, &Said::Ready { cluster })?;
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        ended = &mut serving => Err(anyhow::anyhow!("the server ended: {ended:?}")),
        ended = &mut controllers => Err(anyhow::anyhow!("the controllers ended: {ended:?}")),
    };
    controllers.abort();
    stop.send_replace(true);
    if !serving.is_finished() {
        let _ = tokio::time::timeout(LAST, serving).await;
    }
    outcome
}

/// Has a kubeconfig written to its file, which is root's. May be called again with a newer one.
fn hand_over(supervisor: &UnixStream, file: File, kubeconfig: &str) -> Result<()> {
    let kubeconfig = Box::new(serde_saphyr::from_str(kubeconfig)?);
    control::say(supervisor, &Said::Credential { file, kubeconfig })
}

async fn client(kubeconfig: &str) -> Result<kube::Client> {
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}
