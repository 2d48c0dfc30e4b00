//! Name servers and search domains out of a `resolv.conf`.

use crate::order::Lease;
use std::net::Ipv4Addr;

/// Most name servers and search domains, as C libraries read them.
const SERVERS: usize = 3;
const DOMAINS: usize = 6;
/// Characters of a domain's name: RFC 1035.
const DOMAIN: usize = 253;

/// Gives a guest what resolv.conf(5) says, instead of what it had. A server on the loopback address is out of the guest's
/// reach and left out, as is one with an IPv6 address.
pub fn take_resolver(text: &str, lease: &mut Lease) {
    (lease.dns, lease.search) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
                lease.dns.extend(server.filter(|server| !server.is_loopback() && lease.dns.len() < SERVERS));
            }
            Some("search") => {
                let words = words.filter(|word| word.len() <= DOMAIN).take(DOMAINS);
                lease.search = words.map(str::to_owned).collect();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_that_the_guest_cannot_reach_are_left_out() {
        let address = Ipv4Addr::new(10, 0, 2, 2);
        let mut lease = Lease {
            address,
            prefix: 24,
            server: address,
            gateway: None,
            dns: vec![address],
            search: vec!["old".to_owned()],
            hostname: String::new(),
            mtu: 1500,
        };
        let text =
            "# of a kubelet\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nsearch a.b c\n";
        take_resolver(text, &mut lease);
        assert_eq!(lease.dns, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(lease.search, ["a.b", "c"]);
        let many = "nameserver 192.0.2.9\n".repeat(9) + "search " + &"a ".repeat(9) + &"b".repeat(300);
        take_resolver(&many, &mut lease);
        assert_eq!((lease.dns.len(), lease.search.len()), (SERVERS, DOMAINS));
        take_resolver("search\n\u{0}", &mut lease);
        assert!(lease.dns.is_empty() && lease.search.is_empty());
    }
}
