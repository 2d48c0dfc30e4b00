//! `ferrovirt up`: everything on this machine, in the foreground.
//!
//! This process holds the API server and the controllers; the node agent is a child that is started again when it
//! ends. Launchers are nobody's children here: they go on when this process ends and are adopted by the next one.

use crate::{log, requirements};
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrovirt_apiserver::server::{Config, Server};
use ferrovirt_plan::{config::ClusterConfig, render};
use ferrovirt_sys::kvm::{self, Kvm};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How long the agent may take to end after SIGTERM.
const AGENT_END: Duration = Duration::from_secs(5);
/// Pause before an agent that ended is started again.
const AGENT_AGAIN: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(crate) struct Options {
    /// Where everything is kept
    #[arg(long, default_value = "/var/lib/ferrovirt")]
    data_dir: PathBuf,
    /// Address and port of the API server
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Folder of OCI layouts and archives that machines may name; DATA_DIR/images when absent
    #[arg(long)]
    image_dir: Option<PathBuf>,
    /// Name of the node; the host name when absent
    #[arg(long)]
    node_name: Option<String>,
    /// Who admits pods by SecurityContextConstraints: this program, or `ferrovirt serve webhook` registered as on any
    /// Kubernetes. With `webhook` and nothing registered nobody does: for trying and testing the webhook only
    #[arg(long, value_enum, default_value_t = SccAdmission::InProcess)]
    scc_admission: SccAdmission,
    /// Install the SELinux policy of launcher pods where this machine has SELinux and lacks it
    #[arg(long)]
    install_selinux_policy: bool,
    /// Milliseconds that a virtual processor of KVM may take to run a few instructions before guests are emulated instead.
    /// One that works answers within some, on a machine that is itself emulated within some thousand
    #[arg(long, default_value_t = kvm::PATIENCE)]
    kvm_patience: u32,
    /// An option of virt-handler, such as `image-max-entries=100000`; `virt-handler --help` lists them
    #[arg(long, value_name = "NAME=VALUE")]
    handler_option: Vec<String>,
    /// Folder of virt-handler and virt-launcher; this program's own when absent
    #[arg(long)]
    program_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SccAdmission {
    InProcess,
    Webhook,
}

impl From<SccAdmission> for ferrovirt_apiserver::app::SccAdmission {
    fn from(choice: SccAdmission) -> Self {
        match choice {
            SccAdmission::InProcess => Self::InProcess,
            SccAdmission::Webhook => Self::Webhook,
        }
    }
}

pub(crate) fn up(options: Options) -> Result<()> {
    log::start();
    requirements::check()?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run(options))
}

async fn run(options: Options) -> Result<()> {
    // The probe waits for a virtual processor; the server opens its store meanwhile.
    let patience = Duration::from_millis(options.kvm_patience.into());
    let probe = tokio::task::spawn_blocking(move || kvm::probe(patience));
    let layout = Layout::make(&options)?;
    let server = Server::open(Config {
        data_dir: options.data_dir.clone(),
        listen: options.listen,
        agent_socket: layout.socket.clone(),
        scc_admission: options.scc_admission.into(),
    })
    .await?;
    let kvm = probe.await?.context("cannot probe KVM")?;
    let emulate = kvm != Kvm::Usable;
    let config = ClusterConfig { use_emulation: emulate, ..ClusterConfig::default() };
    let manifests = [render::install(&config), render::install::embedded(&config)].concat();
    server.ensure(&manifests).await?;
    server.set_emulation(emulate).await?;
    secret(&layout.admin, &server.admin_kubeconfig())?;
    secret(&layout.handler, &server.kubeconfig_for_service_account("kubevirt", "kubevirt-handler").await?)?;
    secret(&layout.node, &server.kubeconfig_for_node(&layout.node_name)?)?;
    let controller = server.kubeconfig_for_service_account("kubevirt", "kubevirt-controller").await?;

    let (stop, stopped) = watch::channel(false);
    let address = server.address();
    let mut serving = tokio::spawn(server.serve(stopped));
    let mut controllers = tokio::spawn(ferrovirt_control::run(client(&controller).await?, config));
    println!("API server: https://{address}");
    println!("kubeconfig: {}", layout.admin.display());
    match kvm {
        Kvm::Usable => println!("guests run on KVM"),
        Kvm::Absent => println!("guests run in software emulation: there is no usable /dev/kvm"),
        Kvm::Broken => {
            println!("guests run in software emulation: /dev/kvm refuses to run a virtual processor")
        }
        Kvm::Hangs => {
            println!("guests run in software emulation: /dev/kvm is there, but its virtual processors hang")
        }
    }

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut agent = layout.agent()?;
    let outcome = loop {
        tokio::select! {
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
            ended = &mut serving => break Err(anyhow::anyhow!("the API server ended: {ended:?}")),
            ended = &mut controllers => break Err(anyhow::anyhow!("the controllers ended: {ended:?}")),
            status = agent.wait() => {
                tracing::warn!("the node agent ended ({}); starting it again", status?);
                tokio::time::sleep(AGENT_AGAIN).await;
                agent = layout.agent()?;
            }
        }
    };
    println!(
        "stopping; machines keep running and are adopted by the next `ferrovirt up` on {}",
        options.data_dir.display()
    );
    end(&mut agent).await;
    controllers.abort();
    stop.send_replace(true);
    if !serving.is_finished() {
        let _ = tokio::time::timeout(AGENT_END, serving).await;
    }
    outcome
}

/// Files and folders, and the programs beside this one.
struct Layout {
    admin: PathBuf,
    handler: PathBuf,
    node: PathBuf,
    socket: PathBuf,
    agent_dir: PathBuf,
    images: PathBuf,
    programs: PathBuf,
    node_name: String,
    kvm_patience: u32,
    handler_options: Vec<String>,
    /// This program, when the agent is to install the SELinux policy with it.
    installer: Option<PathBuf>,
}

impl Layout {
    fn make(options: &Options) -> Result<Self> {
        let data = &options.data_dir;
        let programs = match &options.program_dir {
            Some(dir) => dir.clone(),
            None => std::env::current_exe()?.parent().context("this program has no folder")?.to_owned(),
        };
        for program in ["virt-handler", "virt-launcher"] {
            if !programs.join(program).is_file() {
                bail!("{program} is not in {}: name its folder with --program-dir", programs.display());
            }
        }
        let images = options.image_dir.clone().unwrap_or_else(|| data.join("images"));
        for dir in [data.clone(), data.join("run"), data.join("agent"), images.clone()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        // Containers bind-mount what is below: names must not depend on the working directory.
        let data = data.canonicalize()?;
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy().to_lowercase();
        Ok(Self {
            admin: data.join("admin.kubeconfig"),
            handler: data.join("agent/handler.kubeconfig"),
            node: data.join("agent/node.kubeconfig"),
            socket: data.join("run/agent.sock"),
            agent_dir: data.join("agent"),
            images: images.canonicalize()?,
            programs,
            node_name: options.node_name.clone().unwrap_or(host),
            kvm_patience: options.kvm_patience,
            handler_options: options.handler_option.clone(),
            installer: options.install_selinux_policy.then(std::env::current_exe).transpose()?,
        })
    }

    fn agent(&self) -> Result<Child> {
        let mut command = Command::new(self.programs.join("virt-handler"));
        command
            .arg("--kubeconfig")
            .arg(&self.handler)
            .arg("--node-kubeconfig")
            .arg(&self.node)
            .arg("--node-name")
            .arg(&self.node_name)
            .arg("--data-dir")
            .arg(&self.agent_dir)
            .arg("--socket")
            .arg(&self.socket)
            .arg("--image-dir")
            .arg(&self.images)
            .arg("--launcher")
            .arg(self.programs.join("virt-launcher"))
            .arg("--kvm-patience")
            .arg(self.kvm_patience.to_string())
            .args(self.handler_options.iter().map(|option| format!("--{option}")))
            .arg("--follow-parent")
            .stdin(Stdio::null());
        if let Some(program) = &self.installer {
            command.arg("--selinux-installer").arg(program);
        }
        // Runs on the main thread, whose end is what the agent follows.
        command
            .spawn()
            .with_context(|| format!("cannot start {}", self.programs.join("virt-handler").display()))
    }
}

async fn end(agent: &mut Child) {
    if let Some(pid) = agent.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(AGENT_END, agent.wait()).await.is_err() {
        let _ = agent.kill().await;
    }
}

/// Writes a file that holds a credential: whole or not at all, readable by root alone.
fn secret(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))
}

async fn client(kubeconfig: &str) -> Result<kube::Client> {
    let config = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}
