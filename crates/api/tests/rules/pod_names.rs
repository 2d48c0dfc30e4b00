//! Names that a machine's volumes share with those of its launcher's pod: what the API server would refuse of the pod is refused of
//! the machine, while somebody looks.

use serde_json::{Value, json};

use super::{causes, cluster, lay_over};

/// The messages about a machine with these volumes, each given a virtio disk.
fn found(volumes: &[Value]) -> Vec<(String, String)> {
    let disks: Vec<Value> =
        volumes.iter().map(|volume| json!({"name": volume["name"], "disk": {"bus": "virtio"}})).collect();
    causes(json!({"domain": {"devices": {"disks": disks}}, "volumes": volumes}), &cluster(&["HostDisk"]))
}

fn volume(name: &str, source: Value) -> Value {
    let mut volume = json!({"name": name});
    lay_over(&mut volume, source);
    volume
}

/// Sources that are volumes of the pod under their own name.
fn mounted() -> [Value; 5] {
    [
        json!({"containerDisk": {"image": "x"}}),
        json!({"hostDisk": {"path": "/srv/a.img", "type": "Disk"}}),
        json!({"persistentVolumeClaim": {"claimName": "c"}}),
        json!({"dataVolume": {"name": "c"}}),
        json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}),
    ]
}

#[test]
fn a_volume_of_the_pod_has_a_name_of_its_own() {
    for source in mounted() {
        for name in ["public", "private", "sockets", "ephemeral-disks", "hugepages", "kernel-boot-volume"] {
            let causes = found(&[volume(name, source.clone())]);
            assert_eq!(causes.len(), 1, "{name} {source}: {causes:?}");
            assert_eq!(causes[0].0, "spec.volumes[0].name", "{source}");
            assert!(causes[0].1.contains(&format!("'{name}'")), "{causes:?}");
        }
        // A name that only looks so, and the place of the one at fault.
        assert_eq!(found(&[volume("publics", source.clone()), volume("my-private", source.clone())]), []);
        let second = found(&[volume("a", source.clone()), volume("sockets", source.clone())]);
        assert_eq!(second[0].0, "spec.volumes[1].name");
    }
    // What the launcher makes is a file in its own scratch space, and may be called anything.
    for source in [json!({"emptyDisk": {"capacity": "1Mi"}}), json!({"cloudInitNoCloud": {"userData": "x"}})]
    {
        assert_eq!(found(&[volume("private", source)]), []);
    }
}

#[test]
fn the_secrets_of_a_seed_have_names_of_their_own() {
    let seed = |of: Value| volume("seed", json!({"cloudInitNoCloud": of}));
    let user = seed(json!({"secretRef": {"name": "s"}}));
    let network = seed(json!({"userData": "x", "networkDataSecretRef": {"name": "s"}}));
    let inline = seed(json!({"userData": "x"}));
    for source in mounted() {
        for suffix in ["udata", "ndata"] {
            let other = volume(&format!("seed-{suffix}"), source.clone());
            for secret in [&user, &network] {
                let causes = found(&[secret.clone(), other.clone()]);
                assert_eq!(causes.len(), 1, "{secret} {other}: {causes:?}");
                assert_eq!(causes[0].0, "spec.volumes[1].name");
                assert!(causes[0].1.contains("'seed'"), "{causes:?}");
            }
            assert_eq!(found(&[inline.clone(), other.clone()]), []);
            assert_eq!(found(&[user.clone(), volume(&format!("sed-{suffix}"), source.clone())]), []);
        }
    }
}

/// The API server takes 63 characters, and the names of a seed's secrets are longer than the seed's.
#[test]
fn the_secrets_of_a_seed_have_names_that_fit() {
    let secret = |length: usize| {
        let name = "s".repeat(length);
        found(&[volume(&name, json!({"cloudInitNoCloud": {"secretRef": {"name": "x"}}}))])
    };
    assert_eq!(secret(57), []);
    let causes = secret(58);
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!(causes[0].0, "spec.volumes[0].name");
    let inline = volume(&"s".repeat(63), json!({"cloudInitNoCloud": {"userData": "x"}}));
    assert_eq!(found(&[inline]), []);
}
