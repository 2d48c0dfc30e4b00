//! `virt-handler plug`: the program.
//!
//! One thread. It opens and binds what it needs, then gives away every right that it does not use any more, and only then
//! hears the kubelet.

use super::{
    KVM, MACHINE, MOUNT_POINT, TUN, VHOST_NET, look,
    messages::{ContainerResponse, DeviceSpec, Mount},
    plugin::{Plugin, Seen},
    registration::Entry,
    store::{SOCKETS, Store},
    table::{Action, Table},
};
use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use ferrovirt_sys::{calls, confine, landlock, rights};
use std::{
    io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc},
    task::JoinSet,
};

/// The word after the program's name that starts it.
pub const COMMAND: &str = "plug";
/// Directories for each slot, in which pods that ended are waited for, and some more.
const DIRECTORIES: usize = 8;

/// Between two tries to be the only process.
const AGAIN: Duration = Duration::from_millis(200);

/// Offers places for machines to the kubelet
#[derive(Debug, Parser)]
#[command(name = "virt-handler plug", version)]
struct Options {
    /// The name of the pod in which this runs: an answer of the pod-resources API without it is not believed. Absent where
    /// this runs in no pod, beside a node that answers only when it knows its pods
    #[arg(long, requires = "pod_namespace")]
    pod_name: Option<String>,
    /// The namespace of that pod
    #[arg(long, requires = "pod_name")]
    pod_namespace: Option<String>,
    /// How many places: the kubelet's maxPods
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    slots: u16,
    /// A directory of the node for slots, under the same path here
    #[arg(long, default_value = "/var/lib/ferrovirt/plug")]
    directory: PathBuf,
    /// The kubelet's directory of device plug-ins
    #[arg(long, default_value = "/var/lib/kubelet/device-plugins")]
    device_plugins: PathBuf,
    /// The kubelet's socket of the pod-resources API
    #[arg(long, default_value = "/var/lib/kubelet/pod-resources/kubelet.sock")]
    pod_resources: PathBuf,
    /// A device node that comes with each place; may be repeated
    #[arg(long = "with-device", value_enum)]
    devices: Vec<Node>,
    /// A device node that is offered as a resource of its own, `devices.kubevirt.io/NAME`; may be repeated. Of kvm only
    /// where there is one
    #[arg(long = "offer", value_enum)]
    offers: Vec<Node>,
    /// Seconds for which a directory is kept after its pod was last seen
    #[arg(long, default_value_t = 120)]
    keep_seconds: u32,
}

/// A device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Node {
    Kvm,
    Tun,
    VhostNet,
}

impl Node {
    /// The resource of this node alone, as upstream's launchers ask for it, and its socket beside that of the places.
    fn offer(self) -> (&'static str, &'static str) {
        match self {
            Self::Kvm => (KVM, "kvm.sock"),
            Self::Tun => (TUN, "tun.sock"),
            Self::VhostNet => (VHOST_NET, "vhost-net.sock"),
        }
    }

    fn spec(self) -> DeviceSpec {
        let path = match self {
            Self::Kvm => "/dev/kvm",
            Self::Tun => "/dev/net/tun",
            Self::VhostNet => "/dev/vhost-net",
        };
        DeviceSpec {
            container_path: path.to_owned(),
            host_path: path.to_owned(),
            permissions: "rw".to_owned(),
        }
    }
}

/// Whether the kernel has KVM: by its entry in sysfs, since this process sees no device node of the node.
fn has_kvm() -> bool {
    Path::new("/sys/class/misc/kvm").exists()
}

/// Runs until it is asked to end, with the arguments after [`COMMAND`].
///
/// # Errors
/// What keeps it from running, in words for an administrator.
pub fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> anyhow::Result<()> {
    let name = std::ffi::OsString::from("virt-handler plug");
    let mut options = Options::parse_from(std::iter::once(name).chain(arguments));
    for path in [&options.directory, &options.device_plugins, &options.pod_resources] {
        anyhow::ensure!(path.is_absolute(), "{} is no absolute path", path.display());
    }
    // The modules of the others come when their node is opened.
    let kvm = has_kvm();
    for devices in [&mut options.devices, &mut options.offers] {
        devices.retain(|device| *device != Node::Kvm || kvm);
    }
    options.offers.sort_unstable();
    options.offers.dedup();
    let directory = &options.directory;
    let opened = open(directory).with_context(|| format!("opening {}", directory.display()))?;
    let Some(store) = opened else { return Ok(()) };
    let mut table = Table::new(
        Duration::from_secs(options.keep_seconds.into()),
        DIRECTORIES * usize::from(options.slots),
    );
    table.restore(store.load().context("reading what was kept")?, Instant::now());
    let slots = listen(&options, "machine.sock")?;
    let listen_for = |node: &Node| Ok((*node, listen(&options, node.offer().1)?));
    let offers = options.offers.iter().map(listen_for).collect::<anyhow::Result<Vec<_>>>()?;
    // The kubelet is root, as everybody who may use its sockets.
    let user = rustix::process::geteuid().as_raw();
    confine(&store).context("giving up rights")?;
    let shared = Arc::new(Shared { state: Mutex::new((table, store)), changed: Notify::new() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options, shared, slots, offers, user))
}

/// Waits until no other process has it open; `None` when it is asked to end meanwhile.
fn open(directory: &Path) -> io::Result<Option<Store>> {
    match Store::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        other => return other.map(Some),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // The first process of a container is ended by no signal that it has no handler for.
        let (mut terminate, mut interrupt) = ends()?;
        tracing::info!("waiting for the end of another process that has {}", directory.display());
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(None),
                _ = interrupt.recv() => return Ok(None),
                () = tokio::time::sleep(AGAIN) => {}
            }
            match Store::open(directory) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(Some),
            }
        }
    })
}

/// The signals that ask it to end.
fn ends() -> io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}

/// A socket, and where it is.
fn listen(options: &Options, name: &str) -> anyhow::Result<(UnixListener, PathBuf)> {
    let path = options.directory.join(SOCKETS).join(name);
    let bind = || {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = bind().with_context(|| format!("listening on {}", path.display()))?;
    Ok((listener, path))
}

/// No capability and no way to one, no file but those below the own directory, no system call but those of the privilege
/// table, which start no program and make no socket but local ones.
fn confine(store: &Store) -> io::Result<()> {
    rights::hide_memory()?;
    rights::give_up()?;
    if !landlock::only_beneath(store.own())? {
        tracing::warn!("this kernel has no Landlock that is new enough: paths are not restricted");
    }
    confine::Filter::new(calls::PLUG, Some(confine::LOCAL))?.apply()
}

struct Shared {
    state: Mutex<(Table, Store)>,
    /// Slots were given away.
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, (Table, Store)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocate(&self, devices: &[String], nodes: &[DeviceSpec]) -> Result<ContainerResponse, String> {
        let [slot] = devices else {
            return Err(format!("a container can have one {MACHINE}, and it asks for {}", devices.len()));
        };
        let (table, store) = &mut *self.state();
        let unmade = |error: io::Error| {
            tracing::error!("making a directory for slot {slot}: {error}");
            "the node cannot make a directory for the machine: see the log of virt-handler".to_owned()
        };
        let name = store.name().map_err(unmade)?;
        if let Some(action) = table.spare() {
            perform(table, store, &action);
        }
        let record = table.allocate(slot, &name, Instant::now()).map_err(|full| full.to_string())?;
        self.changed.notify_one();
        let path = store.make(&name, &record).inspect_err(|_| table.cancel(&name)).map_err(unmade)?;
        let mount = Mount {
            container_path: MOUNT_POINT.to_owned(),
            host_path: path.display().to_string(),
            read_only: true,
        };
        Ok(ContainerResponse { mounts: vec![mount], devices: nodes.to_vec(), ..ContainerResponse::default() })
    }

    /// Follows whether the kubelet listens, and from which network namespace.
    fn listens(&self, cookie: Option<Option<u64>>) {
        let (table, store) = &mut *self.state();
        if cookie == Some(None) {
            tracing::warn!(
                "this kernel does not say which network namespace is the node's: it takes Linux 5.14"
            );
        }
        if cookie.is_none() {
            table.away();
        }
        if let Err(error) = store.set_host(cookie.flatten()) {
            tracing::error!("keeping the node's network namespace: {error}");
        }
    }

    /// Looks who holds the slots, for ever.
    async fn follow(self: Arc<Self>, pod_resources: PathBuf, own: Option<look::Own>) {
        let mut fails = false;
        loop {
            let next = self.state().0.next();
            match next {
                None => self.changed.notified().await,
                Some(at) => {
                    // Another slot may have to be looked up earlier.
                    let wait = tokio::time::timeout_at(at.into(), self.changed.notified());
                    drop(wait.await);
                }
            }
            let began = Instant::now();
            if !self.state().0.begin(began) {
                continue;
            }
            let looked = look::list(&pod_resources, own.as_ref()).await;
            let (table, store) = &mut *self.state();
            match looked {
                Ok(list) => {
                    fails = false;
                    for action in table.seen(&look::shown(&list, MACHINE), began, Instant::now()) {
                        perform(table, store, &action);
                    }
                }
                Err(error) => {
                    table.failed(Instant::now());
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!("asking {} who holds the slots: {error}", pod_resources.display());
                    }
                }
            }
        }
    }
}

/// What cannot be done now is given again with the next look.
fn perform(table: &mut Table, store: &Store, action: &Action) {
    let done = match action {
        Action::Write(name, record) => {
            tracing::info!("slot {}, directory {name}: {:?}", record.slot, record.state);
            store.write(name, record)
        }
        Action::Remove(name) => {
            tracing::info!("removing the directory {name}: no pod has it");
            store.remove(name)
        }
    };
    match done {
        Ok(()) => table.done(action),
        Err(error) => tracing::error!("{action:?}: {error}"),
    }
}

async fn serve(
    options: Options,
    shared: Arc<Shared>,
    slots: (UnixListener, PathBuf),
    offers: Vec<(Node, (UnixListener, PathBuf))>,
    user: u32,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let kubelet = options.device_plugins.join("kubelet.sock");
    let nodes: Vec<_> = options.devices.iter().map(|device| device.spec()).collect();
    let (events, seen) = mpsc::unbounded_channel();
    let on = Arc::clone(&shared);
    let allocate = Box::new(move |devices: &[String]| on.allocate(devices, &nodes));
    let plugin = Plugin::new(options.slots, allocate, events, user);
    let on = Arc::clone(&shared);
    let listens = move |cookie| on.listens(cookie);
    offer(&mut tasks, MACHINE, &kubelet, plugin, slots, seen, listens)?;
    for (node, socket) in offers {
        let (events, seen) = mpsc::unbounded_channel();
        let response = ContainerResponse { devices: vec![node.spec()], ..ContainerResponse::default() };
        // One node serves any number; as many as there are places are offered.
        let allocate = Box::new(move |_: &[String]| Ok(response.clone()));
        let plugin = Plugin::new(options.slots, allocate, events, user);
        offer(&mut tasks, node.offer().0, &kubelet, plugin, socket, seen, |_| {})?;
    }
    let own = options.pod_namespace.zip(options.pod_name);
    let own = own.map(|(namespace, pod)| look::Own { namespace, pod });
    tasks.spawn(shared.follow(options.pod_resources, own));
    let (mut terminate, mut interrupt) = ends()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = tasks.join_next() => anyhow::bail!("a part of the program has ended"),
    }
    Ok(())
}

fn offer(
    tasks: &mut JoinSet<()>,
    resource: &'static str,
    kubelet: &Path,
    plugin: Plugin,
    (listener, socket): (UnixListener, PathBuf),
    seen: mpsc::UnboundedReceiver<Seen>,
    listens: impl FnMut(Option<Option<u64>>) + Send + 'static,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    tasks.spawn(Arc::new(plugin).run(listener));
    tasks.spawn(Entry { resource, kubelet: kubelet.to_owned(), socket }.keep(seen, listens));
    Ok(())
}
