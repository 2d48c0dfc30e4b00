//! The UDP socket of a DHCP server.

use rustix::net::{
    AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, socket_with,
    sockopt::{set_socket_broadcast, set_socket_reuseaddr},
};
use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

/// A datagram socket on port 67 of one interface of the calling thread's network namespace, allowed to broadcast.
///
/// # Errors
/// `ENODEV` for a missing interface; `EACCES` without CAP_NET_BIND_SERVICE; `AddrInUse` when somebody else serves
/// this interface.
pub fn dhcp_server(interface: &str) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_broadcast(&socket, true)?;
    bind_to_device(&socket, interface)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67))?;
    Ok(socket)
}

#[allow(unsafe_code)]
fn bind_to_device(socket: &OwnedFd, interface: &str) -> io::Result<()> {
    // Checks the name.
    crate::link::request(interface)?;
    let length = libc::socklen_t::try_from(interface.len())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: pointer and length describe `interface`, which the kernel copies; it needs no terminating zero.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
