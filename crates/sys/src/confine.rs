//! A filter of system calls for a process of ours that reads foreign bytes.

use std::io;

/// What a single thread needs that works on files below descriptors that it has, and talks over a socket that it has.
/// Not in it: sockets and programs of its own, other processes, owners, mounts, io_uring.
pub const FILES: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_tgkill,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
#[cfg(target_arch = "x86_64")]
const OWN: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN: u32 = 0xc000_00b7;

/// From now on and for good, this thread and what it starts may make these system calls only; others fail with
/// `EPERM`, and calls of another architecture end the process. `no_new_privs` must be set.
///
/// # Errors
/// `InvalidInput` for more calls than one filter of this form can name; what seccomp(2) says.
#[allow(unsafe_code)]
pub fn allow_only(calls: &[libc::c_long]) -> io::Result<()> {
    let code = |parts: u32| u16::try_from(parts).unwrap_or_default();
    let step =
        |parts: u32, yes: u8, no: u8, k: u32| libc::sock_filter { code: code(parts), jt: yes, jf: no, k };
    let (load, equal, end) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    let mut filter = vec![
        step(load, 0, 0, ARCHITECTURE),
        step(equal, 1, 0, OWN),
        step(end, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(load, 0, 0, NUMBER),
    ];
    for (index, call) in calls.iter().enumerate() {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        // To the last step, which allows; past the rest of the calls and the refusal.
        let allow = u8::try_from(calls.len() - index).map_err(invalid)?;
        let call = u32::try_from(*call).map_err(invalid)?;
        filter.push(step(equal, allow, 0, call));
    }
    filter.push(step(end, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()));
    filter.push(step(end, 0, 0, libc::SECCOMP_RET_ALLOW));
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and the filter that it points to live until the call is over; the kernel copies them.
    let failed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_is_not_named_is_refused_and_what_is_named_works() {
        // The filter is this thread's alone.
        let thread = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            allow_only(FILES).unwrap();
            let file = std::fs::File::open("/dev/null").map(drop);
            let socket =
                rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
            let other =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1);
            (file.is_ok(), socket.map(drop), other)
        });
        assert_eq!(thread.join().unwrap(), (true, Err(Errno::PERM), Err(Errno::PERM)));
    }
}
