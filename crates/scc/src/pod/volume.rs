//! Volume types, and the one projected volume that every pod gets.

use ferrovirt_kubernetes::json::{at, list, text};
use serde_json::{Map, Value};

/// Keys of a pod's volume in the order in which they decide its type, with the names that an SCC uses for them.
pub(crate) const KINDS: [(&str, &str); 30] = [
    ("hostPath", "hostPath"),
    ("emptyDir", "emptyDir"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("gitRepo", "gitRepo"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("flexVolume", "flexVolume"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("flocker", "flocker"),
    ("downwardAPI", "downwardAPI"),
    ("fc", "fc"),
    ("azureFile", "azureFile"),
    ("configMap", "configMap"),
    ("vsphereVolume", "vsphere"),
    ("quobyte", "quobyte"),
    ("azureDisk", "azureDisk"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("projected", "projected"),
    ("portworxVolume", "portworxVolume"),
    ("scaleIO", "scaleIO"),
    ("storageos", "storageOS"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
];

const PROJECTED: u8 = 23;
const SECRET: u8 = 5;

/// The SCC's name of a type number.
pub(crate) fn name(kind: u8) -> &'static str {
    KINDS.get(usize::from(kind)).map_or("", |k| k.1)
}

/// A set of permitted types.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Set {
    all: bool,
    bits: u32,
}

impl Set {
    pub(crate) fn of(list: &[String]) -> Set {
        let bit = |name: &String| KINDS.iter().position(|k| k.1 == name).map_or(0, |n| 1u32 << n);
        Set { all: list.iter().any(|v| v == "*"), bits: list.iter().fold(0, |bits, v| bits | bit(v)) }
    }

    pub(crate) fn all(&self) -> bool {
        self.all
    }

    fn has(&self, kind: u8) -> bool {
        self.bits & (1u32 << kind) != 0
    }

    /// Whether a volume of this type may be used.
    pub(crate) fn permits(&self, kind: u8, volume: &Map<String, Value>) -> bool {
        self.all || self.has(kind) || (kind == PROJECTED && self.has(SECRET) && only_injected(volume))
    }
}

/// The type of a volume: the first source that is set, in the order of [`KINDS`].
pub(crate) fn kind(volume: &Map<String, Value>) -> Option<u8> {
    let mut first: Option<usize> = None;
    // A volume has a name and one source: looking up its own keys is cheaper than looking for thirty.
    for (key, value) in volume {
        if key != "name"
            && !value.is_null()
            && let Some(n) = KINDS.iter().position(|k| k.0 == key)
        {
            first = Some(first.map_or(n, |f| f.min(n)));
        }
    }
    first.and_then(|n| u8::try_from(n).ok())
}

/// Whether a projected volume holds nothing but what the injection of a service account's token makes.
fn only_injected(volume: &Map<String, Value>) -> bool {
    let sources = volume.get("projected").and_then(|p| p.get("sources"));
    sources.and_then(Value::as_array).is_none_or(|list| list.iter().all(injected))
}

fn injected(source: &Value) -> bool {
    let token = at(source, "serviceAccountToken");
    let config = at(source, "configMap");
    let downward = at(source, "downwardAPI");
    (token.is_some() || config.is_some() || downward.is_some())
        && token.is_none_or(|t| text(t, "path") == "token" && text(t, "audience").is_empty())
        && config.is_none_or(|c| match text(c, "name") {
            "kube-root-ca.crt" => only_item(c, "ca.crt"),
            "openshift-service-ca.crt" => only_item(c, "service-ca.crt"),
            _ => false,
        })
        && downward.is_none_or(|d| list(d, "items").all(names_namespace))
}

fn only_item(config: &Value, name: &str) -> bool {
    match list(config, "items").as_slice() {
        [item] => text(item, "key") == name && text(item, "path") == name,
        _ => false,
    }
}

fn names_namespace(item: &Value) -> bool {
    text(item, "path") == "namespace"
        && at(item, "fieldRef")
            .is_some_and(|f| text(f, "apiVersion") == "v1" && text(f, "fieldPath") == "metadata.namespace")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_source_decides() {
        let volume = json!({"name": "v", "secret": {}, "hostPath": {"path": "/"}, "emptyDir": null});
        assert_eq!(kind(volume.as_object().unwrap()).map(name), Some("hostPath"));
        assert_eq!(kind(json!({"name": "v"}).as_object().unwrap()), None);
        assert_eq!(name(PROJECTED), "projected");
        assert_eq!(name(SECRET), "secret");
    }

    #[test]
    fn a_listed_secret_admits_the_token_volume_only() {
        let set = Set::of(&["secret".to_owned()]);
        let volume = |sources: Value| json!({"name": "v", "projected": {"sources": sources}});
        let ok = |v: Value| set.permits(PROJECTED, v.as_object().unwrap());
        assert!(ok(volume(json!([
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 5}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1",
                "fieldPath": "metadata.namespace"}}]}}
        ]))));
        assert!(ok(volume(json!([]))));
        assert!(ok(volume(json!([{"downwardAPI": {}}]))));
        assert!(!ok(volume(json!([{"secret": {"name": "s"}}]))));
        assert!(!ok(volume(json!([{"serviceAccountToken": {"path": "token", "audience": "x"}}]))));
        assert!(!ok(volume(json!([{"configMap": {"name": "kube-root-ca.crt"}}]))));
    }
}
