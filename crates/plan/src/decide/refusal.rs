//! Launcher pods that are refused, or made without what was asked for, and what people can change.

use k8s_openapi::api::core::v1::Pod;

/// What to say when the pod that was made lacks volumes of the one that was asked for: a machine without its disks is
/// another machine. API servers drop fields of features that are off, and answer with success.
pub fn dropped_volumes(wanted: &Pod, made: &Pod) -> Option<String> {
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
        return Some(format!(
            "the cluster has taken the volumes {} out of it, which are images: {IMAGES_ARE_OFF}",
            names(&images)
        ));
    }
    let text = || format!("the cluster has taken the volumes {} out of it or changed them", names(&others));
    (!others.is_empty()).then(text)
}

/// What an administrator can do about it.
const IMAGES_ARE_OFF: &str = "image volumes are off here, as is the default before Kubernetes 1.35: switch the \
    feature gate ImageVolume on for API server and kubelets, with a container runtime that has them (containerd 2.1, CRI-O \
    1.31), or use claims in place of containerDisk and kernelBoot.container";

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
    } else if message.contains("spec.volumes") && message.contains("must specify a volume type") {
        // An API server that drops the source and then misses it.
        Some(IMAGES_ARE_OFF)
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
        assert_eq!(dropped_volumes(&wanted, &whole), None);
        for less in [
            json!([{"name": "public", "emptyDir": {}}]),
            // The source alone is gone.
            json!([{"name": "public", "emptyDir": {}}, {"name": "root"}]),
        ] {
            let message = dropped_volumes(&wanted, &pod(less)).unwrap();
            assert!(message.contains("volumes root ") && message.contains("ImageVolume"), "{message}");
        }
        let message = dropped_volumes(&wanted, &pod(json!([{"name": "root", "image": {}}]))).unwrap();
        assert!(message.contains("volumes public ") && !message.contains("ImageVolume"), "{message}");
        assert_eq!(dropped_volumes(&Pod::default(), &Pod::default()), None);
    }
}
