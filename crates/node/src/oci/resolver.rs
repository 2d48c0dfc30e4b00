//! What a container knows of name servers: `/etc/resolv.conf` by the pod's `dnsPolicy` and `dnsConfig`, as with a kubelet
//! (`pkg/kubelet/network/dns`) that knows no name server of the cluster's own.

use k8s_openapi::api::core::v1::Pod;
use std::{fmt::Write as _, fs, io, net::IpAddr, path::Path};

/// What the node knows of name servers.
const NODE: &str = "/etc/resolv.conf";
/// The same where systemd-resolved runs, whose stub listens on the node's loopback addresses: no pod reaches it there. What
/// kubeadm gives a kubelet then (`--resolv-conf`).
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Name servers that a C library asks.
const MOST_SERVERS: usize = 3;
/// Search domains, and characters of all of them.
const MOST_SEARCHES: usize = 32;
const MOST_CHARACTERS: usize = 2048;

/// What the node knows of name servers that pods can ask, in the form of resolv.conf(5); nothing where it knows none. What
/// cannot be read is logged: a pod without name servers is better than none.
pub fn of_node_or_nothing() -> String {
    let read = of_files(Path::new(NODE), Path::new(BEHIND_STUB));
    read.inspect_err(|error| tracing::warn!("reading the node's name servers: {error}")).unwrap_or_default()
}

fn of_files(node: &Path, behind_stub: &Path) -> io::Result<String> {
    let read = |path: &Path| match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    };
    let own = read(node)?.unwrap_or_default();
    let servers = || own.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    let is_near = |server: &str| server.trim().parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if servers().next().is_none() || !servers().all(is_near) {
        return Ok(own);
    }
    Ok(read(behind_stub)?.unwrap_or(own))
}

/// The lines of a pod, of which `node` are the node's.
pub fn file(pod: &Pod, node: &str) -> String {
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    let spec = pod.spec.as_ref();
    if spec.and_then(|spec| spec.dns_policy.as_deref()) != Some("None") {
        for line in node.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
                // The last one counts.
                Some("search") => searches = words.map(str::to_owned).collect(),
                Some("options") => options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
    }
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        add(&mut servers, config.nameservers.iter().flatten());
        add(&mut searches, config.searches.iter().flatten());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let own = |known: &String| known.split(':').next() == Some(name.as_str());
            options.retain(|known| !own(known));
            options
                .push(option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    // Words alone: a name with a line in it would be a line of its own.
    for list in [&mut servers, &mut searches, &mut options] {
        list.retain(|word| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control()));
    }
    servers.truncate(MOST_SERVERS);
    searches.truncate(MOST_SEARCHES);
    while searches.iter().map(|search| search.len() + 1).sum::<usize>() > MOST_CHARACTERS {
        searches.pop();
    }
    let mut out = String::new();
    for server in servers {
        let _infallible = writeln!(out, "nameserver {server}");
    }
    for (word, list) in [("search", searches), ("options", options)] {
        if !list.is_empty() {
            let _infallible = writeln!(out, "{word} {}", list.join(" "));
        }
    }
    out
}

fn add<'a>(known: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for word in more {
        if !known.contains(word) {
            known.push(word.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NODE: &str = "# of the node\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch lost.example\nsearch a.example b.example\n\
                        options ndots:1 rotate\nsortlist 192.0.2.0\n";

    fn of(spec: Value) -> String {
        let mut pod = json!({"spec": {"containers": []}});
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        file(&serde_json::from_value(pod).unwrap(), NODE)
    }

    #[test]
    fn a_pod_has_what_its_node_has_and_what_it_names_itself() {
        let node = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.example b.example\noptions ndots:1 rotate\n";
        for policy in [json!({}), json!({"dnsPolicy": "Default"}), json!({"dnsPolicy": "ClusterFirst"})] {
            assert_eq!(of(policy), node);
        }
        let config = json!({
            "nameservers": ["192.0.2.2", "192.0.2.3", "192.0.2.4"], "searches": ["b.example", "c.example"],
            "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}],
        });
        assert_eq!(
            of(json!({"dnsConfig": config})),
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch a.example b.example c.example\n\
             options rotate ndots:5 edns0\n"
        );
        assert_eq!(
            of(json!({"dnsPolicy": "None", "dnsConfig": config})),
            "nameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\nsearch b.example c.example\n\
             options ndots:5 edns0\n"
        );
        assert_eq!(of(json!({"dnsPolicy": "None"})), "");
    }

    #[test]
    fn a_pod_asks_whom_the_stub_of_its_node_asks() {
        let directory = tempfile::tempdir().unwrap();
        let (node, behind) = (directory.path().join("node"), directory.path().join("behind"));
        let read = |text: &str| {
            fs::write(&node, text).unwrap();
            of_files(&node, &behind).unwrap()
        };
        assert_eq!(of_files(&node, &behind).unwrap(), "");
        let stub = "# stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch a.example\n";
        assert_eq!(read(stub), stub, "nobody says whom it asks");
        let servers = "nameserver 192.0.2.1\nsearch a.example\n";
        fs::write(&behind, servers).unwrap();
        for near in [stub, "nameserver 127.0.0.1\n", "nameserver ::1\nnameserver 127.0.0.53\n"] {
            assert_eq!(read(near), servers);
        }
        for own in
            ["nameserver 192.0.2.7\n", "nameserver 127.0.0.53\nnameserver 192.0.2.7\n", "search b.example\n"]
        {
            assert_eq!(read(own), own);
        }
    }

    #[test]
    fn what_is_no_word_is_left_out_and_the_rest_is_bounded() {
        let long = "x".repeat(500);
        let searches: Vec<String> = (0..100).map(|number| format!("{number}.{long}")).collect();
        let config = json!({"nameservers": ["192.0.2.9\nnameserver 198.51.100.1", "", "192.0.2.5"], "searches": searches});
        let text = of(json!({"dnsPolicy": "None", "dnsConfig": config}));
        assert!(text.starts_with("nameserver 192.0.2.5\nsearch 0.x"), "{text:.80}");
        assert!(text.len() < MOST_CHARACTERS + 100);
    }
}
