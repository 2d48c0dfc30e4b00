//! The disks of claims, on a cluster: the kubelet has mounted them, and nobody else looks at what is in them.

use ferrovirt_qemu::order::Disk;
use rustix::{
    fs::{Dir, FileType, FlockOperation, Mode, OFlags, fstatvfs, openat},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

/// A new file may be smaller than its claim by this part of it, since the claim's file system takes some of it: upstream's
/// default of `--pvc-disk-space-tolerance`.
const TOLERANCE: u64 = 10;
/// What is left free in the claim's file system: upstream's reserve.
const RESERVE: u64 = 10 << 20;
/// A multiple of it is the size of a new file.
const ALIGNMENT: u64 = 1 << 20;
/// What the directory of a new file system holds.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// What is wrong with a claim.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(
        "claim {claim} has no file {file}, and none is made where the guest may not write: let a machine that writes to the \
         claim make it, or fill the claim"
    )]
    Missing { claim: String, file: String },
    #[error(
        "claim {claim} has no file {file}, and is not empty ({other:?} is in it): nothing is made beside what may be \
         somebody's data; rename its disk to {file}, or use another claim"
    )]
    Others { claim: String, file: String, other: String },
    #[error(
        "claim {claim} has no file {file}, and it is not known how large one would be: the claim's status says no capacity"
    )]
    Unknown { claim: String, file: String },
    #[error(
        "{file} of claim {claim} is not a regular file (links do not count): put a raw disk in its place"
    )]
    Strange { claim: String, file: String },
    #[error(
        "claim {claim} of {bytes} bytes has room for {room}, which is too little for {file}: use a larger claim, or remove \
         what else is in its file system"
    )]
    Full { claim: String, file: String, bytes: u64, room: u64 },
    #[error(
        "claim {claim} is read-only here, and the machine writes to it: let its access modes, the volume's mount options and \
         persistentVolumeClaim.readOnly fit, or make the disk read-only"
    )]
    ReadOnly { claim: String },
    #[error(
        "{what} of claim {claim} may not be used by user {user}, groups {groups}: its volume does not follow the pod's \
         fsGroup; set fsGroupPolicy of its CSI driver to File, or give it to that user or group on its storage; \
         where the pod has no fsGroup, set spec.configuration.volumeGroup of the KubeVirt object"
    )]
    Denied { claim: String, what: String, user: u32, groups: String },
    #[error(
        "the block device of claim {claim} may not be opened by user {user}: set device_ownership_from_security_context = \
         true for the container runtime of this node (containerd: [plugins.'io.containerd.cri.v1.runtime'], CRI-O: \
         [crio.runtime]) and start it again, then the machine; or use a claim with volumeMode Filesystem"
    )]
    Device { claim: String, user: u32 },
    #[error(
        "{file} of claim {claim} is empty, and another machine that runs has it open or is about to give it its size: this \
         one waits for that; let one machine alone use the claim, or make the disk before"
    )]
    Busy { claim: String, file: String },
    #[error("the device of claim {claim} is no block device")]
    NoDevice { claim: String },
    #[error("claim {claim}: {what}: {error}")]
    System { claim: String, what: String, error: io::Error },
}

/// Whether QEMU opens the disk for writing.
pub(crate) fn writes(disk: &Disk) -> bool {
    !(disk.read_only || disk.cdrom || disk.overlay)
}

/// The user of this process.
pub(crate) fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The groups of this process. They are read where no further system call is needed.
fn groups() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let own = line("Gid:").and_then(|ids| ids.split_whitespace().next());
    let others = line("Groups:").unwrap_or_default().split_whitespace();
    own.into_iter().chain(others).collect::<Vec<_>>().join(", ")
}

/// The file of a claim in file-system mode: it is there, or is made with up to `bytes`.
pub(crate) fn file(disk: &Disk, claim: &str, bytes: Option<u64>) -> Result<(), Problem> {
    let Some((directory, name)) = disk.path.rsplit_once('/') else {
        return Err(Problem::Missing { claim: claim.to_owned(), file: disk.path.clone() });
    };
    let found = Found { claim, name, writes: writes(disk) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty());
    let opened = opened.map_err(|error| found.failed("the directory", error))?;
    match found.open(&opened) {
        Err(Errno::NOENT) => found.make(&opened, bytes),
        Err(Errno::LOOP) => Err(found.strange()),
        Err(error) => Err(found.failed(name, error)),
        Ok(file) => {
            let stat = rustix::fs::fstat(&file).map_err(|error| found.failed(name, error))?;
            match (FileType::from_raw_mode(stat.st_mode).is_file(), stat.st_size, bytes) {
                (false, ..) => Err(found.strange()),
                // What an interrupted start has left: it holds nothing.
                (true, 0, Some(bytes)) if found.writes => found.fill(&opened, &File::from(file), bytes),
                (true, 0, Some(_)) => {
                    Err(Problem::Missing { claim: claim.to_owned(), file: name.to_owned() })
                }
                (true, ..) => Ok(()),
            }
        }
    }
}

/// The block device of a claim.
pub(crate) fn device(disk: &Disk, claim: &str) -> Result<(), Problem> {
    let access = if writes(disk) { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let claim = claim.to_owned();
    let system =
        |error: Errno| Problem::System { claim: claim.clone(), what: disk.path.clone(), error: error.into() };
    let opened = match rustix::fs::open(disk.path.as_str(), flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::ACCESS | Errno::PERM) => return Err(Problem::Device { claim, user: user() }),
        Err(Errno::ROFS) => return Err(Problem::ReadOnly { claim }),
        Err(error) => return Err(system(error)),
    };
    let stat = rustix::fs::fstat(&opened).map_err(system)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Ok(()),
        _ => Err(Problem::NoDevice { claim }),
    }
}

/// A claim whose directory is there.
struct Found<'a> {
    claim: &'a str,
    name: &'a str,
    writes: bool,
}

impl Found<'_> {
    fn failed(&self, what: &str, error: Errno) -> Problem {
        let claim = self.claim.to_owned();
        let what = what.to_owned();
        match error {
            Errno::ACCESS | Errno::PERM => Problem::Denied { claim, what, user: user(), groups: groups() },
            Errno::ROFS => Problem::ReadOnly { claim },
            error => Problem::System { claim, what, error: error.into() },
        }
    }

    fn strange(&self) -> Problem {
        Problem::Strange { claim: self.claim.to_owned(), file: self.name.to_owned() }
    }

    fn open(&self, directory: &OwnedFd) -> rustix::io::Result<OwnedFd> {
        let access = if self.writes { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(directory, self.name, flags, Mode::empty())
    }

    fn make(&self, directory: &OwnedFd, bytes: Option<u64>) -> Result<(), Problem> {
        let (claim, file) = (self.claim.to_owned(), self.name.to_owned());
        if let Some(other) = self.other(directory)? {
            return Err(Problem::Others { claim, file, other });
        }
        if !self.writes {
            return Err(Problem::Missing { claim, file });
        }
        let Some(bytes) = bytes else { return Err(Problem::Unknown { claim, file }) };
        // Before anything is made, so that a claim that is too small stays as it is.
        self.size(directory, bytes)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = openat(directory, self.name, flags, Mode::from_raw_mode(0o600));
        let made = made.map_err(|error| self.failed("the directory", error))?;
        self.fill(directory, &made.into(), bytes)
    }

    /// The name of something else in the directory.
    fn other(&self, directory: &OwnedFd) -> Result<Option<String>, Problem> {
        let failed = |error| self.failed("the directory", error);
        for entry in Dir::read_from(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if ![b".".as_slice(), b"..", LOST_AND_FOUND].contains(&name) {
                return Ok(Some(String::from_utf8_lossy(name).into_owned()));
            }
        }
        Ok(None)
    }

    /// How large the file gets.
    fn size(&self, directory: impl AsFd, bytes: u64) -> Result<u64, Problem> {
        let system = fstatvfs(directory).map_err(|error| self.failed("the file system", error))?;
        let room = system.f_bavail.saturating_mul(system.f_frsize).saturating_sub(RESERVE);
        let size = bytes.min(room) / ALIGNMENT * ALIGNMENT;
        if size < bytes - bytes / TOLERANCE || size == 0 {
            let (claim, file) = (self.claim.to_owned(), self.name.to_owned());
            return Err(Problem::Full { claim, file, bytes, room });
        }
        Ok(size)
    }

    /// Gives an empty file its size. Anyone who is of the volume's group may use it later, as another user too.
    fn fill(&self, directory: &OwnedFd, file: &File, bytes: u64) -> Result<(), Problem> {
        let size = self.size(directory, bytes)?;
        match give_size(directory, file, size, 0o660) {
            Err(Errno::AGAIN) => {
                Err(Problem::Busy { claim: self.claim.to_owned(), file: self.name.to_owned() })
            }
            other => other.map_err(|error| self.failed(self.name, error)),
        }
    }
}

/// Gives a file that is still empty its size and mode. Where several machines begin at once, one of them does it: to another
/// the file is not empty any more, or it waits for the order to be said again.
///
/// # Errors
/// `EAGAIN` where another process is about to do it.
pub(crate) fn give_size(directory: &OwnedFd, file: &File, size: u64, mode: u32) -> rustix::io::Result<()> {
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN | Errno::ACCESS) => return Err(Errno::AGAIN),
        other => other?,
    }
    if rustix::fs::fstat(file)?.st_size != 0 {
        return Ok(());
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    rustix::fs::ftruncate(file, size)?;
    rustix::fs::fsync(file)?;
    rustix::fs::fsync(directory)
}
