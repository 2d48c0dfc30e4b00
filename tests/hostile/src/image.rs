//! Images made for a test, in the image directory that all tests share, and removed with the test.

use anyhow::Result;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};

/// One layer, as somebody would write it who keeps to no rule.
#[derive(Debug, Default)]
pub struct Layer(Vec<u8>);

impl Layer {
    fn add(mut self, kind: EntryType, name: &str, link: &Path, data: impl Read, size: u64) -> Self {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o444);
        let named = header.set_path(name).and_then(|()| header.set_link_name(link));
        header.set_cksum();
        let added = named.and_then(|()| builder.append(&header, data));
        let bytes = added.and_then(|()| builder.into_inner()).unwrap_or_default();
        // Without the blocks that end an archive.
        self.0.extend_from_slice(bytes.get(..bytes.len().saturating_sub(1024)).unwrap_or_default());
        self
    }

    /// A file.
    #[must_use]
    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(EntryType::Regular, name, Path::new("x"), data, data.len() as u64)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, to: &Path) -> Self {
        self.add(EntryType::Symlink, name, to, &[][..], 0)
    }

    /// A name of this many bytes, in an extended header of GNU tar.
    #[must_use]
    pub fn long_name(self, size: u64) -> Self {
        self.add(EntryType::GNULongName, "x", Path::new("x"), std::io::repeat(b'x').take(size), size)
    }

    /// Records of this many bytes, in an extended header of PAX.
    #[must_use]
    pub fn records(self, size: u64) -> Self {
        self.add(EntryType::XHeader, "x", Path::new("x"), std::io::repeat(b'x').take(size), size)
    }
}

/// A directory of images below the one that the tests' clusters have.
#[derive(Debug)]
pub struct Images {
    name: String,
    path: PathBuf,
}

impl Images {
    /// An empty one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new() -> Result<Self> {
        let above = ferrovirt_e2e::target().join("guest/images");
        fs::create_dir_all(&above)?;
        let path = tempfile::Builder::new().prefix("hostile-").tempdir_in(above)?.keep();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, path })
    }

    /// How machines name the image `name`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// Writes an image with one layer.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, name: &str, layer: &Layer) -> Result<()> {
        let place = self.path.join(name);
        fs::create_dir_all(place.join("blobs/sha256"))?;
        let blob = |bytes: &[u8], kind: &str| -> Result<Value> {
            let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            fs::write(place.join("blobs/sha256").join(&hex), bytes)?;
            Ok(json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()}))
        };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&layer.0)?;
        gzip.write_all(&[0; 1024])?;
        let layer = blob(&gzip.finish()?, "application/vnd.oci.image.layer.v1.tar+gzip")?;
        let manifest = json!({"schemaVersion": 2, "layers": [layer]}).to_string();
        let manifest = blob(manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json")?;
        fs::write(place.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        Ok(fs::write(place.join("index.json"), index.to_string())?)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
