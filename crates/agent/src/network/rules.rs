//! The node's nftables rules for the pod network, as one batch: who may say what on the bridge, who reaches whom, what
//! of the node is reachable, and what is forwarded.
//!
//! Interface names, addresses and numbers in it are ours or the plug-in's; nothing of it is text of a guest or a user.
//! A rule of the bridge family cannot ask for a port's bridge on every kernel (`CONFIG_NFT_BRIDGE_META`), so rules name
//! ports; a port gets its names before its guest gets an order. What a port may say gets a mark, and the node hears
//! nothing from its bridge that has none: whoever else becomes a member of the bridge is not heard.

use super::ports::Port;
use crate::node::PODS;
use ferrovirt_plan::pod_network::{Isolation, PodNetwork};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
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
const KNOWN: &str = "0xfe22057a";

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
    /// Network of the pods.
    pub(super) subnet: &'a str,
    /// The node's address on it.
    pub(super) gateway: Ipv4Addr,
    /// What pods may take of the table of connections.
    pub(super) connections: Connections,
    /// Who else bridges on this node, when forwarding was off before we came.
    pub(super) others: Option<&'a BTreeSet<String>>,
}

/// The batch. Applying it twice changes nothing; counters and counts of connections go on.
pub(super) fn render(facts: &Facts<'_>, policy: &PodNetwork, ports: &BTreeMap<String, Port>) -> String {
    let mut text = bridge(facts, policy.isolation);
    text.push_str(&elements(facts, ports));
    text.push_str(&node(facts, policy, ports));
    if let Some(others) = facts.others {
        text.push_str(&router(others));
    }
    text
}

/// The batch that takes our tables away.
pub(super) fn removal(table: &str) -> String {
    ["bridge", "inet", "arp"]
        .map(|family| format!("table {family} {table}\ndelete table {family} {table}\n"))
        .concat()
}

/// The bridge: a port speaks IPv4 and ARP with its own addresses, and is heard by its namespace.
fn bridge(facts: &Facts<'_>, isolation: Isolation) -> String {
    let Facts { table, subnet, gateway, .. } = facts;
    let isolation = match isolation {
        Isolation::Namespace => {
            "meta mark set iifname map @group\nmeta mark . oifname @members accept\ncounter name isolated drop\n"
        }
        Isolation::None => "accept\n",
    };
    // Frames to 01:80:c2:00:00:0X are not forwarded but handled before other hooks, where a bridge learns their sender.
    let reserved = "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name refused drop";
    let unicast = "ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00";
    format!(
        "table bridge {table} {{\n\
         counter spoofed {{ }}\ncounter isolated {{ }}\ncounter refused {{ }}\n\
         set ports {{ type ifname; }}\n\
         set hardware {{ type ifname . ether_addr; }}\n\
         set senders {{ type ifname . ether_addr . ipv4_addr; }}\n\
         set owners {{ type ether_addr . ipv4_addr; }}\n\
         map group {{ type ifname : mark; }}\n\
         set members {{ type mark . ifname; }}\n\
         chain prerouting {{ type filter hook prerouting priority filter; policy accept; }}\n\
         chain input {{ type filter hook input priority filter; policy accept; }}\n\
         chain forward {{ type filter hook forward priority filter; policy accept; }}\n\
         chain postrouting {{ type filter hook postrouting priority filter; policy accept; }}\n\
         chain from_port {{ }}\n}}\n\
         flush table bridge {table}\n\
         table bridge {table} {{\n\
         chain prerouting {{\niifname @ports jump from_port\n}}\n\
         chain from_port {{\n\
         {reserved}\n\
         iifname . ether saddr != @hardware counter name spoofed drop\n\
         ether type {{ 8021q, 8021ad }} counter name refused drop\n\
         ether type ip jump from_port_ip\n\
         ether type arp jump from_port_arp\n\
         counter name refused drop\n}}\n\
         chain from_port_ip {{\n\
         ip saddr 0.0.0.0 udp dport 67 drop\n\
         iifname . ether saddr . ip saddr != @senders counter name spoofed drop\n\
         ip saddr 0.0.0.0 counter name spoofed drop\n\
         {unicast} ip daddr {subnet} ip daddr != {gateway} ether daddr . ip daddr != @owners counter name refused drop\n\
         meta mark set {KNOWN} accept\n}}\n\
         chain from_port_arp {{\n\
         arp htype != 1 counter name refused drop\n\
         arp ptype != ip counter name refused drop\n\
         arp hlen != 6 counter name refused drop\n\
         arp plen != 4 counter name refused drop\n\
         arp daddr ip != {subnet} counter name refused drop\n\
         iifname . arp saddr ether . arp saddr ip != @senders counter name spoofed drop\n\
         arp operation {{ request, reply }} meta mark set {KNOWN} accept\n\
         counter name refused drop\n}}\n\
         chain input {{\niifname @ports {reserved}\n}}\n\
         chain forward {{\n\
         iifname != @ports oifname != @ports accept\n\
         iifname != @ports counter name isolated drop\n\
         oifname != @ports counter name isolated drop\n\
         {isolation}}}\n\
         chain postrouting {{\n\
         oifname @ports {unicast} oifname . ether daddr != @hardware drop\n}}\n}}\n\
"
    )
}

/// Which ports there are, in place of what was known before.
fn elements(facts: &Facts<'_>, ports: &BTreeMap<String, Port>) -> String {
    let namespaces: BTreeSet<&str> = ports.values().map(|port| port.namespace.as_str()).collect();
    let number =
        |port: &Port| namespaces.iter().position(|name| *name == port.namespace).unwrap_or_default() + 1;
    let mut all: [(&str, &str, Vec<String>); 6] = [
        ("set", "ports"),
        ("set", "hardware"),
        ("set", "senders"),
        ("set", "owners"),
        ("map", "group"),
        ("set", "members"),
    ]
    .map(|(kind, name)| (kind, name, Vec::new()));
    for port in ports.values() {
        let Port { name, mac, ip, .. } = port;
        let group = number(port);
        let rows = [
            vec![format!("\"{name}\"")],
            vec![format!("\"{name}\" . {mac}")],
            // The second is what asks whether an address is free (RFC 5227).
            vec![format!("\"{name}\" . {mac} . {ip}"), format!("\"{name}\" . {mac} . 0.0.0.0")],
            vec![format!("{mac} . {ip}")],
            vec![format!("\"{name}\" : {group}")],
            vec![format!("{group} . \"{name}\"")],
        ];
        for ((_, _, elements), row) in all.iter_mut().zip(rows) {
            elements.extend(row);
        }
    }
    let table = facts.table;
    let mut text = String::new();
    for (kind, name, elements) in &all {
        let _ = writeln!(text, "flush {kind} bridge {table} {name}");
        if !elements.is_empty() {
            let _ = writeln!(text, "add element bridge {table} {name} {{ {} }}", elements.join(", "));
        }
    }
    text
}

/// The node: what it answers, what it forwards, and in whose name that leaves.
fn node(facts: &Facts<'_>, policy: &PodNetwork, ports: &BTreeMap<String, Port>) -> String {
    let Facts { bridge, table, subnet, gateway, .. } = facts;
    let names: Vec<_> = ports.values().map(|port| format!("\"{}\"", port.name)).collect();
    let names = match names.is_empty() {
        true => String::new(),
        false => format!("add element inet {table} ports {{ {} }}\n", names.join(", ")),
    };
    let Connections { each, all } = facts.connections;
    // One bridge is one element: a count in a rule would begin anew with every batch.
    let limit = format!(
        "ct state new add @connections {{ ip saddr ct count over {each} }} counter drop\n\
             ct state new add @total {{ iifname ct count over {all} }} counter drop"
    );
    let mut services = String::new();
    for (protocol, numbers) in [("tcp", &policy.tcp), ("udp", &policy.udp)] {
        let numbers: Vec<_> = numbers.iter().map(u16::to_string).collect();
        if !numbers.is_empty() {
            let _ =
                writeln!(services, "ip daddr {gateway} {protocol} dport {{ {} }} accept", numbers.join(", "));
        }
    }
    format!(
        "table inet {table} {{\n\
         set ports {{ type ifname; }}\n\
         set connections {{ type ipv4_addr; size 512; flags dynamic; }}\n\
         set total {{ type ifname; size 4; flags dynamic; }}\n\
         chain prerouting {{ type filter hook prerouting priority -450; policy accept; }}\n\
         chain input {{ type filter hook input priority filter; policy accept; }}\n\
         chain forward {{ type filter hook forward priority filter; policy accept; }}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}\n}}\n\
         flush table inet {table}\n\
         flush set inet {table} ports\n\
         {names}\
         table inet {table} {{\n\
         chain prerouting {{\n\
         iifname \"{bridge}\" meta mark != {KNOWN} counter drop\n\
         iifname \"{bridge}\" meta mark set 0\n}}\n\
         chain input {{\n\
         iifname @ports counter drop\n\
         iifname \"{bridge}\" jump to_node\n}}\n\
         chain to_node {{\n\
         meta nfproto != ipv4 counter drop\n\
         icmp type redirect counter drop\n\
         ct state established,related accept\n\
         {limit}\n\
         ip daddr {gateway} icmp type echo-request accept\n\
         {services}\
         counter drop\n}}\n\
         chain forward {{\n\
         iifname @ports counter drop\n\
         iifname \"{bridge}\" oifname \"{bridge}\" accept\n\
         iifname \"{bridge}\" jump outwards\n\
         oifname \"{bridge}\" jump inwards\n}}\n\
         chain outwards {{\n\
         meta nfproto != ipv4 counter drop\n\
         oifname \"{BRIDGES}*\" counter drop\n\
         ip saddr != {subnet} counter drop\n\
         ip daddr 169.254.0.0/16 counter drop\n\
         ct state established,related accept\n\
         ct state invalid counter drop\n\
         {limit}\n\
         accept\n}}\n\
         chain inwards {{\n\
         ct state established,related accept\n\
         counter drop\n}}\n\
         chain postrouting {{\n\
         ip saddr {subnet} oifname != \"{bridge}\" masquerade\n}}\n}}\n\
         table arp {table} {{\n\
         chain input {{ type filter hook input priority filter; policy accept; }}\n}}\n\
         flush table arp {table}\n\
         table arp {table} {{\n\
         chain input {{\n\
         iifname \"{bridge}\" meta mark != {KNOWN} counter drop\n}}\n}}\n"
    )
}

/// Forwards for pod networks alone. With `br_netfilter` frames that other bridges pass on come by here, too.
fn router(others: &BTreeSet<String>) -> String {
    let bridged: String =
        others.iter().map(|name| format!("iifname \"{name}\" oifname \"{name}\" accept\n")).collect();
    format!(
        "table ip {ROUTER} {{\n\
         chain forward {{ type filter hook forward priority filter; policy accept; }}\n}}\n\
         flush table ip {ROUTER}\n\
         table ip {ROUTER} {{\n\
         chain forward {{\n\
         iifname \"{BRIDGES}*\" accept\noifname \"{BRIDGES}*\" accept\n\
         {bridged}\
         counter drop\n}}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pods_together_leave_half_of_the_nodes_table_to_others() {
        for most in [0, 1, 4096, 65_536, 262_144, u32::MAX] {
            let Connections { each, all } = Connections::share(most);
            assert!(each >= 1 && each <= MOST_CONNECTIONS && all <= (most / 2).max(1), "{most}");
            assert!(most < 2 * PODS || each * PODS <= all, "{most}: one pod takes another's share");
        }
        assert_eq!(Connections::share(262_144), Connections { each: 1191, all: 131_072 });
    }
}
