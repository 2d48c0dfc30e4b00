//! Images of the node, read by the agent's own unpacking process. Needs root.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use ferrovirt_node::image::{Error, Policy, Store, only_file};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

struct Image {
    blobs: Vec<(String, Vec<u8>)>,
    layers: Vec<serde_json::Value>,
}

impl Image {
    fn new() -> Self {
        Self { blobs: vec![], layers: vec![] }
    }

    fn blob(&mut self, bytes: Vec<u8>, kind: &str) -> serde_json::Value {
        let hex = hex(&bytes);
        let descriptor = json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()});
        self.blobs.push((hex, bytes));
        descriptor
    }

    fn layer(mut self, gzip: bool, fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        let mut bytes = builder.into_inner().unwrap();
        let mut kind = "application/vnd.oci.image.layer.v1.tar";
        if gzip {
            // In several members, as some tools write layers.
            let members = bytes.chunks(bytes.len() / 3 + 1).map(|piece| {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(piece).unwrap();
                encoder.finish().unwrap()
            });
            bytes = members.collect::<Vec<_>>().concat();
            kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        }
        let descriptor = self.blob(bytes, kind);
        self.layers.push(descriptor);
        self
    }

    fn write(mut self, directory: &Path, tag: Option<&str>) {
        let manifest = json!({"schemaVersion": 2, "layers": self.layers}).to_string().into_bytes();
        let mut descriptor = self.blob(manifest, "application/vnd.oci.image.manifest.v1+json");
        if let Some(tag) = tag {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(
            directory.join("index.json"),
            json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string(),
        )
        .unwrap();
        for (hex, bytes) in self.blobs {
            fs::write(directory.join("blobs/sha256").join(hex), bytes).unwrap();
        }
    }
}

fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
        header.set_size(0);
        // As an attacker would: without the checks of the library's setters.
        header.as_old_mut().linkname[..data.len()].copy_from_slice(data);
        raw_name(&mut header, name);
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
    } else {
        header.set_size(data.len() as u64);
        raw_name(&mut header, name);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
}

fn raw_name(header: &mut tar::Header, name: &str) {
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
}

fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8]) {
    add(builder, name, tar::EntryType::Regular, data);
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A store in which a failure is forgotten at once.
fn forgetful() -> Policy {
    Policy { pause: Duration::ZERO, ..Policy::default() }
}

struct Node {
    directory: tempfile::TempDir,
    store: Store,
}

fn node(policy: Policy) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let (images, cache) = (directory.path().join("images"), directory.path().join("cache"));
    fs::create_dir_all(&images).unwrap();
    let program = env!("CARGO_BIN_EXE_virt-handler").into();
    let store = Store::open(images, cache, program, policy).unwrap();
    Node { directory, store }
}

impl Node {
    fn image(&self, name: &str) -> PathBuf {
        self.directory.path().join("images").join(name)
    }

    /// The unpacked image, for the pod `pod`.
    fn root(&self, reference: &str, pod: &str) -> Result<PathBuf, Error> {
        self.store.root(reference, &self.marks(pod))
    }

    fn marks(&self, pod: &str) -> PathBuf {
        self.directory.path().join("pods").join(pod)
    }

    fn collect(&self, all: bool) -> u64 {
        self.store.collect(|| ["a", "b"].map(|pod| self.marks(pod)).into(), all)
    }

    fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("cache")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn layers_cover_each_other_and_whiteouts_remove() {
    let node = node(forgetful());
    let place = node.image("a/b");
    Image::new()
        .layer(true, |b| {
            file(b, "disk/old.img", b"old");
            file(b, "boot/vmlinuz", b"one");
            file(b, "boot/x/y", b"y");
        })
        .layer(false, |b| {
            file(b, "disk/.wh.old.img", b"");
            file(b, "disk/new.img", b"new");
            file(b, "boot/x/.wh..wh..opq", b"");
            file(b, "boot/vmlinuz", b"two");
            add(b, "boot/link", tar::EntryType::Symlink, b"vmlinuz");
            add(b, "boot/hard", tar::EntryType::Link, b"boot/vmlinuz");
        })
        .write(&place, Some("1"));
    let root = node.root("a/b:1", "a").unwrap();
    assert_eq!(only_file(&root, "disk", "a/b:1").unwrap(), "disk/new.img");
    assert_eq!(fs::read(root.join("boot/vmlinuz")).unwrap(), b"two");
    assert_eq!(fs::read(root.join("boot/hard")).unwrap(), b"two");
    assert!(root.join("boot/link").is_file() && !root.join("boot/x/y").exists());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(root.join("boot/vmlinuz")).unwrap().permissions().mode() & 0o7777, 0o555);
    assert!(matches!(node.root("a/b:2", "a"), Err(Error::Tag { .. })));
    assert!(matches!(node.root("a/c", "a"), Err(Error::Missing { .. })));
}

#[test]
fn an_archive_is_the_same_as_a_layout() {
    let node = node(forgetful());
    let place = node.directory.path().join("layout");
    Image::new().layer(true, |b| file(b, "disk/d", &[7; 100_000])).write(&place, None);
    let mut archive = tar::Builder::new(fs::File::create(node.image("x.tar")).unwrap());
    archive.append_dir_all(".", &place).unwrap();
    archive.finish().unwrap();
    let root = node.root("x:anything", "a").unwrap();
    assert_eq!(fs::read(root.join("disk/d")).unwrap(), vec![7; 100_000]);
}

#[test]
fn damaged_blobs_are_refused_and_leave_nothing_in_the_cache() {
    let node = node(forgetful());
    let place = node.image("a");
    Image::new().layer(true, |b| file(b, "disk/d", b"data")).write(&place, None);
    for entry in fs::read_dir(place.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        for bytes in [&damaged, &whole[..middle]] {
            fs::write(&path, bytes).unwrap();
            assert!(node.root("a", "a").is_err());
            assert_eq!(node.cached(), [""; 0]);
        }
        fs::write(&path, &whole).unwrap();
    }
    node.root("a", "a").unwrap();
}

#[test]
fn an_image_that_asks_for_too_much_is_refused_and_leaves_nothing() {
    let long = |kind: tar::EntryType| {
        move |b: &mut tar::Builder<Vec<u8>>| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 20);
            header.set_mode(0o644);
            header.set_cksum();
            b.append(&header, std::io::repeat(b'x').take(1 << 20)).unwrap();
        }
    };
    use std::io::Read;
    let pattern = |b: &mut tar::Builder<Vec<u8>>| file(b, "disk/d", &vec![7; 20 << 20]);
    let many = |b: &mut tar::Builder<Vec<u8>>| (0..500).for_each(|n| file(b, &format!("disk/{n}"), b""));
    let node = node(Policy {
        limits: ferrovirt_unpack::Limits { entries: 400, ..Policy::default().limits },
        ..forgetful()
    });
    Image::new().layer(true, long(tar::EntryType::GNULongName)).write(&node.image("name"), None);
    Image::new().layer(true, long(tar::EntryType::XHeader)).write(&node.image("records"), None);
    Image::new().layer(true, pattern).write(&node.image("ratio"), None);
    Image::new().layer(true, many).write(&node.image("entries"), None);
    for (name, words) in [
        ("name", "more than 65536"),
        ("records", "more than 65536"),
        ("ratio", "layers unpack to over"),
        ("entries", "over 400 files"),
    ] {
        let said = node.root(name, "a").unwrap_err().to_string();
        assert!(said.contains(words), "{name}: {said}");
        assert_eq!(node.cached(), [""; 0], "{name}");
    }
    // An archive of a layout is foreign, too.
    let mut archive = tar::Builder::new(Vec::new());
    long(tar::EntryType::GNULongName)(&mut archive);
    fs::write(node.image("outer.tar"), archive.into_inner().unwrap()).unwrap();
    let said = node.root("outer", "a").unwrap_err().to_string();
    assert!(said.contains("more than 65536"), "{said}");
}

#[test]
fn an_image_that_failed_is_not_unpacked_for_each_try_until_it_is_another() {
    let node = node(Policy::default());
    let place = node.image("a");
    Image::new().layer(true, |b| file(b, "../evil", b"x")).write(&place, None);
    let first = node.root("a", "a").unwrap_err().to_string();
    // Anyone who reads it again finds that it is gone.
    fs::remove_dir_all(place.join("blobs")).unwrap();
    assert_eq!(node.root("a", "b").unwrap_err().to_string(), first);
    fs::remove_dir_all(&place).unwrap();
    Image::new().layer(true, |b| file(b, "disk/d", b"x")).write(&place, None);
    node.root("a", "b").unwrap();
}

#[test]
fn unused_images_are_collected_and_used_ones_never() {
    let node = node(Policy { unused_bytes: 0, unused_age: Duration::ZERO, ..forgetful() });
    for name in ["one", "two"] {
        Image::new().layer(false, |b| file(b, "disk/d", name.as_bytes())).write(&node.image(name), None);
    }
    let one = node.root("one", "a").unwrap();
    let two = node.root("two", "b").unwrap();
    assert_eq!((node.collect(true), node.cached().len()), (0, 2));
    // The pod is gone.
    fs::remove_dir_all(node.marks("b")).unwrap();
    assert!(node.collect(false) > 0);
    assert!(one.is_dir() && !two.exists());
    assert_eq!(node.root("two", "b").unwrap(), two);
}

#[test]
fn what_an_earlier_agent_left_half_unpacked_is_removed_at_start() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("cache/7.part/x")).unwrap();
    fs::create_dir_all(directory.path().join("cache/whole")).unwrap();
    let cache = directory.path().join("cache");
    Store::open(directory.path().to_owned(), cache.clone(), "/nonexistent".into(), Policy::default())
        .unwrap();
    assert!(!cache.join("7.part").exists() && cache.join("whole").exists());
}

#[test]
fn the_files_of_images_belong_to_nobody_who_runs_machines() {
    use std::os::unix::fs::MetadataExt;
    let node = node(forgetful());
    Image::new().layer(true, |b| file(b, "disk/d", b"x")).write(&node.image("a"), None);
    let root = node.root("a", "a").unwrap();
    let of = |path: &Path| fs::metadata(path).map(|data| (data.uid(), data.mode() & 0o7777)).unwrap();
    assert_eq!(of(&root), (0, 0o755));
    assert_eq!(of(&root.join("disk/d")), (ferrovirt_unpack::USER, 0o555));
    // The next unpacking process has the same user: it must not get there.
    assert_eq!(of(root.parent().unwrap()), (0, 0o700));
}

#[test]
fn an_image_is_read_by_a_process_without_rights() {
    let node = node(forgetful());
    // More than a moment's work, so that the process can be looked at.
    let fill = |b: &mut tar::Builder<Vec<u8>>| file(b, "disk/d", &vec![0; 48 << 20]);
    Image::new().layer(false, fill).write(&node.image("a"), None);
    let seen = std::thread::scope(|scope| {
        let work = scope.spawn(|| node.root("a", "a").unwrap());
        let mut seen = String::new();
        while !work.is_finished() {
            let status = unpacker().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
            seen = status.filter(|text| text.contains("Seccomp:\t2")).unwrap_or(seen);
        }
        seen
    });
    for line in [
        "Uid:\t64107\t64107\t64107\t64107",
        "Gid:\t64107\t64107\t64107\t64107",
        "Groups:\t \n",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(seen.contains(line), "{line:?} is not in\n{seen}");
    }
}

/// The unpacking process of this test.
fn unpacker() -> Option<u32> {
    let own = std::process::id();
    let threads = fs::read_dir(format!("/proc/{own}/task")).ok()?;
    threads.flatten().find_map(|thread| {
        let children = fs::read_to_string(thread.path().join("children")).ok()?;
        let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.find(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(ferrovirt_unpack::COMMAND)
        })
    })
}

#[test]
fn the_command_is_of_no_use_to_others() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_virt-handler")).arg(ferrovirt_unpack::COMMAND).output().unwrap();
    assert!(!output.status.success());
}
