use super::*;
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::Write;

struct Image {
    blobs: Vec<(String, Vec<u8>)>,
    layers: Vec<serde_json::Value>,
}

impl Image {
    fn new() -> Self {
        Self { blobs: vec![], layers: vec![] }
    }

    fn blob(&mut self, bytes: Vec<u8>, kind: &str) -> serde_json::Value {
        let hex = layout::to_hex(&Sha256::digest(&bytes));
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
            let members = bytes.chunks(1024).map(|piece| {
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

    fn write(mut self, folder: &Path, tag: Option<&str>) {
        let manifest = json!({"schemaVersion": 2, "layers": self.layers}).to_string().into_bytes();
        let mut descriptor = self.blob(manifest, "application/vnd.oci.image.manifest.v1+json");
        if let Some(tag) = tag {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(
            folder.join("index.json"),
            json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string(),
        )
        .unwrap();
        for (hex, bytes) in self.blobs {
            fs::write(folder.join("blobs/sha256").join(hex), bytes).unwrap();
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

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("images"), folder.path().join("cache")).unwrap();
    (folder, store)
}

#[test]
fn references_name_images_of_this_node_only() {
    for (text, name, tag) in [
        ("a/b:1", "a/b", "1"),
        ("guest", "guest", "latest"),
        ("localhost:5000/a/b", "localhost:5000/a/b", "latest"),
        ("localhost:5000/a:x", "localhost:5000/a", "x"),
    ] {
        let reference = Reference::parse(text).unwrap();
        assert_eq!((reference.name.as_str(), reference.tag.as_str()), (name, tag), "{text}");
    }
    for text in ["", "/etc", "../a", "a/../../b", "a//b", "a b", "a:", "a@sha256:12", "a/.hidden", "a\0b"] {
        assert!(Reference::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn layers_cover_each_other_and_whiteouts_remove() {
    let (folder, store) = store();
    let place = folder.path().join("images/a/b");
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
    let root = store.root("a/b:1").unwrap();
    assert_eq!(disk(&root, "a/b:1", None).unwrap(), "disk/new.img");
    assert_eq!(fs::read(root.join("boot/vmlinuz")).unwrap(), b"two");
    assert_eq!(fs::read(root.join("boot/hard")).unwrap(), b"two");
    assert!(is_file(&root, "/boot/link") && !root.join("boot/x/y").exists());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(root.join("boot/vmlinuz")).unwrap().permissions().mode() & 0o7777, 0o555);
    assert!(matches!(store.root("a/b:2"), Err(Error::Tag { .. })));
    assert!(matches!(store.root("a/c"), Err(Error::Missing { .. })));
}

#[test]
fn an_archive_is_the_same_as_a_layout() {
    let (folder, store) = store();
    let place = folder.path().join("layout");
    Image::new().layer(true, |b| file(b, "disk/d", &[7; 100_000])).write(&place, None);
    fs::create_dir_all(folder.path().join("images")).unwrap();
    let mut archive = tar::Builder::new(fs::File::create(folder.path().join("images/x.tar")).unwrap());
    archive.append_dir_all(".", &place).unwrap();
    archive.finish().unwrap();
    let root = store.root("x:anything").unwrap();
    assert_eq!(fs::read(root.join("disk/d")).unwrap(), vec![7; 100_000]);
}

#[test]
fn entries_that_leave_the_image_are_refused() {
    let attacks: [fn(&mut tar::Builder<Vec<u8>>); 5] = [
        |b| file(b, "../evil", b"x"),
        |b| file(b, "a/../../evil", b"x"),
        |b| {
            add(b, "out", tar::EntryType::Symlink, b"/tmp");
            file(b, "out/evil", b"x");
        },
        |b| add(b, "evil", tar::EntryType::Link, b"../../index.json"),
        |b| {
            add(b, "out", tar::EntryType::Symlink, b"/etc/passwd");
            add(b, "evil", tar::EntryType::Link, b"out");
        },
    ];
    for (number, attack) in attacks.into_iter().enumerate() {
        let (folder, store) = store();
        Image::new().layer(false, attack).write(&folder.path().join("images/a"), None);
        let error = store.root("a").unwrap_err();
        assert!(matches!(error, Error::Broken { .. }), "{number}: {error}");
        assert!(!folder.path().join("evil").exists() && !Path::new("/tmp/evil").exists());
    }
}

#[test]
fn damaged_blobs_are_refused_and_leave_nothing_in_the_cache() {
    let (folder, store) = store();
    let place = folder.path().join("images/a");
    Image::new().layer(true, |b| file(b, "disk/d", b"data")).write(&place, None);
    for entry in fs::read_dir(place.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(store.root("a").is_err());
        fs::write(&path, &whole[..middle]).unwrap();
        assert!(store.root("a").is_err());
        fs::write(&path, &whole).unwrap();
    }
    let cached = fs::read_dir(folder.path().join("cache")).unwrap();
    assert!(cached.flatten().all(|entry| entry.path().extension().is_some_and(|e| e == "part")));
    store.root("a").unwrap();
}

#[test]
fn zeroes_become_holes() {
    let (folder, store) = store();
    let mut data = vec![0; 8 << 20];
    data[4 << 20] = 1;
    Image::new().layer(true, |b| file(b, "disk/d", &data)).write(&folder.path().join("images/a"), None);
    let root = store.root("a").unwrap();
    assert_eq!(fs::read(root.join("disk/d")).unwrap(), data);
    use std::os::unix::fs::MetadataExt;
    assert!(fs::metadata(root.join("disk/d")).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_container_disk_has_one_file_or_a_path() {
    let (folder, store) = store();
    Image::new()
        .layer(false, |b| {
            file(b, "disk/a", b"a");
            file(b, "disk/b", b"b");
        })
        .write(&folder.path().join("images/two"), None);
    let root = store.root("two").unwrap();
    assert!(disk(&root, "two", None).is_err());
    assert_eq!(disk(&root, "two", Some("/disk/b")).unwrap(), "disk/b");
    assert!(disk(&root, "two", Some("/disk/c")).is_err());
}
