//! What the node has and which of its pods have it: a pod that does not fit is rejected, as a kubelet does. The scheduler
//! looks too, but anyone who makes a pod can name its node and pass it by.

use ferrovirt_plan::decide::fit::{self, Amounts, Rejection};
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The node's resources and who has them.
#[derive(Debug, Default)]
pub struct Room {
    node: watch::Sender<Option<Arc<Value>>>,
    taken: Mutex<BTreeMap<String, Amounts>>,
}

impl Room {
    /// Takes note of the node as the API server has it: its resources, labels and taints.
    pub fn see(&self, node: &Node) {
        if let Ok(node) = serde_json::to_value(node) {
            self.node.send_replace(Some(Arc::new(node)));
        }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<String, Amounts>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a pod what it asks for, until [`Self::release`], or says why not. Waits until the node is known.
    pub(super) async fn admit(&self, uid: &str, pod: &Value) -> Option<Rejection> {
        let mut seen = self.node.subscribe();
        let node = match seen.wait_for(Option::is_some).await {
            Ok(node) => node.clone().unwrap_or_default(),
            // The sender is this object's own.
            Err(_) => return None,
        };
        let mut taken = self.taken();
        let mut used = Amounts::new();
        for amounts in taken.iter().filter(|(other, _)| *other != uid).map(|(_, amounts)| amounts) {
            fit::add(&mut used, amounts);
        }
        let rejection = fit::rejection(pod, &node, &used);
        if rejection.is_none() {
            taken.insert(uid.to_owned(), fit::requests(pod));
        }
        rejection
    }

    /// Takes note of a pod that has what it asks for already.
    pub(super) fn hold(&self, uid: &str, pod: &Value) {
        self.taken().insert(uid.to_owned(), fit::requests(pod));
    }

    /// The pod needs nothing any more.
    pub(super) fn release(&self, uid: &str) {
        self.taken().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn what_one_pod_has_another_cannot_get_before_it_is_given_back() {
        let room = Room::default();
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "pods": "10"}}});
        let pod = |cpu: &str| json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
        // Nothing is decided before the node is known.
        let first = pod("1500m");
        let waiting = room.admit("a", &first);
        let see = async { room.see(&serde_json::from_value(node).unwrap()) };
        assert_eq!(tokio::join!(waiting, see).0, None);
        assert_eq!(room.admit("a", &pod("1500m")).await, None, "its own does not count against it");
        assert_eq!(room.admit("b", &pod("1")).await.map(|no| no.reason).as_deref(), Some("OutOfcpu"));
        assert_eq!(room.admit("c", &pod("500m")).await, None);
        room.release("a");
        assert_eq!(room.admit("b", &pod("1")).await, None);
        // What runs already is counted whether it fits or not.
        room.hold("d", &pod("64"));
        assert_eq!(room.admit("e", &pod("1m")).await.map(|no| no.reason).as_deref(), Some("OutOfcpu"));
    }
}
