//! The files of the guest before QEMU opens them: those that the launcher makes, and those of images, at which it looks.

use ferrovirt_qemu::{
    image,
    iso::TooMuch,
    order::{Disk, Image, Kernel, Order, Prepare},
    seed::Files,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
};

/// A file that is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// Of a disk.
    #[error("disk {name:?}: {path}: {problem}")]
    Disk { name: String, path: String, problem: Problem },
    /// In a container disk's image.
    #[error(
        "disk {name:?}: image {image}: {file:?} is not a regular file in it (links do not count): correct containerDisk.path, or make the image again"
    )]
    Image { name: String, image: String, file: String },
    /// In a kernel's image.
    #[error(
        "image {image}: there is no regular file {file:?} in it: correct kernelPath or initrdPath, or make the image again"
    )]
    Kernel { image: String, file: String },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Seed(#[from] TooMuch),
}

/// Makes what the disks of an order need, of the files that came before it, and finds out what only images say. What an
/// earlier try has left is made again.
pub(crate) fn prepare(order: &mut Order, files: &Files) -> Result<(), NotReady> {
    order.kernel.iter().try_for_each(kernel)?;
    order.disks.iter_mut().try_for_each(|disk| self::disk(disk, files))
}

fn disk(disk: &mut Disk, files: &Files) -> Result<(), NotReady> {
    let (name, path) = (&disk.name, &disk.path);
    let seed = || Ok(make(path, 0o400)?.write_all(&files.image(name)?)?);
    let empty = |bytes| Ok(make(path, 0o600)?.set_len(bytes)?);
    let made = match &disk.prepare {
        None => Ok(()),
        Some(Prepare::Seed) => seed(),
        Some(Prepare::Empty { bytes }) => empty(*bytes),
        Some(Prepare::Image(image)) => {
            let start = start(image, path).map_err(|()| NotReady::Image {
                name: name.clone(),
                image: image.reference.clone(),
                file: within(image, path).to_owned(),
            })?;
            disk.format = image::format(&start);
            Ok(())
        }
    };
    made.map_err(|problem| NotReady::Disk { name: name.clone(), path: path.clone(), problem })
}

/// QEMU follows links, so this look does: to files of the same image. What an image names elsewhere, its guest would read.
fn kernel(kernel: &Kernel) -> Result<(), NotReady> {
    let Some(image) = &kernel.image else { return Ok(()) };
    for path in [&kernel.kernel, &kernel.initrd].into_iter().flatten() {
        if !is_inside(&image.root, path) {
            let file = within(image, path).to_owned();
            return Err(NotReady::Kernel { image: image.reference.clone(), file });
        }
    }
    Ok(())
}

/// Whether a path leads to a regular file below a directory.
fn is_inside(root: &str, path: &str) -> bool {
    let lead = || Ok::<_, io::Error>((fs::canonicalize(root)?, fs::canonicalize(path)?));
    lead().is_ok_and(|(root, file)| file.starts_with(root) && file.is_file())
}

/// The path from the image's root: one that begins with a slash would be taken for a path of the node, and not shown.
fn within<'a>(image: &Image, path: &'a str) -> &'a str {
    path.strip_prefix(&image.root).unwrap_or(path).trim_start_matches('/')
}

/// The first bytes of a regular file of an image. Whatever is wrong with its path, it is not there.
fn start(image: &Image, path: &str) -> Result<Vec<u8>, ()> {
    let walk = OFlags::PATH | OFlags::CLOEXEC;
    let inside = path.strip_prefix(&image.root).filter(|rest| rest.starts_with('/')).ok_or(())?;
    let open = || -> rustix::io::Result<_> {
        let mut at = rustix::fs::open(image.root.as_str(), walk | OFlags::DIRECTORY, Mode::empty())?;
        let mut parts = inside.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
        while let Some(part) = parts.next() {
            let flags = match parts.peek() {
                _ if part == ".." => return Err(Errno::INVAL),
                Some(_) => walk | OFlags::DIRECTORY,
                None => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            };
            at = rustix::fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(at)
    };
    let file = File::from(open().map_err(drop)?);
    if !file.metadata().is_ok_and(|data| data.is_file()) {
        return Err(());
    }
    let mut start = Vec::new();
    file.take(image::HEADER as u64).read_to_end(&mut start).map_err(drop)?;
    Ok(start)
}

/// A new file in place of what is there. O_EXCL follows no link.
fn make(path: &str, mode: u32) -> io::Result<File> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?.into())
}
