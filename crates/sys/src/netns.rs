//! Network namespaces that live as bind mounts on files, and work inside them.

use rustix::{
    fd::{AsFd, OwnedFd},
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use std::{fs::File, io, panic, path::Path, thread};

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
