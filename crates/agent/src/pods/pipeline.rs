//! From a bound pod to a running container with everything that its guest needs. What does not depend on each other
//! runs side by side; latency is the point.

use super::{
    Shared,
    accept::{self, Accepted},
    direct, record,
    record::{Record, VOLUMES},
    status::Known,
    teardown,
    writer::Writer,
};
use crate::{
    clock,
    container::{
        devices::{DEVICES, devices},
        places, rootfs,
    },
    labels,
    machine::{
        disks, facts, link,
        network::{self, Wired},
    },
    node::policy_of,
};
use ferrovirt_model::{
    Machine,
    machine::{Disk, Source},
};
use ferrovirt_node::{
    devices::{manager::wanted, table::Holder},
    network::{Port, cni::Attachment},
    oci::{
        bundle,
        cgroup::{self, HugeLimit},
        granted::Granted,
        identity::Identity,
        resolver,
    },
    selinux::{self, Label},
    volumes::{self, Prepared, Written},
};
use ferrovirt_plan::{
    decide::accept::Step,
    render::{order::DiskFacts, places::RESOURCE, seccomp},
};
use ferrovirt_qemu::protocol::Purpose;
use ferrovirt_sys::netns;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};
use tracing::debug;

/// How long the API server may take for everything that a pod is made of.
const READ: Duration = Duration::from_secs(15);

/// Why a pod could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The reason that the waiting container shows.
    pub(super) reason: &'static str,
    /// What to do about it.
    pub(super) message: String,
    /// Another try can succeed without a new pod.
    pub(super) may_pass: bool,
    /// The pod has ended with this, as one that a kubelet does not admit.
    pub(super) rejected: bool,
}

impl Failure {
    pub(super) fn new(reason: &'static str, message: impl ToString, may_pass: bool) -> Self {
        Self { reason, message: message.to_string(), may_pass, rejected: false }
    }

    /// The node could not do what was asked.
    pub(super) fn node(message: impl ToString) -> Self {
        Self::new("FailedStart", message, true)
    }
}

/// A started container.
pub(super) struct Started {
    pub(super) record: Record,
    /// What goes with the order.
    pub(super) descriptors: Vec<(Purpose, OwnedFd)>,
}

/// Starts a pod that has nothing on this node. On failure it has nothing there afterwards either.
pub(super) async fn start(shared: &Arc<Shared>, pod: &Arc<Pod>, writer: &Writer) -> Result<Started, Failure> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let started = attempt(shared, pod, &uid, writer).await;
    if started.is_err() {
        let (shared, uid) = (shared.clone(), uid);
        let cleaned = spawn_blocking(move || teardown::forget(&shared, &uid)).await;
        if let Ok(Err(error)) = cleaned {
            tracing::warn!("taking down a pod that did not start: {error}");
        }
    }
    started
}

async fn attempt(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
    uid: &str,
    writer: &Writer,
) -> Result<Started, Failure> {
    let begin = Instant::now();
    // For what is no launcher pod at all there are plainer words.
    compute(pod)?;
    let mut fetched = in_time(accept::accept(shared, pod, Step::Start)).await?;
    let pod = &fetched.pod.clone();
    debug!(elapsed = ?begin.elapsed(), "accepted");
    let container = compute(pod)?;
    let ordinary = has_place(pod);
    let identity = identity(shared, pod, &container)?;
    let directory = shared.pod_directory(uid);
    make_directories(&directory, &identity)?;
    let (made, is_made) = oneshot::channel();
    let address = attach(shared, uid, made, begin);
    let (address_tx, address_rx) = oneshot::channel();
    let rest = async {
        // Neither depends on the other, and plug-ins write to the disk.
        let (objects, granted) =
            tokio::join!(in_time(accept::secrets(shared, &mut fetched)), grant(shared, pod, &container, uid));
        objects?;
        let fetched = Arc::new(fetched);
        debug!(elapsed = ?begin.elapsed(), "objects");
        let seeds = if ordinary { Vec::new() } else { direct::seeds(&fetched)? };
        let granted = granted?;
        debug!(elapsed = ?begin.elapsed(), "devices");
        // Where there is no namespace, the task that makes it says why.
        is_made.await.map_err(Failure::node)?;
        let contained = {
            let (shared, pod, uid, fetched) = (shared.clone(), pod.clone(), uid.to_owned(), fetched.clone());
            let identity = identity.clone();
            spawn_blocking(move || contain(&shared, &pod, &container, &uid, &identity, &fetched, &granted))
        };
        let connected = {
            let (shared, pod, fetched, user) = (shared.clone(), pod.clone(), fetched.clone(), identity.uid);
            spawn_blocking(move || {
                if ordinary {
                    return admit_alone(&shared, &pod, &fetched, address_rx);
                }
                direct::connect(&shared, &pod, &fetched, address_rx, user)
            })
        };
        // Both have to end before anything is taken down.
        let (contained, connected) = tokio::join!(contained, connected);
        let (contained, connected) = (contained.map_err(Failure::node)??, connected.map_err(Failure::node)??);
        Ok::<_, Failure>((fetched, seeds, contained, connected))
    };
    let address = async {
        let address = address.await.map_err(Failure::node)?;
        if let (true, Ok(attachment)) = (ordinary, &address) {
            // Anyone who serves it in its place begins with that.
            writer.write(Known::Creating { ip: attachment.address.ip });
        }
        // The receiver is gone when something else has failed.
        let _failed = address_tx.send(address.as_ref().ok().cloned());
        address
    };
    let (address, rest) = tokio::join!(address, rest);
    let address = address?.address;
    let (fetched, seeds, contained, Connected { port, wired, descriptors }) = rest?;
    debug!(elapsed = ?begin.elapsed(), "container and network");

    let Contained { pid, prepared, disks, written } = contained;
    let order = if ordinary { None } else { Some(direct::order_of(shared, &fetched, disks, &wired)?) };
    let record = Record {
        uid: uid.to_owned(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        user: identity.uid,
        group: identity.gid,
        accepted: Some(fetched.essence.clone()),
        pid,
        started: clock::now(),
        address,
        port: Some(port),
        wired,
        places: prepared.places,
        written,
        order,
        seeds,
        declared: Some(declared(&fetched.machine)),
        ran: false,
        exit: None,
    };
    record.write(&directory).map_err(Failure::node)?;
    Ok(Started { record, descriptors })
}

/// Whether a pod asks for a place: then it is an ordinary one for this node, and others meet its launcher.
pub(super) fn has_place(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let resources = containers.filter_map(|container| container.resources.as_ref());
    resources.flat_map(|all| [&all.limits, &all.requests]).flatten().any(|all| all.contains_key(RESOURCE))
}

/// What the container's process is allowed to be and do.
pub(super) fn identity(shared: &Shared, pod: &Pod, container: &Container) -> Result<Identity, Failure> {
    let mut identity = Identity::of(pod, container, rootfs::IMAGE_ID)
        .map_err(|error| Failure::new("CreateContainerConfigError", error, false))?;
    identity.label = Label::of(&shared.selinux, pod, container).map_err(|refused| {
        let (reason, message) = labels::refusal(&refused);
        Failure::new(reason, message, true)
    })?;
    Ok(identity)
}

fn make_directories(directory: &Path, identity: &Identity) -> Result<(), Failure> {
    for (path, mode) in [("", 0o700), (VOLUMES, 0o711), ("sockets", 0o711)] {
        let path = directory.join(path);
        let made = fs::DirBuilder::new().mode(mode).create(&path);
        let labelled = |label: &Label| selinux::label_path(&path, &label.files);
        let made = made.and_then(|()| identity.label.as_ref().map_or(Ok(()), labelled));
        made.map_err(|error| Failure::node(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

/// Begins to make the pod's network namespace, says when it is made, and gives it an address.
fn attach(
    shared: &Arc<Shared>,
    uid: &str,
    made: oneshot::Sender<()>,
    begin: Instant,
) -> JoinHandle<Result<Attachment, Failure>> {
    let (shared, uid, netns) = (shared.clone(), uid.to_owned(), shared.netns(uid));
    spawn_blocking(move || {
        netns::create(&netns).map_err(|e| Failure::node(format!("network namespace: {e}")))?;
        debug!(elapsed = ?begin.elapsed(), "namespace");
        // Nobody waits any more when something else has failed.
        let _failed = made.send(());
        let attachment = shared.network.attach(&uid, &netns).map_err(Failure::node);
        debug!(elapsed = ?begin.elapsed(), "address");
        attachment
    })
}

/// Reading what a pod is made of, within a time: while the API server hangs, the pod's deletion has to be seen.
pub(super) async fn in_time<T>(read: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Err(Failure::node("the API server does not answer"));
    tokio::time::timeout(READ, read).await.unwrap_or_else(late)
}

/// The container that is run: the only one, of the launcher's image.
pub(super) fn compute(pod: &Pod) -> Result<Container, Failure> {
    let spec = pod.spec.clone().unwrap_or_default();
    if !spec.init_containers.unwrap_or_default().is_empty() || spec.containers.len() != 1 {
        let message = "this node runs launcher pods only, with one container and no init containers";
        return Err(Failure::new("CreateContainerConfigError", message, false));
    }
    let container = spec.containers.into_iter().next().unwrap_or_default();
    let image = container.image.clone().unwrap_or_default();
    if image != crate::config::LAUNCHER_IMAGE {
        let message = format!(
            "image {image:?} cannot be run: this node runs launcher pods of image {} only",
            crate::config::LAUNCHER_IMAGE
        );
        return Err(Failure::new("ErrImagePull", message, false));
    }
    Ok(container)
}

/// Name and UID of the instance that a pod belongs to, and which is served here.
pub(super) fn machine(pod: &Pod) -> Option<(String, String)> {
    if has_place(pod) {
        return None;
    }
    accept::owner(&pod.metadata).map(|owner| (owner.name, owner.uid))
}

/// Bytes of the disks that the machine asks for in its scratch space.
fn declared(machine: &Machine) -> u64 {
    let of = |disk: &Disk| match &disk.source {
        Source::EmptyDisk { capacity } => capacity.0,
        _ => 0,
    };
    machine.disks.iter().map(of).fold(0, u64::saturating_add)
}

/// A container that runs.
struct Contained {
    pid: u32,
    prepared: Prepared,
    /// Disks of a launcher that is met here.
    disks: BTreeMap<String, DiskFacts>,
    /// Claims that an ordinary pod writes to.
    written: Vec<Written>,
}

/// A pod's network, and what a launcher that is met here gets of it.
pub(super) struct Connected {
    pub(super) port: Port,
    pub(super) wired: Vec<Wired>,
    /// What goes with the order.
    pub(super) descriptors: Vec<(Purpose, OwnedFd)>,
}

pub(super) fn unusable(error: volumes::Error) -> Failure {
    Failure::new(error.reason(), &error, error.may_pass())
}

/// Devices of device plug-ins. A pod that gets none is not admitted, as with a kubelet.
async fn grant(shared: &Shared, pod: &Pod, container: &Container, uid: &str) -> Result<Granted, Failure> {
    let own = DEVICES.map(|(resource, _)| resource);
    let asked =
        wanted(container, &own).map_err(|error| Failure::new("CreateContainerConfigError", error, false))?;
    let holder = Holder {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
        container: container.name.clone(),
    };
    let granted = shared.devices.allocate(uid, holder, &asked).await;
    granted
        .map_err(|error| Failure { rejected: true, ..Failure::new("UnexpectedAdmissionError", error, false) })
}

/// Volumes, disks and the container itself.
fn contain(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    uid: &str,
    identity: &Identity,
    fetched: &Accepted,
    granted: &Granted,
) -> Result<Contained, Failure> {
    let begin = Instant::now();
    let directory = shared.pod_directory(uid);
    let volumes = directory.join(VOLUMES);
    let context = volumes::Context {
        pod,
        directory: &volumes,
        identity,
        images: &shared.images,
        marks: &record::marks(&directory),
        objects: &fetched.objects,
    };
    let mut prepared = volumes::prepare(&context, container).map_err(unusable)?;
    let ordinary = has_place(pod);
    let (mut disks, mut written) = (BTreeMap::new(), Vec::new());
    if ordinary {
        written = hand_over(pod, identity, fetched)?;
    } else {
        disks = disks::prepare(&fetched.machine, &prepared.places, identity, &fetched.objects)
            .map_err(unusable)?;
    }
    let wrong = |error: bundle::Error| Failure::new("CreateContainerConfigError", error, false);
    let mut devices = devices(container).map_err(wrong)?;
    // Two resources may come with one device node.
    devices.retain(|device| !granted.devices.contains(device));
    devices.append(&mut prepared.devices);
    places::check(&prepared.mounts, &devices)
        .map_err(|error| Failure::new("CreateContainerConfigError", error, false))?;
    let huge = shared.cgroups.huge_limit();
    let root = directory.join("rootfs");
    let resolver = resolver::file(pod, &resolver::of_node_or_nothing());
    let made = rootfs::prepare(&root, &resolver).and_then(|()| match identity.label {
        Some(_) => selinux::label_tree(&root, selinux::SHARED_FILES),
        None => Ok(()),
    });
    made.map_err(|error| Failure::node(format!("the container's root: {error}")))?;
    let node = bundle::Node {
        rootfs: &root,
        sources: &shared.sources,
        program: rootfs::program(&shared.config.launcher),
        usr: &shared.config.usr,
        netns: &shared.netns(uid),
        own_ports: ordinary,
        hostname: &facts::hostname(pod),
        granted,
        huge,
        seccomp: if ordinary { seccomp::profile_in_place() } else { seccomp::profile() },
    };
    let config =
        bundle::config(pod, container, identity, &prepared.mounts, &devices, &node).map_err(wrong)?;
    debug!(elapsed = ?begin.elapsed(), "bundle");
    let run = || -> io::Result<_> {
        fs::write(directory.join("config.json"), serde_json::to_vec(&config)?)?;
        let log = fs::OpenOptions::new().append(true).create(true).open(record::log(&directory))?;
        if ordinary {
            return Ok((log, None));
        }
        let label = identity.label.as_ref().map(|label| label.files.as_str());
        let listener = link::listen(&directory.join("sockets"), identity.uid, label)?;
        Ok((log, Some(OwnedFd::from(listener))))
    };
    let (log, listener) = run().map_err(Failure::node)?;
    let pid = shared
        .crun
        .run(uid, &directory, log, listener)
        .map_err(|error| Failure::new("CreateContainerError", error, true))?;
    debug!(elapsed = ?begin.elapsed(), "crun");
    let limits = bundle::huge_pages(container).map_err(wrong)?;
    if huge == HugeLimit::Agent {
        cgroup::every_size(&limits)
            .and_then(|limits| cgroup::limit_huge_pages(uid, pid, &limits))
            .map_err(|error| Failure::node(format!("limit of huge pages: {error}")))?;
    }
    Ok(Contained { pid, prepared, disks, written })
}

/// Hands the claims over that an ordinary pod writes to.
fn hand_over(pod: &Pod, identity: &Identity, fetched: &Accepted) -> Result<Vec<Written>, Failure> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes.filter_map(|volume| Some((volume, volume.persistent_volume_claim.as_ref()?)));
    let mut written = Vec::new();
    for (volume, source) in sources.filter(|(_, source)| source.read_only != Some(true)) {
        let claim = fetched.objects.claims.get(&source.claim_name).filter(|claim| !claim.block);
        if let Some(claim) = claim {
            written.push(claim.hand_over(&volume.name, pod, identity).map_err(unusable)?);
        }
    }
    Ok(written)
}

/// The address of a pod, once it has one.
pub(super) fn attached(attachment: oneshot::Receiver<Option<Attachment>>) -> Result<Attachment, Failure> {
    let attachment = attachment.blocking_recv().ok().flatten();
    attachment.ok_or_else(|| Failure::node("the pod got no address"))
}

/// Puts the pod's port into the rules.
pub(super) fn admit(
    shared: &Shared,
    pod: &Pod,
    fetched: &Accepted,
    attachment: &Attachment,
) -> Result<Port, Failure> {
    let port = Port {
        name: attachment.port.clone(),
        mac: network::hardware(&fetched.machine.interfaces, attachment),
        ip: attachment.address.ip,
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
    };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let admitted = shared.network.admit(uid, port.clone(), &policy_of(&fetched.config.pod_network));
    admitted.map_err(|error| Failure::node(network::advice(&error)))?;
    Ok(port)
}

/// The network of an ordinary pod.
fn admit_alone(
    shared: &Shared,
    pod: &Pod,
    fetched: &Accepted,
    attachment: oneshot::Receiver<Option<Attachment>>,
) -> Result<Connected, Failure> {
    let port = admit(shared, pod, fetched, &attached(attachment)?)?;
    Ok(Connected { port, wired: Vec::new(), descriptors: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_capacities_of_empty_disks_are_declared() {
        let vmi = serde_json::from_value(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "m", "namespace": "n", "uid": "u"},
            "spec": {
                "domain": {"devices": {"disks": [{"name": "a"}, {"name": "b"}]}, "resources": {"requests": {"memory": "64Mi"}}},
                "volumes": [
                    {"name": "a", "emptyDisk": {"capacity": "1Mi"}},
                    {"name": "b", "emptyDisk": {"capacity": "2Mi"}},
                ],
            },
        }))
        .unwrap();
        assert_eq!(declared(&ferrovirt_api::machine(&vmi).unwrap()), 3 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_a_failure_that_may_pass() {
        let failure = in_time(std::future::pending::<Result<(), Failure>>()).await.unwrap_err();
        assert!(failure.may_pass && !failure.rejected);
    }
}
