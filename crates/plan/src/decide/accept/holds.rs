//! Whether a pod that is as rendered is also the one that holds a place on a node: what a kubelet and `net` say of it.

use crate::render::pod::CONTAINER;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What is known of who holds a place.
#[derive(Clone, Copy, Debug)]
pub struct Holds<'a> {
    /// The node.
    pub node: &'a str,
    /// The container that has the place, by the kubelet.
    pub container: &'a str,
    /// The user of the launcher that has connected, as the node numbers users.
    pub user: u32,
    /// What the container was started from when it was looked at first.
    pub image_id: Option<&'a str>,
}

impl Holds<'_> {
    /// What is wrong, as a sentence.
    pub fn refuse(&self, pod: &Pod) -> Option<String> {
        let Some(spec) = &pod.spec else { return Some("the pod has no spec".to_owned()) };
        if self.container != CONTAINER {
            return Some(format!(
                "the place is held by container {:?} and not by {CONTAINER}",
                self.container
            ));
        }
        if spec.node_name.as_deref() != Some(self.node) {
            return Some(format!("spec.nodeName is {:?} and should be {:?}", spec.node_name, self.node));
        }
        let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
        let container = spec.containers.first().and_then(|container| container.security_context.as_ref());
        let should = container.and_then(|context| context.run_as_user).or(of_pod);
        // In a user namespace of the pod's own the node numbers them otherwise.
        let own = spec.host_users != Some(false);
        if self.user == 0 {
            return Some("the launcher runs as the node's root".to_owned());
        }
        if own && should.is_some_and(|should| should != i64::from(self.user)) {
            return Some(format!("the launcher runs as user {} and not as runAsUser says", self.user));
        }
        match (self.image_id, Self::image_id(pod)) {
            (Some(before), Some(now)) if before != now => {
                Some(format!("status.containerStatuses[0].imageID is {now:?} and was {before:?}"))
            }
            _ => None,
        }
    }

    /// What the pod's container was started from.
    pub fn image_id(pod: &Pod) -> Option<&str> {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let of = |status: &&ContainerStatus| status.name == CONTAINER;
        let id = &statuses.iter().find(of)?.image_id;
        Some(id.as_str()).filter(|id| !id.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(change: &[(&str, Value)]) -> Pod {
        let mut pod = json!({
            "spec": {
                "nodeName": "n", "hostUsers": true, "securityContext": {"runAsUser": 7},
                "containers": [{"name": CONTAINER, "securityContext": {"runAsUser": 107}}],
            },
            "status": {"containerStatuses": [{
                "name": CONTAINER, "image": "i", "imageID": "sha256:1", "ready": true, "restartCount": 0,
            }]},
        });
        for (path, value) in change {
            *pod.pointer_mut(path).unwrap() = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    const HOLDS: Holds<'_> = Holds { node: "n", container: CONTAINER, user: 107, image_id: Some("sha256:1") };

    #[test]
    fn who_holds_a_place_is_the_pod_that_was_looked_at() {
        assert_eq!(HOLDS.refuse(&pod(&[])), None);
        assert_eq!(Holds::image_id(&pod(&[])), Some("sha256:1"));
        let image = "/status/containerStatuses/0/imageID";
        // The kubelet has not said it yet.
        assert_eq!(HOLDS.refuse(&pod(&[(image, json!(""))])), None);
        for (path, value, word) in [
            ("/spec/nodeName", json!("m"), "nodeName"),
            ("/spec/nodeName", json!(null), "nodeName"),
            ("/spec/containers/0/securityContext/runAsUser", json!(108), "runAsUser"),
            (image, json!("sha256:2"), "imageID"),
        ] {
            let wrong = HOLDS.refuse(&pod(&[(path, value)])).unwrap();
            assert!(wrong.contains(word), "{wrong}");
        }
        let other = Holds { container: "other", ..HOLDS };
        assert!(other.refuse(&pod(&[])).unwrap().contains("other"));
        let root = Holds { user: 0, ..HOLDS };
        assert!(root.refuse(&pod(&[("/spec/hostUsers", json!(false))])).unwrap().contains("root"));
        // With a user namespace of its own.
        let mapped = Holds { user: 4_018_929_771, ..HOLDS };
        assert_eq!(mapped.refuse(&pod(&[("/spec/hostUsers", json!(false))])), None);
        assert!(mapped.refuse(&pod(&[])).is_some());
    }
}
