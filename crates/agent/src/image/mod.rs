//! Images without a registry: a reference names an OCI layout or archive in the node's image directory.

mod layout;
mod unpack;

use layout::Layout;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference cannot name an image of this node.
    #[error("image reference {0:?} is not of the form NAME[:TAG][@sha256:DIGEST]")]
    Reference(String),
    /// Nothing is there.
    #[error(
        "image {reference} is not on this node: put an OCI layout at {folder} or an OCI archive at {archive}"
    )]
    Missing {
        /// As the pod says it.
        reference: String,
        /// Where a layout would be.
        folder: String,
        /// Where an archive would be.
        archive: String,
    },
    /// There is an image, but not with this tag.
    #[error("image {reference}: {place} has no manifest with this tag, only {found}")]
    Tag {
        /// As the pod says it.
        reference: String,
        /// The layout.
        place: String,
        /// The tags that it has.
        found: String,
    },
    /// The layout is damaged or of a kind that is not understood.
    #[error("image at {place}: {what}: make it again")]
    Broken {
        /// The layout.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The file system said no.
    #[error("image at {place}: {source}")]
    Io {
        /// The layout.
        place: String,
        /// What it said.
        source: io::Error,
    },
    /// A container disk without exactly one file.
    #[error("image {reference}: {what}; name the file with `path`")]
    Disk {
        /// The image.
        reference: String,
        /// What is wrong.
        what: String,
    },
}

/// A parsed image reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    name: String,
    tag: String,
    digest: Option<String>,
}

impl Reference {
    /// Splits `NAME[:TAG][@sha256:DIGEST]`. A name is relative and without `.` and `..`.
    ///
    /// # Errors
    /// [`Error::Reference`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Reference(text.chars().take(200).collect());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let hex =
                    digest.strip_prefix("sha256:").filter(|hex| layout::is_hex(hex)).ok_or_else(wrong)?;
                (rest, Some(hex.to_owned()))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before the last slash belongs to a port.
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (rest, "latest"),
        };
        let sound = |part: &str| {
            !part.is_empty()
                && part.len() <= 128
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c))
        };
        if name.len() > 255 || !name.split('/').all(sound) || !sound(tag) || tag.contains(':') {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned(), digest })
    }
}

/// The node's images and the unpacked copies of those in use.
#[derive(Debug)]
pub struct Store {
    images: PathBuf,
    cache: PathBuf,
    unpacking: Mutex<()>,
}

impl Store {
    /// `images` is the image directory, `cache` a directory of the agent's own.
    ///
    /// # Errors
    /// When the cache cannot be made.
    pub fn open(images: PathBuf, cache: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&cache)?;
        for entry in fs::read_dir(&cache)? {
            // What an interrupted unpacking left.
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(Self { images, cache, unpacking: Mutex::new(()) })
    }

    /// The unpacked files of an image. Blocks; the first use of an image takes as long as unpacking it does.
    ///
    /// # Errors
    /// When there is no such image, or it is damaged.
    pub fn root(&self, text: &str) -> Result<PathBuf, Error> {
        let reference = Reference::parse(text)?;
        let folder = self.images.join(&reference.name);
        let archive = self.images.join(format!("{}.tar", reference.name));
        let place = if folder.join("index.json").is_file() {
            &folder
        } else if archive.is_file() {
            &archive
        } else {
            return Err(Error::Missing {
                reference: text.to_owned(),
                folder: folder.display().to_string(),
                archive: archive.display().to_string(),
            });
        };
        let layout = Layout::open(place)?;
        let manifest = layout.manifest(text, &reference.tag, reference.digest.as_deref())?;
        let root = self.cache.join(&manifest.digest);
        if root.is_dir() {
            return Ok(root);
        }
        let _one_at_a_time = self.unpacking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if root.is_dir() {
            return Ok(root);
        }
        let io = |source| Error::Io { place: place.display().to_string(), source };
        let part = self.cache.join(format!("{}.part", manifest.digest));
        if part.exists() {
            fs::remove_dir_all(&part).map_err(io)?;
        }
        fs::create_dir(&part).map_err(io)?;
        for layer in &manifest.layers {
            layout.unpack(layer, &part)?;
        }
        // A name must never stand for half an image, not even after a power cut.
        let folder = fs::File::open(&part).map_err(io)?;
        rustix::fs::syncfs(&folder).map_err(|error| io(error.into()))?;
        fs::rename(&part, &root).map_err(io)?;
        Ok(root)
    }
}

/// The disk of a container disk image below its unpacked root, as a path from that root: `path`, or the only file
/// of `/disk`.
///
/// # Errors
/// When there is none, more than one, or something that is not a regular file.
pub fn disk(root: &Path, reference: &str, path: Option<&str>) -> Result<String, Error> {
    let wrong = |what: String| Error::Disk { reference: reference.to_owned(), what };
    if let Some(path) = path {
        return if is_file(root, path) {
            Ok(path.trim_start_matches('/').to_owned())
        } else {
            Err(wrong(format!("{path} is not a regular file in it")))
        };
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("disk")).map_err(|_| wrong("it has no /disk directory".to_owned()))? {
        let entry = entry.map_err(|error| wrong(error.to_string()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    match files.as_slice() {
        [one] => Ok(format!("disk/{one}")),
        [] => Err(wrong("there is no file in its /disk directory".to_owned())),
        _ => Err(wrong(format!("there are {} files in its /disk directory", files.len()))),
    }
}

/// `path` is a regular file below `root`; links are followed within `root` only.
pub fn is_file(root: &Path, path: &str) -> bool {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
    let open = || -> rustix::io::Result<bool> {
        let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        Ok(rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file())
    };
    open().unwrap_or(false)
}

#[cfg(test)]
mod tests;
