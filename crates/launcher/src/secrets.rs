//! Keys of secrets, in volumes as the kubelet writes them.
//!
//! Such a volume holds a directory for each version, named after its time, `..data`, a link to the newest one, and for each
//! key a link into `..data`, which is not needed. Nothing else is followed.

use rustix::{
    fs::{Mode, OFlags, openat, readlinkat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read},
};

/// Most bytes of a key: what a secret can have.
const LONGEST: u64 = 1 << 20;

/// Why there is nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Missing {
    /// The secret is not there, or has none of the keys.
    #[error(
        "it is not there, or has no key {0}: create it with that key in the machine's namespace, and the kubelet brings it \
         within a minute or two"
    )]
    Key(String),
    /// Something else is there.
    #[error("its volume {directory} is not as a kubelet makes it: {error}")]
    Volume { directory: String, error: io::Error },
}

/// The content of the first key that is there.
pub(crate) fn read(directory: &str, keys: &[String]) -> Result<Vec<u8>, Missing> {
    let strange = |error: io::Error| Missing::Volume { directory: directory.to_owned(), error };
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let data = || {
        let volume = rustix::fs::open(directory, open, Mode::empty())?;
        let link = readlinkat(&volume, "..data", Vec::new())?;
        let bytes = link.to_bytes();
        if bytes.contains(&b'/') || matches!(bytes, b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        openat(&volume, &link, open | OFlags::NOFOLLOW, Mode::empty())
    };
    let data = data().map_err(|error| strange(error.into()))?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for key in keys.iter().filter(|key| !key.contains('/') && !matches!(key.as_str(), "" | "." | "..")) {
        let file = match openat(&data, key.as_str(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(strange(error.into())),
        };
        let mut content = Vec::new();
        let regular = file.metadata().map_err(strange)?.is_file();
        file.take(LONGEST + 1).read_to_end(&mut content).map_err(strange)?;
        if !regular || content.len() as u64 > LONGEST {
            return Err(strange(io::Error::other(format!("{key} is no file of up to {LONGEST} bytes"))));
        }
        return Ok(content);
    }
    Err(Missing::Key(keys.join(" or ")))
}
