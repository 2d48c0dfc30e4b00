//! `virt-handler` on a cluster: a DaemonSet of containers, each with the rights that it needs and nothing else.
//!
//! `plug` offers places for machines to the kubelet, `net` makes the networks of the pods that hold them, and `api` reads
//! machines, decides, reports, and gives people consoles. What reads the bytes of a launcher has nothing of the kubelet's, what the kubelet connects
//! to has no capability, and what has a token has nothing of the node.

use crate::config::NAMESPACE;
use ferrovirt_model::Profile;
use serde_json::{Value, json};

/// The DaemonSet.
pub const NAME: &str = "virt-handler";
/// Its account.
pub const ACCOUNT: &str = "kubevirt-handler";
/// Places for machines on a node: as many as the kubelet runs pods by default.
const SLOTS: u32 = 110;
/// The kubelet's directories.
const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
const POD_RESOURCES: &str = "/var/lib/kubelet/pod-resources";
/// Where `plug` keeps the directories of the places.
const OWN: &str = "/var/lib/ferrovirt/plug";
/// Where `net` is heard by the part that speaks with the API server: a directory of the pod's own.
const NET: &str = "/run/ferrovirt-net";
/// The Secret with the certificate of `api` and the authority of its clients, which the machine API makes, and where it is
/// mounted.
pub const CERTIFICATE: &str = "virt-handler-certificate";
const CERTIFICATE_PATH: &str = "/run/ferrovirt-certificate";
/// Where `api` is asked for consoles, pause and unpause.
pub const PORT: u16 = 8443;
/// The user of `api`: nobody else's on the node, as far as that can be said.
const API_USER: u32 = 64_107;
/// Where clients in pods look for their token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// One pod on each node, whatever taints it has: those say which machines may come, not whether there are places.
/// `launcher` is the image of launcher pods; profile and group hold while there is no KubeVirt object. All are the
/// controller's own.
pub fn daemon_set(image: &str, launcher: &str, profile: Profile, volume_group: Option<u32>) -> Value {
    let labels = json!({"kubevirt.io": NAME});
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubevirt.io": ""}},
        "spec": {
            "selector": {"matchLabels": labels},
            // Of two plug-ins of one name the kubelet hears the last one, so that there are never two.
            "updateStrategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": ACCOUNT,
                    // A container that needs the token gets it as a volume of its own.
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "priorityClassName": "system-node-critical",
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "tolerations": [{"operator": "Exists"}],
                    "terminationGracePeriodSeconds": 5,
                    // The directory in which `net` is heard belongs to this group, and so does the socket.
                    "securityContext": {"fsGroup": API_USER},
                    "containers": [plug(image), net(image), api(image, launcher, profile, volume_group)],
                    "volumes": [
                        {"name": "device-plugins", "hostPath": {"path": DEVICE_PLUGINS, "type": "Directory"}},
                        {"name": "pod-resources", "hostPath": {"path": POD_RESOURCES, "type": "Directory"}},
                        {"name": "plug", "hostPath": {"path": OWN, "type": "DirectoryOrCreate"}},
                        {"name": "net", "emptyDir": {"sizeLimit": "1Mi"}},
                        token(),
                        certificate(),
                    ],
                },
            },
        },
    })
}

/// What `plug` is started with wherever it runs: its name, how many places there are (as many as the node has pods), and
/// what comes with each.
pub fn plug_arguments(places: u32) -> Vec<String> {
    // A launcher opens it for `net`; runtimes do not always allow it by themselves.
    vec!["plug".to_owned(), format!("--slots={places}"), "--with-device=tun".to_owned()]
}

/// No capability, no token, and nothing that is written but its own directory.
fn plug(image: &str) -> Value {
    let mut args = plug_arguments(SLOTS);
    args.extend(
        ["--offer=kvm", "--offer=tun", "--pod-name=$(POD_NAME)", "--pod-namespace=$(POD_NAMESPACE)"]
            .map(str::to_owned),
    );
    json!({
        "name": "plug",
        "image": image,
        "args": args,
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "96Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "device-plugins", "mountPath": DEVICE_PLUGINS, "readOnly": true},
            {"name": "pod-resources", "mountPath": POD_RESOURCES, "readOnly": true},
            {"name": "plug", "mountPath": OWN},
        ],
    })
}

/// One capability, no token, nothing of the kubelet's, and not the node's network: who has NET_ADMIN and a descriptor of that
/// has the node's network.
fn net(image: &str) -> Value {
    json!({
        "name": "net",
        "image": image,
        "args": [
            "net",
            format!("--directory={OWN}"),
            format!("--api-socket={NET}/api.sock"),
            format!("--api-user={API_USER}"),
        ],
        // A process for each place that is held, and what the kernel keeps for its network: 0.3 MiB with many queues.
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "192Mi"}},
        "securityContext": {
            // The directory of the places is closed to everybody else.
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            // It makes a socket in each place.
            {"name": "plug", "mountPath": OWN},
            {"name": "net", "mountPath": NET},
        ],
    })
}

/// No capability, no path of the node and nothing of the kubelet's; the token, and the certificate.
fn api(image: &str, launcher: &str, profile: Profile, volume_group: Option<u32>) -> Value {
    let mut args = vec![
        "api".to_owned(),
        format!("--net-socket={NET}/api.sock"),
        "--node-name=$(NODE_NAME)".to_owned(),
        format!("--launcher-image={launcher}"),
        format!("--profile={}", profile.name()),
        format!("--listen=0.0.0.0:{PORT}"),
        format!("--certificate-directory={CERTIFICATE_PATH}"),
    ];
    args.extend(volume_group.map(|group| format!("--volume-group={group}")));
    json!({
        "name": "api",
        "image": image,
        "args": args,
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "ports": [{"name": "consoles", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "192Mi"}},
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": API_USER,
            "runAsGroup": API_USER,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            // It connects there, and makes nothing.
            {"name": "net", "mountPath": NET, "readOnly": true},
            {"name": "token", "mountPath": TOKEN, "readOnly": true},
            {"name": "certificate", "mountPath": CERTIFICATE_PATH, "readOnly": true},
        ],
    })
}

/// It may come later. Root's, and by the pod's group readable for `api`: the kubelet gives files of a Secret to that group.
fn certificate() -> Value {
    json!({
        "name": "certificate",
        "secret": {
            "secretName": CERTIFICATE,
            "optional": true,
            "defaultMode": 0o400,
            "items": [
                {"key": "ca.crt", "path": "ca.crt"},
                {"key": "tls.crt", "path": "tls.crt"},
                {"key": "tls.key", "path": "tls.key"},
            ],
        },
    })
}

/// What a token volume of Kubernetes' own holds, but for the namespace: in one container and not in every one.
fn token() -> Value {
    json!({
        "name": "token",
        "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]},
    })
}
