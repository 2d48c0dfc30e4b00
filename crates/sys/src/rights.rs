//! Giving rights away for good: capabilities, other users' files, core dumps.
//!
//! Everything here is about the calling thread and what it starts later: call it before there are other threads.

use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use std::io;

/// The capabilities with these names, without the `CAP_` prefix; `None` when the kernel knows none of a name.
pub fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<CapabilitySet> {
    names
        .into_iter()
        .map(|name| CapabilitySet::from_name(name).filter(|set| set.bits().is_power_of_two()))
        .collect()
}

/// Keeps no capability but `own`, and lets programs that are started later have `programs` at the most. What this
/// process does not hold is not gained.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP.
pub fn keep(own: CapabilitySet, programs: CapabilitySet) -> io::Result<()> {
    limit(own | programs)?;
    let held = capabilities(None)?;
    let permitted = held.permitted & own;
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Ends after other processes when memory runs out, as do programs that are started later: `oom_score_adj` of this
/// process. False where that takes a capability that this process lacks.
///
/// # Errors
/// What the kernel says beside that.
pub fn end_late() -> io::Result<bool> {
    match std::fs::write("/proc/self/oom_score_adj", "-999") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes everything but `kept` out of the bounding set, and the ambient set with it. No allocation.
fn limit(kept: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that this kernel does not know: there are no later ones.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match clear_ambient_capability_set() {
        // A kernel before 4.3 has no such set.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Becomes the user and the group of this number, without other groups, without a capability in any set, and without
/// a way to gain one. Makes system calls only: fit for the time between fork and exec.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP, CAP_SETGID or CAP_SETUID.
pub(crate) fn become_user(user: u32) -> io::Result<()> {
    limit(CapabilitySet::empty())?;
    let (uid, gid) = (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(user));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(set_no_new_privs(true)?)
}

/// Keeps no capability in any set, and no way to gain one. Root may call it in a container that has none already.
///
/// # Errors
/// What the kernel says.
pub fn give_up() -> io::Result<()> {
    give_up_all_but(CapabilitySet::empty())
}

/// The same, but for these.
///
/// # Errors
/// What the kernel says.
pub fn give_up_all_but(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    match limit(kept) {
        // Without CAP_SETPCAP the bounding set stays: with no_new_privs no program gets anything of it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match clear_ambient_capability_set()
        {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        },
        other => other?,
    }
    let permitted = capabilities(None)?.permitted & kept;
    let inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable })?)
}

/// Whether this process has no capability, can gain none, and is not root.
///
/// # Errors
/// What capget(2) says.
pub fn has_none() -> io::Result<bool> {
    let held = capabilities(None)?;
    let held = held.effective | held.permitted | held.inheritable;
    Ok(held.is_empty()
        && rustix::thread::no_new_privs()?
        && !rustix::process::getuid().is_root()
        && !rustix::process::geteuid().is_root())
}

/// Keeps this process's memory to itself: no core dump, and no other process of the same user may trace it or look
/// into `/proc`. Programs that are started later leave no core dump either.
///
/// # Errors
/// What setrlimit(2) and prctl(2) say.
pub fn hide_memory() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Setup, spawn};
    use std::process::{Command, Stdio};

    #[test]
    fn names_of_capabilities() {
        assert_eq!(set(["KILL", "CHOWN"]), Some(CapabilitySet::KILL | CapabilitySet::CHOWN));
        assert_eq!(set(["KILL", "NONE"]), None);
    }

    #[test]
    fn root_gives_everything_up_and_may_do_so_twice() {
        // Of the thread alone.
        let thread = std::thread::spawn(|| {
            give_up().unwrap();
            give_up().unwrap();
            let sets = capabilities(None).unwrap();
            let program =
                Command::new("/bin/sh").args(["-c", "grep CapPrm /proc/self/status"]).output().unwrap();
            (sets.effective | sets.permitted | sets.inheritable, String::from_utf8(program.stdout).unwrap())
        });
        let (left, program) = thread.join().unwrap();
        assert!(left.is_empty());
        assert_eq!(program, "CapPrm:\t0000000000000000\n");
    }

    #[test]
    fn what_is_kept_is_kept_alone() {
        let thread = std::thread::spawn(|| {
            give_up_all_but(CapabilitySet::NET_ADMIN).unwrap();
            let sets = capabilities(None).unwrap();
            (sets.effective, sets.permitted, sets.inheritable)
        });
        let held = capabilities(None).unwrap().permitted & CapabilitySet::NET_ADMIN;
        assert_eq!(thread.join().unwrap(), (held, held, CapabilitySet::empty()));
    }

    #[test]
    fn another_user_has_nothing_and_sees_its_directory_alone() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can become somebody else");
            return;
        }
        // The way to the directory is closed to the user.
        let closed = tempfile::tempdir().unwrap();
        let own = closed.path().join("own");
        std::fs::create_dir(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(76_443), Some(76_443)).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "grep -E '^(Uid|Gid|Groups|Cap|NoNew)' /proc/self/status; echo x > made && echo made",
        ]);
        command.stdout(Stdio::piped());
        let directory = Some(std::fs::File::open(&own).unwrap().into());
        let setup = Setup { directory, user: Some(76_443), ..Setup::default() };
        let output = spawn(command, setup).unwrap().wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
            assert!(said.contains(&format!("Cap{set}:\t0000000000000000")), "{said}");
        }
        assert!(said.contains("Uid:\t76443\t76443\t76443\t76443"), "{said}");
        assert!(said.contains("Gid:\t76443\t76443\t76443\t76443"), "{said}");
        assert!(said.contains("Groups:\t \n") && said.contains("NoNewPrivs:\t1"), "{said}");
        assert!(said.ends_with("made\n") && own.join("made").exists(), "{said}");
    }
}
