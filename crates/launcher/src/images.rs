//! A look at what is in images: from their roots, and out of them through nothing.
//!
//! An image is mounted at its root. Where a cluster mounts none, there is a socket in its place, as the order says, at which
//! [`image_server`] gives out descriptors: QEMU opens a file of such an image through one that it inherits.

use crate::image_server::{self, Wanted};
use ferrovirt_qemu::{
    image,
    order::{Format, Image},
    rules,
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
};

/// Most entries of a directory that are looked at.
const MOST: usize = 1000;

/// The format of a regular file of an image, which its first bytes say, and a descriptor for QEMU where that opens it by none of
/// its paths. Whatever is wrong with its path, it is not there.
pub(crate) fn format(image: &Image, path: &str) -> Result<(Format, Option<OwnedFd>), ()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = open(image, path, flags).map_err(drop)?;
    let opened = image.served.then(|| file.try_clone()).transpose().map_err(drop)?;
    let mut start = Vec::new();
    let file = File::from(file);
    if !file.metadata().is_ok_and(|data| data.is_file()) {
        return Err(());
    }
    file.take(image::HEADER as u64).read_to_end(&mut start).map_err(drop)?;
    Ok((image::format(&start), opened))
}

/// A file with which a kernel is booted: a descriptor as of [`format()`]. QEMU follows links, so this look does: to files of
/// the same image. What an image names elsewhere, its guest would read.
pub(crate) fn boot_file(image: &Image, path: &str) -> Result<Option<OwnedFd>, ()> {
    if !image.served {
        return is_inside(&image.root, path).then_some(None).ok_or(());
    }
    let file = image_server::file(Path::new(&image.root), Wanted::Linked, within(image, path));
    file.map(Some).map_err(drop)
}

/// What is said of a directory that is not there.
pub(crate) const NO_DIRECTORY: &str = "it has no such directory (a link does not count)";

/// The path of the only regular file in a directory of an image; what is wrong otherwise.
pub(crate) fn only_file(image: &Image, directory: &str) -> Result<String, String> {
    let name = if image.served {
        image_server::only_name(Path::new(&image.root), within(image, directory))?
    } else {
        let opened = open(image, directory, OFlags::RDONLY | OFlags::DIRECTORY);
        only_name(&opened.map_err(|_| NO_DIRECTORY.to_owned())?)?
    };
    let path = format!("{directory}/{name}");
    // It becomes part of a command line.
    rules::path(&path).map_err(|rule| format!("the path of the file there {rule}"))?;
    Ok(path)
}

/// The name of the only regular file in a directory; what is wrong otherwise.
pub(crate) fn only_name(directory: &OwnedFd) -> Result<String, String> {
    let broken = |error: Errno| format!("its directory cannot be read: {error}");
    let mut files = Vec::new();
    for (number, entry) in Dir::read_from(directory).map_err(broken)?.enumerate() {
        if number >= MOST {
            return Err(format!("there are more than {MOST} entries in that directory"));
        }
        let entry = entry.map_err(broken)?;
        let name = entry.file_name();
        let data = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(broken)?;
        if FileType::from_raw_mode(data.st_mode).is_file() {
            files.push(name.to_owned());
        }
    }
    match files.as_slice() {
        [one] => one.to_str().map(str::to_owned).map_err(|_| "the file's name there is not UTF-8".to_owned()),
        [] => Err("there is no file in that directory".to_owned()),
        _ => Err(format!("there are {} files in that directory", files.len())),
    }
}

/// Whether a path leads to a regular file below a directory.
fn is_inside(root: &str, path: &str) -> bool {
    let lead = || Ok::<_, io::Error>((fs::canonicalize(root)?, fs::canonicalize(path)?));
    lead().is_ok_and(|(root, file)| file.starts_with(root) && file.is_file())
}

/// The path from the image's root: one that begins with a slash would be taken for a path of the node, and not shown.
pub(crate) fn within<'a>(image: &Image, path: &'a str) -> &'a str {
    path.strip_prefix(&image.root).unwrap_or(path).trim_start_matches('/')
}

/// Opens what is at a path below an image's root, which leads through no link.
fn open(image: &Image, path: &str, last: OFlags) -> rustix::io::Result<OwnedFd> {
    let inside = path.strip_prefix(&image.root).filter(|rest| rest.starts_with('/')).ok_or(Errno::INVAL)?;
    let mut parts = inside.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
    if parts.clone().any(|part| part == "..") {
        return Err(Errno::INVAL);
    }
    let root = Path::new(&image.root);
    if image.served {
        let file = image_server::file(root, Wanted::File, inside);
        return file.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    let walk = OFlags::PATH | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(root, walk | OFlags::DIRECTORY, Mode::empty())?;
    while let Some(part) = parts.next() {
        let flags = match parts.peek() {
            Some(_) => walk | OFlags::DIRECTORY,
            None => last | OFlags::CLOEXEC,
        };
        at = rustix::fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}
