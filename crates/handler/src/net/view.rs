//! What a pod's namespace has, read over a socket of our own.

use super::{Refusal, netlink};
use ferrovirt_netlink::{
    Socket,
    route::{self, Address, Shown, Target},
};
use ferrovirt_sys::netlink::Protocol;
use std::{net::IpAddr, os::fd::BorrowedFd};

/// A pod's namespace, seen from ours. It is read and never written: of what is sent with a namespace's number, some acts
/// on our own instead (`RTM_NEWADDR`).
#[derive(Debug)]
pub struct View {
    socket: Socket,
    target: Target,
}

impl View {
    /// Looks into a namespace that is open.
    ///
    /// # Errors
    /// What the kernel says; `EPERM` without CAP_NET_ADMIN over it.
    pub fn of(namespace: BorrowedFd<'_>) -> Result<Self, Refusal> {
        let looking = || netlink("looking into the pod's network namespace");
        let mut socket = Socket::open(Protocol::Route).map_err(looking())?;
        let target = route::target(&mut socket, namespace).map_err(looking())?;
        Ok(Self { socket, target })
    }

    /// Every link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> Result<Vec<Shown>, Refusal> {
        route::links(&mut self.socket, Some(self.target), None).map_err(netlink("listing the pod's links"))
    }

    /// The link of this name or other name.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link(&mut self, name: &str) -> Result<Option<Shown>, Refusal> {
        let found = route::link_named(&mut self.socket, Some(self.target), name);
        found.map_err(netlink("looking for a link of the pod"))
    }

    /// The link with this index.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link_at(&mut self, index: u32) -> Result<Option<Shown>, Refusal> {
        let found = route::link_at(&mut self.socket, Some(self.target), index);
        found.map_err(netlink("looking for a link of the pod"))
    }

    /// Refuses a name that a device has, as its first or another name.
    ///
    /// # Errors
    /// [`Refusal::Present`].
    pub fn free(&mut self, name: &str) -> Result<(), Refusal> {
        match self.link(name)? {
            Some(_) => Err(Refusal::Present(name.to_owned())),
            None => Ok(()),
        }
    }

    /// Every IPv4 address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Refusal> {
        let found = route::addresses(&mut self.socket, Some(self.target));
        found.map_err(netlink("listing the pod's addresses"))
    }

    /// Refuses a namespace without one of the addresses that the pod has by its status.
    ///
    /// # Errors
    /// [`Refusal::Address`].
    pub fn has(&mut self, wanted: &[IpAddr]) -> Result<(), Refusal> {
        let mut there: Vec<IpAddr> = self.addresses()?.iter().map(|address| address.address.into()).collect();
        if wanted.iter().any(IpAddr::is_ipv6) {
            let more = route::addresses6(&mut self.socket, Some(self.target));
            there.extend(more.map_err(netlink("listing the pod's addresses"))?.into_iter().map(IpAddr::from));
        }
        let missing = wanted.iter().find(|wanted| !there.contains(wanted));
        missing.map_or(Ok(()), |address| Err(Refusal::Address(*address)))
    }
}
