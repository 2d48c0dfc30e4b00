//! Landlock: a process of ours gives up every path but those below one directory. See `Documentation/userspace-api/landlock.rst`
//! of the kernel.

use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// The oldest version that lets hard links lead from one directory to another (Linux 5.19).
const OLDEST: libc::c_long = 2;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: libc::c_long = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const BENEATH: libc::c_long = 1;
/// What version 2 knows of files (bits 0 to 13), and what version 3 (truncate) and 5 (ioctl of devices) add.
const SECOND: u64 = (1 << 14) - 1;
const TRUNCATE: u64 = 1 << 14;
const IOCTL: u64 = 1 << 15;
/// Of these, what is allowed below the directory: files are read and written, files, directories and symbolic links made
/// and removed, and hard links made. Nothing is executed, no device, pipe or socket made.
const FILES: u64 = 0b0111_0001_1011_1110;

/// Of these: files are read and directories listed.
const READ: u64 = 0b1100;
/// Of these: directories listed, files removed and sockets made.
const SOCKETS: u64 = 0b0010_0010_1000;

/// `struct landlock_ruleset_attr`, as version 2 has it.
#[repr(C)]
struct Ruleset {
    handled: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: i32,
}

/// From now on and for good, this thread and what it starts reach files below `directory` alone, by whatever name; what is open
/// stays open. `no_new_privs` must be set. False where the kernel has no Landlock, or an older one: then nothing changes.
///
/// # Errors
/// What the kernel says beside that.
pub fn only_beneath(directory: impl AsFd) -> io::Result<bool> {
    beneath(&[(directory.as_fd(), FILES)])
}

/// The same for who reads below `directory`, and makes and removes sockets below `sockets`, which lies in it.
///
/// # Errors
/// As [`only_beneath`].
pub fn read_beneath_with_sockets(directory: impl AsFd, sockets: impl AsFd) -> io::Result<bool> {
    beneath(&[(directory.as_fd(), READ), (sockets.as_fd(), SOCKETS)])
}

fn beneath(places: &[(BorrowedFd<'_>, u64)]) -> io::Result<bool> {
    let Some(version) = version()? else { return Ok(false) };
    let mut handled = SECOND;
    for (from, right) in [(3, TRUNCATE), (5, IOCTL)] {
        if version >= from {
            handled |= right;
        }
    }
    let rules = create(&Ruleset { handled })?;
    for (directory, allowed) in places {
        add(&rules, &Beneath { allowed: allowed & handled, parent: directory.as_raw_fd() })?;
    }
    restrict(&rules)?;
    Ok(true)
}

/// Its version; `None` where it is too old, not there or switched off.
#[allow(unsafe_code)]
fn version() -> io::Result<Option<libc::c_long>> {
    // SAFETY: with this flag the call takes no memory.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) };
    match check(version) {
        Ok(version) => Ok((version >= OLDEST).then_some(version)),
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[allow(unsafe_code)]
fn create(rules: &Ruleset) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads as many bytes as the structure has.
    let made = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::from_ref(rules), size_of::<Ruleset>(), 0)
    };
    let made = i32::try_from(check(made)?).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

#[allow(unsafe_code)]
fn add(rules: &OwnedFd, rule: &Beneath) -> io::Result<()> {
    // SAFETY: the kernel reads the structure that belongs to this kind of rule.
    let added = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), BENEATH, std::ptr::from_ref(rule), 0)
    };
    check(added).map(drop).map_err(Into::into)
}

#[allow(unsafe_code)]
fn restrict(rules: &OwnedFd) -> io::Result<()> {
    // SAFETY: the call takes numbers alone.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
    check(done).map(drop).map_err(Into::into)
}

fn check(answer: libc::c_long) -> Result<libc::c_long, Errno> {
    if answer < 0 {
        let error = io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::net::UnixListener};

    #[test]
    fn who_makes_sockets_in_one_directory_changes_nothing_beside_it() {
        let own = tempfile::tempdir().unwrap();
        let [file, slots, others] = ["file", "slots", "others"].map(|name| own.path().join(name));
        fs::write(&file, "x").unwrap();
        fs::create_dir(&slots).unwrap();
        fs::create_dir(&others).unwrap();
        fs::write(slots.join("file"), "x").unwrap();
        fs::write(others.join("socket"), "x").unwrap();
        let opened = [own.path(), &slots].map(|path| fs::File::open(path).unwrap());
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            if !read_beneath_with_sockets(&opened[0], &opened[1]).unwrap() {
                return None;
            }
            drop(UnixListener::bind(slots.join("socket")).unwrap());
            fs::remove_file(slots.join("socket")).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"x");
            assert_eq!(fs::read_dir(&slots).unwrap().count(), 1);
            let refused = [
                fs::write(&file, "y"),
                fs::write(slots.join("file"), "y"),
                fs::create_dir(slots.join("a")),
                fs::remove_file(&file),
                fs::remove_file(others.join("socket")),
                fs::rename(others.join("socket"), slots.join("socket")),
                UnixListener::bind(others.join("other")).map(drop),
            ];
            Some(refused.map(|result| result.unwrap_err().kind()))
        });
        match thread.join().unwrap() {
            Some(refused) => assert!(
                refused.iter().all(|kind| matches!(
                    kind,
                    io::ErrorKind::PermissionDenied | io::ErrorKind::CrossesDevices
                )),
                "{refused:?}"
            ),
            None => eprintln!("skipped: this kernel has no Landlock that is new enough"),
        }
    }

    #[test]
    fn what_is_not_below_the_directory_is_out_of_reach() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let other = outside.path().join("other");
        fs::write(&other, "x").unwrap();
        let opened = fs::File::open(&other).unwrap();
        let (own, way) = (inside.path().to_owned(), inside.path().join("a/../b"));
        let directory = fs::File::open(&own).unwrap();
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            if !only_beneath(&directory).unwrap() {
                return None;
            }
            fs::create_dir(own.join("a")).unwrap();
            fs::write(own.join("a/file"), "y").unwrap();
            fs::hard_link(own.join("a/file"), &way).unwrap();
            std::os::unix::fs::symlink(&other, own.join("link")).unwrap();
            assert_eq!(fs::read(own.join("b")).unwrap(), b"y");
            fs::remove_file(own.join("b")).unwrap();
            opened.metadata().unwrap();
            let refused = [
                fs::read(&other).map(drop),
                fs::read(own.join("link")).map(drop),
                fs::write(&other, "z"),
                fs::remove_file(&other),
                fs::hard_link(&other, own.join("c")),
                fs::read_dir("/").map(drop),
            ];
            Some(refused.map(|result| result.map_err(|error| error.kind())))
        });
        match thread.join().unwrap() {
            Some(refused) => {
                for result in refused {
                    let kind = result.unwrap_err();
                    // Links out of what is allowed are said to lead to another file system.
                    assert!(
                        matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::CrossesDevices),
                        "{kind}"
                    );
                }
            }
            None => eprintln!("skipped: this kernel has no Landlock that is new enough"),
        }
        assert_eq!(fs::read(outside.path().join("other")).unwrap(), b"x");
    }
}
