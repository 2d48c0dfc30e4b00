//! Who holds which slot, as the kubelet's pod-resources API shows it.

use super::{
    grpc::Channel,
    messages::{Empty, LIST, PodList},
    table::{Holder, Shown},
};
use ferrovirt_kubernetes::names;
use std::{collections::BTreeSet, path::Path, time::Duration};

/// Bytes of the kubelet's answer: its own limit.
const ANSWER: usize = 16 << 20;
/// How long it may take.
const CALL: Duration = Duration::from_secs(10);

/// The pod of this program, which the kubelet runs like those that hold slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
}

/// Asks the kubelet at this socket.
///
/// A kubelet that was started again answers before it has heard from the API server which pods are its own, and shows
/// static ones alone until then, however long the API server is away. So an answer without our own pod says nothing of
/// the others. Without `own`, every answer is believed: for a node that gives none before it knows its pods.
///
/// # Errors
/// In words: there is no kubelet, it does not answer in time or with something else, or it does not know its pods yet.
pub async fn list(socket: &Path, own: Option<&Own>) -> Result<PodList, String> {
    let call = async {
        let channel = Channel::connect(socket).await.map_err(|error| error.to_string())?;
        channel.unary(LIST, Empty {}, ANSWER).await.map_err(|status| status.message().to_owned())
    };
    let answer = tokio::time::timeout(CALL, call).await;
    let list: PodList = answer.unwrap_or_else(|_| Err("it does not answer".to_owned()))?;
    let shows =
        |own: &&Own| list.pods.iter().any(|pod| pod.namespace == own.namespace && pod.name == own.pod);
    if let Some(own) = own.filter(|own| !shows(own)) {
        return Err(format!(
            "it does not show {}/{}, the pod of this program: it does not know its pods yet, or --pod-namespace and \
             --pod-name are wrong",
            own.namespace, own.pod
        ));
    }
    Ok(list)
}

/// Who holds devices of this resource. Names that no pod can have are left out.
pub fn shown(list: &PodList, resource: &str) -> Shown {
    let mut shown = Shown::default();
    let mut known = BTreeSet::new();
    for pod in &list.pods {
        if !known.insert((pod.namespace.as_str(), pod.name.as_str())) {
            shown.twins.insert((pod.namespace.clone(), pod.name.clone()));
        }
        for container in &pod.containers {
            if ![&pod.namespace, &pod.name, &container.name].into_iter().all(|name| names::is_subdomain(name))
            {
                continue;
            }
            let slots = container.devices.iter().filter(|devices| devices.resource_name == resource);
            for slot in slots.flat_map(|devices| &devices.ids) {
                let holder = Holder {
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    container: container.name.clone(),
                };
                shown.holders.entry(slot.clone()).or_default().insert(holder);
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plug::messages::{Container, ContainerDevices, Pod};

    fn pod(namespace: &str, name: &str, devices: &[(&str, &[&str])]) -> Pod {
        let devices = devices.iter().map(|(resource, ids)| ContainerDevices {
            resource_name: (*resource).to_owned(),
            ids: ids.iter().map(|&id| id.to_owned()).collect(),
        });
        let container = Container { name: "compute".to_owned(), devices: devices.collect() };
        Pod { name: name.to_owned(), namespace: namespace.to_owned(), containers: vec![container] }
    }

    #[test]
    fn holders_are_of_the_resource_and_twins_of_any() {
        let pods = vec![
            pod("a", "one", &[("machine", &["1"]), ("other", &["2"])]),
            pod("b", "one", &[("machine", &["3"])]),
            pod("a", "two", &[]),
            pod("a", "two", &[("machine", &["1"])]),
            pod("../..", "three", &[("machine", &["4"])]),
        ];
        let shown = shown(&PodList { pods }, "machine");
        let holder = |namespace: &str, pod: &str| Holder {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: "compute".to_owned(),
        };
        assert_eq!(shown.holders["1"], BTreeSet::from([holder("a", "one"), holder("a", "two")]));
        assert_eq!(shown.holders["3"], BTreeSet::from([holder("b", "one")]));
        assert_eq!(shown.holders.len(), 2);
        assert_eq!(shown.twins, BTreeSet::from([("a".to_owned(), "two".to_owned())]));
    }
}
