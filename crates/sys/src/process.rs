//! Starting programs: descriptors under fixed numbers, death with the parent, a clean signal mask.

use rustix::process::Signal;
use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
};

/// What a child gets beyond what [`Command`] arranges.
#[derive(Debug, Default)]
pub struct Setup {
    /// Descriptors, each with the number that it has in the child, without close-on-exec. Numbers from 3.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// Signal that the child gets when the thread that started it ends.
    pub parent_death: Option<Signal>,
    /// A private mount namespace without cgroup version 2 below `/sys/fs/cgroup/unified`, for a runtime that
    /// refuses hybrid layouts. Mounts of the host still arrive.
    pub hide_unified_cgroups: bool,
    /// Join this network namespace.
    pub network_namespace: Option<OwnedFd>,
    /// Working directory, entered before the user changes: the way to it need not be open to that user.
    pub directory: Option<OwnedFd>,
    /// A session of its own: what is typed into the parent's terminal does not reach it (Ctrl-C neither), and it puts
    /// nothing there as if it had been typed.
    pub new_session: bool,
    /// Run as this user and the group of the same number, without other groups, without a capability in any set, and
    /// without a way to gain one (`no_new_privs`).
    pub user: Option<u32>,
    /// The system calls that the program may make; it gains no privileges (`no_new_privs`). `execve` must be one.
    pub filter: Option<crate::confine::Filter>,
}

/// Starts a program with an empty signal mask and what `setup` says. The parent's copies of the descriptors are
/// closed when this returns.
///
/// # Errors
/// What fork(2), the setup and execve(2) say; `InvalidInput` for a number under 3 or over 4096, or two descriptors
/// with one number.
pub fn spawn(mut command: Command, setup: Setup) -> io::Result<Child> {
    let plan = prepare(setup)?;
    let child = plan.child;
    #[allow(unsafe_code)]
    // SAFETY: between fork and exec the closure makes system calls only: no allocation, no locks.
    unsafe {
        command.pre_exec(move || child.apply());
    }
    let child = command.spawn();
    drop(plan.reserved);
    child
}

/// Most descriptors that [`raise_open_files`] asks for: some programs that are started later go through all numbers.
const MAX_OPEN_FILES: u64 = 1 << 20;

/// Raises the soft limit of open files to the hard one, for a program that uses no select(2): many connections and streams
/// need a descriptor each. Programs that are started by it inherit the limit; containers have one of their own.
///
/// Answers the limit as it is now.
///
/// # Errors
/// What setrlimit(2) says.
pub fn raise_open_files() -> io::Result<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(limit.current.unwrap_or(MAX_OPEN_FILES))
}

struct Plan {
    child: InChild,
    /// Holds every low number until the child exists, so that the pipe by which the standard library hears of a
    /// failed exec never sits on a number that the child overwrites.
    reserved: Vec<OwnedFd>,
}

struct InChild {
    /// Sources, all above every target.
    fds: Vec<(OwnedFd, RawFd)>,
    parent_death: Option<Signal>,
    parent: Option<rustix::process::Pid>,
    hide_unified_cgroups: bool,
    network_namespace: Option<OwnedFd>,
    directory: Option<OwnedFd>,
    new_session: bool,
    user: Option<u32>,
    filter: Option<crate::confine::Filter>,
}

fn prepare(setup: Setup) -> io::Result<Plan> {
    let mut numbers: Vec<RawFd> = setup.fds.iter().map(|(_, number)| *number).collect();
    numbers.sort_unstable();
    let twice = numbers.windows(2).any(|pair| matches!(pair, [a, b] if a == b));
    if twice || numbers.iter().any(|number| !(3..=4096).contains(number)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptor numbers must differ and be 3..=4096",
        ));
    }
    let free = numbers.last().map_or(3, |last| last + 1);
    let mut reserved = Vec::new();
    if free > 3 {
        let null = std::fs::File::open("/dev/null")?;
        loop {
            let fd = rustix::io::fcntl_dupfd_cloexec(&null, 3)?;
            if fd.as_raw_fd() >= free {
                break;
            }
            reserved.push(fd);
        }
    }
    let mut fds = Vec::with_capacity(setup.fds.len());
    for (fd, number) in setup.fds {
        let high =
            if fd.as_raw_fd() >= free { fd } else { rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), free)? };
        fds.push((high, number));
    }
    // Above every target too: the child overwrites those before it uses these.
    let above = |fd: Option<OwnedFd>| match fd {
        Some(fd) if fd.as_raw_fd() < free => rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), free).map(Some),
        other => Ok(other),
    };
    let network_namespace = above(setup.network_namespace)?;
    let directory = above(setup.directory)?;
    let child = InChild {
        fds,
        parent_death: setup.parent_death,
        parent: Some(rustix::process::getpid()),
        hide_unified_cgroups: setup.hide_unified_cgroups,
        network_namespace,
        directory,
        new_session: setup.new_session,
        user: setup.user,
        filter: setup.filter,
    };
    Ok(Plan { child, reserved })
}

impl InChild {
    fn apply(&self) -> io::Result<()> {
        clear_signal_mask()?;
        for (source, target) in &self.fds {
            dup_to(source, *target)?;
        }
        if let Some(namespace) = &self.network_namespace {
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )?;
        }
        if self.hide_unified_cgroups {
            crate::process::hide_unified_cgroups()?;
        }
        if let Some(directory) = &self.directory {
            rustix::process::fchdir(directory)?;
        }
        if self.new_session {
            rustix::process::setsid()?;
        }
        if let Some(user) = self.user {
            crate::rights::become_user(user)?;
        }
        // After the change of the user, which takes the request back.
        if let Some(signal) = self.parent_death {
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            // The parent may have died before the request: then nobody would ever send the signal.
            if rustix::process::getppid() != self.parent {
                // A number: an error with a text would allocate, which must not be done here.
                return Err(rustix::io::Errno::SRCH.into());
            }
        }
        // The last step: the others need calls that the program does not.
        if let Some(filter) = &self.filter {
            rustix::thread::set_no_new_privs(true)?;
            filter.apply()?;
        }
        Ok(())
    }
}

fn hide_unified_cgroups() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
    #[allow(unsafe_code)]
    // SAFETY: NEWNS leaves the descriptor table alone, and this is the only thread of a fresh child.
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)?;
    }
    mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    unmount(c"/sys/fs/cgroup/unified", UnmountFlags::DETACH)?;
    Ok(())
}

#[allow(unsafe_code)]
fn dup_to(source: &OwnedFd, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 has no memory effects; the child owns no descriptor object with the number `target` that would
    // notice its replacement before exec.
    if unsafe { libc::dup2(source.as_raw_fd(), target) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[allow(unsafe_code)]
fn clear_signal_mask() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes the set that pthread_sigmask reads; the old mask is not asked for.
    let failed = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}

/// Takes over a descriptor that the parent process left open under this number, and sets close-on-exec on it.
///
/// # Errors
/// `EBADF` when nothing is open there; `InvalidInput` under 3; `AlreadyExists` on a second call for one number.
#[allow(unsafe_code)]
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    use std::{collections::BTreeSet, os::fd::FromRawFd, sync::Mutex};
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    if number < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "standard descriptors are not taken over"));
    }
    // SAFETY: F_GETFD only asks.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        // Everything that Rust opens has close-on-exec, and nothing inherited has: this one belongs to somebody.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an inherited descriptor"));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !taken.insert(number) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "descriptor already taken over"));
    }
    // SAFETY: open, inherited (no close-on-exec) and taken over only once: this is its only owner.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Read, process::Stdio};

    #[test]
    fn a_child_has_the_descriptors_under_their_numbers_and_no_others() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let null: OwnedFd = File::open("/dev/null").unwrap().into();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ls /proc/$$/fd >&7"]).stdin(Stdio::null());
        let mut child =
            spawn(command, Setup { fds: vec![(writer, 7), (null, 3)], ..Setup::default() }).unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        let numbers: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(numbers.iter().filter(|n| n.parse::<i32>().unwrap() < 10).count(), 5, "{text}");
        assert!(numbers.contains(&"3") && numbers.contains(&"7"), "{text}");
    }

    #[test]
    fn a_failed_exec_is_an_error_with_passed_descriptors_too() {
        let null: OwnedFd = File::open("/dev/null").unwrap().into();
        let missing = spawn(Command::new("/nonexistent"), Setup { fds: vec![(null, 3)], ..Setup::default() });
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn bad_numbers_are_refused() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        for fds in [vec![(null(), 2)], vec![(null(), 5), (null(), 5)], vec![(null(), 5000)]] {
            let refused = spawn(Command::new("/bin/true"), Setup { fds, ..Setup::default() });
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_child_in_a_session_of_its_own_leads_it() {
        let session = |new_session| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "read -r pid _ _ _ _ session _ </proc/$$/stat; echo $pid $session"]);
            command.stdout(Stdio::piped());
            let child = spawn(command, Setup { new_session, ..Setup::default() }).unwrap();
            let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            let (pid, session) = text.trim().split_once(' ').unwrap();
            pid == session
        };
        assert_eq!([session(true), session(false)], [true, false]);
    }

    #[test]
    fn the_signal_mask_of_a_child_is_empty() {
        let status = std::thread::spawn(|| {
            let _signals = crate::signal::SignalFd::new(&[Signal::TERM, Signal::CHILD]).unwrap();
            let mut command = Command::new("/bin/grep");
            command.args(["SigBlk", "/proc/self/status"]).stdout(Stdio::piped());
            spawn(command, Setup::default()).unwrap().wait_with_output().unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(String::from_utf8(status.stdout).unwrap().trim(), "SigBlk:\t0000000000000000");
    }

    #[test]
    fn descriptors_of_this_process_are_not_taken_for_inherited_ones() {
        let null = File::open("/dev/null").unwrap();
        assert!(inherited(null.as_raw_fd()).is_err());
        assert!(inherited(1).is_err());
        assert!(inherited(4000).is_err());
    }
}
