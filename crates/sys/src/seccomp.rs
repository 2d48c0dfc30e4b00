//! Filters of system calls that a process puts on itself, or on a program that it starts.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};
use std::{collections::BTreeMap, io};

/// Flags of clone that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x7E02_0000;

/// Lets some system calls through; every other one fails with `EPERM`, as in the profile of the container runtime.
///
/// `clone` makes no namespaces. `clone3` answers `ENOSYS`, since its flags cannot be read by a filter: C libraries then
/// use `clone`.
#[derive(Debug)]
pub struct Filter {
    allow: BpfProgram,
    missing: BpfProgram,
}

impl Filter {
    /// A filter for the calls with these numbers (`SYS_...`). `socket` makes sockets of `families` alone.
    ///
    /// # Errors
    /// When the list is too long for a filter.
    pub fn new(calls: &[i64], families: &[i32]) -> io::Result<Self> {
        let mut rules = BTreeMap::new();
        for call in calls {
            // Without a family there is no socket; a call without conditions would be let through.
            if *call == libc::SYS_socket && families.is_empty() {
                continue;
            }
            let conditions = match *call {
                libc::SYS_clone => {
                    let none = SeccompCmpOp::MaskedEq(NEW_NAMESPACES);
                    vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, none, 0)]
                }
                libc::SYS_socket => families
                    .iter()
                    .map(|family| {
                        let family = u64::try_from(*family).unwrap_or_default();
                        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family)
                    })
                    .collect(),
                _ => Vec::new(),
            };
            let rules_of_call = conditions
                .into_iter()
                .map(|condition| SeccompRule::new(vec![condition.map_err(wrong)?]).map_err(wrong))
                .collect::<io::Result<Vec<_>>>()?;
            rules.insert(*call, rules_of_call);
        }
        let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let later = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        Ok(Self {
            allow: program(rules, refused, SeccompAction::Allow)?,
            missing: program(later, SeccompAction::Allow, missing)?,
        })
    }

    /// Puts it on the calling thread, on threads and programs that it starts, for good; they gain no privileges by execve
    /// any more. Makes system calls only.
    ///
    /// # Errors
    /// What seccomp(2) says.
    pub fn apply(&self) -> io::Result<()> {
        for program in [&self.missing, &self.allow] {
            apply_filter(program).map_err(|error| match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
                // A number: an error with a text would allocate, which must not be done between fork and exec.
                _ => io::Error::from_raw_os_error(libc::EINVAL),
            })?;
        }
        Ok(())
    }
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> io::Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(wrong)?;
    let filter = SeccompFilter::new(rules, otherwise, listed, architecture).map_err(wrong)?;
    filter.try_into().map_err(wrong)
}

fn wrong(error: seccompiler::BackendError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType, socket};

    /// On a thread of its own, which keeps the filter until it ends.
    fn filtered<T: Send + 'static>(calls: &[i64], work: impl FnOnce() -> T + Send + 'static) -> T {
        let usual = [libc::SYS_exit, libc::SYS_futex, libc::SYS_munmap, libc::SYS_madvise, libc::SYS_close];
        let more = [libc::SYS_rt_sigprocmask, libc::SYS_sigaltstack, libc::SYS_mmap, libc::SYS_mprotect];
        let all = [calls, &usual, &more, &[libc::SYS_write, libc::SYS_rseq]].concat();
        let filter = Filter::new(&all, &[libc::AF_UNIX]).unwrap();
        std::thread::spawn(move || {
            filter.apply().unwrap();
            work()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        let refused = filtered(&[], || rustix::process::getpgid(None));
        assert_eq!(refused, Err(rustix::io::Errno::PERM));
        assert!(filtered(&[libc::SYS_getpgid], || rustix::process::getpgid(None)).is_ok());
    }

    #[test]
    fn sockets_are_of_the_listed_families() {
        let of = |family| filtered(&[libc::SYS_socket], move || socket(family, SocketType::DGRAM, None).map(drop));
        assert_eq!(of(AddressFamily::UNIX), Ok(()));
        assert_eq!(of(AddressFamily::NETLINK), Err(rustix::io::Errno::PERM));
        assert_eq!(of(AddressFamily::PACKET), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn nobody_makes_a_namespace() {
        // Refused by the filter, not by a missing capability: an unprivileged process may make a user namespace.
        let refused = filtered(&[libc::SYS_clone, libc::SYS_clone3], || {
            [libc::CLONE_NEWUSER, libc::CLONE_NEWNET].map(|flags| raw_clone(flags))
        });
        assert_eq!(refused, [-libc::EPERM, -libc::EPERM]);
    }

    #[allow(unsafe_code)]
    fn raw_clone(flags: i32) -> i32 {
        // SAFETY: without CLONE_VM the child is a copy, as of fork(2); it ends at once.
        let made = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        if made == 0 {
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        if made < 0 { -std::io::Error::last_os_error().raw_os_error().unwrap_or_default() } else { 0 }
    }
}
