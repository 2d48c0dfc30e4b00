//! Netlink sockets: what is sent goes to the kernel by name, and what comes is known to be the kernel's.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

/// A netlink protocol of `linux/netlink.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, neighbours.
    Route,
    /// nf_tables and the rest of netfilter.
    Netfilter,
}

/// Opens a socket in the calling thread's network namespace. It is close-on-exec and gets its port with the first
/// message.
///
/// # Errors
/// What socket(2) says; `EPROTONOSUPPORT` where the kernel lacks the protocol.
pub fn open(protocol: Protocol) -> io::Result<OwnedFd> {
    let protocol = match protocol {
        Protocol::Route => None,
        Protocol::Netfilter => Some(rustix::net::netlink::NETFILTER),
    };
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

/// Options of a socket that is the caller's alone: errors have a text (`NETLINK_EXT_ACK`) and do not repeat the whole
/// request (`NETLINK_CAP_ACK`), what a request may ask for is checked (`NETLINK_GET_STRICT_CHK`), and there is place for
/// `buffer` bytes in both directions. Kernels that lack one of them go on without it.
///
/// # Errors
/// `InvalidInput` for a buffer that no option can hold.
pub fn prepare(socket: BorrowedFd<'_>, buffer: usize) -> io::Result<()> {
    let buffer = libc::c_int::try_from(buffer).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    for (level, name, value) in [
        (libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1),
        (libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1),
        (libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1),
        (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, buffer),
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer),
    ] {
        // What matters is refused or missed later, and named then.
        let _unknown = set(socket, level, name, value);
    }
    Ok(())
}

#[allow(unsafe_code)]
fn set(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which the kernel copies.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length_of::<libc::c_int>(),
        )
    };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn length_of<T>() -> libc::socklen_t {
    // A few bytes.
    size_of::<T>() as libc::socklen_t
}

/// Sends one datagram to the kernel, at once or not at all.
///
/// The address is written out also on a connected socket: on a socket that another process has opened, the kernel asks
/// for the capabilities of its opener as well, unless the message has a destination (`netlink_sendmsg` sets
/// `NETLINK_SKB_DST`, `__netlink_ns_capable` looks at it).
///
/// # Errors
/// What sendto(2) says; `EMSGSIZE` when the datagram is larger than the socket's buffer.
#[allow(unsafe_code)]
pub fn send_to_kernel(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sockaddr_nl: integers. Port 0 is the kernel.
    let mut kernel: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    kernel.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    // SAFETY: both pointers come with the lengths of what they point to; the kernel only reads.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            (&raw const kernel).cast(),
            length_of::<libc::sockaddr_nl>(),
        )
    };
    match usize::try_from(sent) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::from(io::ErrorKind::WriteZero)),
    }
}

/// A datagram that has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer.
    pub length: usize,
    /// It comes from port 0, which is the kernel's.
    pub from_kernel: bool,
    /// It did not fit and has lost its end.
    pub truncated: bool,
}

/// Receives one datagram that is there already.
///
/// # Errors
/// `WouldBlock` when there is none; `ENOBUFS` when the kernel had to drop some.
#[allow(unsafe_code)]
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut from = MaybeUninit::<libc::sockaddr_nl>::zeroed();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a valid msghdr: no name, no parts, no control bytes.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = from.as_mut_ptr().cast();
    header.msg_namelen = length_of::<libc::sockaddr_nl>();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    // SAFETY: the header describes `from` and `buffer`, which live until the call is over.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: zeroed before, and every pattern is a valid sockaddr_nl.
    let from = unsafe { from.assume_init() };
    let named = header.msg_namelen == length_of::<libc::sockaddr_nl>()
        && i32::from(from.nl_family) == libc::AF_NETLINK;
    Ok(Received {
        length,
        // Groups: what is sent to everybody answers nobody.
        from_kernel: named && from.nl_pid == 0 && from.nl_groups == 0,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
    })
}
