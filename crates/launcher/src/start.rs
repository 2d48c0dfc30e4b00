//! From an order and passed descriptors to a running QEMU.

use crate::{
    agents::Passed,
    dhcp::Server,
    disks::{self, DiskError},
    files, log,
    options::Options,
    qemu::{self, Qemu},
    serial::Serial,
};
use ferrovirt_qemu::{
    Descriptors, OrderError, command_line,
    dhcp::take_resolver,
    order::{Nic, Order, Tap},
    protocol::Purpose,
};
use ferrovirt_sys::{link, tap, udp};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, OwnedFd, RawFd},
};

/// Everything that belongs to a started guest.
pub(crate) struct Started {
    pub(crate) qemu: Qemu,
    pub(crate) serial: Option<Serial>,
    pub(crate) dhcp: Vec<Server>,
}

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The order cannot be carried out.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A disk is not there or may not be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A step of the documented profile's own network setup.
    #[error("interface {nic:?}: {step}: {error}")]
    Tap { nic: String, step: &'static str, error: io::Error },
    /// A TAP of which the launcher has the queues.
    #[error("interface {nic:?}: {why}")]
    Opened { nic: String, why: &'static str },
    /// The port of DHCP.
    #[error(
        "interface {nic:?}: port 67 on {bridge}: {error}; in a pod net.ipv4.ip_unprivileged_port_start has to be at most \
         67: containerd 2 sets it to 0, elsewhere securityContext.sysctls of the pod sets it"
    )]
    Port { nic: String, bridge: String, error: io::Error },
    /// QEMU's program could not be started.
    #[error("{path} could not be started: {error}")]
    Qemu { path: String, error: io::Error },
    /// Anything else that the kernel refused.
    #[error("{what}: {error}")]
    System { what: &'static str, error: io::Error },
}

/// Of the container, and the most that is read of it.
const RESOLVER: &str = "/etc/resolv.conf";
const MOST_RESOLVER: u64 = 64 << 10;

/// First descriptor number in QEMU.
const FIRST: i32 = 3;

pub(crate) fn start(
    mut order: Order,
    passed: Vec<Passed>,
    images: files::Opened,
    mut opened: Option<Vec<OwnedFd>>,
    options: &Options,
) -> Result<Started, StartError> {
    let system = |what| move |error| StartError::System { what, error };
    let mut sources = Sources::new(passed);
    let mut fds = Numbered { next: FIRST, fds: Vec::new() };
    let mut descriptors = Descriptors::default();

    let (ours, theirs) = qemu::pair().map_err(system("a socket for QMP"))?;
    descriptors.qmp = fds.add(theirs);
    let mut console = None;
    if order.serial {
        let (ours, theirs) = qemu::pair().map_err(system("a socket for the serial port"))?;
        descriptors.serial = Some(fds.add(theirs));
        console = Some(ours);
    }
    if order.graphics {
        descriptors.vnc = Some(options.run.join("sockets/vnc.sock").to_string_lossy().into_owned());
    }
    disks::probe(&order.disks, &mut descriptors)?;
    hand_on(images, &mut order, &mut fds);
    let order = &order;
    let mut dhcp = Vec::new();
    for nic in &order.nics {
        let mut lease = nic.dhcp.clone();
        let queues = match &nic.tap {
            Tap::Passed => sources.taps.remove(&nic.name).unwrap_or_default(),
            Tap::Opened { bridge, resolver } => {
                let queues = made(nic, opened.take())?;
                if let Some(lease) = lease.as_mut().filter(|_| *resolver) {
                    take_resolver(&own_resolver(), lease);
                }
                if nic.dhcp.is_some() {
                    sources.dhcp.insert(nic.name.clone(), dhcp_port(nic, bridge)?);
                }
                queues
            }
            // A name that nothing has checked yet only reaches the kernel's own check of interface names.
            Tap::Created { interface, bridge, mtu } => create(nic, interface, bridge, *mtu)?,
        };
        descriptors.taps.insert(nic.name.clone(), queues.into_iter().map(|fd| fds.add(fd)).collect());
        match (sources.dhcp.remove(&nic.name), lease) {
            (Some(socket), Some(lease)) => dhcp.extend(Server::new(socket, nic, lease)),
            (None, Some(_)) => {
                log::line(&format!(
                    "interface {:?}: no socket was passed, so DHCP is not answered",
                    nic.name
                ));
            }
            (_, None) => {}
        }
    }
    let arguments = command_line(order, &descriptors)?;

    let serial = match console {
        Some(ours) => {
            Some(Serial::new(ours, &options.run).map_err(system("the serial port's socket and log"))?)
        }
        None => None,
    };
    // A machine without container disks has no volume for overlays; the small ones of a seed fit elsewhere.
    let overlays = if options.overlays.is_dir() { &options.overlays } else { &options.run };
    let qemu = Qemu::start(&options.qemu, arguments, ours, fds.fds, overlays)
        .map_err(|error| StartError::Qemu { path: options.qemu.display().to_string(), error })?;
    Ok(Started { qemu, serial, dhcp })
}

/// Passed descriptors by interface.
struct Sources {
    taps: BTreeMap<String, Vec<OwnedFd>>,
    dhcp: BTreeMap<String, OwnedFd>,
}

impl Sources {
    fn new(passed: Vec<Passed>) -> Self {
        let mut sources = Self { taps: BTreeMap::new(), dhcp: BTreeMap::new() };
        for (purpose, fd) in passed {
            match purpose {
                Purpose::TapQueue { nic } => sources.taps.entry(nic).or_default().push(fd),
                Purpose::Dhcp { nic } => drop(sources.dhcp.insert(nic, fd)),
            }
        }
        sources
    }
}

/// Descriptors under the numbers that they get in QEMU.
struct Numbered {
    next: i32,
    fds: Vec<(OwnedFd, i32)>,
}

impl Numbered {
    fn add(&mut self, fd: OwnedFd) -> i32 {
        let number = self.next;
        self.next += 1;
        self.fds.push((fd, number));
        number
    }
}

/// Has QEMU open files of images through the descriptors that it inherits.
fn hand_on(images: files::Opened, order: &mut Order, fds: &mut Numbered) {
    let files::Opened { kernel, initrd, mut disks } = images;
    if let Some(boot) = &mut order.kernel {
        for (file, path) in [(kernel, &mut boot.kernel), (initrd, &mut boot.initrd)] {
            if let Some(file) = file {
                *path = Some(own_path(fds.add(file)));
            }
        }
    }
    for disk in &mut order.disks {
        if let Some(file) = disks.remove(&disk.name) {
            disk.path = own_path(fds.add(file));
        }
    }
}

/// The path by which a process opens what it has under a number.
pub(crate) fn own_path(number: RawFd) -> String {
    format!("/proc/self/fd/{number}")
}

/// The queues that the launcher has opened, after the handler has made them queues of the TAP.
fn made(nic: &Nic, opened: Option<Vec<OwnedFd>>) -> Result<Vec<OwnedFd>, StartError> {
    let wrong = |why| StartError::Opened { nic: nic.name.clone(), why };
    let queues = opened.ok_or_else(|| wrong("its queues were not asked for before the order"))?;
    for queue in &queues {
        if !tap::is_queue(queue.as_fd()).unwrap_or(false) {
            return Err(wrong("the handler has not made its TAP"));
        }
    }
    Ok(queues)
}

/// What the container's own resolver uses, which the kubelet writes. Without the file the guest learns of no name server.
fn own_resolver() -> String {
    let mut bytes = Vec::new();
    let read = File::open(RESOLVER).and_then(|file| file.take(MOST_RESOLVER).read_to_end(&mut bytes));
    if let Err(error) = read {
        log::line(&format!("{RESOLVER}: {error}"));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Unprivileged since Linux 5.7, as far as the port is.
fn dhcp_port(nic: &Nic, bridge: &str) -> Result<OwnedFd, StartError> {
    udp::dhcp_server(bridge).map_err(|error| StartError::Port {
        nic: nic.name.clone(),
        bridge: bridge.to_owned(),
        error,
    })
}

/// The documented profile's way: the launcher makes the TAP with its own NET_ADMIN.
fn create(nic: &Nic, interface: &str, bridge: &str, mtu: u32) -> Result<Vec<OwnedFd>, StartError> {
    let step = |step| move |error| StartError::Tap { nic: nic.name.clone(), step, error };
    let owner = rustix::process::getuid().as_raw();
    let queues = tap::create(interface, nic.queues, owner).map_err(step("making the TAP and its queues"))?;
    link::set_mtu(interface, mtu).map_err(step("setting the TAP's MTU"))?;
    link::attach(bridge, interface).map_err(step("attaching the TAP to the bridge"))?;
    link::up(interface).map_err(step("setting the TAP up"))?;
    Ok(queues)
}
