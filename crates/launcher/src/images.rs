//! A look at what is in images: from their roots, and out of them through nothing.

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
};

/// Most entries of a directory that are looked at.
const MOST: usize = 1000;

/// The format of a regular file of an image, which its first bytes say. Whatever is wrong with its path, it is not there.
pub(crate) fn format(image: &Image, path: &str) -> Result<Format, ()> {
    let file = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = File::from(open(image, path, file).map_err(drop)?);
    if !file.metadata().is_ok_and(|data| data.is_file()) {
        return Err(());
    }
    let mut start = Vec::new();
    file.take(image::HEADER as u64).read_to_end(&mut start).map_err(drop)?;
    Ok(image::format(&start))
}

/// The path of the only regular file in a directory of an image; what is wrong otherwise.
pub(crate) fn only_file(image: &Image, directory: &str) -> Result<String, String> {
    let missing = |_| "it has no such directory (a link does not count)".to_owned();
    let opened = open(image, directory, OFlags::RDONLY | OFlags::DIRECTORY).map_err(missing)?;
    let broken = |error: Errno| format!("its directory cannot be read: {error}");
    let mut files = Vec::new();
    for (number, entry) in Dir::read_from(&opened).map_err(broken)?.enumerate() {
        if number >= MOST {
            return Err(format!("there are more than {MOST} entries in that directory"));
        }
        let entry = entry.map_err(broken)?;
        let name = entry.file_name();
        let data = rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW).map_err(broken)?;
        if FileType::from_raw_mode(data.st_mode).is_file() {
            files.push(name.to_owned());
        }
    }
    let name = match files.as_slice() {
        [one] => one.to_str().map_err(|_| "the file's name there is not UTF-8".to_owned())?,
        [] => return Err("there is no file in that directory".to_owned()),
        _ => return Err(format!("there are {} files in that directory", files.len())),
    };
    let path = format!("{directory}/{name}");
    // It becomes part of a command line.
    rules::path(&path).map_err(|rule| format!("the path of the file there {rule}"))?;
    Ok(path)
}

/// Whether a path leads to a regular file below a directory.
pub(crate) fn is_inside(root: &str, path: &str) -> bool {
    let lead = || Ok::<_, io::Error>((fs::canonicalize(root)?, fs::canonicalize(path)?));
    lead().is_ok_and(|(root, file)| file.starts_with(root) && file.is_file())
}

/// The path from the image's root: one that begins with a slash would be taken for a path of the node, and not shown.
pub(crate) fn within<'a>(image: &Image, path: &'a str) -> &'a str {
    path.strip_prefix(&image.root).unwrap_or(path).trim_start_matches('/')
}

/// Opens what is at a path below an image's root, which leads through no link.
fn open(image: &Image, path: &str, last: OFlags) -> rustix::io::Result<OwnedFd> {
    let walk = OFlags::PATH | OFlags::CLOEXEC;
    let inside = path.strip_prefix(&image.root).filter(|rest| rest.starts_with('/')).ok_or(Errno::INVAL)?;
    let mut at = rustix::fs::open(image.root.as_str(), walk | OFlags::DIRECTORY, Mode::empty())?;
    let mut parts = inside.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
    while let Some(part) = parts.next() {
        let flags = match parts.peek() {
            _ if part == ".." => return Err(Errno::INVAL),
            Some(_) => walk | OFlags::DIRECTORY,
            None => last | OFlags::CLOEXEC,
        };
        at = rustix::fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}
