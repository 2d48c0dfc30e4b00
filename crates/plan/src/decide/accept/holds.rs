//! Whether a pod that is as rendered is also the one that holds a place on a node: what a kubelet and `net` say of it.

use crate::render::pod::CONTAINER;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Users of a node are given to pods in units of so many.
const UNIT: u32 = 65_536;

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
        if let Some(wrong) = self.user_is_wrong(spec.host_users == Some(false), should) {
            return Some(wrong);
        }
        match (self.image_id, Self::image_id(pod)) {
            (Some(before), Some(now)) if before != now => {
                Some(format!("status.containerStatuses[0].imageID is {now:?} and was {before:?}"))
            }
            _ => None,
        }
    }

    /// `own`: the pod has a user namespace. The kubelet gives it a whole number of [`UNIT`]s of the node's users, of which the
    /// first is its root and none is in the first unit (`pkg/kubelet/userns`), so that the node's number of a user says both
    /// whether it has one and which user of it that is.
    fn user_is_wrong(&self, own: bool, should: Option<i64>) -> Option<String> {
        let user = self.user;
        if user == 0 {
            return Some("the launcher runs as the node's root".to_owned());
        }
        if !own {
            let other = should.is_some_and(|should| should != i64::from(user));
            return other.then(|| format!("the launcher runs as user {user} and not as runAsUser says"));
        }
        let of_pod = user % UNIT;
        if user < UNIT {
            return Some(format!(
                "the launcher runs as user {user} of the node, and hostUsers false gives its pod users of its own"
            ));
        }
        if of_pod == 0 {
            return Some("the launcher runs as the root of its pod's user namespace".to_owned());
        }
        let other = should.is_some_and(|should| should.rem_euclid(i64::from(UNIT)) != i64::from(of_pod));
        other.then(|| format!("the launcher runs as user {of_pod} of its pod and not as runAsUser says"))
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
    }

    /// The node's number of a user of the pod is the first of the pod's numbers and that user's.
    #[test]
    fn in_a_user_namespace_the_launcher_is_the_pods_user_there() {
        let own = |user, should| {
            let change = [
                ("/spec/hostUsers", json!(false)),
                ("/spec/containers/0/securityContext/runAsUser", should),
                ("/spec/securityContext/runAsUser", json!(null)),
            ];
            Holds { user, ..HOLDS }.refuse(&pod(&change))
        };
        let first = 4_018_929_664;
        for (user, should) in [
            (first + 107, json!(107)),
            // The image's.
            (first + 107, json!(null)),
            (UNIT + 1000, json!(1000)),
            (u32::MAX - 1, json!(65534)),
        ] {
            assert_eq!(own(user, should.clone()), None, "{user} {should}");
        }
        for (user, should, word) in [
            // The runtime has given the pod no user namespace.
            (107, json!(107), "hostUsers false"),
            (65_535, json!(null), "hostUsers false"),
            (first, json!(null), "root of its pod"),
            (first + 108, json!(107), "user 108 of its pod"),
            // As where a constraint gave the pod a user of its namespace's range.
            (first + 107, json!(1_000_620_000), "runAsUser"),
            (0, json!(0), "the node's root"),
        ] {
            let wrong = own(user, should).unwrap();
            assert!(wrong.contains(word), "{user}: {wrong}");
        }
        // And the other way round.
        let mapped = Holds { user: first + 107, ..HOLDS };
        assert!(mapped.refuse(&pod(&[])).unwrap().contains("runAsUser"));
    }
}
