//! The API server with the controllers: a process without rights. Its directory is its working directory, and what it
//! has beside that are the descriptors that it was started with.

use super::control::{self, File, Heard, Kvm, Lines, Said, Settings};
use crate::memory;
use anyhow::{Context, Result, ensure};
use ferrovirt_apiserver::server::{Config, Credentials, Listeners, Server};
use ferrovirt_plan::{config::ClusterConfig, render};
use ferrovirt_sys::{
    calls,
    confine::{self, Filter},
    process::inherited,
    rights,
};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    io,
    net::TcpListener,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::PathBuf,
    time::Duration,
};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Numbers of the descriptors: where it listens for everybody and for the system's own accounts, what it hears the supervisor on, the directory of the agent's socket,
/// and its own lock on the data directory.
pub(super) const LISTENER: i32 = 3;
pub(super) const CONTROL: i32 = 4;
pub(super) const RUN: i32 = 5;
pub(super) const LOCK: i32 = 6;
pub(super) const SYSTEM: i32 = 7;
/// The account of the controllers.
const CONTROLLER: &str = "kubevirt-controller";
/// The agent's socket in that directory.
pub(super) const AGENT_SOCKET: &str = "agent.sock";
/// How long answers may take to end once the server stops.
const LAST: Duration = Duration::from_secs(4);

/// Runs until SIGTERM. `settings` is what [`super::supervisor`] wrote.
pub(crate) fn api_server(settings: &str) -> Result<()> {
    rights::hide_memory()?;
    ferrovirt_log::start("info,kube=warn");
    ensure!(rights::has_none()?, "`ferrovirt up` starts this; it does not run with rights of its own");
    let settings: Settings = serde_json::from_str(settings)?;
    if let Err(error) = ferrovirt_sys::process::raise_open_files() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    let token = Token::new()?;
    // Before there are other threads, which inherit it.
    Filter::new(calls::API_SERVER, Some(confine::NETWORK))?.apply()?;
    memory::watch();
    let place = settings.directory.display().to_string();
    // Of the system alone: the server has other threads for users.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run(settings, &token));
    outcome.with_context(|| format!("the API server in {place}"))
}

async fn run(settings: Settings, token: &Token) -> Result<()> {
    let public = TcpListener::from(inherited(LISTENER)?);
    let system = Some(TcpListener::from(inherited(SYSTEM)?));
    let supervisor = UnixStream::from(inherited(CONTROL)?);
    // Both are open as long as this process runs: one is a way, the other a lock.
    let _kept: [OwnedFd; 2] = [inherited(RUN)?, inherited(LOCK)?];
    let messages = supervisor.try_clone()?;
    let kvm = tokio::task::spawn_blocking(move || match Lines::new(messages).next()? {
        Heard::Message(Kvm { emulate }) => Ok(emulate),
        Heard::Nothing | Heard::Closed => Err(anyhow::anyhow!("the supervisor is gone")),
    });
    let server = Server::open_on(
        Config {
            data_dir: PathBuf::from("."),
            listen: public.local_addr()?,
            agent_socket: PathBuf::from(format!("/proc/self/fd/{RUN}/{AGENT_SOCKET}")),
            scc_admission: settings.options.scc_admission.into(),
            longest_watch: settings.options.longest_watch.map(Duration::from_secs),
            audit: settings.options.audit_log.map(|path| ferrovirt_apiserver::audit::Options {
                path,
                max_size: settings.options.audit_log_maxsize.saturating_mul(1 << 20),
                max_backups: settings.options.audit_log_maxbackup,
            }),
        },
        Listeners { public, system },
    )
    .await?;
    let emulate = kvm.await??;
    let config = ClusterConfig { use_emulation: emulate, ..ClusterConfig::default() };
    let manifests = [render::install(&config), render::install::embedded(&config)].concat();
    server.ensure(&manifests).await?;
    server.set_emulation(emulate).await?;
    let credentials = server.credentials();
    let hand_out = |credentials: &Credentials| hand_out(&supervisor, credentials, &settings.node_name, token);
    hand_out(&credentials)?;
    let account = credentials.kubeconfig_for_service_account("kubevirt", CONTROLLER)?;
    let token_file = token.path();

    let mut terminate = signal(SignalKind::terminate())?;
    // Ctrl-C reaches every process of the terminal; the supervisor says when it is this one's turn.
    let _interrupt = signal(SignalKind::interrupt())?;
    let cluster = server.cluster().to_owned();
    let (stop, stopped) = watch::channel(false);
    let mut serving = tokio::spawn(server.serve(stopped));
    let mut controllers = tokio::spawn(async move {
        let client = controller(&account, token_file).await?;
        anyhow::Ok(ferrovirt_control::run(client, config).await?)
    });
    control::say(&supervisor, &Said::Ready { cluster })?;
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        ended = &mut serving => Err(anyhow::anyhow!("the server ended: {ended:?}")),
        () = credentials.keep(hand_out) => Ok(()),
        ended = &mut controllers => Err(anyhow::anyhow!("the controllers ended: {ended:?}")),
    };
    controllers.abort();
    stop.send_replace(true);
    if !serving.is_finished() {
        let _ = tokio::time::timeout(LAST, serving).await;
    }
    outcome
}

/// Has every kubeconfig written again, and the controllers' token.
fn hand_out(supervisor: &UnixStream, credentials: &Credentials, node: &str, token: &Token) -> Result<()> {
    let account = |name: &str| credentials.kubeconfig_for_service_account("kubevirt", name);
    hand_over(supervisor, File::Admin, &credentials.admin_kubeconfig())?;
    hand_over(supervisor, File::Handler, &account("kubevirt-handler")?)?;
    hand_over(supervisor, File::Node, &credentials.kubeconfig_for_node(node)?)?;
    Ok(token.set(&credentials.service_account_token("kubevirt", CONTROLLER)?)?)
}

/// The controllers' token, in a file that is in memory: their client reads it again while it runs, and a full disk is
/// no reason to be without.
struct Token(std::fs::File);

impl Token {
    fn new() -> Result<Self> {
        let make = |flags| memfd_create(c"controller.token", flags | MemfdFlags::CLOEXEC);
        // Kernels before 6.3 do not know the flag, later ones may ask for it.
        let file = make(MemfdFlags::NOEXEC_SEAL).or_else(|_| make(MemfdFlags::empty()));
        Ok(Self(file.context("a file in memory")?.into()))
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Tokens are of one length but for a few bytes: there is no moment without one for the reader, and what it might read
    /// in the midst of this it reads again.
    fn set(&self, text: &str) -> io::Result<()> {
        self.0.write_all_at(text.as_bytes(), 0)?;
        self.0.set_len(text.len() as u64)
    }
}

/// A client of the controllers, which reads its token again while it runs.
async fn controller(kubeconfig: &str, token_file: String) -> Result<kube::Client> {
    let mut kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|user| user.auth_info.as_mut()) {
        (user.token, user.token_file) = (None, Some(token_file.clone()));
    }
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Has a kubeconfig written to its file, which is root's. May be called again with a newer one.
fn hand_over(supervisor: &UnixStream, file: File, kubeconfig: &str) -> Result<()> {
    let kubeconfig = Box::new(serde_saphyr::from_str(kubeconfig)?);
    control::say(supervisor, &Said::Credential { file, kubeconfig })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controllers_read_the_newest_token_and_nothing_else() {
        let token = Token::new().unwrap();
        for text in ["first", "second", "3rd"] {
            token.set(text).unwrap();
            assert_eq!(std::fs::read_to_string(token.path()).unwrap(), text);
        }
    }
}
