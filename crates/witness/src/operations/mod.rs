//! The operations. Each has two halves: what it starts from is made while the kernel is permissive, so that only the second
//! half, one system call or few, meets the policy.

mod escape;
mod huge;
mod other;
mod sysfs;
#[cfg(test)]
mod tests;
mod tun;

use ferrovirt_lab_protocol::Operation;
use rustix::fs::{Mode, OFlags, open, openat};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

/// The second half.
pub(crate) type Act = Box<dyn FnOnce() -> io::Result<()>>;

/// Where a worker is.
pub(crate) struct Place {
    /// Its number; its directory is `/w/NUMBER`.
    pub(crate) number: u32,
    /// The number of the worker that plays another machine.
    pub(crate) neighbour: Option<u32>,
    /// What all paths are below: nothing in a guest, a directory in tests.
    root: String,
}

impl Place {
    /// The place of a worker in the guest.
    pub(crate) fn new(number: u32, neighbour: Option<u32>) -> Self {
        Self { number, neighbour, root: String::new() }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/w/{}/{name}", self.root, self.number)
    }

    fn huge(&self, name: &str) -> String {
        format!("{}/huge/{}/{name}", self.root, self.number)
    }

    fn neighbour(&self) -> io::Result<u32> {
        self.neighbour.ok_or_else(|| io::Error::other("this worker has no neighbour"))
    }

    fn neighbours(&self, name: &str) -> io::Result<String> {
        Ok(format!("{}/w/{}/{name}", self.root, self.neighbour()?))
    }

    fn neighbours_huge(&self) -> io::Result<String> {
        Ok(format!("{}/huge/{}", self.root, self.neighbour()?))
    }

    fn node(&self) -> io::Result<OwnedFd> {
        Ok(ferrovirt_sys::tap::open_node(self.path("tun"))?.into())
    }
}

/// Runs the first half of an operation.
pub(crate) fn prepare(operation: Operation, place: &Place) -> io::Result<Act> {
    match operation {
        Operation::TapCreate => tun::create(place),
        Operation::TapCreateSingle => tun::create_single(place),
        Operation::TapSecondQueue => tun::second_queue(place),
        Operation::TapOpenOwn => tun::open_own(place),
        Operation::TapDetachQueue => tun::detach_queue(place),
        Operation::TapAttachQueue => tun::attach_queue(place),
        Operation::TapOpenForeign => tun::open_foreign(place),
        Operation::TapPassedRead => tun::passed_read(place),
        Operation::TapPassedWrite => tun::passed_write(place),
        Operation::TapPassedDetach => tun::passed_detach(place),
        Operation::TapPassedAttach => tun::passed_attach(place),
        Operation::TapOpenAgents => tun::open_agents(place),
        Operation::HugeMkdir => huge::mkdir(place),
        Operation::HugeRmdir => huge::rmdir(place),
        Operation::HugeChmodDir => huge::chmod_dir(place),
        Operation::HugeCreate => huge::create(place),
        Operation::HugeUnlink => huge::unlink(place),
        Operation::HugeOpen => huge::open_file(place),
        Operation::HugeMap => huge::map(place),
        Operation::HugeAnonymous => huge::anonymous(place),
        Operation::HugeMemfd => huge::memfd(place),
        Operation::HugeList => huge::list(place),
        Operation::HugeRename => huge::rename(place),
        Operation::HugeSymlink => huge::symlink(place),
        Operation::HugeChmodFile => huge::chmod_file(place),
        Operation::HugeRelabel => huge::relabel(place),
        Operation::SysfsRead => sysfs::read(place),
        Operation::SysfsWrite => sysfs::write(place),
        Operation::SysfsWriteOther => sysfs::write_other(place),
        Operation::SysfsAppend => sysfs::append(place),
        Operation::SysfsChmod => sysfs::chmod(place),
        Operation::ProcSysWrite => sysfs::proc_sys(place),
        Operation::OwnFileRead => other::own_file(place),
        Operation::OtherFileRead => other::file(place),
        Operation::OtherFileReopen => other::reopen(place),
        Operation::OtherHugeFile => other::huge_file(place),
        Operation::OtherSocket => other::other_socket(place),
        Operation::OtherSignal => other::signal(place),
        Operation::OtherExists => other::exists(place),
        Operation::OtherTrace => other::trace_it(place),
        Operation::OtherStatus => other::status(place),
        Operation::OtherTap => other::tap(place),
        Operation::EscapeDomain => escape::domain(place),
        Operation::EscapeEnforcing => escape::enforcing(place),
        Operation::EscapePolicy => escape::policy(place),
        Operation::EscapeDisk => escape::disk(place),
    }
}

/// What a worker keeps for its neighbours.
pub(crate) struct Furniture {
    _socket: UnixListener,
    _secret: File,
}

/// Makes what neighbours reach for: a file, a file of huge pages, a socket, a TAP device, the process itself.
pub(crate) fn furnish(place: &Place) -> io::Result<Furniture> {
    fs::write(place.path("pid"), std::process::id().to_string())?;
    fs::write(place.path("secret"), "secret")?;
    fs::create_dir(place.huge(""))?;
    huge::file(&place.huge("memory"))?;
    let queue = place.node()?;
    ferrovirt_sys::tap::join(&queue, &format!("own{}", place.number), false)?;
    ferrovirt_sys::tap::keep(&queue)?;
    let name = format!("machine-{}", place.number);
    let socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    Ok(Furniture { _socket: socket, _secret: File::open(place.path("secret"))? })
}

/// A descriptor of a directory that stands for it in a path and gives no right to it.
fn anchor(path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a file of a directory and closes it again.
fn try_open(directory: &OwnedFd, name: impl rustix::path::Arg, how: OFlags) -> io::Result<()> {
    openat(directory, name, how | OFlags::CLOEXEC, Mode::empty())?;
    Ok(())
}
