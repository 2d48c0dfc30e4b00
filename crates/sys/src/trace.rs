//! Tracing of other processes, as far as asking whether it is allowed.

use rustix::process::Pid;
use std::io;

/// Attaches to a process and lets go of it at once. A process that is attached stops; letting go lets it run on.
///
/// # Errors
/// `EPERM` or `EACCES` when it is refused; `ESRCH` when there is no such process.
pub fn attach(pid: Pid) -> io::Result<()> {
    let raw = pid.as_raw_nonzero().get();
    let (none, zero) = (std::ptr::null_mut::<libc::c_void>(), std::ptr::null_mut::<libc::c_void>());
    #[allow(unsafe_code)]
    // SAFETY: neither request reads or writes memory of this process.
    let attached = unsafe { libc::ptrace(libc::PTRACE_ATTACH, raw, none, zero) };
    if attached < 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED)?;
    #[allow(unsafe_code)]
    // SAFETY: as above.
    let detached = unsafe { libc::ptrace(libc::PTRACE_DETACH, raw, none, zero) };
    if detached < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
