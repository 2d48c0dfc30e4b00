//! The CNI plug-ins: `bridge` with `host-local` addresses, without their own translation, which would run iptables.

use super::Error;
use ferrovirt_netlink::mac::MacAddress;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where Debian's package `containernetworking-plugins` puts them.
pub const PLUGINS: &str = "/usr/lib/cni";

/// Largest packet on the pod network, bytes: what the bridge and its links get, so that the pod's inside can be made
/// before its link is there.
pub const MTU: u32 = 1500;

/// A pod network of this node.
#[derive(Clone, Debug)]
pub struct Cni {
    /// Bridge on the node.
    pub bridge: String,
    /// Network of the pods, such as `10.244.0.0/24`.
    pub subnet: String,
    /// Where addresses are kept.
    pub state: PathBuf,
}

/// The address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Address {
    /// Address.
    pub ip: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// The node's address on the bridge.
    pub gateway: Option<Ipv4Addr>,
}

/// A pod that is connected to the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Address of the pod.
    pub address: Address,
    /// The node's end of the pod's link, a port of the bridge.
    pub port: String,
    /// Hardware address of the pod's end.
    pub mac: MacAddress,
}

impl Cni {
    /// Connects the namespace `netns` as `eth0`. Blocks for some 30 ms.
    ///
    /// # Errors
    /// When the plug-in refuses.
    pub fn add(&self, id: &str, netns: &Path) -> Result<Attachment, Error> {
        parse(&self.call("ADD", id, netns)?, &self.bridge)
    }

    /// Who has an address. The plug-in keeps each in a file of its name, whose first line is the pod's.
    pub fn holders(&self) -> BTreeSet<String> {
        let leases = fs::read_dir(self.state.join(&self.bridge)).into_iter().flatten().flatten();
        leases
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<Ipv4Addr>().is_ok()))
            .filter_map(|entry| fs::read_to_string(entry.path()).ok()?.lines().next().map(str::to_owned))
            .collect()
    }

    /// Disconnects it and gives its address back; fine when nothing is connected or the namespace is gone.
    ///
    /// # Errors
    /// When the plug-in refuses.
    pub fn del(&self, id: &str, netns: &Path) -> Result<(), Error> {
        self.call("DEL", id, netns).map(|_| ())
    }

    fn call(&self, verb: &str, id: &str, netns: &Path) -> Result<String, Error> {
        // A port that sent a pod's broadcasts back would let a bridge in the pod take what is behind it for a neighbour.
        let config = json!({
            "cniVersion": "1.0.0", "name": self.bridge, "type": "bridge", "bridge": self.bridge,
            "isGateway": true, "ipMasq": false, "hairpinMode": false, "mtu": MTU,
            "ipam": {
                "type": "host-local", "dataDir": self.state,
                "ranges": [[{"subnet": self.subnet}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        let program = "the CNI plug-in bridge";
        let start = |source| Error::Start { program, package: "containernetworking-plugins", source };
        let mut command = Command::new(Path::new(PLUGINS).join("bridge"));
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(config.to_string().as_bytes()).map_err(start)?;
        }
        let output = child.wait_with_output().map_err(start)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        // The specification puts the error on standard output as JSON.
        #[derive(Deserialize)]
        struct Failure {
            msg: String,
            #[serde(default)]
            details: String,
        }
        let message = match serde_json::from_str::<Failure>(&text) {
            Ok(failure) => format!("{} {}", failure.msg, failure.details),
            Err(_) => String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        Err(Error::Failed { program, message: message.trim().to_owned() })
    }
}

fn parse(text: &str, bridge: &str) -> Result<Attachment, Error> {
    #[derive(Deserialize)]
    struct Answer {
        interfaces: Vec<Interface>,
        ips: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Interface {
        name: String,
        #[serde(default)]
        mac: String,
        #[serde(default)]
        sandbox: String,
    }
    #[derive(Deserialize)]
    struct Entry {
        address: String,
        gateway: Option<Ipv4Addr>,
    }
    let wrong = || Error::Answer(text.chars().take(200).collect());
    let answer: Answer = serde_json::from_str(text).map_err(|_| wrong())?;
    let address = answer.ips.iter().find_map(|entry| {
        let (ip, prefix) = entry.address.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        Some(Address { ip: ip.parse().ok()?, prefix, gateway: entry.gateway })
    });
    let (inside, outside): (Vec<_>, Vec<_>) =
        answer.interfaces.into_iter().partition(|interface| !interface.sandbox.is_empty());
    // The name goes into rules.
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let port = outside.into_iter().find(|interface| interface.name != bridge && plain(&interface.name));
    let mac = inside.first().and_then(|interface| interface.mac.parse().ok());
    match (address, port, mac) {
        (Some(address), Some(port), Some(mac)) => Ok(Attachment { address, port: port.name, mac }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"cniVersion":"1.0.0","interfaces":[
        {"name":"fv-1","mac":"0a:58:0a:f4:00:01"},
        {"name":"veth0a1b2c3d","mac":"22:00:00:00:00:01"},
        {"name":"eth0","mac":"22:00:00:00:00:02","sandbox":"/run/ns"}],
        "ips":[{"interface":2,"address":"fd00::3/64"},
            {"interface":2,"address":"10.244.0.5/24","gateway":"10.244.0.1"}]}"#;

    #[test]
    fn the_first_version_4_address_of_an_answer_counts() {
        let attachment = parse(ANSWER, "fv-1").unwrap();
        let address = attachment.address;
        assert_eq!((address.ip, address.prefix), (Ipv4Addr::new(10, 244, 0, 5), 24));
        assert_eq!(address.gateway, Some(Ipv4Addr::new(10, 244, 0, 1)));
        assert_eq!(attachment.port, "veth0a1b2c3d");
        assert_eq!(attachment.mac, MacAddress([0x22, 0, 0, 0, 0, 2]));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error() {
        let quote = ANSWER.replace("veth0a1b2c3d", "ve\\\"th");
        let wide = ANSWER.replace("10.244.0.5/24", "10.244.0.5/99");
        let bare = ANSWER.replace(",\"sandbox\":\"/run/ns\"", "");
        for text in ["", "{}", r#"{"ips":[]}"#, r#"{"interfaces":[],"ips":[]}"#, &quote, &wide, &bare] {
            assert!(parse(text, "fv-1").is_err(), "{text}");
        }
    }

    #[test]
    fn leases_name_their_holders() {
        let directory = tempfile::tempdir().unwrap();
        let cni = Cni { bridge: "fv-1".into(), subnet: String::new(), state: directory.path().to_owned() };
        assert!(cni.holders().is_empty());
        fs::create_dir(directory.path().join("fv-1")).unwrap();
        for (name, text) in [
            ("10.244.0.2", "a-1\r\neth0"),
            ("10.244.0.3", "b"),
            ("last_reserved_ip.0", "10.244.0.3"),
            ("lock", ""),
        ] {
            fs::write(directory.path().join("fv-1").join(name), text).unwrap();
        }
        assert_eq!(cni.holders(), ["a-1".to_owned(), "b".to_owned()].into());
    }
}
