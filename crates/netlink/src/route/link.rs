//! Requests that make, change and remove links.

use super::{DELETE_LINK, INET, NEW_LINK, UP, attribute, head};
use crate::message::{Attributes, CREATE, EXCLUSIVE, Message};

/// What a bridge of ours is like. What is `None` stays as it is, or as the kernel makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Time that a port listens and learns before it forwards, clock ticks.
    pub forward_delay: Option<u32>,
    /// Time until what was learned is forgotten, clock ticks; 0: nothing is learned for long.
    pub ageing_time: Option<u32>,
    /// Spanning tree.
    pub spanning_tree: Option<bool>,
    /// Which frames to reserved group addresses are forwarded: bit N is 01:80:c2:00:00:0N.
    pub group_forward_mask: Option<u16>,
    /// Learn no sender from frames to reserved group addresses.
    pub no_linklocal_learn: Option<bool>,
    /// Read group memberships.
    pub multicast_snooping: Option<bool>,
}

impl Bridge {
    fn info(self) -> Attributes {
        let mut data = Attributes::new();
        if let Some(ticks) = self.forward_delay {
            data.number(1, ticks);
        }
        if let Some(ticks) = self.ageing_time {
            data.number(4, ticks);
        }
        if let Some(on) = self.spanning_tree {
            data.number(5, on.into());
        }
        if let Some(mask) = self.group_forward_mask {
            data.push(9, &mask.to_ne_bytes());
        }
        if let Some(on) = self.multicast_snooping {
            data.push(23, &[on.into()]);
        }
        if let Some(on) = self.no_linklocal_learn {
            // Value and mask of bit 0, `BR_BOOLOPT_NO_LL_LEARN`.
            let value = u32::from(on).to_ne_bytes();
            data.push(46, &[value, 1_u32.to_ne_bytes()].concat());
        }
        let mut info = Attributes::new();
        info.text(1, "bridge").nest(2, &data);
        info
    }
}

/// Settings of a bridge's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Learn who is behind it.
    pub learning: Option<bool>,
    /// Send it frames for receivers that nobody knows.
    pub unicast_flood: Option<bool>,
}

/// What a link shall be: a new one, or a change of one that is there.
#[derive(Clone, Debug, Default)]
pub struct Link {
    index: u32,
    flags: u32,
    change: u32,
    attributes: Attributes,
    families: Attributes,
}

impl Link {
    /// Changes the link with this index.
    pub fn of(index: u32) -> Self {
        Self { index, ..Self::default() }
    }

    /// A new bridge.
    pub fn new_bridge(name: &str, bridge: Bridge) -> Self {
        Self::default().name(name).bridge(bridge)
    }

    /// Its name.
    pub fn name(mut self, name: &str) -> Self {
        self.attributes.text(attribute::NAME, name);
        self
    }

    /// Its hardware address.
    pub fn address(mut self, address: [u8; 6]) -> Self {
        self.attributes.push(attribute::ADDRESS, &address);
        self
    }

    /// Its longest packet, bytes.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.attributes.number(attribute::MTU, mtu);
        self
    }

    /// The bridge that it is a port of.
    pub fn master(mut self, index: u32) -> Self {
        self.attributes.number(attribute::MASTER, index);
        self
    }

    /// Settings of it as a bridge.
    pub fn bridge(mut self, bridge: Bridge) -> Self {
        self.attributes.nest(attribute::INFO, &bridge.info());
        self
    }

    /// Settings of it as a port of a bridge.
    pub fn port(mut self, port: Port) -> Self {
        let mut data = Attributes::new();
        if let Some(on) = port.learning {
            data.push(8, &[on.into()]);
        }
        if let Some(on) = port.unicast_flood {
            data.push(9, &[on.into()]);
        }
        let mut info = Attributes::new();
        info.text(4, "bridge").nest(5, &data);
        self.attributes.nest(attribute::INFO, &info);
        self
    }

    /// IPv4 settings of `net.ipv4.conf`: whether it forwards, and whether 127.0.0.0/8 may be behind it.
    pub fn ipv4(mut self, forwarding: bool, route_localnet: bool) -> Self {
        let mut settings = Attributes::new();
        settings.number(1, forwarding.into()).number(26, route_localnet.into());
        let mut inet = Attributes::new();
        inet.nest(1, &settings);
        self.families.nest(INET.into(), &inet);
        self
    }

    /// Up.
    pub fn up(mut self) -> Self {
        self.flags |= UP;
        self.change |= UP;
        self
    }

    /// Down.
    pub fn down(mut self) -> Self {
        self.flags &= !UP;
        self.change |= UP;
        self
    }

    fn message(self, flags: u16) -> Message {
        let mut message = Message::new(NEW_LINK, flags, &head(self.index, self.flags, self.change));
        *message.attributes() = self.attributes;
        if !self.families.bytes().is_empty() {
            message.attributes().nest(attribute::FAMILIES, &self.families);
        }
        message
    }

    /// The request that makes it. A link of its name is a refusal (`EEXIST`).
    pub fn create(self) -> Message {
        self.message(CREATE | EXCLUSIVE)
    }

    /// The request that changes it. No such link is a refusal (`ENODEV`).
    pub fn set(self) -> Message {
        self.message(0)
    }
}

/// Removes the link.
pub fn delete_link(index: u32) -> Message {
    Message::new(DELETE_LINK, 0, &head(index, 0, 0))
}
