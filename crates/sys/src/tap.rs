//! TAP devices and their queues.

use crate::link;
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Creates a TAP device in the calling thread's network namespace and opens all of its queues: Ethernet frames
/// with a virtio-net header, no packet information. With one queue the device is made without the multi-queue flag,
/// as QEMU expects of a single descriptor. The device is not persistent: it ends with its last descriptor, so that
/// nothing can leak. `owner` is the only user that may attach by name without CAP_NET_ADMIN.
///
/// The descriptors are close-on-exec and non-blocking, as QEMU needs them.
///
/// # Errors
/// `InvalidInput` for no queue or over 256; `EPERM` without CAP_NET_ADMIN; `EBUSY` when the name is taken;
/// `ENOENT` without /dev/net/tun.
pub fn create(name: &str, queues: u32, owner: u32) -> io::Result<Vec<OwnedFd>> {
    if !(1..=256).contains(&queues) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a TAP has 1 to 256 queues"));
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut fds = Vec::new();
    for _ in 0..queues {
        let file = open()?;
        let mut request = link::request(name)?;
        // The flags fit: the highest is 0x4000.
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        let fd = OwnedFd::from(file);
        link::ioctl(&fd, libc::TUNSETIFF, &mut request)?;
        if fds.is_empty() {
            set_owner(&fd, owner)?;
        }
        fds.push(fd);
    }
    Ok(fds)
}

fn open() -> io::Result<File> {
    open_node("/dev/net/tun")
}

/// Opens a device node of the TUN driver, as a descriptor that is no queue yet.
///
/// # Errors
/// What open(2) says.
pub fn open_node(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Whether a descriptor of the TUN driver is a queue of a device.
///
/// # Errors
/// What ioctl(2) says; `ENOTTY` for what is no such descriptor.
#[allow(unsafe_code)]
pub fn is_queue(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: all zeroes is a valid ifreq: integers and a union of integers and a pointer that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq.
    let failed = unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut request) };
    match io::Error::last_os_error() {
        _ if failed == 0 => Ok(true),
        error if error.raw_os_error() == Some(libc::EBADFD) => Ok(false),
        error => Err(error),
    }
}

/// Chooses the index of the device that the descriptor will make; 0 leaves it to the kernel, no matter who chose one before.
///
/// # Errors
/// `EINVAL` when the descriptor is a queue already.
#[allow(unsafe_code)]
pub fn choose_index(fd: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    // SAFETY: TUNSETIFINDEX reads one unsigned number.
    let failed = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFINDEX, &raw const index) };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes descriptors of the TUN driver the queues of a new TAP device, in the network namespace that they were opened
/// in: Ethernet frames with a virtio-net header, no packet information. A device of this name is a refusal.
/// `owner` is the only user that may attach by name without CAP_NET_ADMIN.
///
/// # Errors
/// `InvalidInput` for no queue or over 256; `EBUSY` when the name is taken; `EPERM` without CAP_NET_ADMIN over the
/// namespace.
pub fn make(name: &str, queues: &[OwnedFd], owner: u32) -> io::Result<()> {
    if !(1..=256).contains(&queues.len()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a TAP has 1 to 256 queues"));
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if queues.len() > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    for (number, queue) in queues.iter().enumerate() {
        let exclusive = if number == 0 { IFF_TUN_EXCL } else { 0 };
        let mut request = link::request(name)?;
        // The flags fill the sixteen bits.
        request.ifr_ifru.ifru_flags = (flags | exclusive) as libc::c_short;
        link::ioctl(queue, libc::TUNSETIFF, &mut request)?;
        if number == 0 {
            set_owner(queue, owner)?;
        }
    }
    Ok(())
}

/// From `linux/if_tun.h`; the libc crate does not name them.
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const TUNSETIFINDEX: libc::Ioctl = 0x4004_54da;
const IFF_TUN_EXCL: libc::c_int = 0x8000;

/// Makes the descriptor a queue of the TAP device with this name, which is created when it does not exist: Ethernet
/// frames without packet information.
///
/// # Errors
/// As [`create`]; `EACCES` when a security module refuses.
pub fn join(fd: &OwnedFd, name: &str, multi_queue: bool) -> io::Result<()> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = link::request(name)?;
    // The flags fit: the highest is 0x1000.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    link::ioctl(fd, libc::TUNSETIFF, &mut request)
}

/// Switches a queue of a multi-queue TAP device on or off.
///
/// # Errors
/// `EINVAL` when it is so already or no queue; `EACCES` when a security module refuses.
pub fn enable(queue: &OwnedFd, on: bool) -> io::Result<()> {
    let flags = if on { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    #[allow(unsafe_code)]
    // SAFETY: all zeroes is a valid ifreq: integers and a union of integers and a pointer that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The flags fit: the highest is 0x0400.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    link::ioctl(queue, libc::TUNSETQUEUE, &mut request)
}

/// Lets the device live on without a descriptor.
///
/// # Errors
/// What ioctl(2) says.
#[allow(unsafe_code)]
pub fn keep(queue: &OwnedFd) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes the number itself as its argument.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[allow(unsafe_code)]
fn set_owner(fd: &OwnedFd, owner: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes the number itself as its argument.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(owner)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
