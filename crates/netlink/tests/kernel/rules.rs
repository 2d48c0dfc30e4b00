//! Tables, sets and rules: the kernel has what it has when nft writes them.

use crate::Namespace;
use ferrovirt_netlink::{
    Socket,
    nft::{self, Batch, Element, Family, Field, Hook, Kind, Rule, Set, Table, Type, key, name},
};
use ferrovirt_sys::netlink::Protocol;
use std::net::Ipv4Addr;

const TEXT: &str = r#"
table bridge frames {
    counter wrong { }
    set pairs { type ifname . ether_addr; }
    set triples { type ifname . ether_addr . ipv4_addr; }
    map group { type ifname : mark; }
    set members { type mark . ifname; }
    chain other { }
    chain first {
        type filter hook prerouting priority filter; policy accept;
        ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name wrong drop
        iifname . ether saddr != @pairs drop
        ether type { 8021q, 8021ad } drop
        ether type arp jump other
        iifname . ether saddr . ip saddr != @triples drop
        ip daddr 10.1.2.0/24 accept
        ip daddr != 10.1.2.0/25 accept
        ip daddr 0.0.0.0/0 accept
        arp htype != 1 drop
        arp ptype != ip drop
        arp hlen != 6 drop
        arp plen != 4 drop
        arp daddr ip != 10.1.0.0/16 drop
        iifname . arp saddr ether . arp saddr ip @triples accept
        arp operation { request, reply } accept
        meta mark set iifname map @group
        meta mark . oifname @members accept
        meta mark set 0xfe22057a accept
        meta mark != 0xfe22057a drop
    }
}
add element bridge frames pairs { "veth1" . 02:00:00:00:00:01 }
add element bridge frames triples { "veth1" . 02:00:00:00:00:01 . 10.1.2.3 }
add element bridge frames group { "veth1" : 7 }
add element bridge frames members { 7 . "veth1" }
table inet node {
    set connections { type ipv4_addr; size 512; flags dynamic; }
    set bridges { type ifname; size 4; flags dynamic; }
    chain first { type filter hook prerouting priority -450; policy accept; }
    chain input {
        type filter hook input priority filter; policy accept;
        iifname "eth0" oifname != "eth1" accept
        oifname "fv-*" counter drop
        meta nfproto != ipv4 counter drop
        icmp type redirect drop
        ct state established,related accept
        ct state invalid drop
        ct state new add @connections { ip saddr ct count over 9 } counter drop
        ct state new add @bridges { iifname ct count over 99 } drop
        ip daddr 10.1.2.3 tcp dport { 53, 80 } accept
        meta l4proto != { udp, icmp } drop
    }
}
table ip translation {
    chain in { type nat hook prerouting priority dstnat; policy accept;
        tcp dport 80 dnat to 10.0.2.2
    }
    chain local { type nat hook output priority -100; policy accept;
        udp dport 53 dnat to 10.0.2.2
    }
    chain out { type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.0.2.2 masquerade
        ip saddr 127.0.0.1 snat to 10.0.2.1
    }
}
table arp neighbours {
    chain input { type filter hook input priority filter; policy accept;
        arp saddr ip != { 10.0.2.2, 0.0.0.0 } drop
    }
}
"#;

fn batch() -> Batch {
    let mut batch = Batch::new();
    frames(&mut batch);
    node(&mut batch);
    let table = Table { family: Family::Ip, name: "translation" };
    let guest = Ipv4Addr::new(10, 0, 2, 2);
    batch.table(table);
    batch.base_chain(table, "in", Kind::Nat, Hook::Prerouting, -100);
    batch.base_chain(table, "local", Kind::Nat, Hook::Output, -100);
    batch.base_chain(table, "out", Kind::Nat, Hook::Postrouting, 100);
    let rule = Rule::new;
    let dport = |rule: Rule, port: u16| rule.is(Field::Dport, port.to_be_bytes());
    batch.rule(table, "in", dport(rule().l4proto(6), 80).dnat(guest));
    batch.rule(table, "local", dport(rule().l4proto(17), 53).dnat(guest));
    batch.rule(table, "out", rule().is(Field::IpSaddr, guest.octets()).masquerade());
    batch.rule(table, "out", rule().is(Field::IpSaddr, [127, 0, 0, 1]).snat(Ipv4Addr::new(10, 0, 2, 1)));
    let table = Table { family: Family::Arp, name: "neighbours" };
    batch.table(table);
    batch.base_chain(table, "input", Kind::Filter, Hook::Input, 0);
    batch.rule(table, "input", rule().none_of(Field::ArpSaddrIp, &[guest.octets(), [0; 4]]).drop());
    batch
}

fn frames(batch: &mut Batch) {
    let table = Table { family: Family::Bridge, name: "frames" };
    batch.table(table);
    batch.counter(table, "wrong");
    let triple = [Type::Ifname, Type::EtherAddr, Type::Ipv4Addr];
    batch.set(table, Set::of("pairs", &triple[..2]));
    batch.set(table, Set::of("triples", &triple));
    batch.set(table, Set::map("group", &[Type::Ifname], Type::Mark));
    batch.set(table, Set::of("members", &[Type::Mark, Type::Ifname]));
    batch.chain(table, "other");
    batch.base_chain(table, "first", Kind::Filter, Hook::Prerouting, -200);
    let (link, mac, ip, mark) = (name("veth1"), [2, 0, 0, 0, 0, 1], [10, 1, 2, 3], 7_u32.to_ne_bytes());
    let element = |key| [Element { key, value: None }];
    batch.elements(table, "pairs", &element(key(&[&link, &mac])));
    batch.elements(table, "triples", &element(key(&[&link, &mac, &ip])));
    batch.elements(table, "group", &[Element { key: link.to_vec(), value: Some(mark.to_vec()) }]);
    batch.elements(table, "members", &element(key(&[&mark, &link])));
    let rule = Rule::new;
    let network = |a, b, c, prefix| (Ipv4Addr::new(a, b, c, 0), prefix);
    let arp = || rule().ether_type_arp();
    for step in [
        rule()
            .masked(Field::EtherDaddr, [255, 255, 255, 255, 255, 0xf0], [1, 0x80, 0xc2, 0, 0, 0])
            .counter_name("wrong")
            .drop(),
        rule().not_among(&[Field::Iifname, Field::EtherSaddr], "pairs").drop(),
        rule().one_of(Field::EtherType, &[[0x81, 0], [0x88, 0xa8]]).drop(),
        arp().jump("other"),
        rule()
            .protocol_ip()
            .not_among(&[Field::Iifname, Field::EtherSaddr, Field::IpSaddr], "triples")
            .drop(),
        rule().protocol_ip().network(Field::IpDaddr, network(10, 1, 2, 24), true).accept(),
        rule().protocol_ip().network(Field::IpDaddr, network(10, 1, 2, 25), false).accept(),
        rule().protocol_ip().network(Field::IpDaddr, network(0, 0, 0, 0), true).accept(),
        arp().is_not(Field::ArpHtype, [0, 1]).drop(),
        arp().is_not(Field::ArpPtype, [8, 0]).drop(),
        arp().is_not(Field::ArpHlen, [6]).drop(),
        arp().is_not(Field::ArpPlen, [4]).drop(),
        arp().network(Field::ArpDaddrIp, network(10, 1, 0, 16), false).drop(),
        arp().among(&[Field::Iifname, Field::ArpSaddrEther, Field::ArpSaddrIp], "triples").accept(),
        arp().one_of(Field::ArpOperation, &[[0, 1], [0, 2]]).accept(),
        rule().mark_from(Field::Iifname, "group"),
        rule().among(&[Field::Mark, Field::Oifname], "members").accept(),
        rule().set_mark(0xfe22_057a).accept(),
        rule().is_not(Field::Mark, 0xfe22_057a_u32.to_ne_bytes()).drop(),
    ] {
        batch.rule(table, "first", step);
    }
}

fn node(batch: &mut Batch) {
    let table = Table { family: Family::Inet, name: "node" };
    batch.table(table);
    batch.set(table, Set::dynamic("connections", &[Type::Ipv4Addr], 512));
    batch.set(table, Set::dynamic("bridges", &[Type::Ifname], 4));
    batch.base_chain(table, "first", Kind::Filter, Hook::Prerouting, -450);
    batch.base_chain(table, "input", Kind::Filter, Hook::Input, 0);
    let rule = Rule::new;
    for step in [
        rule().iifname("eth0").is_not(Field::Oifname, name("eth1")).accept(),
        rule().begins(Field::Oifname, "fv-").counter().drop(),
        rule().is_not(Field::Nfproto, [2]).counter().drop(),
        rule().nfproto_ipv4().l4proto(1).is(Field::IcmpType, [5]).drop(),
        rule().established().accept(),
        rule().state_invalid().drop(),
        rule().state_new().nfproto_ipv4().count_over(Field::IpSaddr, "connections", 9).counter().drop(),
        rule().state_new().count_over(Field::Iifname, "bridges", 99).drop(),
        rule()
            .nfproto_ipv4()
            .is(Field::IpDaddr, [10, 1, 2, 3])
            .l4proto(6)
            .one_of(Field::Dport, &[53_u16.to_be_bytes(), 80_u16.to_be_bytes()])
            .accept(),
        rule().none_of(Field::L4proto, &[[17], [1]]).drop(),
    ] {
        batch.rule(table, "input", step);
    }
}

/// Both in words and step by step; without the numbers of rules, and with elements in order, which a hash has not.
fn shown(ns: &Namespace) -> String {
    let text = ns.sh("nft --debug=netlink list ruleset");
    let mut lines: Vec<String> = text.lines().map(in_order).collect();
    for chunk in lines.chunk_by_mut(|a, b| a.starts_with("\telement ") && b.starts_with("\telement ")) {
        chunk.sort_unstable();
    }
    lines.join("\n")
}

fn in_order(line: &str) -> String {
    if !line.starts_with(['\t', ' ']) {
        return line.trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ').to_owned();
    }
    match (line.find("{ "), line.find(" }")) {
        (Some(start), Some(end)) if start < end => {
            let mut elements: Vec<_> = line[start + 2..end].split(", ").collect();
            elements.sort_unstable();
            format!("{}{{ {}{}", &line[..start], elements.join(", "), &line[end..])
        }
        _ => line.to_owned(),
    }
}

#[test]
fn the_kernel_has_what_it_has_when_nft_writes_it() {
    let (ours, theirs) = (Namespace::new(), Namespace::new());
    let mut socket = ours.inside(|| Socket::open(Protocol::Netfilter).unwrap());
    batch().send(socket.channel()).unwrap();
    theirs.sh(&format!("nft -f - <<'END'\n{TEXT}\nEND"));
    let (ours, theirs) = (shown(&ours), shown(&theirs));
    let lines = ours.lines().zip(theirs.lines());
    for (number, (ours, theirs)) in lines.enumerate() {
        assert_eq!(ours, theirs, "line {number}");
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.contains("10.1.2.3") && ours.contains("masquerade"), "{ours}");
}

#[test]
fn a_batch_is_carried_out_whole_or_not_at_all_and_says_where_it_failed() {
    let ns = Namespace::new();
    let mut socket = ns.inside(|| Socket::open(Protocol::Netfilter).unwrap());
    let table = Table { family: Family::Inet, name: "t" };
    let mut wrong = Batch::new();
    wrong.table(table);
    wrong.chain(table, "c");
    wrong.rule(table, "c", Rule::new().accept());
    wrong.rule(table, "c", Rule::new().jump("missing"));
    wrong.rule(table, "c", Rule::new().drop());
    let error = wrong.send(socket.channel()).unwrap_err();
    assert!(error.to_string().contains("rule of chain c: No such file"), "{error}");
    assert_eq!(nft::tables(&mut socket).unwrap(), Vec::<String>::new());
    // The same socket goes on: nothing of the refusal is taken for an answer to this.
    batch().send(socket.channel()).unwrap();
    let mut tables = nft::tables(&mut socket).unwrap();
    tables.sort_unstable();
    assert_eq!(tables, ["frames", "neighbours", "node", "translation"]);
    let mut gone = Batch::new();
    for (family, name) in [(Family::Bridge, "frames"), (Family::Inet, "node"), (Family::Inet, "never")] {
        gone.remove(Table { family, name });
    }
    gone.send(socket.channel()).unwrap();
    assert_eq!(nft::tables(&mut socket).unwrap().len(), 2);
}

#[test]
fn applying_a_batch_again_changes_nothing_and_large_ones_have_place() {
    let ns = Namespace::new();
    let mut socket = ns.inside(|| Socket::open(Protocol::Netfilter).unwrap());
    let table = Table { family: Family::Bridge, name: "t" };
    let mut batch = Batch::new();
    batch.table(table);
    batch.counter(table, "seen");
    batch.set(table, Set::of("s", &[Type::EtherAddr, Type::Ipv4Addr]));
    batch.base_chain(table, "c", Kind::Filter, Hook::Forward, -200);
    batch.flush_rules(table);
    batch.flush_set(table, "s");
    let elements: Vec<_> = (0..3000_u32)
        .map(|number| Element { key: key(&[&[2, 0, 0, 0, 0, 0], &number.to_be_bytes()]), value: None })
        .collect();
    batch.elements(table, "s", &elements);
    for number in 0..500_u16 {
        batch.rule(
            table,
            "c",
            Rule::new().is(Field::EtherType, number.to_be_bytes()).counter_name("seen").accept(),
        );
    }
    batch.send(socket.channel()).unwrap();
    let once = ns.sh("nft -s list ruleset");
    batch.send(socket.channel()).unwrap();
    assert_eq!(ns.sh("nft -s list ruleset"), once);
    assert_eq!(once.matches("counter name").count(), 500);
    assert_eq!(once.matches("02:00:00:00:00:00 .").count(), 3000);
}
