//! Network interfaces of the calling thread's network namespace: up, MTU, bridge membership, hardware address.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

/// Sets an interface up.
///
/// # Errors
/// `InvalidInput` for an impossible name; `ENODEV` for a missing interface; `EPERM` without CAP_NET_ADMIN.
pub fn up(interface: &str) -> io::Result<()> {
    let mut request = request(interface)?;
    let socket = socket()?;
    ioctl(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    #[allow(unsafe_code)]
    // SAFETY: SIOCGIFFLAGS filled in `ifru_flags`.
    unsafe {
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
    }
    ioctl(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// The maximum transmission unit of an interface in bytes.
///
/// # Errors
/// As [`up`].
pub fn mtu(interface: &str) -> io::Result<u32> {
    let mut request = request(interface)?;
    ioctl(&socket()?, libc::SIOCGIFMTU, &mut request)?;
    #[allow(unsafe_code)]
    // SAFETY: SIOCGIFMTU filled in `ifru_mtu`.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Sets the maximum transmission unit in bytes.
///
/// # Errors
/// As [`up`]; `EINVAL` for a size that the interface cannot have.
pub fn set_mtu(interface: &str, mtu: u32) -> io::Result<()> {
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_mtu = mtu.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    ioctl(&socket()?, libc::SIOCSIFMTU, &mut request)
}

/// Makes an interface a port of a bridge.
///
/// # Errors
/// As [`up`]; `EBUSY` when it is a port of a bridge already.
pub fn attach(bridge: &str, interface: &str) -> io::Result<()> {
    let socket = socket()?;
    let mut index = request(interface)?;
    ioctl(&socket, libc::SIOCGIFINDEX, &mut index)?;
    let mut request = request(bridge)?;
    #[allow(unsafe_code)]
    // SAFETY: SIOCGIFINDEX filled in `ifru_ifindex`.
    unsafe {
        request.ifr_ifru.ifru_ifindex = index.ifr_ifru.ifru_ifindex;
    }
    ioctl(&socket, SIOCBRADDIF, &mut request)
}

/// From `linux/sockios.h`; the libc crate does not name it.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;

pub(crate) fn request(interface: &str) -> io::Result<libc::ifreq> {
    let name = interface.as_bytes();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.iter().any(|c| *c == 0 || *c == b'/') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{interface:?} cannot name a network interface"),
        ));
    }
    #[allow(unsafe_code)]
    // SAFETY: all zeroes is a valid ifreq: integers and a union of integers and a pointer that may be null.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name) {
        *place = *byte as libc::c_char;
    }
    Ok(request)
}

pub(crate) fn ioctl(fd: &OwnedFd, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: every number used in this crate with this function reads or writes exactly one ifreq.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number, std::ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn socket() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}
