//! Launcher pods that are refused, or made without what was asked for, and what people can change.

use k8s_openapi::api::core::v1::Pod;

/// What the pod that was made lacks of the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Volumes that are images.
    Images,
    /// Its user namespace: it would run as a user of the node.
    UserNamespace,
    /// Something else; the message says what.
    Others(String),
}

/// What a pod that was made lacks of the one that was asked for: a machine without its disks is another machine. API servers
/// drop fields of features that are off, and answer with success.
pub fn dropped(wanted: &Pod, made: &Pod) -> Option<Dropped> {
    let sources = |pod: &Pod| -> Vec<(String, bool)> {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.map(|volume| (volume.name.clone(), volume.image.is_some())).collect()
    };
    let there = sources(made);
    let (images, others): (Vec<_>, Vec<_>) =
        sources(wanted).into_iter().filter(|volume| !there.contains(volume)).partition(|(_, image)| *image);
    let names = |volumes: &[(String, bool)]| {
        volumes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    if !images.is_empty() {
        return Some(Dropped::Images);
    }
    // One that does not run beside the launcher would never let it start.
    let beside = |pod: &Pod| -> usize {
        let all = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        all.filter(|container| container.restart_policy.is_some()).count()
    };
    if beside(made) < beside(wanted) {
        return Some(Dropped::Others(NO_IMAGES.to_owned()));
    }
    let own_users = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
    if own_users(wanted) && !own_users(made) {
        return Some(Dropped::UserNamespace);
    }
    let text = || format!("the cluster has taken the volumes {} out of it or changed them", names(&others));
    (!others.is_empty()).then(|| Dropped::Others(text()))
}

/// What an administrator can do who has said that every pod has a user namespace.
pub const NO_USER_NAMESPACE: &str = "the API server takes hostUsers out of the pod: switch the feature gate UserNamespacesSupport of \
    API server and kubelets on (it is from Kubernetes 1.33), or set spec.configuration.userNamespaces of the KubeVirt object to \
    Auto or Never";

/// What an administrator can do about it.
const NO_IMAGES: &str = "the cluster mounts no images, and its API server has taken out of the pod that containers of images run \
    beside the launcher (restartPolicy of init containers): use Kubernetes 1.29 or later, or claims in place of containerDisk \
    and kernelBoot.container";

/// Whether an API server refuses a pod since it has first dropped the source of a volume and then misses it: that of an image,
/// where it knows no image volumes. `causes` are reasons and fields of the refusal: its text may have words of the machine's
/// author in it.
pub fn misses_images<'a>(wanted: &Pod, causes: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
    let volumes: Vec<_> = wanted.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).collect();
    causes.into_iter().any(|(reason, field)| {
        let index = field.strip_prefix("spec.volumes[").and_then(|rest| rest.strip_suffix(']'));
        let volume = index.and_then(|index| volumes.get(index.parse::<usize>().ok()?));
        reason == "FieldValueRequired" && volume.is_some_and(|volume| volume.image.is_some())
    })
}

/// What the person who reads the refusal can change.
pub(super) fn hint(message: &str) -> Option<&'static str> {
    if message.contains("exceeded quota") || message.contains("failed quota") {
        Some("Raise the ResourceQuota of the namespace, or ask for less in spec.domain")
    } else if message.contains("violates PodSecurity") && message.contains("seLinuxOptions") {
        Some(
            "Pod Security levels baseline and restricted refuse every SELinux type of one's own, also one that is stricter than the usual: label the namespace with pod-security.kubernetes.io/enforce=privileged, or set spec.configuration.selinux.labelPods of the KubeVirt object to Never",
        )
    } else if message.contains("violates PodSecurity") {
        Some(
            "A feature of this machine needs more than the namespace allows: `ferrovirt explain` shows which one; remove it, or label the namespace with pod-security.kubernetes.io/enforce=privileged",
        )
    } else if message.contains("security context constraint") || message.contains("required SCC") {
        Some(
            "Its pod may run only under the constraint that the annotation ferrovirt.io/pod-scc names, or with the controller's rights lent, under one of the controller's: `ferrovirt explain` shows what the machine needs and `ferrovirt scc who-can` which constraint admits it; restore the constraints kubevirt-controller and kubevirt-machine, let somebody who may use a fitting one make the machine again or change its template, or remove the feature",
        )
    } else if message.contains("cannot create resource") {
        Some("Give the verb back to the ClusterRole kubevirt-controller")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(volumes: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [], "volumes": volumes}})).unwrap()
    }

    #[test]
    fn a_pod_without_its_images_is_noticed_and_what_a_cluster_adds_is_not() {
        let wanted = pod(json!([
            {"name": "public", "emptyDir": {}},
            {"name": "root", "image": {"reference": "team/guest:1"}},
        ]));
        let whole = pod(json!([
            {"name": "public", "emptyDir": {}},
            {"name": "root", "image": {"reference": "team/guest:1", "pullPolicy": "IfNotPresent"}},
            {"name": "token", "projected": {"sources": []}},
        ]));
        assert_eq!(dropped(&wanted, &whole), None);
        for less in [
            json!([{"name": "public", "emptyDir": {}}]),
            // The source alone is gone.
            json!([{"name": "public", "emptyDir": {}}, {"name": "root"}]),
        ] {
            assert_eq!(dropped(&wanted, &pod(less)), Some(Dropped::Images));
        }
        let others = dropped(&wanted, &pod(json!([{"name": "root", "image": {}}])));
        let Some(Dropped::Others(message)) = others else { panic!("{others:?}") };
        assert!(message.contains("volumes public "), "{message}");
        assert_eq!(dropped(&Pod::default(), &Pod::default()), None);
        // An API server that looks after it has dropped the source.
        let misses = |reason, field| misses_images(&wanted, [(reason, field)]);
        assert!(misses("FieldValueRequired", "spec.volumes[1]"));
        for (reason, field) in [
            ("FieldValueRequired", "spec.volumes[0]"),
            ("FieldValueRequired", "spec.volumes[2]"),
            ("FieldValueInvalid", "spec.volumes[1]"),
            // What an author has written there is repeated.
            ("FieldValueInvalid", "spec.affinity: spec.volumes[1]: must specify a volume type"),
        ] {
            assert!(!misses(reason, field), "{reason} {field}");
        }
    }

    #[test]
    fn a_pod_that_has_lost_its_user_namespace_is_noticed() {
        let of = |own: Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [], "hostUsers": own}})).unwrap()
        };
        assert_eq!(dropped(&of(json!(false)), &of(json!(false))), None);
        assert_eq!(dropped(&of(Value::Null), &of(Value::Null)), None);
        for other in [Value::Null, json!(true)] {
            assert_eq!(dropped(&of(json!(false)), &of(other)), Some(Dropped::UserNamespace));
        }
    }

    #[test]
    fn a_pod_whose_containers_of_images_would_not_run_beside_the_launcher_is_noticed() {
        let of = |policy: Value| -> Pod {
            let container = json!({"name": "serve-root", "restartPolicy": policy});
            serde_json::from_value(json!({"spec": {"containers": [], "initContainers": [container]}}))
                .unwrap()
        };
        assert_eq!(dropped(&of(json!("Always")), &of(json!("Always"))), None);
        let Some(Dropped::Others(message)) = dropped(&of(json!("Always")), &of(Value::Null)) else {
            panic!()
        };
        assert!(message.contains("1.29") && message.contains("claims"), "{message}");
    }
}
