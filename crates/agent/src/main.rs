//! `virt-handler`, the node agent.

use anyhow::Context;
use clap::Parser;
use ferrovirt_agent::{
    client, cluster,
    config::Config,
    container::{devices::DEVICES, programs},
    events::Recorder,
    http,
    metrics::Metrics,
    node,
    pods::{Api, DebugClient, Manager, Room, Shared},
    policy::{Installer, Watch},
    preflight,
};
use ferrovirt_handler::{api::program as api_part, net::program as net, plug::program as plug};
use ferrovirt_node::{
    devices::{self, Devices},
    disk::{self, Threshold, Thresholds},
    image::{Policy, Store},
    network::Network,
    oci::{
        cgroup::{self, Layout},
        crun::Crun,
        sources::Sources,
    },
    selinux::{Kernel, SHARED_FILES, label_path},
    volumes,
};
use ferrovirt_sys::{
    kvm::{self, Kvm},
    rights,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::fs::FlockOperation;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Runs launcher pods on this node.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Credentials of the handler of machines.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Credentials of the node.
    #[arg(long)]
    node_kubeconfig: PathBuf,
    /// Name of the node.
    #[arg(long)]
    node_name: String,
    /// Identity of the cluster: the UID of its namespace kube-system. What is left of another one is not touched.
    #[arg(long)]
    cluster_id: String,
    /// Directory for pods, network and unpacked images.
    #[arg(long, default_value = "/var/lib/ferrovirt/agent")]
    data_dir: PathBuf,
    /// Unix socket for logs and consoles.
    #[arg(long, default_value = "/var/lib/ferrovirt/run/agent.sock")]
    socket: PathBuf,
    /// User of the API server, which alone (beside root) may connect to the socket.
    #[arg(long, default_value_t = 0)]
    api_user: u32,
    /// Directory of this node's images.
    #[arg(long, default_value = "/var/lib/ferrovirt/images")]
    image_dir: PathBuf,
    /// The launcher's program.
    #[arg(long, default_value = "/usr/libexec/ferrovirt/virt-launcher")]
    launcher: PathBuf,
    /// Install the SELinux policy of launcher pods where this node has SELinux and lacks it; needs semodule
    #[arg(long)]
    install_selinux_policy: bool,
    /// Milliseconds that a virtual processor of KVM may take to run a few instructions; one that works needs some.
    // The alias is the name that it had: to go with the next release.
    #[arg(long, alias = "kvm-patience", default_value_t = kvm::TIMEOUT)]
    kvm_timeout: u32,
    #[command(flatten)]
    images: Images,
    /// When the node is short of disk space, as a kubelet's option of this name: unused images go then, and pods after
    /// them.
    #[arg(long, default_value = "nodefs.available<10%,nodefs.inodesFree<5%")]
    eviction_hard: Thresholds,
    /// Seconds that the node goes on to say that it is short after it was.
    #[arg(long, default_value_t = 300)]
    eviction_pressure_transition_period: u64,
    /// Most of the node's disk that one pod may hold in scratch space and logs without a limit of its own: an amount or
    /// a percentage. The capacities of its emptyDisk volumes come on top.
    #[arg(long, default_value = "10%")]
    scratch_limit: Threshold,
    /// End when the program that started this one ends.
    #[arg(long)]
    follow_parent: bool,
}

/// What images may take.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Images {
    /// Most bytes of one image after decompression, holes included.
    #[arg(long, default_value_t = Policy::default().limits.bytes)]
    image_max_bytes: u64,
    /// Most files, directories and links of one image.
    #[arg(long, default_value_t = Policy::default().limits.entries)]
    image_max_entries: u64,
    /// How many times larger on disk than in its layers an image may be; zeroes become holes and do not count.
    #[arg(long, default_value_t = Policy::default().limits.ratio)]
    image_max_ratio: u64,
    /// Most bytes of unpacked images that no machine uses; the oldest go first.
    #[arg(long, default_value_t = Policy::default().unused_bytes)]
    image_cache_bytes: u64,
    /// Hours that an unpacked image is kept that no machine uses.
    #[arg(long, default_value_t = Policy::default().unused_age.as_secs() / 3600)]
    image_cache_hours: u64,
}

impl Images {
    /// `reserve`: bytes that must stay free.
    fn policy(self, reserve: u64) -> Policy {
        let mut policy = Policy::default();
        policy.limits.bytes = self.image_max_bytes;
        policy.limits.reserve = reserve;
        policy.limits.entries = self.image_max_entries;
        policy.limits.ratio = self.image_max_ratio;
        policy.unused_bytes = self.image_cache_bytes;
        policy.unused_age = Duration::from_secs(self.image_cache_hours.saturating_mul(3600));
        policy
    }
}

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args_os().nth(1).is_some_and(|word| word == ferrovirt_unpack::COMMAND) {
        return Ok(ferrovirt_unpack::child::run());
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == plug::COMMAND) {
        ferrovirt_log::start("info");
        return plug::run(std::env::args_os().skip(2)).map(|()| ExitCode::SUCCESS);
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == net::COMMAND) {
        ferrovirt_log::start("info");
        return net::run(std::env::args_os().skip(2)).map(|()| ExitCode::SUCCESS);
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == api_part::COMMAND) {
        ferrovirt_log::start("info,kube=warn");
        return api_part::run(std::env::args_os().skip(2), ferrovirt_log::verbosity)
            .map(|()| ExitCode::SUCCESS);
    }
    let options = Options::parse();
    ferrovirt_log::start("info");
    if options.follow_parent {
        // Who starts this program may be killed at any moment; the next one brings an agent of its own.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
        anyhow::ensure!(
            rustix::process::getppid().is_some_and(|parent| !parent.is_init()),
            "the parent is gone"
        );
    }
    if let Err(error) = ferrovirt_sys::process::raise_open_files() {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    preflight::check(&options.launcher)?;
    drop_rights()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()?;
    match runtime.block_on(run(options)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<cluster::Refusal>() => {
            tracing::error!("{error}");
            Ok(ExitCode::from(cluster::OTHER_CLUSTER))
        }
        Err(error) => Err(error),
    }
}

/// Keeps the capabilities that the privilege table lists for this process, and for the programs that it starts those
/// of containers beside them.
fn drop_rights() -> anyhow::Result<()> {
    let set = |names: Vec<String>| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        rights::set(names).context("the privilege table names an unknown capability")
    };
    let own = set(ferrovirt_plan::render::capabilities::agent())?;
    rights::keep(own, own | set(ferrovirt_plan::render::capabilities::containers())?)
        .context("giving up capabilities")?;
    rights::hide_memory().context("keeping memory out of core dumps")
}

async fn run(options: Options) -> anyhow::Result<()> {
    let timeout = Duration::from_millis(options.kvm_timeout.into());
    let kvm = tokio::task::spawn_blocking(move || kvm::probe(timeout));
    let data = std::path::absolute(&options.data_dir)?;
    let mut config = Config {
        node: options.node_name,
        data: data.clone(),
        socket: std::path::absolute(options.socket)?,
        images: std::path::absolute(options.image_dir)?,
        launcher: fs::canonicalize(&options.launcher)?,
        usr: PathBuf::from("/usr"),
    };
    make_directories(&config)?;
    let _alone = alone(&data).await?;
    let selinux = Kernel::default();
    if selinux.is_enabled() {
        config.launcher = labelled(&config.launcher, &data).context("labelling the launcher's program")?;
    }
    let cgroups = Layout::detect().context("reading the cgroup layout")?;
    let crun = Crun::new(config.crun(), cgroups.hide_v2());
    let filled = |dir: PathBuf| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    cluster::bind(&data, &options.cluster_id, || {
        filled(config.pods()) || filled(config.netns()) || !crun.list().is_empty()
    })?;
    if selinux.is_enabled() {
        config.usr =
            programs::prepare(&config.programs(), crun.is_idle()).context("copying QEMU for containers")?;
    }
    cgroup::make_parent(&cgroups).context("making the cgroup of all pods")?;
    let network = Network::set_up(&data).context("setting up the pod network")?;
    // Containers become this process's children, so that it learns how they ended.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let node = api(&options.node_kubeconfig, "kubelet", &config.node).await?;
    let handler = api(&options.kubeconfig, "virt-handler", &config.node).await?;
    let kvm = kvm.await?.context("probing /dev/kvm")?;
    if kvm != Kvm::Usable {
        tracing::info!("KVM is {kvm:?} here: guests are emulated in software");
    }
    let room = disk::free(&data).context("looking at the free space")?;
    let reserve = options.eviction_hard.reserve(room.capacity);
    let shared = Arc::new(Shared {
        crun,
        network,
        // This very program, also after another was installed in its place.
        images: Store::open(
            config.images.clone(),
            config.cache(),
            PathBuf::from("/proc/self/exe"),
            options.images.policy(reserve),
        )
        .context("opening the image cache")?,
        sources: Sources::prepare(
            &config.sources(),
            &[
                ("usr", &config.usr),
                ("images", &config.cache()),
                ("alternatives", Path::new("/etc/alternatives")),
            ],
        )
        .context("mounting what containers share read-only")?,
        metrics: Metrics::default(),
        devices: Devices::open(
            config.device_plugins(),
            config.devices(),
            DEVICES.map(|(resource, _)| resource.to_owned()),
        )
        .context("reading which pods have devices")?,
        room: Room::default(),
        cgroups,
        disk: disk::Policy {
            thresholds: options.eviction_hard,
            transition: Duration::from_secs(options.eviction_pressure_transition_period),
            scratch: options.scratch_limit,
        },
        disk_pressure: AtomicBool::new(false),
        kvm: kvm == Kvm::Usable,
        policy: Watch::new(selinux.clone()),
        selinux,
        node,
        handler,
        config,
    });
    let manager = Manager::new(shared.clone());
    let sockets = devices::listen(&shared.config.device_plugins(), &shared.config.pod_resources())
        .context("listening for device plug-ins")?;
    let pods = manager.clone();
    let plugins = shared.devices.clone().serve(sockets, move || pods.shown());
    let server = http::Server::bind(&shared.config.socket, options.api_user, manager.clone())
        .with_context(|| format!("listening on {}", shared.config.socket.display()))?;
    tracing::info!(node = shared.config.node, "virt-handler is up");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = manager.clone().run() => {}
        () = node::keep(shared.clone(), options.install_selinux_policy.then(Installer::default)) => {}
        () = volumes::marks::keep(shared.node.client.0.clone(), shared.config.claims()) => {}
        () = server.run() => {}
        () = plugins => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Launchers live on and are taken over at the next start; without any, the node is left as it was.
    if manager.idle() {
        shared.network.tear_down().context("taking down the pod network")?;
        cgroup::remove_parent(&shared.cgroups);
        shared.sources.remove().context("unmounting what containers shared")?;
    }
    Ok(())
}

/// The data directory and what is below it.
fn make_directories(config: &Config) -> anyhow::Result<()> {
    for (directory, mode) in [
        (&config.data, 0o711),
        (&config.pods(), 0o711),
        (&config.netns(), 0o700),
        (&config.crun(), 0o700),
        (&config.programs(), 0o711),
        (&config.claims(), 0o700),
    ] {
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
        made.with_context(|| format!("making {}", directory.display()))?;
    }
    Ok(())
}

/// A copy of the launcher's program that a launcher may be entered through: programs of the node have types that it may
/// not.
fn labelled(launcher: &Path, data: &Path) -> io::Result<PathBuf> {
    let (copy, part) = (data.join("virt-launcher"), data.join("virt-launcher.part"));
    fs::copy(launcher, &part)?;
    fs::rename(&part, &copy)?;
    label_path(&copy, SHARED_FILES)?;
    Ok(copy)
}

/// Waits until no other agent works on this data directory, and keeps others waiting until the process ends: two
/// agents would start and tear down the same pods. The lock is of the kind that a fork does not share: the child that
/// probes KVM may hang in the kernel for a while.
async fn alone(data: &Path) -> anyhow::Result<fs::File> {
    let path = data.join("lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
    let waiting = path.clone();
    let held = tokio::task::spawn_blocking(move || {
        if rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            tracing::info!("waiting for another virt-handler to end: it holds {}", waiting.display());
            rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive)?;
        }
        Ok::<_, rustix::io::Errno>(file)
    });
    held.await?.with_context(|| format!("locking {}", path.display()))
}

async fn api(file: &Path, component: &'static str, node: &str) -> anyhow::Result<Api> {
    let kubeconfig = Kubeconfig::read_from(file).with_context(|| format!("reading {}", file.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("using {}", file.display()))?;
    // An answer that does not go on is an error, and not a task that waits for ever; a watch is renewed before.
    config.read_timeout = Some(Duration::from_secs(330));
    config.reset_reader_on_write = true;
    let client = client::bounded(config)?;
    let events = Recorder::new(client.clone(), component, node.to_owned());
    Ok(Api { client: DebugClient(client), events })
}
