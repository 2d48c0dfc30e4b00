//! From paths in a container to files on the node, safely: what is inside belongs to the pod, and may be a trap.

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Mount points of a container and the directories behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Places(BTreeMap<String, PathBuf>);

impl Places {
    pub(super) fn add(&mut self, mount_path: &str, host: PathBuf) {
        self.0.insert(mount_path.trim_end_matches('/').to_owned(), host);
    }

    /// The directory behind the longest mount point above `path`, and the rest of the path.
    pub fn find<'p>(&self, path: &'p str) -> Option<(&Path, &'p str)> {
        let mut best: Option<(&Path, &str)> = None;
        for (mount, host) in &self.0 {
            let Some(rest) = path.strip_prefix(mount.as_str()) else { continue };
            if (rest.is_empty() || rest.starts_with('/'))
                && best.is_none_or(|(_, known): (_, &str)| rest.len() < known.len())
            {
                best = Some((host, rest));
            }
        }
        best.map(|(host, rest)| (host, rest.trim_start_matches('/')))
    }

    /// Opens a place on the node without following any link below the mount point.
    ///
    /// # Errors
    /// `NotFound` when no mount covers the path; else what openat2(2) says, `ELOOP` for a link.
    pub fn open(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let (host, rest) = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        let root = openat(CWD, host, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let rest = if rest.is_empty() { "." } else { rest };
        Ok(openat2(&root, rest, flags | OFlags::CLOEXEC, mode, resolve)?)
    }

    /// A path by which a Unix socket of the container can be connected to: it names the socket itself, which the pod
    /// cannot exchange for a link afterwards. Keep the descriptor until connected.
    ///
    /// # Errors
    /// As [`Self::open`]; `InvalidInput` when it is not a socket.
    pub fn socket(&self, path: &str) -> io::Result<(OwnedFd, PathBuf)> {
        use std::os::fd::AsRawFd;
        let fd = self.open(path, OFlags::PATH, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::Socket {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let name = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        Ok((fd, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        let mut places = Places::default();
        places.add("/var/run/outer", root.join("public"));
        places.add("/var/run/outer/sockets", root.join("sockets"));
        places
    }

    #[test]
    fn the_innermost_mount_wins() {
        let places = places(Path::new("/x"));
        assert_eq!(places.find("/var/run/outer/sockets/a"), Some((Path::new("/x/sockets"), "a")));
        assert_eq!(places.find("/var/run/outer/log"), Some((Path::new("/x/public"), "log")));
        assert_eq!(places.find("/var/run/outer-private"), None);
    }

    #[test]
    fn a_link_that_the_pod_planted_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sockets")).unwrap();
        let outside = directory.path().join("outside");
        let _listener = std::os::unix::net::UnixListener::bind(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, directory.path().join("sockets/trap")).unwrap();
        let _real = std::os::unix::net::UnixListener::bind(directory.path().join("sockets/real")).unwrap();
        let places = places(directory.path());
        assert!(places.socket("/var/run/outer/sockets/trap").is_err());
        let (_fd, path) = places.socket("/var/run/outer/sockets/real").unwrap();
        std::os::unix::net::UnixStream::connect(path).unwrap();
    }
}
