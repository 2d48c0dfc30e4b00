//! The table with calls, deadlines and its file.

use super::{
    answer,
    error::Error,
    table::{Count, Held, Holder, Ids, Record, Table},
};
use crate::{
    file::whole,
    oci::{bundle, granted::Granted},
};
use ferrovirt_kubelet_api::{
    grpc::Channel,
    messages::{
        self, ALLOCATE, AllocateRequest, AllocateResponse, ContainerDevices, ContainerRequest, Empty,
        LIST_AND_WATCH, OPTIONS, Options, PRE_START, PreStartRequest, RegisterRequest, VERSION,
    },
};
use k8s_openapi::api::core::v1::Container;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, spawn_blocking},
    time::{Instant, timeout, timeout_at},
};

/// Bytes of a message of a plug-in, as gRPC has it by default.
const MESSAGE: usize = 4 << 20;
/// How long a plug-in may take for a connection or an answer, and all plug-ins together for what a pod asks for.
const CALL: Duration = Duration::from_secs(10);

/// Devices by resource that a container asks for.
pub type Wanted = BTreeMap<String, u64>;

/// The extended resources that a container asks for, without those of `own`: what the node itself gives.
///
/// # Errors
/// For unreadable amounts.
pub fn wanted(container: &Container, own: &[&str]) -> Result<Wanted, bundle::Error> {
    let mut wanted = Wanted::new();
    let resources = container.resources.iter().flat_map(|resources| [&resources.limits, &resources.requests]);
    for name in resources.flatten().flat_map(BTreeMap::keys) {
        if !super::table::is_extended(name) || own.contains(&name.as_str()) {
            continue;
        }
        if let Some(amount) = bundle::amount(container, name)? {
            wanted.insert(name.clone(), amount.bytes()?);
        }
    }
    Ok(wanted)
}

/// Who offers a resource now.
#[derive(Debug)]
struct Plugin {
    socket: PathBuf,
    options: Options,
    /// Hears its list.
    follower: AbortHandle,
}

/// The devices of the node.
#[derive(Debug)]
pub struct Devices {
    directory: PathBuf,
    file: PathBuf,
    table: Mutex<Table>,
    plugins: Mutex<BTreeMap<String, Plugin>>,
    /// Of counts.
    changed: Notify,
}

impl Devices {
    /// With what an earlier process has kept in `file`. Plug-ins are in `directory`; names of `reserved` are not taken from
    /// them.
    ///
    /// # Errors
    /// When the file is there and of no use: which devices are free is not known then.
    pub fn open(
        directory: PathBuf,
        file: PathBuf,
        reserved: impl IntoIterator<Item = String>,
    ) -> Result<Arc<Self>, Error> {
        let read = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice::<Record>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(error),
        };
        let record = read.map_err(|source| Error::File { file: file.clone(), source })?;
        let table = Mutex::new(Table::new(record, reserved));
        Ok(Arc::new(Self { directory, file, table, plugins: Mutex::default(), changed: Notify::new() }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plugins(&self) -> MutexGuard<'_, BTreeMap<String, Plugin>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is to be kept, to the disk itself: a node that has lost power does not give a device twice.
    fn keep(&self, table: &Table) -> Result<(), Error> {
        let bytes = serde_json::to_vec(&table.record()).map_err(io::Error::from);
        let written = bytes.and_then(|bytes| whole(&self.file, &bytes));
        written.map_err(|source| Error::File { file: self.file.clone(), source })
    }

    /// How many devices there are, by resource.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        self.table().counts()
    }

    /// Waits until there may be other [`Self::counts`] than when it returned last. For one who waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// UIDs of the pods that have devices.
    pub fn holders(&self) -> BTreeSet<String> {
        self.table().held().keys().cloned().collect()
    }

    /// Gives a pod's container the devices that it asks for, and says what comes with them. The container starts next.
    /// Ends within ten seconds, however many plug-ins are asked.
    ///
    /// # Errors
    /// There are not enough, or a plug-in does not give them in time; the pod has none then.
    pub async fn allocate(&self, uid: &str, holder: Holder, wanted: &Wanted) -> Result<Granted, Error> {
        let devices = {
            let mut table = self.table();
            let devices = table.choose(uid, holder, wanted)?;
            if !devices.is_empty()
                && let Err(error) = self.keep(&table)
            {
                table.release(uid);
                return Err(error);
            }
            devices
        };
        let granted = self.ask(&devices).await;
        if granted.is_err() {
            self.release(uid);
        }
        granted
    }

    async fn ask(&self, devices: &Ids) -> Result<Granted, Error> {
        let end = Instant::now() + CALL;
        let mut granted = Granted::default();
        for (resource, ids) in devices {
            // The deletion of a pod whose plug-in hangs has to be seen.
            let given = timeout_at(end, self.ask_one(resource, ids, granted)).await;
            granted = given
                .unwrap_or_else(|_| Err(silent()))
                .map_err(|what| Error::Refused { resource: resource.clone(), what: answer::cut(&what) })?;
        }
        Ok(granted)
    }

    /// Adds what the plug-in of one resource gives.
    async fn ask_one(
        &self,
        resource: &str,
        ids: &BTreeSet<String>,
        mut granted: Granted,
    ) -> Result<Granted, String> {
        let plugin = self.plugins().get(resource).map(|plugin| (plugin.socket.clone(), plugin.options));
        let (socket, options) = plugin.ok_or("it is gone")?;
        let ids: Vec<String> = ids.iter().cloned().collect();
        let request = AllocateRequest { containers: vec![ContainerRequest { devices: ids.clone() }] };
        let answer: AllocateResponse = call(&socket, ALLOCATE, request).await?;
        let container = answer::container(answer)?;
        // It looks at paths that the plug-in names.
        let added = spawn_blocking(move || answer::add(&mut granted, container).map(|()| granted)).await;
        let granted = added.map_err(|error| error.to_string())??;
        if options.pre_start_required {
            call::<_, Empty>(&socket, PRE_START, PreStartRequest { devices: ids }).await?;
        }
        Ok(granted)
    }

    /// The pod's container is gone, and needs its devices no more.
    pub fn release(&self, uid: &str) {
        let mut table = self.table();
        if table.release(uid)
            && let Err(error) = self.keep(&table)
        {
            // A later start finds that the pod is gone.
            tracing::warn!(uid, "recording that a pod has given its devices back: {error}");
        }
    }

    /// A plug-in makes itself known: it is connected to, and its list is heard from then on.
    ///
    /// # Errors
    /// What it offers is not taken, or it does not answer.
    pub(super) async fn register(self: &Arc<Self>, request: RegisterRequest) -> Result<(), Error> {
        if request.version != VERSION {
            return Err(Error::Version(request.version.chars().take(100).collect()));
        }
        let resource = request.resource_name;
        let socket = answer::socket(&self.directory, &request.endpoint);
        let refused =
            |what: String| Error::List { resource: answer::cut(&resource), what: answer::cut(&what) };
        // Nothing of an earlier plug-in ends for one that is not there.
        let connecting = timeout(CALL, Channel::connect(&socket)).await;
        let channel = connecting.map_err(|_| refused(silent()))?;
        let channel = channel.map_err(|error| refused(format!("{}: {error}", socket.display())))?;
        let options = match request.options {
            Some(options) => options,
            None => call(&socket, OPTIONS, Empty {}).await.map_err(refused)?,
        };
        // Held to the end: of two plug-ins that come at once, the one with the later number is asked.
        let mut table = self.table();
        let generation = table.register(&resource)?;
        // Nobody vouches for what the plug-in before it had.
        table.ended(&resource, generation);
        self.keep(&table)?;
        let devices = Arc::clone(self);
        let name = resource.clone();
        let follower = tokio::spawn(async move { devices.follow(&name, generation, channel).await });
        let plugin = Plugin { socket, options, follower: follower.abort_handle() };
        if let Some(before) = self.plugins().insert(resource, plugin) {
            before.follower.abort();
        }
        Ok(())
    }

    /// Hears a plug-in's list until it ends.
    async fn follow(&self, resource: &str, generation: u64, channel: Channel) {
        let listening = channel.streaming::<_, messages::Devices>(LIST_AND_WATCH, Empty {}, MESSAGE);
        let why = match timeout(CALL, listening).await {
            Ok(Ok((_call, mut list))) => loop {
                match list.message().await {
                    Ok(Some(message)) => match answer::devices(resource, message) {
                        Ok(devices) => {
                            tracing::debug!(resource, count = devices.len(), "a device plug-in has devices");
                            if !self.table().listed(resource, generation, devices) {
                                break "another one has registered".to_owned();
                            }
                            self.changed.notify_one();
                        }
                        Err(error) => break error.to_string(),
                    },
                    Ok(None) => break "it ended its list".to_owned(),
                    Err(status) => break status.message().to_owned(),
                }
            },
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => silent(),
        };
        tracing::warn!(resource, "a device plug-in is not heard any more: {}", answer::cut(&why));
        self.table().ended(resource, generation);
        self.changed.notify_one();
    }

    /// Pods as the API of pod-resources shows them: `pods` with what they hold.
    pub(super) fn show(&self, mut pods: Vec<messages::Pod>) -> Vec<messages::Pod> {
        let table = self.table();
        for Held { holder, devices } in table.held().values() {
            let pod = pods.iter_mut().find(|pod| pod.namespace == holder.namespace && pod.name == holder.pod);
            let container = pod.and_then(|pod| {
                pod.containers.iter_mut().find(|container| container.name == holder.container)
            });
            let Some(container) = container else { continue };
            container.devices.extend(devices.iter().map(|(resource, ids)| ContainerDevices {
                resource_name: resource.clone(),
                ids: ids.iter().cloned().collect(),
            }));
        }
        pods
    }
}

/// One call of a plug-in, on a connection of its own.
async fn call<Q, A>(socket: &Path, path: &'static str, request: Q) -> Result<A, String>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let call = async {
        let channel = Channel::connect(socket).await.map_err(|error| error.to_string())?;
        channel.unary(path, request, MESSAGE).await.map_err(|status| status.message().to_owned())
    };
    timeout(CALL, call).await.unwrap_or_else(|_| Err(silent()))
}

fn silent() -> String {
    "it does not answer".to_owned()
}
