//! Whose network namespace a launcher's descriptors are of.

use super::{Refusal, descriptors::Descriptors, kernel};
use ferrovirt_sys::netns;
use rustix::fs::fstat;
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The one namespace of a launcher's link and descriptors, held open: as long as it is, no other one has its inode.
#[derive(Debug)]
pub struct Home {
    cookie: u64,
    namespace: OwnedFd,
}

impl Home {
    /// Finds it.
    ///
    /// # Errors
    /// When they are not of one.
    pub fn of(link: BorrowedFd<'_>, sent: &Descriptors) -> Result<Self, Refusal> {
        let asking = "asking for the network namespace of a launcher's descriptor";
        let cookie = netns::cookie(link).map_err(kernel(asking))?;
        for (name, socket) in [
            ("the UDP socket", &sent.udp),
            ("the NETLINK_ROUTE socket", &sent.route),
            ("the NETLINK_NETFILTER socket", &sent.netfilter),
        ] {
            if netns::cookie(socket.as_fd()).map_err(kernel(asking))? != cookie {
                return Err(Refusal::Elsewhere(name));
            }
        }
        let namespace = netns::of(sent.udp.as_fd()).map_err(kernel(asking))?;
        let inode = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).map_err(kernel(asking));
        // The TUN driver knows no cookie. Both namespaces are open while their inodes are compared.
        let own = inode(&namespace)?;
        for queue in &sent.tun {
            if inode(&netns::of(queue.as_fd()).map_err(kernel(asking))?)? != own {
                return Err(Refusal::Elsewhere("a descriptor of /dev/net/tun"));
            }
        }
        Ok(Self { cookie, namespace })
    }

    /// Its cookie.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// Which slot has which namespace, by their cookies: no two ever have the same.
#[derive(Debug)]
pub struct Namespaces {
    host: Option<u64>,
    own: u64,
    taken: BTreeMap<u64, String>,
}

impl Namespaces {
    /// None are taken. `host` is the cookie of the host's namespace, which the program that the kubelet connects to learns from
    /// that connection; `own` a socket of this process.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(host: Option<u64>, own: BorrowedFd<'_>) -> Result<Self, Refusal> {
        let own = netns::cookie(own).map_err(kernel("asking for the own network namespace"))?;
        Ok(Self { host, own, taken: BTreeMap::new() })
    }

    /// What is known of the host's namespace now.
    pub fn set_host(&mut self, host: Option<u64>) {
        self.host = host;
    }

    /// Whether a slot's launcher may be heard from this namespace.
    ///
    /// # Errors
    /// When it is the host's, this process's or another slot's, or the slot has another.
    pub fn link(&self, slot: &str, cookie: u64) -> Result<(), Refusal> {
        if Some(cookie) == self.host {
            return Err(Refusal::Forbidden("the host's"));
        }
        if cookie == self.own {
            return Err(Refusal::Forbidden("that of the node agent"));
        }
        match self.taken.get(&cookie) {
            Some(holder) if holder != slot => Err(Refusal::Taken(holder.clone())),
            None if self.taken.values().any(|holder| holder == slot) => Err(Refusal::Moved),
            _ => Ok(()),
        }
    }

    /// Gives the slot this namespace: last of all, so that what is refused for another reason takes no place.
    ///
    /// # Errors
    /// As [`Self::link`]; and while it is not known which one the host's is.
    pub fn enter(&mut self, slot: &str, cookie: u64) -> Result<(), Refusal> {
        if self.host.is_none() {
            return Err(Refusal::Unknown);
        }
        self.link(slot, cookie)?;
        self.taken.insert(cookie, slot.to_owned());
        Ok(())
    }

    /// Keeps the namespace of a slot's launcher for the slot, which may have a network from before this process began.
    pub fn reserve(&mut self, slot: &str, cookie: u64) {
        self.taken.insert(cookie, slot.to_owned());
    }

    /// Forgets the slots of which this is not true.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.taken.retain(|_, holder| is_there(holder));
    }
}
