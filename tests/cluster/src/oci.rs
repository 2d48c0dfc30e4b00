//! Writes images as archives in the OCI image layout, without a container engine; the same contents give the same bytes.

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// What a path in an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory that everybody may read.
    Directory,
    /// A copy of a file of this machine, with these permissions.
    File(PathBuf, u32),
    /// Contents, with these permissions.
    Text(Vec<u8>, u32),
    /// A symbolic link.
    Link(PathBuf),
}

/// An image of one layer.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its name for a container runtime, with the tag.
    pub name: String,
    /// Path in the image, without the first slash, and what is there.
    pub entries: std::collections::BTreeMap<String, Entry>,
    /// The `config` object of the image's configuration: `Entrypoint`, `User`, `Env`, `Labels`.
    pub config: Value,
}

/// The digest of some bytes, as images name it.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes }
    }

    fn json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest.trim_start_matches("sha256:"))
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Image {
    /// Adds a directory for everything that has none above it.
    fn with_parents(&self) -> std::collections::BTreeMap<String, Entry> {
        let mut all = self.entries.clone();
        for path in self.entries.keys() {
            for parent in Path::new(path).ancestors().skip(1).filter(|one| !one.as_os_str().is_empty()) {
                all.entry(parent.to_string_lossy().into_owned()).or_insert(Entry::Directory);
            }
        }
        all
    }

    /// The layer: in the order of paths, owned by root, without a time.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in self.with_parents() {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            match entry {
                Entry::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(0o755);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File(from, mode) => {
                    let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
                    file(&mut tar, &mut header, &path, mode, &bytes)?;
                }
                Entry::Text(bytes, mode) => file(&mut tar, &mut header, &path, mode, &bytes)?,
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, &path, &target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }

    /// Every blob, and the index that leads to them.
    fn parts(&self) -> Result<(Vec<Blob>, Blob)> {
        let layer = self.layer()?;
        let diff_id = digest(&layer);
        // The writer stores no time and no name of a file. Fast: archives are read again on the machine that wrote them.
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&layer)?;
        let layer = Blob::new(gzip.finish()?);
        let config = Blob::json(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }))?;
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
        }))?;
        let mut entry = manifest.descriptor(MANIFEST);
        if let Some(fields) = entry.as_object_mut() {
            fields.insert("platform".to_owned(), json!({"architecture": "amd64", "os": "linux"}));
            fields.insert(
                "annotations".to_owned(),
                json!({
                    "io.containerd.image.name": self.name,
                    "org.opencontainers.image.ref.name": self.name,
                }),
            );
        }
        let index = Blob::json(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}))?;
        Ok((vec![layer, config, manifest], index))
    }

    /// Writes the archive; the digest of its manifest.
    pub fn write(&self, path: &Path) -> Result<String> {
        let (blobs, index) = self.parts()?;
        let out = fs::File::create(path).with_context(|| path.display().to_string())?;
        let mut tar = tar::Builder::new(std::io::BufWriter::new(out));
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            file(&mut tar, &mut header, name, 0o644, bytes)
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for blob in &blobs {
            add(&blob.path(), &blob.bytes)?;
        }
        add("index.json", &index.bytes)?;
        tar.into_inner()?.flush()?;
        Ok(blobs.last().map(|manifest| manifest.digest.clone()).unwrap_or_default())
    }
}

fn file<W: Write>(
    tar: &mut tar::Builder<W>,
    header: &mut tar::Header,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    Ok(tar.append_data(header, path, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn image(directory: &Path) -> Image {
        let from = directory.join("program");
        fs::write(&from, "contents").unwrap();
        let mut image = Image { name: "localhost/x:1".to_owned(), ..Image::default() };
        image.config = json!({"Entrypoint": ["/usr/bin/x"]});
        image.entries.insert("usr/bin/x".to_owned(), Entry::File(from, 0o755));
        image.entries.insert("bin".to_owned(), Entry::Link("usr/bin".into()));
        image.entries.insert("etc/passwd".to_owned(), Entry::Text(b"root:x:0:0:::\n".to_vec(), 0o644));
        image
    }

    #[test]
    fn the_same_contents_give_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("1.tar"), directory.path().join("2.tar"));
        let first = image(directory.path()).write(&one).unwrap();
        // Written again, so that the file is younger and has another inode.
        let second = image(directory.path()).write(&two).unwrap();
        assert_eq!(first, second);
        assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
        let mut other = image(directory.path());
        other.entries.insert("etc/passwd".to_owned(), Entry::Text(Vec::new(), 0o644));
        assert_ne!(other.write(&directory.path().join("3.tar")).unwrap(), first);
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_every_path_has_its_directories() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1.tar");
        let named = image(directory.path()).write(&path).unwrap();
        let mut found = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(fs::File::open(&path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(&bytes), format!("sha256:{hex}"));
            }
            found.insert(name, bytes);
        }
        let index: Value = serde_json::from_slice(&found["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], named.as_str());
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/x:1");

        let layer = image(directory.path()).layer().unwrap();
        let names: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["bin", "etc/", "etc/passwd", "usr/", "usr/bin/", "usr/bin/x"]);
    }
}
