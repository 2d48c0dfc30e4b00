//! Reading OCI layouts, as a directory or as an archive of one. Sizes are limited, digests are checked.

use crate::{
    Failure, Limits,
    budget::Budget,
    entries::{Entries, Kind, Seeking},
    layer, plain,
    tree::Tree,
};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

/// Larger documents are not manifests.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of an image; container engines stop at 127.
const MAX_LAYERS: usize = 256;
/// Most files of an archive of a layout.
const MAX_FILES: usize = 4096;
const TAG: &str = "org.opencontainers.image.ref.name";

/// 64 lower-case hexadecimal digits.
pub fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
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
pub(crate) struct Manifest {
    /// Hexadecimal SHA-256 of the manifest.
    pub(crate) digest: String,
    layers: Vec<Descriptor>,
}

/// Where the files of a layout come from.
pub(crate) enum Files<'a> {
    /// Somebody opens them by name; `None` where there is none.
    Directory(&'a mut dyn FnMut(&str) -> Result<Option<File>, Failure>),
    /// An archive: where each file begins and how long it is.
    Archive(File, HashMap<Vec<u8>, (u64, u64)>),
}

impl Files<'_> {
    /// Reads the table of an archive.
    pub(crate) fn archive(file: File) -> Result<Self, Failure> {
        let end = file.metadata()?.len();
        let mut files = HashMap::new();
        let mut entries = Entries::new(Seeking(Part { file: file.try_clone()?, at: 0, end }));
        while let Some(entry) = entries.advance()? {
            if entry.kind != Kind::File {
                continue;
            }
            if files.len() == MAX_FILES {
                return Err(Failure::Limit(format!("the archive has over {MAX_FILES} files")));
            }
            let name = entry.name.strip_prefix(b"./").unwrap_or(&entry.name).to_vec();
            files.insert(name, (entries.source().0.at, entry.size));
        }
        drop(entries);
        Ok(Self::Archive(file, files))
    }
}

/// A part of a file.
struct Part {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let limit = left.min(buffer.len());
        let length = self.file.read_at(buffer.get_mut(..limit).unwrap_or_default(), self.at)?;
        self.at = self.at.saturating_add(length as u64);
        Ok(length)
    }
}

impl io::Seek for Part {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let io::SeekFrom::Current(more) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at = self.at.checked_add_signed(more).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// An opened layout.
pub(crate) struct Layout<'a>(pub(crate) Files<'a>);

impl Layout<'_> {
    /// The manifest for a tag. A layout with one manifest without a tag matches every tag.
    pub(crate) fn manifest(&mut self, tag: &str, digest: Option<&str>) -> Result<Manifest, Failure> {
        let index: Index = self.document("index.json", None)?;
        let named =
            |descriptor: &&Descriptor| descriptor.annotations.get(TAG).is_some_and(|name| name == tag);
        let found = match index.manifests.as_slice() {
            [one] if !one.annotations.contains_key(TAG) => Some(one),
            many => many.iter().find(named),
        };
        let mut found = found.cloned().ok_or_else(|| {
            let tags = index.manifests.iter().filter_map(|d| d.annotations.get(TAG));
            let tags: Vec<String> = tags.take(20).map(|tag| plain(tag.as_bytes(), 128)).collect();
            Failure::Tag(if tags.is_empty() { "none".to_owned() } else { tags.join(", ") })
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
                .ok_or_else(|| broken(format!("it has no manifest for linux/{}", architecture())))?;
        }
        let hex = hex(&found)?.to_owned();
        if digest.is_some_and(|asked| asked != hex) {
            return Err(broken(format!("its manifest is sha256:{hex}, another than the reference names")));
        }
        let manifest: RawManifest = self.blob_document(&found)?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(Failure::Limit(format!("it has over {MAX_LAYERS} layers")));
        }
        Ok(Manifest { digest: hex, layers: manifest.layers })
    }

    /// Puts all layers into `tree`.
    pub(crate) fn unpack(&mut self, manifest: &Manifest, tree: &Tree, limits: Limits) -> Result<(), Failure> {
        let mut blobs = Vec::new();
        let mut packed = 0_u64;
        for layer in &manifest.layers {
            let hex = hex(layer)?;
            let blob = self.file(&format!("blobs/sha256/{hex}"))?;
            let size = blob.end.saturating_sub(blob.at);
            if size != layer.size {
                return Err(broken(format!("layer {hex} has {size} bytes, not {}", layer.size)));
            }
            packed = packed.saturating_add(size);
            blobs.push((layer, hex, blob));
        }
        let budget = Budget::new(limits, packed);
        for (layer, hex, blob) in blobs {
            unpack(&layer.media_type, hex, blob, tree, &budget)?;
        }
        Ok(())
    }

    fn blob_document<T: for<'de> Deserialize<'de>>(&mut self, descriptor: &Descriptor) -> Result<T, Failure> {
        let hex = hex(descriptor)?;
        self.document(&format!("blobs/sha256/{hex}"), Some((hex, descriptor.size)))
    }

    fn document<T: for<'de> Deserialize<'de>>(
        &mut self,
        name: &str,
        expected: Option<(&str, u64)>,
    ) -> Result<T, Failure> {
        let mut file = self.file(name)?;
        let size = file.end.saturating_sub(file.at);
        if size > MAX_DOCUMENT || expected.is_some_and(|(_, length)| length != size) {
            return Err(broken(format!("{name} has {size} bytes")));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if expected.is_some_and(|(hex, _)| hex != to_hex(&Sha256::digest(&bytes))) {
            return Err(broken(format!("{name} does not have the digest that it is named by")));
        }
        serde_json::from_slice(&bytes).map_err(|error| broken(format!("{name}: {error}")))
    }

    fn file(&mut self, name: &str) -> Result<Part, Failure> {
        let missing = || broken(format!("{name} is missing"));
        match &mut self.0 {
            Files::Directory(open) => {
                let file = open(name)?.ok_or_else(missing)?;
                let end = file.metadata()?.len();
                Ok(Part { file, at: 0, end })
            }
            Files::Archive(file, files) => {
                let (at, size) = files.get(name.as_bytes()).copied().ok_or_else(missing)?;
                let end = at.checked_add(size).ok_or_else(missing)?;
                Ok(Part { file: file.try_clone()?, at, end })
            }
        }
    }
}

fn unpack(kind: &str, hex: &str, blob: Part, tree: &Tree, budget: &Budget) -> Result<(), Failure> {
    let mut checked = Checked { inner: blob, hash: Sha256::new() };
    let done = if kind.ends_with("tar+gzip") || kind.ends_with("tar.gzip") {
        // Lazily pulled and parallel-packed layers are many gzip members in a row.
        layer::put(MultiGzDecoder::new(&mut checked), tree, budget)
    } else if kind.ends_with(".tar") {
        layer::put(&mut checked, tree, budget)
    } else {
        let kind = plain(kind.as_bytes(), 100);
        return Err(broken(format!("layer {hex} is of kind {kind}, not a tar archive plain or with gzip")));
    };
    done.map_err(|error| match Failure::from(error) {
        Failure::Broken(what) => broken(format!("layer {hex}: {what}")),
        other => other,
    })?;
    // What follows the end of the archive counts for the digest too.
    io::copy(&mut checked, &mut io::sink())?;
    let seen = to_hex(&checked.hash.finalize());
    if seen != hex {
        return Err(broken(format!("layer {hex} really has the digest {seen}")));
    }
    Ok(())
}

fn hex(descriptor: &Descriptor) -> Result<&str, Failure> {
    let hex = descriptor.digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
    hex.ok_or_else(|| broken(format!("{} is not a SHA-256 digest", plain(descriptor.digest.as_bytes(), 100))))
}

fn broken(what: String) -> Failure {
    Failure::Broken(what)
}

/// This machine's architecture by its OCI name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

struct Checked {
    inner: Part,
    hash: Sha256,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}
