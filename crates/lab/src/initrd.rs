//! The initial file system of a guest: an archive in the "newc" form of cpio, as the kernel's
//! Documentation/driver-api/early-userspace/buffer-format describes it. Not compressed: it never leaves this machine.

use std::{
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The kernel takes no longer names.
const MAX_NAME: usize = 4095;

/// Bytes of a head: a magic number and 13 fields of eight digits.
const HEAD: usize = 110;

/// An archive that is being written. Everything in it belongs to root; directories come before what is in them.
#[derive(Debug)]
pub struct Initrd<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Initrd<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// `InvalidInput` for a name that the kernel does not take; what writing says.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name.as_bytes(), DIRECTORY | 0o755, &[])
    }

    /// Adds a file with these bits of permission.
    ///
    /// # Errors
    /// `InvalidInput` for a name that the kernel does not take, or 4 GiB and more; what writing says.
    pub fn file(&mut self, name: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name.as_bytes(), FILE | (permissions & 0o7777), contents)
    }

    /// Adds what is in a directory, with its permissions, sorted by name: directories, files and symbolic links.
    ///
    /// # Errors
    /// `InvalidInput` for anything else there; what reading and writing say, with the file's name.
    pub fn tree(&mut self, root: &Path) -> io::Result<()> {
        self.below(root, root)
    }

    fn below(&mut self, root: &Path, directory: &Path) -> io::Result<()> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(|error| named(directory, &error))? {
            paths.push(entry?.path());
        }
        paths.sort();
        for path in paths {
            self.path(root, &path).map_err(|error| named(&path, &error))?;
            if path.is_dir() && !path.is_symlink() {
                self.below(root, &path)?;
            }
        }
        Ok(())
    }

    fn path(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        let name = path.strip_prefix(root).map_err(io::Error::other)?.as_os_str().as_bytes();
        let data = fs::symlink_metadata(path)?;
        let permissions = data.permissions().mode() & 0o7777;
        if data.is_dir() {
            self.entry(name, DIRECTORY | permissions, &[])
        } else if data.is_symlink() {
            self.entry(name, LINK | permissions, fs::read_link(path)?.as_os_str().as_bytes())
        } else if data.is_file() {
            self.entry(name, FILE | permissions, &fs::read(path)?)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "no file, directory or symbolic link"))
        }
    }

    /// Ends the archive, and gives back where it was written.
    ///
    /// # Errors
    /// What writing says.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(b"TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &[u8], mode: u32, contents: &[u8]) -> io::Result<()> {
        let refused = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
            return Err(refused("the kernel takes no such name in an initial file system"));
        }
        let size = u32::try_from(contents.len())
            .map_err(|_| refused("a file of an initial file system is shorter than 4 GiB"))?;
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let name_size = name.len() + 1;
        // Number, mode, user, group, links, time, size, device (two), node (two), length of the name, checksum.
        write!(
            self.out,
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.entries, 0, 0, 0, 0, 0, 0, 0, 0
        )?;
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.pad(HEAD + name_size)?;
        self.out.write_all(contents)?;
        self.pad(contents.len())
    }

    /// Fills up to a whole number of four bytes.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        let zeros = [0_u8; 3];
        self.out.write_all(zeros.get(..length.next_multiple_of(4) - length).unwrap_or_default())
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::{fs::symlink, net::UnixListener},
        path::PathBuf,
        process::{Command, Stdio},
    };

    /// What the tool of that name makes of an archive.
    fn unpacked(archive: &[u8]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new("cpio")
            .args(["--quiet", "-i"])
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .spawn()
            .expect("the package cpio is installed by `cargo xtask setup`");
        child.stdin.take().unwrap().write_all(archive).unwrap();
        assert!(child.wait().unwrap().success());
        directory
    }

    fn mode(path: PathBuf) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn cpio_reads_it() {
        let mut archive = Initrd::new(Vec::new());
        archive.directory("a").unwrap();
        archive.file("a/b", 0o750, b"hello").unwrap();
        archive.file("c", 0o600, b"").unwrap();
        // Each length of name and contents, as they are filled up.
        for length in 1..9 {
            archive.file(&"n".repeat(length), 0o644, &b"12345678"[..length]).unwrap();
        }
        let directory = unpacked(&archive.finish().unwrap());
        let path = |name: &str| directory.path().join(name);
        assert_eq!(fs::read(path("a/b")).unwrap(), b"hello");
        assert_eq!((mode(path("a")), mode(path("a/b")), mode(path("c"))), (0o755, 0o750, 0o600));
        assert_eq!(fs::read(path("c")).unwrap(), b"");
        for length in 1..9 {
            assert_eq!(fs::read(path(&"n".repeat(length))).unwrap(), b"12345678"[..length]);
        }
    }

    #[test]
    fn a_tree_comes_out_as_it_was() {
        let tree = tempfile::tempdir().unwrap();
        let path = |name: &str| tree.path().join(name);
        fs::create_dir_all(path("usr/lib")).unwrap();
        fs::write(path("usr/lib/program"), [0, 255, 10]).unwrap();
        fs::set_permissions(path("usr/lib/program"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::set_permissions(path("usr"), fs::Permissions::from_mode(0o711)).unwrap();
        symlink("usr/lib", path("lib")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        let mut archive = Initrd::new(Vec::new());
        archive.tree(tree.path()).unwrap();
        let directory = unpacked(&archive.finish().unwrap());
        let copy = |name: &str| directory.path().join(name);
        assert_eq!(fs::read(copy("usr/lib/program")).unwrap(), [0, 255, 10]);
        assert_eq!((mode(copy("usr")), mode(copy("usr/lib/program"))), (0o711, 0o750));
        assert_eq!(fs::read_link(copy("lib")).unwrap(), Path::new("usr/lib"));
        assert_eq!(fs::read_link(copy("dangling")).unwrap(), Path::new("nowhere"));
    }

    #[test]
    fn what_a_kernel_would_not_take_is_refused() {
        let mut archive = Initrd::new(Vec::new());
        for name in ["", "a\0b", &"n".repeat(MAX_NAME + 1)] {
            assert_eq!(archive.file(name, 0o644, b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        archive.file(&"n".repeat(MAX_NAME), 0o644, b"").unwrap();
        let tree = tempfile::tempdir().unwrap();
        let _socket = UnixListener::bind(tree.path().join("socket")).unwrap();
        let error = archive.tree(tree.path()).unwrap_err().to_string();
        assert!(error.contains("/socket: no file, directory"), "{error}");
        assert!(archive.tree(&tree.path().join("none")).unwrap_err().to_string().contains("/none: "));
    }
}
