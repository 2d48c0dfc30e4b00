//! What a launcher sends: how many descriptors, and what each of them is.
//!
//! Of a descriptor nothing is known. So it is asked in an order in which no question can wait or do harm: the kind of
//! its inode without its file system (a hung FUSE server would hold up fstat(2)), its mode of opening (nothing can be
//! asked of an `O_PATH` one), the options of a socket; and only then the ioctls of the TUN driver.

use super::{Refusal, kernel};
use ferrovirt_sys::tap;
use rustix::{
    fs::{AtFlags, FileType, OFlags, StatxFlags, fcntl_getfl, statx},
    net::{
        AddressFamily, Protocol, SocketType, ipproto, netlink,
        sockopt::{socket_domain, socket_protocol, socket_type},
    },
};
use std::{
    fmt, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// What a descriptor should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/dev/net/tun`, not a queue of a device yet.
    Tun,
    /// A UDP socket of IPv4, by which links are found and the namespace is known.
    Udp,
    /// A netlink socket for links and addresses.
    Route,
    /// A netlink socket for nf_tables.
    Netfilter,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tun => "free descriptor of /dev/net/tun",
            Self::Udp => "UDP socket of IPv4",
            Self::Route => "NETLINK_ROUTE socket",
            Self::Netfilter => "NETLINK_NETFILTER socket",
        })
    }
}

/// Of the TUN driver: `MISC_MAJOR` and `TUN_MINOR`.
const TUN: (u32, u32) = (10, 200);

/// What comes before the descriptors of the TUN driver.
const OTHERS: [Kind; 3] = [Kind::Udp, Kind::Route, Kind::Netfilter];

/// Descriptors of a pod's network namespace, by kind.
#[derive(Debug)]
pub struct Descriptors {
    /// One for each queue of the TAP.
    pub tun: Vec<OwnedFd>,
    /// See [`Kind::Udp`].
    pub udp: OwnedFd,
    /// See [`Kind::Route`].
    pub route: OwnedFd,
    /// See [`Kind::Netfilter`].
    pub netfilter: OwnedFd,
}

/// Sorts what a launcher has sent: the socket for UDP, those for NETLINK_ROUTE and NETLINK_NETFILTER, and as many
/// descriptors of the TUN driver as the TAP shall have queues. Each is checked.
///
/// # Errors
/// Another number, or one that is not what it should be. Then all of them stay open until this process ends: closing may
/// wait for ever, and at the end of a process it does not (see [`super::child`]).
pub fn sort(sent: Vec<OwnedFd>, queues: usize) -> Result<Descriptors, Refusal> {
    if let Err(refusal) = check_all(&sent, queues) {
        mem::forget(sent);
        return Err(refusal);
    }
    let mut sent = sent.into_iter();
    match (sent.next(), sent.next(), sent.next()) {
        (Some(udp), Some(route), Some(netfilter)) => {
            Ok(Descriptors { tun: sent.collect(), udp, route, netfilter })
        }
        _ => Err(count(0, queues)),
    }
}

fn check_all(sent: &[OwnedFd], queues: usize) -> Result<(), Refusal> {
    if sent.len() != queues + OTHERS.len() {
        return Err(count(sent.len(), queues));
    }
    for (place, fd) in sent.iter().enumerate() {
        check(fd.as_fd(), OTHERS.get(place).copied().unwrap_or(Kind::Tun), place)?;
    }
    Ok(())
}

fn count(sent: usize, queues: usize) -> Refusal {
    Refusal::Count(format!("{sent} descriptors instead of {}", queues + OTHERS.len()))
}

/// Checks that the descriptor at this place is what it should be.
///
/// # Errors
/// What gives it away.
pub fn check(fd: BorrowedFd<'_>, wanted: Kind, place: usize) -> Result<(), Refusal> {
    let unfit = |found| Refusal::Kind { place, wanted, found };
    let asking = "asking what a launcher's descriptor is";
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(fd, "", flags, StatxFlags::TYPE).map_err(kernel(asking))?;
    if fcntl_getfl(fd).map_err(kernel(asking))?.contains(OFlags::PATH) {
        return Err(unfit("it is a path and not open"));
    }
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    match (wanted, kind) {
        (Kind::Tun, FileType::CharacterDevice) => {
            if (stat.stx_rdev_major, stat.stx_rdev_minor) != TUN {
                return Err(unfit("it is another device"));
            }
            if tap::is_queue(fd).map_err(kernel(asking))? {
                return Err(Refusal::Attached(place));
            }
            // The index of a device can be chosen before the device is made.
            tap::choose_index(fd, 0).map_err(kernel("forgetting the index that a launcher chose"))
        }
        (Kind::Udp | Kind::Route | Kind::Netfilter, FileType::Socket) => {
            let domain = socket_domain(fd).map_err(kernel(asking))?;
            let kind = socket_type(fd).map_err(kernel(asking))?;
            let protocol = socket_protocol(fd).map_err(kernel(asking))?;
            // Sockets for ping differ from those for UDP in the protocol alone, and bytes for one kind of netlink mean
            // something else to another.
            match socket(wanted) {
                (family, ..) if domain != family => Err(unfit("it is a socket of another family")),
                (_, socket, _) if kind != socket => Err(unfit("it is a socket of another type")),
                (.., number) if protocol != number => Err(unfit("it is a socket of another protocol")),
                _ => Ok(()),
            }
        }
        _ => Err(unfit("it is another kind of file")),
    }
}

fn socket(kind: Kind) -> (AddressFamily, SocketType, Option<Protocol>) {
    match kind {
        Kind::Udp => (AddressFamily::INET, SocketType::DGRAM, Some(ipproto::UDP)),
        Kind::Netfilter => (AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)),
        // The number of NETLINK_ROUTE is 0.
        Kind::Route | Kind::Tun => (AddressFamily::NETLINK, SocketType::RAW, None),
    }
}
