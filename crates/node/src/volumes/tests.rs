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

/// Needs root.
#[test]
fn secrets_become_files_in_memory_as_a_kubelet_makes_them_and_are_exchanged() {
    let mut setup = Setup::new();
    let set = |setup: &mut Setup, data: Value| {
        let secret = json!({"metadata": {"name": "s"}, "data": data});
        setup.objects.secrets.insert("s".to_owned(), serde_json::from_value(secret).unwrap());
    };
    set(&mut setup, json!({"key": "dmFsdWU=", "other": "eA=="}));
    setup.identity.fs_group = Some(1234);
    let items = json!([{"key": "key", "path": "key"}, {"key": "none", "path": "none"}]);
    let volumes = json!([
        {"name": "s", "secret": {"secretName": "s", "optional": true, "items": items}},
        {"name": "all", "secret": {"secretName": "s", "defaultMode": 256}},
        {"name": "none", "secret": {"secretName": "nowhere", "optional": true}},
    ]);
    let mounts = json!({"name": "c", "volumeMounts": [
        {"name": "s", "mountPath": "/s"}, {"name": "all", "mountPath": "/t"}, {"name": "none", "mountPath": "/u"},
    ]});
    let out = setup.prepare(volumes.clone(), mounts.clone()).unwrap();
    let [one, all, none] = [0, 1, 2].map(|index| out.mounts[index].source.clone());
    assert!(out.mounts.iter().all(|mount| mount.options.contains(&"ro".to_owned())));
    assert_eq!(rustix::fs::statfs(&one).unwrap().f_type, 0x0102_1994, "tmpfs");
    let names = |path: &Path| -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        names
    };
    assert_eq!(
        (names(&one), names(&all), names(&none)),
        (vec!["key".to_owned()], vec!["key".to_owned(), "other".to_owned()], vec![])
    );
    assert!(none.join("..data").is_dir());
    let of = |path: PathBuf| {
        let data = fs::metadata(path).unwrap();
        (data.uid(), data.gid(), data.mode() & 0o777)
    };
    assert_eq!(of(one.join("..data/key")), (0, 1234, 0o644));
    assert_eq!(of(all.join("..data/key")), (0, 1234, 0o440), "the group may read it");

    set(&mut setup, json!({"none": "eQ=="}));
    let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": volumes}})).unwrap();
    let directory = setup.directory.path().join("volumes");
    refresh(&pod, &directory, &setup.identity, &setup.objects).unwrap();
    assert_eq!((names(&one), names(&all)), (vec!["none".to_owned()], vec!["none".to_owned()]));
    assert_eq!(fs::read_to_string(one.join("none")).unwrap(), "y");
    // Also where an attempt to start the pod has left it.
    setup.prepare(volumes.clone(), mounts.clone()).unwrap();
    // Of a pod that has ended nothing is kept, also while its object is there.
    unmount_all(&directory).unwrap();
    for volume in [&one, &all, &none] {
        assert_ne!(rustix::fs::statfs(volume).unwrap().f_type, 0x0102_1994, "it is still in memory");
        assert_eq!(fs::read_dir(volume).unwrap().count(), 0, "something is left below it");
    }
    refresh(&pod, &directory, &setup.identity, &setup.objects).unwrap();
    assert_eq!(fs::read_dir(&one).unwrap().count(), 0, "it is written to the disk");
    unmount_all(&directory.join("nowhere")).unwrap();
    setup.prepare(volumes, mounts).unwrap();
    remove(&directory).unwrap();
    assert!(!directory.exists());
    remove(&directory).unwrap();
}

/// Needs root.
#[test]
fn a_claim_that_is_handed_over_is_the_groups_where_a_kubelet_would_and_its_loss_is_seen() {
    let setup = Setup::new();
    let path = setup.directory.path().join("volume");
    fs::create_dir(&path).unwrap();
    let mark = marks::Mark {
        file: setup.directory.path().join("mark"),
        claim: marks::Name { namespace: "n".to_owned(), name: "c".to_owned() },
    };
    let claim = Claim {
        mark: mark.clone(),
        volume: "pv".to_owned(),
        path: path.clone(),
        block: false,
        create: false,
        follows_group: true,
        capacity: 1,
    };
    let pod = Pod::default();
    let of = |path: &Path| {
        let data = fs::metadata(path).unwrap();
        (data.gid(), data.mode() & 0o7777)
    };
    let before = of(&path);
    let written = claim.hand_over("v", &pod, &setup.identity).unwrap();
    assert_eq!(of(&path), before, "the pod names no group for volumes");
    let grouped = Identity { fs_group: Some(1234), ..setup.identity.clone() };
    let host = Claim { follows_group: false, ..claim.clone() };
    host.hand_over("v", &pod, &grouped).unwrap();
    assert_eq!(of(&path), before, "it is a directory of the node");
    claim.hand_over("v", &pod, &grouped).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().gid(), 1234);
    // What a new file system has is nothing.
    fs::create_dir(path.join("lost+found")).unwrap();
    written.look().unwrap();
    assert!(!mark.exists());
    fs::write(path.join("file"), "").unwrap();
    written.look().unwrap();
    assert!(mark.exists());
    claim.hand_over("v", &pod, &grouped).unwrap();
    fs::remove_file(path.join("file")).unwrap();
    let said = claim.hand_over("v", &pod, &grouped).unwrap_err().to_string();
    assert!(said.contains("the content of PersistentVolume pv is missing"), "{said}");
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
        follows_group: true,
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
    let mut setup = Setup::new();
    let secret = json!({"metadata": {"name": "t"}, "data": {"key": "eA=="}});
    setup.objects.secrets.insert("t".to_owned(), serde_json::from_value(secret).unwrap());
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
            json!({"secret": {"secretName": "t", "items": [{"key": "none", "path": "x"}]}}),
            "CreateContainerConfigError",
            "no key \"none\"",
        ),
        (
            json!({"secret": {"secretName": "t", "items": [{"key": "key", "path": "../x"}]}}),
            "CreateContainerConfigError",
            "leaves the volume",
        ),
        (json!({"downwardAPI": {}}), "CreateContainerConfigError", "not supported"),
        (json!({"configMap": {"name": "c"}}), "CreateContainerConfigError", "not supported"),
        (json!({"projected": {}}), "CreateContainerConfigError", "not supported"),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        let error = setup.prepare(json!([volume]), mount.clone()).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}
