//! The node's side of the pod network: subnet, forwarding, and translation of what leaves it.

use super::{Error, cni::Cni, run};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// What is set up on the node, kept on disk so that a later start finds and removes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Third byte of the subnet 10.244.X.0/24.
    third: u8,
    /// Suffix of names on the node: several data directories can live on one machine.
    tag: String,
    /// What ip_forward was before.
    forward: String,
    #[serde(skip)]
    folder: PathBuf,
}

impl Host {
    /// Reads or chooses the pod network of the data directory `folder` and sets the node up for it. Idempotent.
    ///
    /// # Errors
    /// When no subnet is free, or the kernel or nft refuse.
    pub fn set_up(folder: &Path) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Kernel { what, source };
        let file = folder.join("network.json");
        let known = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let host = match known {
            Some(host) => Self { folder: folder.to_owned(), ..host },
            None => {
                let host = Self::choose(folder).map_err(failed("choosing a pod network"))?;
                let text = serde_json::to_vec(&host).map_err(io::Error::other);
                text.and_then(|text| fs::write(&file, text)).map_err(failed("writing network.json"))?;
                host
            }
        };
        fs::write(FORWARD, "1").map_err(failed("setting net.ipv4.ip_forward"))?;
        run("nft", "nftables", &["-f", "-"], &host.rules())?;
        Ok(host)
    }

    fn choose(folder: &Path) -> io::Result<Self> {
        let hash = Sha256::digest(folder.as_os_str().as_encoded_bytes());
        let (first, tag) = (hash.first().copied().unwrap_or_default(), hash.iter().skip(1).take(3));
        let tag = tag.fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let routes = fs::read_to_string("/proc/net/route")?;
        let third = (0..=u8::MAX)
            .map(|step| first.wrapping_add(step))
            .find(|third| !taken(&routes, Ipv4Addr::new(10, 244, *third, 0)))
            .ok_or_else(|| io::Error::other("every 10.244.X.0/24 is in use"))?;
        let forward = fs::read_to_string(FORWARD)?.trim().to_owned();
        Ok(Self { third, tag, forward, folder: folder.to_owned() })
    }

    /// The CNI configuration of this network.
    pub fn cni(&self) -> Cni {
        Cni { bridge: self.bridge(), subnet: self.subnet(), state: self.folder.join("cni") }
    }

    /// Network of the pods.
    pub fn subnet(&self) -> String {
        format!("10.244.{}.0/24", self.third)
    }

    fn bridge(&self) -> String {
        format!("fv-{}", self.tag)
    }

    fn table(&self) -> String {
        format!("ferrovirt_{}", self.tag)
    }

    /// One table: replaced as a whole, so that a second run changes nothing.
    fn rules(&self) -> String {
        let (table, subnet, bridge) = (self.table(), self.subnet(), self.bridge());
        format!(
            "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n\
             chain postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\n\
             ip saddr {subnet} oifname != \"{bridge}\" masquerade\n}}\n}}\n"
        )
    }

    /// Removes everything; only when no pod is left.
    ///
    /// # Errors
    /// When the kernel or nft refuse.
    pub fn tear_down(&self) -> Result<(), Error> {
        let bridge = self.bridge();
        if ferrovirt_sys::link::mtu(&bridge).is_ok() {
            run("ip", "iproute2", &["link", "delete", &bridge], "")?;
        }
        let table = self.table();
        run("nft", "nftables", &["-f", "-"], &format!("table ip {table}\ndelete table ip {table}\n"))?;
        let failed = |source| Error::Kernel { what: "restoring net.ipv4.ip_forward", source };
        // Others may have come to rely on forwarding: give it back only while nothing else looks like a router.
        if self.forward == "0" && run("nft", "nftables", &["list", "tables"], "")?.trim().is_empty() {
            fs::write(FORWARD, "0").map_err(failed)?;
        }
        match fs::remove_file(self.folder.join("network.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

/// A route of `/proc/net/route` other than the default one covers the network.
fn taken(routes: &str, network: Ipv4Addr) -> bool {
    routes.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok().map(from_kernel);
        let (destination, mask) = (number(fields.nth(1)), number(fields.nth(5)));
        match (destination, mask) {
            (Some(destination), Some(mask)) if mask != 0 => {
                let network = u32::from(network);
                let shared = mask & 0xffff_ff00;
                destination & shared == network & shared
            }
            _ => false,
        }
    })
}

/// The kernel prints the network-order bytes as a native number.
fn from_kernel(number: u32) -> u32 {
    u32::from_be_bytes(number.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_with_a_route_is_taken() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            fv-1\t0003F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert!(taken(routes, Ipv4Addr::new(10, 244, 3, 0)));
        assert!(!taken(routes, Ipv4Addr::new(10, 244, 4, 0)));
        let wide = "h\nx\t0000F40A\t0\t1\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert!(taken(wide, Ipv4Addr::new(10, 244, 4, 0)));
    }
}
