use super::*;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;

struct Setup {
    directory: tempfile::TempDir,
    images: Store,
    identity: Identity,
    objects: Objects,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let images = Store::open(
            directory.path().join("images"),
            directory.path().join("cache"),
            "/nonexistent".into(),
            image::Policy::default(),
        )
        .unwrap();
        fs::create_dir(directory.path().join("volumes")).unwrap();
        let identity = Identity::of(&Pod::default(), &Container::default(), 107).unwrap();
        Self { directory, images, identity, objects: Objects::default() }
    }

    fn prepare(&self, volumes: Value, container: Value) -> Result<Prepared, Error> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {"containers": [], "volumes": volumes},
        }))
        .unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        let context = Context {
            pod: &pod,
            directory: &self.directory.path().join("volumes"),
            identity: &self.identity,
            images: &self.images,
            marks: &self.directory.path().join("marks"),
            objects: &self.objects,
        };
        prepare(&context, &container)
    }
}

#[test]
fn scratch_belongs_to_the_containers_user_and_parents_come_first() {
    let setup = Setup::new();
    let out = setup
        .prepare(
            json!([{"name": "in", "emptyDir": {}}, {"name": "out", "emptyDir": {}}]),
            json!({"name": "c", "volumeMounts": [
                {"name": "in", "mountPath": "/var/run/outer/sockets"},
                {"name": "out", "mountPath": "/var/run/outer", "readOnly": true},
            ]}),
        )
        .unwrap();
    let paths: Vec<_> = out.mounts.iter().map(|mount| mount.destination.as_str()).collect();
    assert_eq!(paths, ["/var/run/outer", "/var/run/outer/sockets"]);
    assert!(out.mounts[0].options.contains(&"ro".to_owned()));
    let data = fs::metadata(&out.mounts[1].source).unwrap();
    assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (107, 107, 0o700));
}

#[test]
fn memory_volumes_are_mounted_in_the_container_alone() {
    let setup = Setup::new();
    let out = setup
        .prepare(
            json!([{"name": "huge", "emptyDir": {"medium": "HugePages"}}, {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]),
            json!({"name": "c", "resources": {"limits": {"hugepages-2Mi": "64Mi"}}, "volumeMounts": [
                {"name": "huge", "mountPath": "/dev/hugepages"}, {"name": "mem", "mountPath": "/mem"},
            ]}),
        )
        .unwrap();
    let kinds: Vec<_> = out.mounts.iter().map(|mount| mount.kind).collect();
    assert_eq!(kinds, ["hugetlbfs", "tmpfs"]);
    for option in ["pagesize=2097152", "size=67108864", "uid=107"] {
        assert!(out.mounts[0].options.iter().any(|o| o == option), "{:?}", out.mounts[0].options);
    }
    assert!(out.mounts[1].options.iter().any(|option| option == "size=1048576"));
}

#[test]
fn payloads_become_files_that_the_group_reads() {
    let mut setup = Setup::new();
    let secret = json!({"metadata": {"name": "s"}, "data": {"key": "dmFsdWU="}});
    setup.objects.secrets.insert("s".to_owned(), serde_json::from_value(secret).unwrap());
    let volumes = json!([
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 256}},
        {"name": "d", "downwardAPI": {"items": [{"path": "x/labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]);
    let mounts = json!({"name": "c", "volumeMounts": [{"name": "s", "mountPath": "/s"}, {"name": "d", "mountPath": "/d"}]});
    let out = setup.prepare(volumes, mounts).unwrap();
    assert_eq!(fs::read_to_string(out.mounts[0].source.join("x/labels")).unwrap(), "a=\"b\"");
    let key = out.mounts[1].source.join("key");
    assert_eq!(fs::read_to_string(&key).unwrap(), "value");
    let data = fs::metadata(key).unwrap();
    assert_eq!((data.uid(), data.gid(), data.mode() & 0o777), (0, 107, 0o440));
}

#[test]
fn a_claims_directory_is_made_once_and_its_loss_is_an_error_that_says_what_to_do() {
    let mut setup = Setup::new();
    let (path, mark) = (setup.directory.path().join("volume"), setup.directory.path().join("mark"));
    let claim = |create| Claim {
        mark: marks::Mark {
            file: mark.clone(),
            claim: marks::Name { namespace: "n".to_owned(), name: "c".to_owned() },
        },
        volume: "pv".to_owned(),
        path: path.clone(),
        block: false,
        create,
        capacity: 1,
    };
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    let mount = json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    setup.objects.claims.insert("c".to_owned(), claim(false));
    let said = setup.prepare(volumes.clone(), mount.clone()).unwrap_err().to_string();
    assert!(said.contains("the directory of PersistentVolume pv is missing") && !path.exists(), "{said}");
    setup.objects.claims.insert("c".to_owned(), claim(true));
    setup.prepare(volumes.clone(), mount.clone()).unwrap();
    fs::remove_dir(&path).unwrap();
    fs::write(&mark, "").unwrap();
    let said = setup.prepare(volumes, mount).unwrap_err().to_string();
    assert!(said.contains("in use before: mount or restore it there") && !path.exists(), "{said}");
}

#[test]
fn a_part_of_a_volume_is_not_mounted() {
    let setup = Setup::new();
    let volumes = json!([{"name": "v", "hostPath": {"path": setup.directory.path()}}]);
    for mount in [
        json!({"name": "v", "mountPath": "/v", "subPath": "volumes"}),
        json!({"name": "v", "mountPath": "/v", "subPathExpr": "$(X)"}),
    ] {
        let error =
            setup.prepare(volumes.clone(), json!({"name": "c", "volumeMounts": [mount]})).unwrap_err();
        assert!(error.to_string().contains("mount the whole volume"), "{error}");
    }
}

#[test]
fn what_is_missing_or_strange_is_named() {
    let setup = Setup::new();
    let mount = json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    for (volume, reason, words) in [
        (json!({"secret": {"secretName": "nope"}}), "CreateContainerConfigError", "secret nope not found"),
        (json!({"image": {"reference": "a/b"}}), "ErrImagePull", "put an OCI layout at"),
        (
            json!({"hostPath": {"path": "/nonexistent", "type": "Directory"}}),
            "CreateContainerError",
            "not a directory",
        ),
        (json!({"hostPath": {"path": "/a/../b"}}), "CreateContainerConfigError", "without `..`"),
        (json!({"nfs": {"server": "x", "path": "/"}}), "CreateContainerConfigError", "not supported"),
        (json!({"persistentVolumeClaim": {"claimName": "c"}}), "CreateContainerConfigError", "c not found"),
        (
            json!({"downwardAPI": {"items": [{"path": "../x", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
            "CreateContainerConfigError",
            "leaves the volume",
        ),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        let error = setup.prepare(json!([volume]), mount.clone()).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}
