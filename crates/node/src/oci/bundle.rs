//! The bundle: a pod's container as an OCI runtime configuration.

use super::{
    cgroup::{self, HugeLimit},
    granted::{Granted, Own},
    identity::Identity,
    sources::Sources,
};
use crate::disk::MOST_OPEN;
use ferrovirt_kubernetes::quantity::Amount;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Processes and threads of one container, with a wide margin.
const PIDS: i64 = 4096;
/// What container engines hide, and more of what is the node's own: its command line, modules, addresses, disks.
const MASKED: [&str; 22] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/diskstats",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/softirqs",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
];

/// Why a container cannot be configured; the reason is Kubernetes' `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod asks for what this node gives to none.
    #[error("{field} is set, but no pod of this node has that: remove it from the pod")]
    Refused {
        /// Path in the pod.
        field: &'static str,
    },
    /// `runAsNonRoot` and user 0.
    #[error("runAsNonRoot is true and the user is 0: set runAsUser to another number")]
    Root,
    /// A number that cannot be a user or group.
    #[error("{field} is {value}: use 0 to 4294967294")]
    Id {
        /// Which field.
        field: &'static str,
        /// What was given.
        value: i64,
    },
    /// A resource amount that cannot be read.
    #[error("resources: {0}")]
    Quantity(#[from] ferrovirt_kubernetes::quantity::QuantityError),
    /// A seccomp profile that is not there.
    #[error("seccompProfile.localhostProfile: this node has none: use RuntimeDefault")]
    Localhost,
    /// The sizes of huge pages.
    #[error("/sys/kernel/mm/hugepages: {0}")]
    HugePages(#[source] io::Error),
    /// A device of the node.
    #[error("{path}: {source}: the device is missing on this node")]
    Device {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What a device plug-in gives takes the place of something else.
    #[error("device plug-in: {0}, where the container has something of its own: correct the plug-in")]
    Taken(String),
}

/// A mount of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path in the container.
    pub destination: String,
    /// `bind`, `tmpfs`, `hugetlbfs`, ...
    pub kind: &'static str,
    /// Path on the node, or the file system's name.
    pub source: PathBuf,
    /// Mount options.
    pub options: Vec<String>,
}

impl Mount {
    /// A bind mount: never with set-user-ID programs or device nodes.
    pub fn bind(source: PathBuf, destination: &str, read_only: bool) -> Self {
        let mut options = vec!["rbind".to_owned(), "nosuid".to_owned(), "nodev".to_owned()];
        options.push(if read_only { "ro" } else { "rw" }.to_owned());
        Self { destination: destination.to_owned(), kind: "bind", source, options }
    }

    fn of(destination: &str, kind: &'static str, options: &[&str]) -> Self {
        Self {
            destination: destination.to_owned(),
            kind,
            source: PathBuf::from(kind),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        }
    }
}

/// A device node of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    path: String,
    kind: char,
    major: u32,
    minor: u32,
    writable: bool,
}

impl Device {
    /// Its path in the container.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A device of the node, under another path in the container.
    ///
    /// # Errors
    /// When it is not there or is no device.
    pub fn of(node: &Path, path: &str, writable: bool) -> Result<Self, Error> {
        let failed = |source| Error::Device { path: node.to_owned(), source };
        let data = fs::metadata(node).map_err(failed)?;
        let kind = match data.file_type() {
            kind if kind.is_char_device() => 'c',
            kind if kind.is_block_device() => 'b',
            _ => return Err(failed(io::Error::other("not a device"))),
        };
        let number = data.rdev();
        Ok(Self {
            path: path.to_owned(),
            kind,
            major: rustix::fs::major(number),
            minor: rustix::fs::minor(number),
            writable,
        })
    }
}

/// Huge page limits of a container: page size to bytes.
///
/// # Errors
/// For unreadable amounts.
pub fn huge_pages(container: &Container) -> Result<BTreeMap<u64, u64>, Error> {
    let mut limits = BTreeMap::new();
    let Some(resources) = &container.resources else { return Ok(limits) };
    for (name, value) in resources.limits.iter().flatten() {
        if let Some(size) = name.strip_prefix("hugepages-") {
            limits.insert(Amount::parse(size)?.bytes()?, Amount::parse(&value.0)?.bytes()?);
        }
    }
    Ok(limits)
}

/// A container's limit of a resource, or its request where it has no limit.
///
/// # Errors
/// For unreadable amounts.
pub fn amount(container: &Container, name: &str) -> Result<Option<Amount>, Error> {
    let Some(resources) = &container.resources else { return Ok(None) };
    let limit = resources.limits.as_ref().and_then(|all| all.get(name));
    let request = resources.requests.as_ref().and_then(|all| all.get(name));
    Ok(limit.or(request).map(|value| Amount::parse(&value.0)).transpose()?)
}

/// The program of an image whose files are the node's own.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Where the image has it.
    pub image: &'a str,
    /// Where the container has it: a file cannot be bound into the read-only `/usr`.
    pub container: &'a str,
    /// The file on the node.
    pub file: &'a Path,
}

/// What the node adds to the pod.
#[derive(Debug)]
pub struct Node<'a> {
    /// The pod's own root directory.
    pub rootfs: &'a Path,
    /// Read-only copies of what all pods share.
    pub sources: &'a Sources,
    /// The container's program.
    pub program: Program<'a>,
    /// What is `/usr` in the container.
    pub usr: &'a Path,
    /// The pod's network namespace.
    pub netns: &'a Path,
    /// Every user of the pod may have every port of its namespace, as containerd gives it to pods.
    pub own_ports: bool,
    /// The container's host name.
    pub hostname: &'a str,
    /// What device plug-ins give with the container's resources.
    pub granted: &'a Granted,
    /// Who limits huge pages.
    pub huge: HugeLimit,
    /// The default seccomp profile in the runtime's form.
    pub seccomp: Value,
}

/// The runtime's configuration. The runtime makes what is missing on the way to a mount point, as root: the caller says
/// which places there may be.
///
/// # Errors
/// For unreadable amounts, and for what device plug-ins give in a place that is taken.
pub fn config(
    pod: &Pod,
    container: &Container,
    identity: &Identity,
    volumes: &[Mount],
    devices: &[Device],
    node: &Node<'_>,
) -> Result<Value, Error> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut args: Vec<String> =
        container.command.iter().flatten().chain(container.args.iter().flatten()).cloned().collect();
    match args.first_mut() {
        Some(program) if program == node.program.image => node.program.container.clone_into(program),
        Some(_) => {}
        None => args.push(node.program.container.to_owned()),
    }
    let mut env = vec!["PATH=/usr/sbin:/usr/bin".to_owned()];
    for variable in container.env.iter().flatten() {
        if let Some(value) = &variable.value {
            env.push(format!("{}={value}", variable.name));
        }
    }
    let caps: Vec<String> = identity.capabilities.iter().map(|c| format!("CAP_{c}")).collect();
    let bounding: Vec<String> = identity.bounding.iter().map(|c| format!("CAP_{c}")).collect();
    let mut mounts = system_mounts(node);
    mounts.extend_from_slice(volumes);
    let own = Own { rootfs: node.rootfs, mounts: &mounts, devices, variables: &env };
    node.granted.check(&own)?;
    env.extend(node.granted.variables.iter().map(|(name, value)| format!("{name}={value}")));
    mounts.extend_from_slice(&node.granted.mounts);
    let devices = &[devices, &node.granted.devices].concat();
    let mut linux = json!({
        "cgroupsPath": cgroup::path(&uid),
        "namespaces": [
            {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            {"type": "network", "path": node.netns},
        ],
        "resources": resources(container, devices, node.huge)?,
        "devices": devices.iter().map(|d| json!({
            "path": d.path, "type": d.kind, "major": d.major, "minor": d.minor,
            "fileMode": if d.writable { 0o660 } else { 0o440 }, "uid": identity.uid, "gid": identity.gid,
        })).collect::<Vec<_>>(),
        "maskedPaths": MASKED,
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if node.own_ports
        && let Some(linux) = linux.as_object_mut()
    {
        linux.insert("sysctl".to_owned(), json!({"net.ipv4.ip_unprivileged_port_start": "0"}));
    }
    if identity.runtime_default_seccomp
        && let Some(linux) = linux.as_object_mut()
    {
        linux.insert("seccomp".to_owned(), node.seccomp.clone());
    }
    let mut process = json!({
        "terminal": false,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups, "umask": 0o027},
        "args": args,
        "env": env,
        "cwd": container.working_dir.as_deref().unwrap_or("/"),
        "capabilities": {
            "bounding": bounding, "effective": caps, "permitted": caps, "inheritable": caps, "ambient": caps,
        },
        "rlimits": rlimits(),
        "oomScoreAdj": super::oom::score(pod),
        "noNewPrivileges": identity.no_new_privileges,
    });
    // On a node without SELinux the runtime refuses to start a process with a label.
    if let (Some(label), Some(process), Some(linux)) =
        (&identity.label, process.as_object_mut(), linux.as_object_mut())
    {
        process.insert("selinuxLabel".to_owned(), json!(label.process));
        linux.insert("mountLabel".to_owned(), json!(label.files));
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process,
        // Whatever the pod says.
        "root": {"path": node.rootfs, "readonly": true},
        "hostname": node.hostname,
        "annotations": node.granted.annotations,
        "mounts": mounts.iter().map(|m| json!({
            "destination": m.destination, "type": m.kind, "source": node.sources.of(&m.source), "options": m.options,
        })).collect::<Vec<_>>(),
        "linux": linux,
    }))
}

fn system_mounts(node: &Node<'_>) -> Vec<Mount> {
    let small =
        |destination| Mount::of(destination, "tmpfs", &["nosuid", "nodev", "noexec", "mode=755", "size=1m"]);
    let mut mounts = vec![
        Mount::of("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        Mount::of("/dev", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
        Mount::of("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        small("/run"),
        small("/var"),
        Mount::bind(node.usr.to_owned(), "/usr", true),
        Mount::bind(node.program.file.to_owned(), node.program.container, true),
    ];
    // Both are about the node's own libraries.
    let own = node.usr == Path::new("/usr");
    for file in ["/etc/ld.so.cache", "/etc/alternatives"] {
        if own && Path::new(file).exists() {
            mounts.push(Mount::bind(file.into(), file, true));
        }
    }
    mounts
}

fn resources(container: &Container, devices: &[Device], huge: HugeLimit) -> Result<Value, Error> {
    let mut allowed = vec![json!({"allow": false, "access": "rwm"})];
    for device in devices {
        allowed.push(json!({
            "allow": true, "type": device.kind, "major": device.major, "minor": device.minor,
            "access": if device.writable { "rw" } else { "r" },
        }));
    }
    let mut all = serde_json::Map::new();
    all.insert("devices".to_owned(), allowed.into());
    all.insert("pids".to_owned(), json!({"limit": PIDS}));
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    if let Some(limit) = limits.and_then(|l| l.get("memory")) {
        all.insert("memory".to_owned(), json!({"limit": Amount::parse(&limit.0)?.bytes()?}));
    }
    let mut cpu = serde_json::Map::new();
    if let Some(request) = requests.and_then(|r| r.get("cpu")) {
        // The kubelet's rule: 1024 shares for each processor, never under 2.
        let millis = Amount::parse(&request.0)?.millis()?;
        cpu.insert("shares".to_owned(), (millis.saturating_mul(1024) / 1000).clamp(2, 262_144).into());
    }
    if let Some(limit) = limits.and_then(|l| l.get("cpu")) {
        let millis = Amount::parse(&limit.0)?.millis()?;
        cpu.insert("period".to_owned(), 100_000.into());
        cpu.insert("quota".to_owned(), millis.saturating_mul(100).max(1000).into());
    }
    all.insert("cpu".to_owned(), cpu.into());
    if huge == HugeLimit::Runtime {
        let limits = cgroup::every_size(&huge_pages(container)?).map_err(Error::HugePages)?;
        let limits: Vec<Value> = limits
            .iter()
            .map(|(page, bytes)| json!({"pageSize": cgroup::page_name(*page), "limit": bytes}))
            .collect();
        all.insert("hugepageLimits".to_owned(), limits.into());
    }
    Ok(all.into())
}

/// Open files as many as are looked at for what they hold, within what this process may give: raising a hard limit takes
/// CAP_SYS_RESOURCE, which a nested root may lack. No core dumps: they would hold a pod's memory.
fn rlimits() -> Value {
    use rustix::process::{Resource, getrlimit};
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(MOST_OPEN);
    json!([
        {"type": "RLIMIT_NOFILE", "soft": files, "hard": files},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ])
}
