//! The CNI plug-ins: `bridge` with `host-local` addresses, without their own translation, which would run iptables.

use super::Error;
use serde::Deserialize;
use serde_json::json;
use std::{
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

impl Cni {
    /// Connects the namespace `netns` as `eth0`. Blocks for some 30 ms.
    ///
    /// # Errors
    /// When the plug-in refuses.
    pub fn add(&self, id: &str, netns: &Path) -> Result<Address, Error> {
        parse(&self.call("ADD", id, netns)?)
    }

    /// Disconnects it and gives its address back; fine when nothing is connected or the namespace is gone.
    ///
    /// # Errors
    /// When the plug-in refuses.
    pub fn del(&self, id: &str, netns: &Path) -> Result<(), Error> {
        self.call("DEL", id, netns).map(|_| ())
    }

    fn call(&self, verb: &str, id: &str, netns: &Path) -> Result<String, Error> {
        let config = json!({
            "cniVersion": "1.0.0", "name": self.bridge, "type": "bridge", "bridge": self.bridge,
            "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": MTU,
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

fn parse(text: &str) -> Result<Address, Error> {
    #[derive(Deserialize)]
    struct Answer {
        ips: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        address: String,
        gateway: Option<Ipv4Addr>,
    }
    let wrong = || Error::Answer(text.chars().take(200).collect());
    let answer: Answer = serde_json::from_str(text).map_err(|_| wrong())?;
    answer
        .ips
        .iter()
        .find_map(|entry| {
            let (ip, prefix) = entry.address.split_once('/')?;
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            Some(Address { ip: ip.parse().ok()?, prefix, gateway: entry.gateway })
        })
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_4_address_of_an_answer_counts() {
        let text = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"x"}],"ips":[
            {"interface":2,"address":"fd00::3/64"},
            {"interface":2,"address":"10.244.0.5/24","gateway":"10.244.0.1"}]}"#;
        let address = parse(text).unwrap();
        assert_eq!((address.ip, address.prefix), (Ipv4Addr::new(10, 244, 0, 5), 24));
        assert_eq!(address.gateway, Some(Ipv4Addr::new(10, 244, 0, 1)));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_an_error() {
        for text in ["", "{}", r#"{"ips":[]}"#, r#"{"ips":[{"address":"10.0.0.1/99"}]}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
