//! Network namespaces that live as bind mounts on files, and work inside them.

use rustix::{
    fd::{AsFd, OwnedFd},
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use std::{
    fs::File,
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd},
    panic,
    path::Path,
    thread,
};

/// Makes a network namespace with its loopback interface up and binds it to `path`, a file that is made for it.
///
/// # Errors
/// `AlreadyExists` when the file is there; else what unshare(2), mount(2) and ioctl(2) say. Nothing is left behind.
pub fn create(path: &Path) -> io::Result<()> {
    File::create_new(path)?;
    let made = on_a_thread(|| {
        #[allow(unsafe_code)]
        // SAFETY: NEWNET does not touch the descriptor table; the thread ends after this closure.
        unsafe {
            rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)?;
        }
        crate::link::up("lo")?;
        mount_bind("/proc/thread-self/ns/net", path)?;
        Ok(())
    });
    if made.is_err() {
        std::fs::remove_file(path)?;
    }
    made
}

/// Opens the namespace bound to `path`, for [`run_in`] and [`crate::process::Setup`].
///
/// # Errors
/// What open(2) says.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// Runs `work` on a thread of its own inside the namespace. Sockets and TAP devices opened there stay in it.
///
/// # Errors
/// What setns(2) says (`EINVAL` when the file is not a network namespace), and what `work` returns.
pub fn run_in<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_a_thread(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    })
}

/// A number of the network namespace that a socket was opened in, which no other one ever has while the machine runs; no
/// capability is needed. Numbers of inodes, by contrast, are used again at once.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 5.14; `ENOTSOCK` for what is no socket.
#[allow(unsafe_code)]
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    /// From `asm-generic/socket.h`; the libc crate does not name it.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    // Eight bytes.
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: pointer and length describe `cookie`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// The network namespace that a socket or a descriptor of the TUN driver was opened in.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN over that namespace; `ENOTTY` for what is neither.
#[allow(unsafe_code)]
pub fn of(opened: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// From `linux/sockios.h`; the libc crate does not name it.
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: the call takes no argument, and answers with a new descriptor or an error.
    let number = unsafe { libc::ioctl(opened.as_raw_fd(), SIOCGSKNS) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it (close-on-exec) for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Removes the binding and its file. The namespace ends with its last process or descriptor. Missing is fine.
///
/// # Errors
/// What umount(2) and unlink(2) say.
pub fn delete(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: a file without a mount, as a crash between the two steps leaves it.
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}
