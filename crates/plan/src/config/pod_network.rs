//! What machines reach on the pod network of a node that Ferrovirt itself runs, read from the KubeVirt object.

use ferrovirt_api::kubevirt::PodNetworkConfiguration;
use std::collections::BTreeSet;

/// Most services of a node that can be listed.
const MOST_SERVICES: usize = 64;

/// The rules of a pod network (`spec.configuration.podNetwork`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// Which machines reach each other.
    pub isolation: Isolation,
    /// TCP ports of the node that machines reach at their gateway's address.
    pub tcp: BTreeSet<u16>,
    /// UDP ports likewise.
    pub udp: BTreeSet<u16>,
}

/// Which machines reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Those of one namespace.
    #[default]
    Namespace,
    /// All machines of the node.
    None,
}

/// A field that cannot be acted on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Neither of the two.
    #[error(
        "spec.configuration.podNetwork.isolation of the KubeVirt object is {0:?}: use \"Namespace\" or \"None\""
    )]
    Isolation(String),
    /// Not a port.
    #[error(
        "spec.configuration.podNetwork.nodeServices[{index}].port of the KubeVirt object is {port}: use 1 to 65535"
    )]
    Port {
        /// Which service.
        index: usize,
        /// Its port.
        port: i32,
    },
    /// Not a protocol with ports.
    #[error(
        "spec.configuration.podNetwork.nodeServices[{index}].protocol of the KubeVirt object is {protocol:?}: use \"TCP\" or \"UDP\""
    )]
    Protocol {
        /// Which service.
        index: usize,
        /// Its protocol.
        protocol: String,
    },
    /// More services than a rule is made for.
    #[error(
        "spec.configuration.podNetwork.nodeServices of the KubeVirt object lists {0} services: list {MOST_SERVICES} at most"
    )]
    Services(usize),
}

impl PodNetwork {
    /// Reads the fields; what is absent has its default.
    ///
    /// # Errors
    /// The first value that does not exist.
    pub fn read(given: &PodNetworkConfiguration) -> Result<Self, Error> {
        let mut network = Self {
            isolation: match given.isolation.as_deref() {
                None | Some("Namespace") => Isolation::Namespace,
                Some("None") => Isolation::None,
                Some(other) => return Err(Error::Isolation(other.to_owned())),
            },
            ..Self::default()
        };
        if given.node_services.len() > MOST_SERVICES {
            return Err(Error::Services(given.node_services.len()));
        }
        for (index, service) in given.node_services.iter().enumerate() {
            let port = u16::try_from(service.port).ok().filter(|port| *port > 0);
            let port = port.ok_or(Error::Port { index, port: service.port })?;
            let ports = match service.protocol.as_deref() {
                None | Some("TCP") => &mut network.tcp,
                Some("UDP") => &mut network.udp,
                Some(other) => return Err(Error::Protocol { index, protocol: other.to_owned() }),
            };
            ports.insert(port);
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Result<PodNetwork, Error> {
        PodNetwork::read(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn namespaces_are_isolated_and_the_node_is_closed_by_default() {
        let network = read(json!({})).unwrap();
        assert_eq!(network, PodNetwork::default());
        assert_eq!(network.isolation, Isolation::Namespace);
        assert!(network.tcp.is_empty() && network.udp.is_empty());
    }

    #[test]
    fn services_are_listed_by_protocol_and_port() {
        let network = read(json!({"isolation": "None", "nodeServices": [
            {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 6443}, {"port": 6443}]}));
        let network = network.unwrap();
        assert_eq!(network.isolation, Isolation::None);
        assert_eq!((network.tcp, network.udp), ([53, 6443].into(), [53].into()));
    }

    #[test]
    fn what_does_not_exist_is_refused_with_its_field() {
        let many = vec![json!({"port": 1}); MOST_SERVICES + 1];
        for (value, field) in [
            (json!({"isolation": "Everything"}), "podNetwork.isolation"),
            (json!({"nodeServices": [{"port": 1}, {"port": 0}]}), "nodeServices[1].port"),
            (json!({"nodeServices": [{"port": 65536}]}), "nodeServices[0].port"),
            (json!({"nodeServices": [{"port": 1, "protocol": "SCTP"}]}), "nodeServices[0].protocol"),
            (json!({"nodeServices": many}), "nodeServices"),
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
