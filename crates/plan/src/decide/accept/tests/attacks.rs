//! What an attacker puts into a pod of the right name and owner.

use super::*;

/// What an attacker puts into a pod of the right name and owner.
#[test]
fn everything_else_is_a_difference_that_names_the_field() {
    let pod = rendered();
    let container = |rest: &[&'static str]| [&["spec", "containers", "0"], rest].concat();
    let extra = json!({"name": "x", "image": "x"});
    for (path, value, field) in [
        (vec!["spec", "os"], json!({"name": "windows"}), "spec.os"),
        (vec!["spec", "hostNetwork"], json!(true), "spec.hostNetwork"),
        (vec!["spec", "hostPID"], json!(true), "spec.hostPID"),
        (vec!["spec", "hostIPC"], json!(true), "spec.hostIPC"),
        (vec!["spec", "hostUsers"], json!(false), "spec.hostUsers"),
        (vec!["spec", "shareProcessNamespace"], json!(true), "spec.shareProcessNamespace"),
        (vec!["spec", "runtimeClassName"], json!("kata"), "spec.runtimeClassName"),
        (vec!["spec", "overhead"], json!({"cpu": "1"}), "spec.overhead"),
        (vec!["spec", "activeDeadlineSeconds"], json!(1), "spec.activeDeadlineSeconds"),
        (vec!["spec", "restartPolicy"], json!("Always"), "spec.restartPolicy"),
        (vec!["spec", "automountServiceAccountToken"], json!(true), "spec.automountServiceAccountToken"),
        (vec!["spec", "initContainers"], json!([extra]), "spec.initContainers"),
        (vec!["spec", "ephemeralContainers"], json!([extra]), "spec.ephemeralContainers"),
        (vec!["spec", "containers", "-"], extra.clone(), "spec.containers[1]"),
        (vec!["spec", "resources"], json!({"limits": {"cpu": "1"}}), "spec.resources"),
        (vec!["spec", "resourceClaims"], json!([{"name": "gpu"}]), "spec.resourceClaims"),
        (vec!["spec", "aFieldOfTheFuture"], json!({"x": 1}), "spec.aFieldOfTheFuture"),
        (vec!["spec", "securityContext", "runAsUser"], json!(0), "spec.securityContext.runAsUser"),
        (
            vec!["spec", "securityContext", "sysctls"],
            json!([{"name": "kernel.x"}]),
            "spec.securityContext.sysctls",
        ),
        (vec!["spec", "securityContext", "runAsNonRoot"], json!(false), "spec.securityContext.runAsNonRoot"),
        (vec!["spec", "securityContext.fsGroup"], json!(1_000_620_000), "spec.securityContext.fsGroup"),
        (container(&["image"]), json!("evil"), "spec.containers[0].image"),
        (container(&["command"]), json!(["bash", "-c", "id"]), "spec.containers[0].command[0]"),
        (container(&["args"]), json!(["-c"]), "spec.containers[0].args"),
        (container(&["workingDir"]), json!("/tmp"), "spec.containers[0].workingDir"),
        (container(&["env", "-"]), json!({"name": "LD_PRELOAD", "value": "/x"}), "spec.containers[0].env[1]"),
        (container(&["envFrom"]), json!([{"secretRef": {"name": "s"}}]), "spec.containers[0].envFrom"),
        (container(&["ports"]), json!([{"containerPort": 22, "hostPort": 22}]), "spec.containers[0].ports"),
        (container(&["stdin"]), json!(true), "spec.containers[0].stdin"),
        (container(&["lifecycle"]), json!({"postStart": {}}), "spec.containers[0].lifecycle"),
        (container(&["livenessProbe"]), json!({"exec": {}}), "spec.containers[0].livenessProbe"),
        (
            container(&["resources", "requests", "cpu"]),
            json!("500"),
            "spec.containers[0].resources.requests.cpu",
        ),
        (
            container(&["resources", "limits", "nvidia.com/gpu"]),
            json!("1"),
            "spec.containers[0].resources.limits.nvidia.com/gpu",
        ),
        (
            container(&["resources", "claims"]),
            json!([{"name": "gpu"}]),
            "spec.containers[0].resources.claims",
        ),
        (
            container(&["securityContext", "privileged"]),
            json!(true),
            "spec.containers[0].securityContext.privileged",
        ),
        (
            container(&["securityContext", "procMount"]),
            json!("Unmasked"),
            "spec.containers[0].securityContext.procMount",
        ),
        (
            container(&["securityContext", "readOnlyRootFilesystem"]),
            json!(false),
            "spec.containers[0].securityContext.readOnlyRootFilesystem",
        ),
        (
            container(&["securityContext", "allowPrivilegeEscalation"]),
            json!(true),
            "spec.containers[0].securityContext.allowPrivilegeEscalation",
        ),
        (
            container(&["securityContext", "seLinuxOptions"]),
            json!({"type": "spc_t"}),
            "spec.containers[0].securityContext.seLinuxOptions",
        ),
        (
            container(&["securityContext", "capabilities", "add"]),
            json!(["SYS_ADMIN"]),
            "spec.containers[0].securityContext.capabilities.add",
        ),
        (
            container(&["volumeMounts", "0", "mountPath"]),
            json!("/attack"),
            "spec.containers[0].volumeMounts[0].mountPath",
        ),
        (
            container(&["volumeMounts", "0", "mountPropagation"]),
            json!("Bidirectional"),
            "spec.containers[0].volumeMounts[0].mountPropagation",
        ),
        (
            container(&["volumeMounts", "0", "subPath"]),
            json!("x"),
            "spec.containers[0].volumeMounts[0].subPath",
        ),
        (
            container(&["volumeDevices", "0", "devicePath"]),
            json!("/usr/local/zero"),
            "spec.containers[0].volumeDevices[0].devicePath",
        ),
        (vec!["spec", "volumes", "0", "hostPath"], json!({"path": "/"}), "spec.volumes[0].hostPath"),
        (vec!["metadata", "name"], json!("other"), "metadata.name"),
        (vec!["metadata", "namespace"], json!("other"), "metadata.namespace"),
        (vec!["metadata", "generateName"], json!("x-"), "metadata.generateName"),
        (vec!["metadata", "deletionTimestamp"], json!("2026-01-01T00:00:00Z"), "metadata.deletionTimestamp"),
        (vec!["metadata", "ownerReferences", "0", "uid"], json!("v"), "metadata.ownerReferences[0].uid"),
        (vec!["metadata", "ownerReferences", "-"], json!({"kind": "Job"}), "metadata.ownerReferences[1]"),
        (
            vec!["metadata", "labels", "kubevirt.io/created-by"],
            json!("v"),
            "metadata.labels.kubevirt.io/created-by",
        ),
        (
            vec!["metadata", "annotations", "openshift.io/required-scc"],
            json!("privileged"),
            "metadata.annotations.openshift.io/required-scc",
        ),
        (
            vec!["metadata", "annotations", "io.kubernetes.cri-o.userns-mode"],
            json!("auto"),
            "metadata.annotations.io.kubernetes.cri-o.userns-mode",
        ),
        (
            vec!["metadata", "annotations", "k8s.v1.cni.cncf.io/networks"],
            json!("host"),
            "metadata.annotations.k8s.v1.cni.cncf.io/networks",
        ),
        (
            vec!["metadata", "annotations", "container.apparmor.security.beta.kubernetes.io/compute"],
            json!("unconfined"),
            "metadata.annotations.container.apparmor.security.beta.kubernetes.io/compute",
        ),
        (
            vec!["status", "ephemeralContainerStatuses"],
            json!([{"name": "x"}]),
            "status.ephemeralContainerStatuses",
        ),
        (vec!["status", "initContainerStatuses"], json!([{"name": "x"}]), "status.initContainerStatuses"),
        (vec!["status", "resize"], json!("InProgress"), "status.resize"),
        (
            vec!["status", "conditions"],
            json!([{"type": "PodResizeInProgress", "status": "True"}]),
            "status.conditions",
        ),
        (
            vec!["status", "containerStatuses"],
            json!([{"name": "compute", "restartCount": 1}]),
            "status.containerStatuses[0].restartCount",
        ),
        (
            vec!["status", "containerStatuses"],
            json!([{"name": "x", "restartCount": 0}]),
            "status.containerStatuses[0].name",
        ),
        (
            vec!["status", "containerStatuses"],
            json!([{"name": "compute", "restartCount": 0, "allocatedResources": {"cpu": "64"}}]),
            "status.containerStatuses[0].allocatedResources.cpu",
        ),
        (vec!["aFieldOfTheFuture"], json!(1), "aFieldOfTheFuture"),
    ] {
        let fields = found(&with(&pod, &path, value.clone()));
        assert!(fields.contains(&field.to_owned()), "{path:?} {value}: {fields:?}");
    }
    // Taken away instead of added.
    for path in
        ["/spec/securityContext/seccompProfile", "/spec/containers/0/securityContext", "/spec/nodeSelector"]
    {
        let mut less = pod.clone();
        *less.pointer_mut(path).unwrap() = Value::Null;
        assert_eq!(found(&less), [path.trim_start_matches('/').replace("/0/", "[0].").replace('/', ".")]);
    }
    // Nothing of a pod that is no object can be as it should be.
    for nonsense in [json!(null), json!([]), json!("x"), json!({"spec": []})] {
        assert!(!found(&nonsense).is_empty());
    }
}
