//! Whether this kernel lets a process without capabilities lend its sockets: what everything here rests on.

use ferrovirt_netlink::{Channel, route::Link};
use ferrovirt_sys::{
    fork::{self, OneThread},
    netlink::{self, Protocol},
    rights,
    seqpacket::Connection,
};
use rustix::io::Errno;
use std::{io, os::fd::AsFd};

/// An index that no link has.
const NOBODY: u32 = i32::MAX.unsigned_abs();

/// What is wrong, for an administrator; `None` when a request through a socket that a child without capabilities has
/// opened is judged by the capabilities of the process that sends it with an address.
///
/// # Errors
/// When it cannot be tried.
pub(super) fn problem(one: &OneThread) -> io::Result<Option<String>> {
    let (ours, theirs) = Connection::pair()?;
    match fork::fork(one)? {
        None => std::process::exit(i32::from(lend(&theirs).is_err())),
        Some(mut child) => {
            drop(theirs);
            // It ends when it cannot send, and so does its end of the pair.
            let lent = ours.recv(16)?;
            child.wait()?;
            let socket = lent.and_then(|lent| lent.fds.into_iter().next());
            let socket =
                socket.ok_or_else(|| io::Error::other("the child could not open a netlink socket"))?;
            Ok(judge(Channel::new(socket)))
        }
    }
}

fn lend(to: &Connection) -> io::Result<()> {
    rights::give_up()?;
    let socket = netlink::open(Protocol::Route)?;
    to.send(b"x", &[socket.as_fd()])
}

/// The capability is asked for before the link is looked for, and a link that is not there is not changed.
fn judge(mut lent: Channel) -> Option<String> {
    let said = lent.order(&Link::of(NOBODY).up().set());
    match said.as_ref().map_err(|error| error.errno()) {
        Ok(()) | Err(Some(Errno::NODEV)) => None,
        Err(Some(Errno::PERM)) => Some(
            "networks of machines cannot be made: either virt-handler net has no CAP_NET_ADMIN, or this kernel asks anyone who \
             opened a netlink socket for it, also of messages with an address (before Linux 3.16)"
                .to_owned(),
        ),
        Err(_) => said.err().map(|error| format!("networks of machines cannot be made: {error}")),
    }
}
