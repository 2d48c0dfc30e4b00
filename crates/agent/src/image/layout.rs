//! Reading OCI layouts, as a directory or as an archive of one. Every byte is foreign: sizes are limited, digests
//! are checked.

use super::{Error, unpack};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Larger documents are not manifests.
const MAX_DOCUMENT: u64 = 4 << 20;
const TAG: &str = "org.opencontainers.image.ref.name";

/// 64 lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// A manifest that was found and checked.
pub(super) struct Manifest {
    /// Hexadecimal SHA-256 of the manifest.
    pub(super) digest: String,
    pub(super) layers: Vec<Descriptor>,
}

/// An opened layout.
pub(super) struct Layout {
    place: PathBuf,
    /// Files of an archive: where each begins and how long it is.
    archive: Option<HashMap<String, (u64, u64)>>,
}

impl Layout {
    pub(super) fn open(place: &Path) -> Result<Self, Error> {
        let mut layout = Self { place: place.to_owned(), archive: None };
        if place.is_file() {
            layout.archive = Some(layout.contents().map_err(|source| layout.io(source))?);
        }
        Ok(layout)
    }

    fn contents(&self) -> io::Result<HashMap<String, (u64, u64)>> {
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(File::open(&self.place)?);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            if entry.header().entry_type().is_file() {
                let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
                files.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        Ok(files)
    }

    /// The manifest for a tag. A layout with one manifest without a tag matches every tag.
    pub(super) fn manifest(
        &self,
        reference: &str,
        tag: &str,
        digest: Option<&str>,
    ) -> Result<Manifest, Error> {
        let index: Index = self.document("index.json", None)?;
        let named =
            |descriptor: &&Descriptor| descriptor.annotations.get(TAG).is_some_and(|name| name == tag);
        let found = match index.manifests.as_slice() {
            [one] if !one.annotations.contains_key(TAG) => Some(one),
            many => many.iter().find(named),
        };
        let mut found = found.cloned().ok_or_else(|| {
            let tags: Vec<&str> =
                index.manifests.iter().filter_map(|d| d.annotations.get(TAG)).map(String::as_str).collect();
            Error::Tag {
                reference: reference.to_owned(),
                place: self.place.display().to_string(),
                found: if tags.is_empty() { "none".to_owned() } else { tags.join(", ") },
            }
        })?;
        if found.media_type.ends_with("index.v1+json") || found.media_type.ends_with("manifest.list.v2+json")
        {
            let platforms: Index = self.blob_document(&found)?;
            let ours = |d: &&Descriptor| {
                d.platform.as_ref().is_none_or(|p| p.os == "linux" && p.architecture == architecture())
            };
            found = platforms
                .manifests
                .iter()
                .find(ours)
                .cloned()
                .ok_or_else(|| self.broken(format!("it has no manifest for linux/{}", architecture())))?;
        }
        let hex = self.hex(&found)?.to_owned();
        if digest.is_some_and(|asked| asked != hex) {
            return Err(
                self.broken(format!("its manifest is sha256:{hex}, another than the reference names"))
            );
        }
        let manifest: RawManifest = self.blob_document(&found)?;
        Ok(Manifest { digest: hex, layers: manifest.layers })
    }

    /// Puts a layer on top of what is in `root`.
    pub(super) fn unpack(&self, layer: &Descriptor, root: &Path) -> Result<(), Error> {
        let hex = self.hex(layer)?;
        let (file, size) = self.file(&format!("blobs/sha256/{hex}"))?;
        if size != layer.size {
            return Err(self.broken(format!("layer {hex} has {size} bytes, not {}", layer.size)));
        }
        let mut checked = Checked { inner: file, hash: Sha256::new() };
        let kind = layer.media_type.as_str();
        let result = if kind.ends_with("tar+gzip") || kind.ends_with("tar.gzip") {
            // Lazily pulled and parallel-packed layers are many gzip members in a row.
            unpack::layer(MultiGzDecoder::new(&mut checked), root)
        } else if kind.ends_with(".tar") {
            unpack::layer(&mut checked, root)
        } else {
            return Err(
                self.broken(format!("layer {hex} is of kind {kind:?}, not a tar archive plain or with gzip"))
            );
        };
        result.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                self.broken(format!("layer {hex}: {error}"))
            }
            _ => self.io(error),
        })?;
        // What follows the end of the archive counts for the digest too.
        io::copy(&mut checked, &mut io::sink()).map_err(|source| self.io(source))?;
        let seen = to_hex(&checked.hash.finalize());
        if seen != hex {
            return Err(self.broken(format!("layer {hex} really has the digest {seen}")));
        }
        Ok(())
    }

    fn blob_document<T: for<'de> Deserialize<'de>>(&self, descriptor: &Descriptor) -> Result<T, Error> {
        let hex = self.hex(descriptor)?;
        self.document(&format!("blobs/sha256/{hex}"), Some((hex, descriptor.size)))
    }

    fn document<T: for<'de> Deserialize<'de>>(
        &self,
        name: &str,
        expected: Option<(&str, u64)>,
    ) -> Result<T, Error> {
        let (file, size) = self.file(name)?;
        if size > MAX_DOCUMENT || expected.is_some_and(|(_, length)| length != size) {
            return Err(self.broken(format!("{name} has {size} bytes")));
        }
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(|source| self.io(source))?;
        if expected.is_some_and(|(hex, _)| hex != to_hex(&Sha256::digest(&bytes))) {
            return Err(self.broken(format!("{name} does not have the digest that it is named by")));
        }
        serde_json::from_slice(&bytes).map_err(|error| self.broken(format!("{name}: {error}")))
    }

    fn file(&self, name: &str) -> Result<(io::Take<File>, u64), Error> {
        let open = || -> io::Result<(io::Take<File>, u64)> {
            match &self.archive {
                None => {
                    let file = File::open(self.place.join(name))?;
                    let size = file.metadata()?.len();
                    Ok((file.take(size), size))
                }
                Some(files) => {
                    let (start, size) = files.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
                    let mut file = File::open(&self.place)?;
                    file.seek(SeekFrom::Start(start))?;
                    Ok((file.take(size), size))
                }
            }
        };
        open().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.broken(format!("{name} is missing")),
            _ => self.io(error),
        })
    }

    fn hex<'d>(&self, descriptor: &'d Descriptor) -> Result<&'d str, Error> {
        descriptor
            .digest
            .strip_prefix("sha256:")
            .filter(|hex| is_hex(hex))
            .ok_or_else(|| self.broken(format!("{:?} is not a SHA-256 digest", descriptor.digest)))
    }

    fn broken(&self, what: String) -> Error {
        Error::Broken { place: self.place.display().to_string(), what }
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io { place: self.place.display().to_string(), source }
    }
}

/// This machine's architecture by its OCI name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

struct Checked {
    inner: io::Take<File>,
    hash: Sha256,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}
