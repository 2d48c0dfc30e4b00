//! Unix sockets of type `SOCK_SEQPACKET`: whole messages, in order, with descriptors beside them.

use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

/// Most descriptors that travel with one message: the kernel's `SCM_MAX_FD`.
pub const MAX_FDS: usize = 253;

/// A listening socket.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Binds `path`, which must not exist, and listens. The descriptor is close-on-exec and blocking.
    ///
    /// # Errors
    /// What socket(2), bind(2) and listen(2) say; a path over 107 bytes is `EINVAL` or `ENAMETOOLONG`.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let fd = socket()?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&fd, 16)?;
        Ok(Self(fd))
    }

    /// Listens on what [`bind`] made.
    ///
    /// # Errors
    /// What listen(2) says.
    pub fn listen(bound: OwnedFd) -> io::Result<Self> {
        rustix::net::listen(&bound, 16)?;
        Ok(Self(bound))
    }

    /// Takes over a listening descriptor, such as one that was inherited, and sets close-on-exec on it.
    ///
    /// # Errors
    /// When the descriptor is not a listening Unix socket of this type.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let listens = rustix::net::sockopt::socket_acceptconn(&fd)?;
        let kind = rustix::net::sockopt::socket_type(&fd)?;
        if !listens || kind != SocketType::SEQPACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening SOCK_SEQPACKET socket"));
        }
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self(fd))
    }

    /// Accepts one connection; waits for it unless the listener is non-blocking.
    ///
    /// # Errors
    /// What accept4(2) says; `WouldBlock` on a non-blocking listener.
    pub fn accept(&self) -> io::Result<Connection> {
        let fd = retry(|| rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC))?;
        Ok(Connection(fd))
    }

    /// Switches between blocking and non-blocking calls.
    ///
    /// # Errors
    /// What ioctl(2) says.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, on)?)
    }
}

/// Makes a socket of this type and binds it to `path`, which must not exist. Anyone who connects is refused until somebody
/// listens. The descriptor is close-on-exec and blocking.
///
/// # Errors
/// As [`Listener::bind`].
pub fn bind(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let fd = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

/// A connected socket.
#[derive(Debug)]
pub struct Connection(OwnedFd);

/// One received message.
#[derive(Debug)]
pub struct Message {
    /// The bytes; never empty.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Connection {
    /// Connects to a [`Listener`]'s path at once or not at all: a listener that accepts nobody must not hold up who
    /// connects.
    ///
    /// # Errors
    /// What socket(2) and connect(2) say; `WouldBlock` when too many wait to be accepted.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = socket()?;
        let address = SocketAddrUnix::new(path)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        retry(|| rustix::net::connect(&fd, &address))?;
        rustix::io::ioctl_fionbio(&fd, false)?;
        Ok(Self(fd))
    }

    /// Two sockets connected with each other.
    ///
    /// # Errors
    /// What socketpair(2) says.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Takes over a connected descriptor.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one message with descriptors.
    ///
    /// # Errors
    /// `InvalidInput` for an empty message or more than [`MAX_FDS`] descriptors; else what sendmsg(2) says
    /// (`EMSGSIZE` for a message larger than the send buffer, `BrokenPipe` after the peer went: no signal is raised).
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_with_fds(self.0.as_fd(), bytes, fds).map(|_| ())
    }

    /// Receives one message of at most `limit` bytes; `None` after the peer closed the connection.
    ///
    /// # Errors
    /// `InvalidData` when the message or its descriptors did not fit (they are dropped); else what recvmsg(2) says.
    pub fn recv(&self, limit: usize) -> io::Result<Option<Message>> {
        let mut bytes = vec![0; limit];
        let (length, fds, truncated) = recv_with_fds(self.0.as_fd(), &mut bytes)?;
        if truncated {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("message over {limit} bytes")));
        }
        if length == 0 {
            return Ok(None);
        }
        bytes.truncate(length);
        Ok(Some(Message { bytes, fds }))
    }

    /// Switches between blocking and non-blocking calls.
    ///
    /// # Errors
    /// What ioctl(2) says.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, on)?)
    }
}

/// Sends bytes and descriptors on any connected Unix socket, a stream too (QMP's `getfd`); returns how many bytes
/// went. With a stream the descriptors go with the first byte.
///
/// # Errors
/// As [`Connection::send`].
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() || fds.len() > MAX_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a message needs bytes and at most 253 descriptors",
        ));
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    Ok(retry(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?)
}

/// Sends one message without descriptors at once, or not at all, whatever the socket's mode is.
///
/// # Errors
/// `WouldBlock` when there is no room; else what sendmsg(2) says.
pub fn send_now(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    retry(|| rustix::net::send(socket, bytes, flags))?;
    Ok(())
}

/// The user of the one who connected, as this process numbers users.
///
/// The kernel's answer has a process number, too, which is 0 where that process is of a namespace that this one does not see,
/// as a launcher's is in another pod: it is not looked at.
///
/// # Errors
/// What getsockopt(2) says.
#[allow(unsafe_code)]
pub fn peer_user(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    // Twelve bytes.
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: pointer and length describe `peer`, of which every value of every field is one.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(peer.uid) }
}

/// Whether others may send descriptors to this socket, or to those that it accepts. Before Linux 6.16 they always may.
///
/// # Errors
/// What setsockopt(2) says beside that.
#[allow(unsafe_code)]
pub fn take_descriptors(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    /// From `asm-generic/socket.h`; the libc crate does not name it.
    const SO_PASSRIGHTS: libc::c_int = 83;
    let value = libc::c_int::from(on);
    // Four bytes.
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which the kernel copies.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const value).cast(),
            length,
        )
    };
    match io::Error::last_os_error() {
        _ if failed == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        error => Err(error),
    }
}

/// Receives bytes and descriptors (close-on-exec) from any connected Unix socket: length, descriptors, and whether
/// something was cut off.
///
/// # Errors
/// What recvmsg(2) says.
pub fn recv_with_fds(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = retry(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let truncated = got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok((got.bytes, fds, truncated))
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

macro_rules! descriptor {
    ($($name:ident),*) => {$(
        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }
        impl AsRawFd for $name {
            fn as_raw_fd(&self) -> RawFd {
                self.0.as_raw_fd()
            }
        }
        impl From<$name> for OwnedFd {
            fn from(socket: $name) -> Self {
                socket.0
            }
        }
    )*};
}
descriptor!(Listener, Connection);

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Read, io::Write};

    #[test]
    fn a_message_keeps_its_borders_and_carries_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        let client = Connection::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        client.send(b"one", &[writer.as_fd()]).unwrap();
        client.send(b"two", &[]).unwrap();
        drop(writer);
        drop(client);

        let first = server.recv(16).unwrap().unwrap();
        assert_eq!(first.bytes, b"one");
        let passed = first.fds.into_iter().next().unwrap();
        assert!(rustix::io::fcntl_getfd(&passed).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let mut passed = File::from(passed);
        passed.write_all(b"through").unwrap();
        drop(passed);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");

        let second = server.recv(16).unwrap().unwrap();
        assert_eq!((second.bytes.as_slice(), second.fds.len()), (&b"two"[..], 0));
        assert!(server.recv(16).unwrap().is_none());
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error_and_the_next_one_is_whole() {
        let (a, b) = Connection::pair().unwrap();
        a.send(b"much too long", &[]).unwrap();
        a.send(b"ok", &[]).unwrap();
        assert_eq!(b.recv(4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(b.recv(4).unwrap().unwrap().bytes, b"ok");
    }

    #[test]
    fn a_listener_that_accepts_nobody_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = Listener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            match Connection::connect(&path) {
                Ok(connection) if waiting.len() < 1000 => waiting.push(connection),
                other => break other.map(drop),
            }
        };
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_most_descriptors_of_one_message_arrive() {
        let (a, b) = Connection::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        let many = vec![null.as_fd(); MAX_FDS];
        a.send(b"x", &many).unwrap();
        assert_eq!(b.recv(1).unwrap().unwrap().fds.len(), MAX_FDS);
        let too_many = vec![null.as_fd(); MAX_FDS + 1];
        assert_eq!(a.send(b"x", &too_many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn only_a_listening_seqpacket_socket_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&directory.path().join("s")).unwrap();
        assert!(Listener::from_fd(listener.0).is_ok());
        assert!(Listener::from_fd(Connection::pair().unwrap().0.0).is_err());
        assert!(Listener::from_fd(File::open("/dev/null").unwrap().into()).is_err());
    }
}
