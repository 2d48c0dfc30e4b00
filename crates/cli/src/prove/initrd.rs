//! The initial file system of a guest: an archive in the "newc" form of cpio, as the kernel's
//! Documentation/driver-api/early-userspace/buffer-format describes it. Not compressed: it never leaves this machine.

/// Files and directories; directories come before what is in them.
#[derive(Default)]
pub(super) struct Initrd {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

impl Initrd {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn directories(self, names: &[&str]) -> Self {
        names.iter().fold(self, |archive, name| archive.entry(name, DIRECTORY | 0o755, &[]))
    }

    pub(super) fn file(self, name: &str, mode: u32, contents: &[u8]) -> Self {
        self.entry(name, FILE | mode, contents)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]).bytes
    }

    fn entry(mut self, name: &str, mode: u32, contents: &[u8]) -> Self {
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let size = contents.len();
        let name_size = name.len() + 1;
        // Number, mode, user, group, links, time, size, device (two), node (two), length of the name, checksum.
        let head = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.entries, 0, 0, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, process::Command};

    #[test]
    fn cpio_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let archive =
            Initrd::new().directories(&["a"]).file("a/b", 0o750, b"hello").file("c", 0o600, b"").finish();
        let mut child = Command::new("cpio")
            .args(["--quiet", "-i"])
            .current_dir(&dir)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("the package cpio is installed by `cargo xtask setup`");
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(child.wait().unwrap().success());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::read(dir.path().join("a/b")).unwrap(), b"hello");
        assert_eq!(std::fs::metadata(dir.path().join("a/b")).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"");
    }
}
