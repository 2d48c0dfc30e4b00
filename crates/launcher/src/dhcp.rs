//! DHCP on sockets that the node agent opened: the guest's bytes are read here, where no privilege is.

use crate::log;
use ferrovirt_qemu::{
    dhcp::{Destination, Request, answer},
    order::{Lease, Nic},
};
use rustix::net::{RecvFlags, SendFlags, recv, sendto};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Most datagrams that are answered before other work has its turn.
const AT_ONCE: usize = 16;
const CLIENT_PORT: u16 = 68;

/// The server of one interface.
pub(crate) struct Server {
    socket: OwnedFd,
    lease: Lease,
    mac: [u8; 6],
}

impl Server {
    /// `None` for an interface whose hardware address is none.
    pub(crate) fn new(socket: OwnedFd, nic: &Nic, lease: Lease) -> Option<Self> {
        let mut mac = [0; 6];
        let mut pairs = nic.mac.split(':');
        for byte in &mut mac {
            *byte = u8::from_str_radix(pairs.next()?, 16).ok()?;
        }
        Some(Self { socket, lease, mac })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Answers what has come. False when the socket is of no use any more.
    pub(crate) fn serve(&self) -> bool {
        let mut bytes = [0_u8; 1500];
        for _ in 0..AT_ONCE {
            let length = match recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
                Err(error) => {
                    log::line(&format!("DHCP ended: {error}"));
                    return false;
                }
            };
            let Some(Ok(request)) = bytes.get(..length).map(Request::parse) else { continue };
            let Some(answer) = answer(&request, &self.lease, self.mac) else { continue };
            let to = match answer.to {
                Destination::Broadcast => Ipv4Addr::BROADCAST,
                Destination::Unicast(address) => address,
            };
            let to = SocketAddrV4::new(to, CLIENT_PORT);
            if let Err(error) = sendto(&self.socket, &answer.bytes, SendFlags::DONTWAIT, &to) {
                // The client asks again.
                log::line(&format!("a DHCP answer could not be sent to {to}: {error}"));
            }
        }
        true
    }
}
