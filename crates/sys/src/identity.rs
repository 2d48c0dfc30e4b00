//! Doing something as another user, for as long as it takes, on a thread of its own.

use std::io;

/// Runs `work` on a new thread whose file system user and group are these, as files and `/proc` see it. The other
/// threads keep theirs.
///
/// # Errors
/// When the thread cannot be made or the kernel does not take the numbers (`PermissionDenied`).
pub fn as_user<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
            change(libc::SYS_setfsgid, gid)?;
            change(libc::SYS_setfsuid, uid)?;
            Ok(work())
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
    })
}

/// The calls answer with the number from before and never fail; one that is no number leaves things as they are.
#[allow(unsafe_code)]
fn change(call: libc::c_long, number: u32) -> io::Result<()> {
    // SAFETY: both calls take a number, touch no memory, and change this thread alone.
    let now = unsafe {
        libc::syscall(call, number);
        libc::syscall(call, u32::MAX)
    };
    if now == libc::c_long::from(number) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn files_see_the_other_user_on_that_thread_alone() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let read = || fs::read(&file).map_err(|error| error.kind());
        assert_eq!(as_user(107, 107, read).unwrap(), Err(io::ErrorKind::PermissionDenied));
        assert!(read().is_ok());
    }
}
