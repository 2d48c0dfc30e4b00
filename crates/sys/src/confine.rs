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

/// Families of sockets for [`Filter::new`]: within the node.
pub const LOCAL: &[i32] = &[libc::AF_UNIX];
/// And of the internet.
pub const LOCAL_OR_INTERNET: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
/// And the kernel's own lists of addresses and routes, which C libraries look into when they resolve a name.
pub const NETWORK: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Within the node, and the kernel's lists of links, addresses and rules.
pub const LOCAL_OR_NETLINK: &[i32] = &[libc::AF_UNIX, libc::AF_NETLINK];

/// What the handler's part for networks asks of descriptors: `TUNSETIFF`, `TUNSETOWNER`, `TUNGETIFF`, `TUNSETIFINDEX`,
/// `SIOCGSKNS`, `FIONBIO`.
pub const IOCTLS_OF_NET: &[u32] = &[0x4004_54ca, 0x4004_54cc, 0x8004_54d2, 0x4004_54da, 0x894c, 0x5421];

/// Conditions beside the calls' names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// `socket` makes sockets of these families alone.
    pub families: Option<&'a [i32]>,
    /// `ioctl` makes these requests alone.
    pub ioctls: Option<&'a [u32]>,
    /// `clone` makes copies of the process, and no threads.
    pub copies: bool,
}

/// Offsets in `struct seccomp_data`; of the arguments the lower half, which comes first on our machines.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST: u32 = 16;
const SECOND: u32 = 24;
#[cfg(target_arch = "x86_64")]
const OWN: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN: u32 = 0xc000_00b7;
/// Flags of clone that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u32 = 0x7E02_0000;
const THREAD: u32 = 0x0001_0000;

/// A filter that lets some system calls through; others fail with `EPERM`, and calls of another architecture end the
/// process.
///
/// `ioctl` puts nothing into a terminal as if somebody had typed it (`TIOCSTI`, `TIOCLINUX`). `clone` makes no
/// namespaces, and of a program that may start no others (`execve`) threads alone, so that no copy of it outlives it.
/// `clone3` answers `ENOSYS`, since a filter cannot read its flags: C libraries then use
/// `clone`.
#[derive(Debug)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// A filter for these calls. With `families`, `socket` makes sockets of these alone.
    ///
    /// # Errors
    /// `InvalidInput` for more calls than one filter of this form can name.
    pub fn new(calls: &[libc::c_long], families: Option<&[i32]>) -> io::Result<Self> {
        Self::with(calls, &Rules { families, ..Rules::default() })
    }

    /// A filter for these calls, with these conditions.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(calls: &[libc::c_long], rules: &Rules<'_>) -> io::Result<Self> {
        let Rules { families, ioctls, copies } = *rules;
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let code = |parts: u32| u16::try_from(parts).unwrap_or_default();
        let step =
            |parts: u32, yes: u8, no: u8, k: u32| libc::sock_filter { code: code(parts), jt: yes, jf: no, k };
        let (load, equal, any, end) = (
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
            libc::BPF_RET | libc::BPF_K,
        );
        let refuse = |error: i32| step(end, 0, 0, libc::SECCOMP_RET_ERRNO | error.unsigned_abs());
        let allow = || step(end, 0, 0, libc::SECCOMP_RET_ALLOW);
        let number = |call: libc::c_long| u32::try_from(call).map_err(|_| invalid());
        let mut filter = vec![
            step(load, 0, 0, ARCHITECTURE),
            step(equal, 1, 0, OWN),
            step(end, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
            step(load, 0, 0, NUMBER),
        ];
        // Calls with conditions have an end of their own each; other calls jump over it.
        if calls.contains(&libc::SYS_clone) {
            let copy = u8::from(copies || calls.contains(&libc::SYS_execve));
            let thread = u8::from(!copies);
            filter.push(step(equal, 0, 5, number(libc::SYS_clone)?));
            filter.push(step(load, 0, 0, FIRST));
            filter.extend([step(any, 1, 0, NEW_NAMESPACES), step(any, thread, copy, THREAD)]);
            filter.extend([refuse(libc::EPERM), allow()]);
        }
        // One argument's lower half is one of these.
        let one_of = |filter: &mut Vec<_>, call, argument, values: &[u32]| {
            let count = u8::try_from(values.len()).ok().filter(|count| *count < 250).ok_or_else(invalid)?;
            filter.push(step(equal, 0, count + 3, number(call)?));
            filter.push(step(load, 0, 0, argument));
            for (value, left) in values.iter().zip((1..=count).rev()) {
                filter.push(step(equal, left, 0, *value));
            }
            filter.extend([refuse(libc::EPERM), allow()]);
            Ok::<(), io::Error>(())
        };
        if let Some(ioctls) = ioctls
            && calls.contains(&libc::SYS_ioctl)
        {
            one_of(&mut filter, libc::SYS_ioctl, SECOND, ioctls)?;
        } else if calls.contains(&libc::SYS_ioctl) {
            let request = |request| u32::try_from(request).map_err(|_| invalid());
            filter.push(step(equal, 0, 5, number(libc::SYS_ioctl)?));
            filter.push(step(load, 0, 0, SECOND));
            filter.push(step(equal, 1, 0, request(libc::TIOCSTI)?));
            filter.push(step(equal, 0, 1, request(libc::TIOCLINUX)?));
            filter.extend([refuse(libc::EPERM), allow()]);
        }
        if calls.contains(&libc::SYS_clone3) {
            filter.extend([step(equal, 0, 1, number(libc::SYS_clone3)?), refuse(libc::ENOSYS)]);
        }
        if let Some(families) = families
            && calls.contains(&libc::SYS_socket)
        {
            let families: Vec<u32> = families.iter().map(|family| family.unsigned_abs()).collect();
            one_of(&mut filter, libc::SYS_socket, FIRST, &families)?;
        }
        let conditional = |call: libc::c_long| {
            [libc::SYS_clone, libc::SYS_clone3, libc::SYS_ioctl].contains(&call)
                || (call == libc::SYS_socket && families.is_some())
        };
        let plain: Vec<_> = calls.iter().filter(|call| !conditional(**call)).collect();
        for (index, call) in plain.iter().enumerate() {
            // To the last step, which allows; past the rest of the calls and the refusal.
            let last = u8::try_from(plain.len() - index).map_err(|_| invalid())?;
            filter.push(step(equal, last, 0, number(**call)?));
        }
        filter.extend([refuse(libc::EPERM), allow()]);
        Ok(Self(filter))
    }

    /// Puts it on this thread and what it starts, for good. `no_new_privs` must be set. Makes one system call: fit for
    /// the time between fork and exec.
    ///
    /// # Errors
    /// What seccomp(2) says.
    #[allow(unsafe_code)]
    pub fn apply(&self) -> io::Result<()> {
        let Ok(len) = u16::try_from(self.0.len()) else { return Err(rustix::io::Errno::INVAL.into()) };
        let program = libc::sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: `program` and the filter that it points to live until the call is over; the kernel only copies them.
        let failed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// From now on and for good, this thread and what it starts may make these system calls only. `no_new_privs` must be
/// set.
///
/// # Errors
/// Those of [`Filter::new`] and [`Filter::apply`].
pub fn allow_only(calls: &[libc::c_long]) -> io::Result<()> {
    Filter::new(calls, None)?.apply()
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

    /// What a thread of its own needs to end.
    const USUAL: [libc::c_long; 10] = [
        libc::SYS_exit,
        libc::SYS_futex,
        libc::SYS_munmap,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_close,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_rseq,
    ];

    fn filtered<T: Send + 'static>(calls: &[libc::c_long], work: impl FnOnce() -> T + Send + 'static) -> T {
        let filter = Filter::new(&[calls, &USUAL].concat(), Some(&[libc::AF_UNIX, libc::AF_INET])).unwrap();
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            filter.apply().unwrap();
            work()
        });
        thread.join().unwrap()
    }

    #[test]
    fn sockets_are_of_the_named_families() {
        use rustix::net::{AddressFamily, SocketType, socket};
        let of =
            |family| filtered(&[libc::SYS_socket], move || socket(family, SocketType::DGRAM, None).map(drop));
        assert_eq!([of(AddressFamily::UNIX), of(AddressFamily::INET)], [Ok(()), Ok(())]);
        assert_eq!([of(AddressFamily::NETLINK), of(AddressFamily::PACKET)], [Err(Errno::PERM); 2]);
    }

    #[test]
    fn nobody_makes_a_namespace() {
        // Refused by the filter, not for want of a capability: everybody may make a user namespace.
        let refused = filtered(&[libc::SYS_clone, libc::SYS_clone3, libc::SYS_exit_group], || {
            [libc::SYS_clone, libc::SYS_clone3, libc::SYS_unshare].map(|call| raw(call, libc::CLONE_NEWUSER))
        });
        assert_eq!(refused, [libc::EPERM, libc::ENOSYS, libc::EPERM]);
    }

    #[test]
    fn a_program_that_starts_no_others_makes_no_copy_of_itself() {
        let copy = |calls: &[libc::c_long]| {
            filtered(&[calls, &[libc::SYS_clone, libc::SYS_exit_group]].concat(), || raw(libc::SYS_clone, 0))
        };
        assert_eq!([copy(&[]), copy(&[libc::SYS_execve])], [libc::EPERM, 0]);
        let threads = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_set_robust_list, libc::SYS_prctl];
        let more = [libc::SYS_sched_getaffinity, libc::SYS_gettid];
        let thread = filtered(&[&threads[..], &more].concat(), || std::thread::spawn(|| 7).join().unwrap());
        assert_eq!(thread, 7);
    }

    #[test]
    fn a_program_of_one_thread_makes_copies_and_no_threads() {
        let calls = [&USUAL[..], &[libc::SYS_clone, libc::SYS_exit_group, libc::SYS_wait4]].concat();
        let filter = Filter::with(&calls, &Rules { copies: true, ..Rules::default() }).unwrap();
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            filter.apply().unwrap();
            [0, libc::CLONE_THREAD, libc::CLONE_NEWNET].map(|flags| raw(libc::SYS_clone, flags))
        });
        assert_eq!(thread.join().unwrap(), [0, libc::EPERM, libc::EPERM]);
    }

    #[test]
    fn requests_are_of_the_named_ones() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let calls = [&USUAL[..], &[libc::SYS_ioctl]].concat();
        let rules = Rules { ioctls: Some(IOCTLS_OF_NET), ..Rules::default() };
        let filter = Filter::with(&calls, &rules).unwrap();
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            filter.apply().unwrap();
            // An Ethernet bridge's request, and one of the list's, which the file does not know.
            [0x89a0, 0x8004_54d2].map(|request| request_of(&null, request))
        });
        assert_eq!(thread.join().unwrap(), [libc::EPERM, libc::ENOTTY]);
    }

    #[test]
    fn nobody_types_into_a_terminal() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let errors = filtered(&[libc::SYS_ioctl], move || {
            [libc::TIOCSTI, libc::TIOCLINUX, libc::TCGETS].map(|request| request_of(&null, request))
        });
        // The third is the kernel's own answer.
        assert_eq!(errors, [libc::EPERM, libc::EPERM, libc::ENOTTY]);
    }

    #[allow(unsafe_code)]
    fn request_of(file: &std::fs::File, request: libc::Ioctl) -> i32 {
        let mut place = [0_u8; 256];
        // SAFETY: the requests read or write less than `place` has.
        let failed =
            unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(file), request, place.as_mut_ptr()) };
        if failed == 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap_or_default() }
    }

    #[allow(unsafe_code)]
    fn raw(call: libc::c_long, flags: i32) -> i32 {
        // SAFETY: without CLONE_VM the child is a copy, as of fork(2), and ends at once; clone3 is refused before it
        // reads anything, and unshare takes flags alone.
        let made = unsafe { libc::syscall(call, libc::c_long::from(flags), 0, 0, 0, 0) };
        if made == 0 && call == libc::SYS_clone {
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        if made < 0 { io::Error::last_os_error().raw_os_error().unwrap_or_default() } else { 0 }
    }
}
