//! Where the API server says something: it may write there, and not read.

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Stdio,
};

/// For a child: the place of this process's own descriptor, for writing alone. A socket cannot be opened again and is
/// handed on as it is; systemd has shut the reading side of those that it gives.
pub(super) fn write_only(own: impl AsFd) -> Stdio {
    again(own.as_fd()).map_or_else(Stdio::inherit, Stdio::from)
}

fn again(own: impl AsFd) -> Option<OwnedFd> {
    let own = own.as_fd();
    let flags = fcntl_getfl(own).ok()?;
    if flags & OFlags::ACCMODE == OFlags::WRONLY {
        return None;
    }
    let path = format!("/proc/self/fd/{}", own.as_raw_fd());
    // A terminal does not become this process's for it.
    let how = OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, how, Mode::empty()).ok()?;
    if FileType::from_raw_mode(fstat(own).ok()?.st_mode).is_file() {
        // Each has a place of its own now where it goes on: they would write over each other.
        fcntl_setfl(own, flags | OFlags::APPEND).ok()?;
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{File, OpenOptions},
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    #[test]
    fn what_can_be_read_is_opened_again_for_writing_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut own =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        let mut child = File::from(again(&own).unwrap());
        child.write_all(b"one ").unwrap();
        own.write_all(b"two ").unwrap();
        child.write_all(b"three").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one two three");
        child.read(&mut [0]).unwrap_err();
        assert!(again(&child).is_none(), "it is good as it is");
        assert!(again(UnixStream::pair().unwrap().0).is_none());
    }
}
