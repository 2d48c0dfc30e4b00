//! Rules inside a pod: its guest's translation, and who may be its neighbour.

use super::pod::{BRIDGE, GATEWAY, GUEST, NIC};
use ferrovirt_netlink::nft::{Batch, Family, Field, Hook, Kind, Rule, Set, Table, Type};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The tables that users of KubeVirt know.
const TABLE: &str = "kubevirt";
/// Connections of one address that the pod keeps track of: the memory for it is the node's.
const MOST_CONNECTIONS: u32 = 4096;
/// Addresses whose connections are counted at a time.
const MOST_SOURCES: u32 = 512;

/// Priorities of hooks, as nft names them: `filter`, `dstnat`, `srcnat`; and where the kernel translates what the pod
/// itself sends.
const FILTER: i32 = 0;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const LOCAL_DSTNAT: i32 = -100;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where DHCP is served.
const DHCP: u16 = 67;

/// Of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the pod behind which the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// The kernel's table of neighbours is one for all namespaces: a guest is one of them.
pub(super) fn neighbours(batch: &mut Batch, guest: Ipv4Addr) {
    let table = Table { family: Family::Arp, name: TABLE };
    batch.table(table);
    batch.base_chain(table, "input", Kind::Filter, Hook::Input, FILTER);
    let others = Rule::new().iifname(BRIDGE).none_of(Field::ArpSaddrIp, &[guest.octets(), [0; 4]]).drop();
    batch.rule(table, "input", others);
}

/// The translation table: everything, or the given ports, to the guest; the guest out with the pod's address. What the
/// guest sends in another's name would leave untranslated and goes nowhere.
pub(super) fn translation(batch: &mut Batch, ports: &[Port]) {
    let table = Table { family: Family::Ip, name: TABLE };
    batch.table(table);
    batch.set(table, Set::dynamic("connections", &[Type::Ipv4Addr], MOST_SOURCES));
    batch.base_chain(table, "input", Kind::Filter, Hook::Input, FILTER);
    batch.base_chain(table, "prerouting", Kind::Nat, Hook::Prerouting, DSTNAT);
    batch.base_chain(table, "output", Kind::Nat, Hook::Output, LOCAL_DSTNAT);
    batch.base_chain(table, "postrouting", Kind::Nat, Hook::Postrouting, SRCNAT);
    batch.base_chain(table, "forward", Kind::Filter, Hook::Forward, FILTER);
    let mut add = |chain: &str, rule: Rule| batch.rule(table, chain, rule);
    let rule = Rule::new;
    let guest = || rule().iifname(BRIDGE);
    let too_many =
        |rule: Rule| rule.state_new().count_over(Field::IpSaddr, "connections", MOST_CONNECTIONS).drop();

    add("input", guest().established().accept());
    add("input", guest().l4proto(UDP).is_not(Field::Dport, DHCP.to_be_bytes()).drop());
    add("input", guest().none_of(Field::L4proto, &[[UDP], [ICMP]]).drop());
    add("input", too_many(guest()));

    if ports.is_empty() {
        add("prerouting", rule().iifname(NIC).dnat(GUEST));
    }
    for port in ports {
        let protocol = match port.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        let forwarded =
            |rule: Rule| rule.l4proto(protocol).is(Field::Dport, port.port.to_be_bytes()).dnat(GUEST);
        add("prerouting", forwarded(rule().iifname(NIC)));
        add("output", forwarded(rule().is(Field::IpDaddr, Ipv4Addr::LOCALHOST.octets())));
    }

    add("postrouting", rule().is(Field::IpSaddr, GUEST.octets()).masquerade());
    let from_here = rule().oifname(BRIDGE).is(Field::IpSaddr, Ipv4Addr::LOCALHOST.octets());
    add("postrouting", from_here.snat(GATEWAY));

    add("forward", guest().is_not(Field::IpSaddr, GUEST.octets()).drop());
    add("forward", too_many(rule()));
}
