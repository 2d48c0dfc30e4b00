//! The node's nf_tables rules for the pod network, as one batch: who may say what on the bridge, who reaches whom, what
//! of the node is reachable, and what is forwarded.
//!
//! Interface names, addresses and numbers in it are ours or the plug-in's; nothing of it is text of a pod or a user.
//! A rule of the bridge family cannot ask for a port's bridge on every kernel (`CONFIG_NFT_BRIDGE_META`), so rules name
//! ports; a port gets its names before its pod is used. What a port may say gets a mark, and the node hears
//! nothing from its bridge that has none: anything else that becomes a member of the bridge is not heard. What the node says
//! there comes from its bridge's own hardware address and goes to ports alone: such a member hears nothing of it, either.

use super::{Isolation, Policy, ports::Port};
use crate::status::PODS;
use ferrovirt_netlink::mac::MacAddress;
use ferrovirt_netlink::nft::{Batch, Element, Family, Field, Hook, Kind, Rule, Set, Table, Type, key, name};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// Names of bridges of every instance on a node start like this.
pub(super) const BRIDGES: &str = "fv-";
/// Names of tables of every instance start like this.
pub(super) const TABLES: &str = "ferrovirt_";
/// The one table that instances share: the node is no router for others because we switched forwarding on.
pub(super) const ROUTER: &str = "ferrovirt_router";
/// Most connections out of the pod network and to the node that one pod may have open.
const MOST_CONNECTIONS: u32 = 4096;
/// On frames that a known port may say; taken off before the kernel looks for a route. Other programs' marks are bits of
/// their own, and never all of these.
const KNOWN: u32 = 0xfe22_057a;
/// Sources of connections that are counted at a time.
const MOST_SOURCES: u32 = 512;

/// Bridges whose connections are counted: ours, and place for its names of a moment ago.
const MOST_BRIDGES: u32 = 4;

/// Priorities of hooks, as nft names them: `filter` of bridges, `filter` of others, `srcnat`; and before everything else
/// that looks at packets (`raw` is -300).
const BRIDGE_FILTER: i32 = -200;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;
const FIRST: i32 = -450;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Connections that are kept track of for pods: the kernel's table is everybody's on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connections {
    /// Of one pod.
    each: u32,
    /// Of all.
    all: u32,
}

impl Connections {
    /// Shares half of a table with room for `most` connections (`net.netfilter.nf_conntrack_max`) among as many pods as a
    /// node takes, so that no pod uses up another's share.
    pub(super) fn share(most: u32) -> Self {
        let all = (most / 2).max(1);
        Self { each: (all / PODS).clamp(1, MOST_CONNECTIONS), all }
    }
}

/// What the rules are made from.
pub(super) struct Facts<'a> {
    /// The node's bridge.
    pub(super) bridge: &'a str,
    /// Name of our tables.
    pub(super) table: &'a str,
    /// Network of the pods and its prefix length.
    pub(super) subnet: (Ipv4Addr, u8),
    /// The node's address on it.
    pub(super) gateway: Ipv4Addr,
    /// The bridge's hardware address, from which all comes that the node says there.
    pub(super) mac: MacAddress,
    /// What pods may take of the table of connections.
    pub(super) connections: Connections,
    /// Who else bridges on this node, when forwarding was off before we came.
    pub(super) others: Option<&'a BTreeSet<String>>,
}

impl Facts<'_> {
    fn bridge_table(&self) -> Table<'_> {
        Table { family: Family::Bridge, name: self.table }
    }

    fn node_table(&self) -> Table<'_> {
        Table { family: Family::Inet, name: self.table }
    }
}

/// The batch. Applying it twice changes nothing; counters and counts of connections go on.
pub(super) fn render(facts: &Facts<'_>, policy: &Policy, ports: &BTreeMap<String, Port>) -> Batch {
    let mut batch = Batch::new();
    bridge(&mut batch, facts, policy.isolation);
    elements(&mut batch, facts.bridge_table(), ports);
    node(&mut batch, facts, policy, ports);
    if let Some(others) = facts.others {
        router(&mut batch, others);
    }
    batch
}

/// The batch that takes our tables away.
pub(super) fn removal(table: &str) -> Batch {
    let mut batch = Batch::new();
    for family in [Family::Bridge, Family::Inet, Family::Arp] {
        batch.remove(Table { family, name: table });
    }
    batch
}

/// The batch that takes the shared table away.
pub(super) fn router_removal() -> Batch {
    let mut batch = Batch::new();
    batch.remove(Table { family: Family::Ip, name: ROUTER });
    batch
}

/// The sets of the bridge's table, all of ports.
const SETS: [(&str, &[Type]); 5] = [
    ("ports", &[Type::Ifname]),
    ("hardware", &[Type::Ifname, Type::EtherAddr]),
    ("senders", &[Type::Ifname, Type::EtherAddr, Type::Ipv4Addr]),
    ("owners", &[Type::EtherAddr, Type::Ipv4Addr]),
    ("members", &[Type::Mark, Type::Ifname]),
];
/// Its map.
const GROUP: &str = "group";

/// Frames to 01:80:c2:00:00:0X are not forwarded but handled before other hooks, where a bridge learns their sender.
fn reserved(rule: Rule) -> Rule {
    let rule = rule.masked(Field::EtherDaddr, [0xff, 0xff, 0xff, 0xff, 0xff, 0xf0], [1, 0x80, 0xc2, 0, 0, 0]);
    refused(rule)
}

fn unicast(rule: Rule) -> Rule {
    rule.masked(Field::EtherDaddr, [1, 0, 0, 0, 0, 0], [0; 6])
}

fn refused(rule: Rule) -> Rule {
    rule.counter_name("refused").drop()
}

fn spoofed(rule: Rule) -> Rule {
    rule.counter_name("spoofed").drop()
}

fn isolated(rule: Rule) -> Rule {
    rule.counter_name("isolated").drop()
}

/// The bridge: a port speaks IPv4 and ARP with its own addresses, and is heard by its namespace.
fn bridge(batch: &mut Batch, facts: &Facts<'_>, isolation: Isolation) {
    let table = facts.bridge_table();
    batch.table(table);
    for counter in ["spoofed", "isolated", "refused"] {
        batch.counter(table, counter);
    }
    for (set, types) in SETS {
        batch.set(table, Set::of(set, types));
    }
    batch.set(table, Set::map(GROUP, &[Type::Ifname], Type::Mark));
    for (chain, hook) in [
        ("prerouting", Hook::Prerouting),
        ("input", Hook::Input),
        ("forward", Hook::Forward),
        ("postrouting", Hook::Postrouting),
    ] {
        batch.base_chain(table, chain, Kind::Filter, hook, BRIDGE_FILTER);
    }
    for chain in ["from_port", "from_port_ip", "from_port_arp"] {
        batch.chain(table, chain);
    }
    batch.flush_rules(table);
    let mut add = |chain: &str, rule: Rule| batch.rule(table, chain, rule);
    let rule = Rule::new;
    add("prerouting", rule().among(&[Field::Iifname], "ports").jump("from_port"));
    from_port(&mut add, facts);
    add("input", reserved(rule().among(&[Field::Iifname], "ports")));
    let outside = |field| rule().not_among(&[field], "ports");
    add("forward", outside(Field::Iifname).not_among(&[Field::Oifname], "ports").accept());
    add("forward", isolated(outside(Field::Iifname)));
    add("forward", isolated(outside(Field::Oifname)));
    match isolation {
        Isolation::Namespace => {
            add("forward", rule().mark_from(Field::Iifname, GROUP));
            add("forward", rule().among(&[Field::Mark, Field::Oifname], "members").accept());
            add("forward", isolated(rule()));
        }
        Isolation::None => add("forward", rule().accept()),
    }
    // What the node asks everybody, above all.
    let own = rule().is(Field::EtherSaddr, facts.mac.0);
    add("postrouting", own.not_among(&[Field::Oifname], "ports").counter().drop());
    let elsewhere = unicast(rule().among(&[Field::Oifname], "ports"));
    add("postrouting", elsewhere.not_among(&[Field::Oifname, Field::EtherDaddr], "hardware").drop());
}

/// What a port may say.
fn from_port(add: &mut impl FnMut(&str, Rule), facts: &Facts<'_>) {
    let rule = Rule::new;
    let chain = "from_port";
    add(chain, reserved(rule()));
    add(chain, spoofed(rule().not_among(&[Field::Iifname, Field::EtherSaddr], "hardware")));
    add(chain, refused(rule().one_of(Field::EtherType, &[[0x81, 0], [0x88, 0xa8]])));
    add(chain, rule().is(Field::EtherType, [8, 0]).jump("from_port_ip"));
    add(chain, rule().ether_type_arp().jump("from_port_arp"));
    add(chain, refused(rule()));

    let chain = "from_port_ip";
    let nobody = rule().protocol_ip().is(Field::IpSaddr, [0; 4]);
    add(chain, nobody.clone().l4proto(UDP).is(Field::Dport, 67_u16.to_be_bytes()).drop());
    let sender = [Field::Iifname, Field::EtherSaddr, Field::IpSaddr];
    add(chain, spoofed(rule().protocol_ip().not_among(&sender, "senders")));
    add(chain, spoofed(nobody));
    let pod = unicast(rule()).protocol_ip().network(Field::IpDaddr, facts.subnet, true);
    let pod = pod.is_not(Field::IpDaddr, facts.gateway.octets());
    add(chain, refused(pod.not_among(&[Field::EtherDaddr, Field::IpDaddr], "owners")));
    add(chain, rule().set_mark(KNOWN).accept());

    let chain = "from_port_arp";
    let arp = || rule().ether_type_arp();
    add(chain, refused(arp().is_not(Field::ArpHtype, [0, 1])));
    add(chain, refused(arp().is_not(Field::ArpPtype, [8, 0])));
    add(chain, refused(arp().is_not(Field::ArpHlen, [6])));
    add(chain, refused(arp().is_not(Field::ArpPlen, [4])));
    add(chain, refused(arp().network(Field::ArpDaddrIp, facts.subnet, false)));
    let sender = [Field::Iifname, Field::ArpSaddrEther, Field::ArpSaddrIp];
    add(chain, spoofed(arp().not_among(&sender, "senders")));
    add(chain, arp().one_of(Field::ArpOperation, &[[0, 1], [0, 2]]).set_mark(KNOWN).accept());
    add(chain, refused(rule()));
}

/// Which ports there are, in place of what was known before.
fn elements(batch: &mut Batch, table: Table<'_>, ports: &BTreeMap<String, Port>) {
    let namespaces: BTreeSet<&str> = ports.values().map(|port| port.namespace.as_str()).collect();
    let number = |port: &Port| {
        let place = namespaces.iter().position(|name| *name == port.namespace).unwrap_or_default();
        u32::try_from(place + 1).unwrap_or(u32::MAX).to_ne_bytes()
    };
    let mut all = SETS.map(|(set, _)| (set, Vec::new()));
    let mut groups = Vec::new();
    for port in ports.values() {
        let (link, mac, ip) = (name(&port.name), port.mac.0, port.ip.octets());
        let group = number(port);
        let rows: [Vec<Vec<u8>>; 5] = [
            vec![key(&[&link])],
            vec![key(&[&link, &mac])],
            // The second is what asks whether an address is free (RFC 5227).
            vec![key(&[&link, &mac, &ip]), key(&[&link, &mac, &[0; 4]])],
            vec![key(&[&mac, &ip])],
            vec![key(&[&group, &link])],
        ];
        for ((_, elements), row) in all.iter_mut().zip(rows) {
            elements.extend(row.into_iter().map(|key| Element { key, value: None }));
        }
        groups.push(Element { key: link.to_vec(), value: Some(group.to_vec()) });
    }
    for (set, elements) in all.into_iter().chain([(GROUP, groups)]) {
        batch.flush_set(table, set);
        batch.elements(table, set, &elements);
    }
}

/// The node: what it answers, what it forwards, and in whose name that leaves.
fn node(batch: &mut Batch, facts: &Facts<'_>, policy: &Policy, ports: &BTreeMap<String, Port>) {
    let table = facts.node_table();
    batch.table(table);
    batch.set(table, Set::of("ports", &[Type::Ifname]));
    batch.set(table, Set::dynamic("connections", &[Type::Ipv4Addr], MOST_SOURCES));
    batch.set(table, Set::dynamic("total", &[Type::Ifname], MOST_BRIDGES));
    batch.base_chain(table, "prerouting", Kind::Filter, Hook::Prerouting, FIRST);
    batch.base_chain(table, "input", Kind::Filter, Hook::Input, FILTER);
    batch.base_chain(table, "forward", Kind::Filter, Hook::Forward, FILTER);
    batch.base_chain(table, "postrouting", Kind::Nat, Hook::Postrouting, SRCNAT);
    for chain in ["to_node", "outwards", "inwards"] {
        batch.chain(table, chain);
    }
    batch.flush_rules(table);
    batch.flush_set(table, "ports");
    let names: Vec<_> =
        ports.values().map(|port| Element { key: name(&port.name).to_vec(), value: None }).collect();
    batch.elements(table, "ports", &names);

    let bridge = facts.bridge;
    let mut add = |chain: &str, rule: Rule| batch.rule(table, chain, rule);
    let rule = Rule::new;
    let unknown = || rule().iifname(bridge).is_not(Field::Mark, KNOWN.to_ne_bytes()).counter().drop();
    add("prerouting", unknown());
    add("prerouting", rule().iifname(bridge).set_mark(0));
    let from_port = || rule().among(&[Field::Iifname], "ports").counter().drop();
    add("input", from_port());
    add("input", rule().iifname(bridge).jump("to_node"));
    to_node(&mut add, facts, policy);
    add("forward", from_port());
    add("forward", rule().iifname(bridge).oifname(bridge).accept());
    add("forward", rule().iifname(bridge).jump("outwards"));
    add("forward", rule().oifname(bridge).jump("inwards"));

    let chain = "outwards";
    add(chain, other_family());
    add(chain, rule().begins(Field::Oifname, BRIDGES).counter().drop());
    add(chain, rule().nfproto_ipv4().network(Field::IpSaddr, facts.subnet, false).counter().drop());
    let link_local = (Ipv4Addr::new(169, 254, 0, 0), 16);
    add(chain, rule().nfproto_ipv4().network(Field::IpDaddr, link_local, true).counter().drop());
    add(chain, rule().established().accept());
    add(chain, rule().state_invalid().counter().drop());
    for rule in too_many(facts.connections) {
        add(chain, rule);
    }
    add(chain, rule().accept());

    add("inwards", rule().established().accept());
    add("inwards", rule().counter().drop());
    let ours = rule().nfproto_ipv4().network(Field::IpSaddr, facts.subnet, true);
    add("postrouting", ours.is_not(Field::Oifname, name(bridge)).masquerade());

    let table = Table { family: Family::Arp, name: facts.table };
    batch.table(table);
    batch.base_chain(table, "input", Kind::Filter, Hook::Input, FILTER);
    batch.flush_rules(table);
    batch.rule(table, "input", unknown());
}

fn other_family() -> Rule {
    Rule::new().is_not(Field::Nfproto, [2]).counter().drop()
}

/// One bridge is one element of `total`: a count in a rule would begin again with every batch.
fn too_many(connections: Connections) -> [Rule; 2] {
    let new = || Rule::new().state_new();
    [
        new().nfproto_ipv4().count_over(Field::IpSaddr, "connections", connections.each).counter().drop(),
        new().count_over(Field::Iifname, "total", connections.all).counter().drop(),
    ]
}

/// What of the node is reachable.
fn to_node(add: &mut impl FnMut(&str, Rule), facts: &Facts<'_>, policy: &Policy) {
    let rule = Rule::new;
    let chain = "to_node";
    let icmp = |rule: Rule, kind: u8| rule.l4proto(ICMP).is(Field::IcmpType, [kind]);
    add(chain, other_family());
    // A redirect.
    add(chain, icmp(rule().nfproto_ipv4(), 5).counter().drop());
    add(chain, rule().established().accept());
    for rule in too_many(facts.connections) {
        add(chain, rule);
    }
    let here = || rule().nfproto_ipv4().is(Field::IpDaddr, facts.gateway.octets());
    // An echo request.
    add(chain, icmp(here(), 8).accept());
    for (protocol, numbers) in [(TCP, &policy.tcp), (UDP, &policy.udp)] {
        let numbers: Vec<_> = numbers.iter().map(|port| port.to_be_bytes()).collect();
        if !numbers.is_empty() {
            add(chain, here().l4proto(protocol).one_of(Field::Dport, &numbers).accept());
        }
    }
    add(chain, rule().counter().drop());
}

/// Forwards for pod networks alone. With `br_netfilter` frames that other bridges pass on come by here, too.
fn router(batch: &mut Batch, others: &BTreeSet<String>) {
    let table = Table { family: Family::Ip, name: ROUTER };
    batch.table(table);
    batch.base_chain(table, "forward", Kind::Filter, Hook::Forward, FILTER);
    batch.flush_rules(table);
    for field in [Field::Iifname, Field::Oifname] {
        batch.rule(table, "forward", Rule::new().begins(field, BRIDGES).accept());
    }
    for other in others {
        batch.rule(table, "forward", Rule::new().iifname(other).oifname(other).accept());
    }
    batch.rule(table, "forward", Rule::new().counter().drop());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pods_together_leave_half_of_the_nodes_table_to_others() {
        for most in [0, 1, 4096, 65_536, 262_144, u32::MAX] {
            let Connections { each, all } = Connections::share(most);
            assert!((1..=MOST_CONNECTIONS).contains(&each) && all <= (most / 2).max(1), "{most}");
            assert!(most < 2 * PODS || each * PODS <= all, "{most}: one pod takes another's share");
        }
        assert_eq!(Connections::share(262_144), Connections { each: 1191, all: 131_072 });
    }
}
