//! Whether the pod that holds the place is what the controller makes.

use super::{READ, Worker};
use crate::machine::{
    accept::{Accepted, Asked, Lasts, Refusal, owner, stranger},
    report::Reporter,
    status::NOT_AS_RENDERED,
};
use ferrovirt_plan::decide::{
    accept::{Holds, untyped},
    place::{Check, Network, Step},
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::{net::IpAddr, sync::Arc};
use tokio::time::timeout;

impl Worker {
    /// How the pod of the watch differs from what was accepted.
    pub(super) fn change(&mut self) -> Option<String> {
        let accepted = self.accepted.as_ref()?;
        let Some(pod) = self.pod.clone() else {
            return Some("the pod is gone from the API server".to_owned());
        };
        if pod.metadata.uid != self.uid {
            return Some("another pod has its name".to_owned());
        }
        let differs = self.shared.reader.changes(&untyped(&pod), &accepted.essence);
        differs.or_else(|| self.holds(&pod))
    }

    /// What is wrong with the pod beside its rendering.
    fn holds(&mut self, pod: &Pod) -> Option<String> {
        let holds = Holds {
            node: &self.shared.reader.node,
            container: &self.holder.container,
            user: self.user,
            image_id: self.image_id.as_deref(),
        };
        let wrong = holds.refuse(pod);
        if wrong.is_none() && self.image_id.is_none() {
            self.image_id = Holds::image_id(pod).map(str::to_owned);
        }
        wrong
    }

    /// Compares the pod in the API server.
    pub(super) async fn check(&mut self, step: Step) -> Check {
        let Some(shown) = self.pod.clone() else {
            return Check::Unknown("no launcher pod of its name is known to be on this node".to_owned());
        };
        let uid = self.uid.get_or_insert_with(|| shown.metadata.uid.clone().unwrap_or_default()).clone();
        if shown.metadata.uid.as_deref() != Some(&uid) {
            return Check::Unknown("another pod has the name of the one that holds the place".to_owned());
        }
        let Some(owner) = owner(&shown.metadata) else {
            let Refusal { reason, message, .. } = stranger();
            return Check::Unfit(reason, message);
        };
        if self.reporter.is_none() {
            let api = Api::namespaced(self.shared.reader.machines.clone(), &self.holder.namespace);
            self.reporter = Some(Reporter::start(api, owner.name.clone(), owner.uid.clone()));
        }
        let (namespace, name) = (self.holder.namespace.clone(), self.holder.pod.clone());
        let asked = Asked { namespace: &namespace, name: &name, uid: Some(&uid), owner: Some(&owner) };
        let look = async {
            match &self.accepted {
                Some(accepted) if step == Step::Serve => {
                    let actual = self.shared.reader.fresh(&asked).await.map_err(Check::Unknown)?;
                    if let Some(text) = self.shared.reader.changes(&actual, &accepted.essence) {
                        return Err(Check::Differs(text));
                    }
                    let pod = serde_json::from_value(actual);
                    let pod =
                        pod.map_err(|error| Check::Differs(format!("the pod cannot be read: {error}")))?;
                    Ok(Accepted { pod: Arc::new(pod), ..accepted.clone() })
                }
                // What runs here cannot see the node's policy. A label that the controller has recorded is asked for.
                _ => {
                    let knows = |_| async { Ok(true) };
                    self.shared.reader.accept(&asked, step, knows).await.map_err(refused)
                }
            }
        };
        let found = match timeout(READ, look).await {
            Err(_) => return Check::Unknown("the API server does not answer".to_owned()),
            Ok(Err(check)) => return check,
            Ok(Ok(accepted)) => accepted,
        };
        if let Some(wrong) = self.holds(&found.pod) {
            return Check::Differs(wrong);
        }
        let phase = found.vmi.status.as_ref().and_then(|status| status.phase.as_deref());
        let check = Check::Same { network: needs(&found), ran: phase == Some("Running") };
        self.accepted = Some(found);
        check
    }
}

fn refused(Refusal { reason, message, lasts }: Refusal) -> Check {
    match lasts {
        Lasts::Now => Check::Unknown(message),
        Lasts::Ever if reason == NOT_AS_RENDERED => Check::Differs(message),
        Lasts::Ever | Lasts::ThisPod => Check::Unfit(reason, message),
    }
}

/// The pod's addresses, by the kubelet.
pub(super) fn addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    addresses.filter_map(|address| address.ip.parse().ok())
}

/// What the machine's network needs.
fn needs(accepted: &Accepted) -> Network {
    let v4 = addresses(&accepted.pod).any(|address| address.is_ipv4());
    match addresses(&accepted.pod).next() {
        _ if accepted.machine.interfaces.is_empty() => Network::None,
        None => Network::NoAddress,
        Some(_) if v4 => Network::Ready,
        Some(_) => Network::OnlyIpv6,
    }
}
