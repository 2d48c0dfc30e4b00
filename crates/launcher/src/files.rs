//! The files of the guest before QEMU opens them: those that the launcher makes, and those of images, at which it looks.

use crate::{claims, host_disks, images, secrets, start::own_path};
use ferrovirt_qemu::{
    iso,
    order::{Disk, Image, Inline, Kernel, Mounted, Order, Prepare},
    seed::{self, Content, Files},
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd as _, OwnedFd},
};

/// A file that is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// Of a disk.
    #[error("disk {name:?}: {path}: {problem}")]
    Disk { name: String, path: String, problem: Problem },
    /// In a container disk's image.
    #[error(
        "disk {name:?}: image {image}: {file:?} is not a regular file in it (links do not count): correct \
         containerDisk.path, or make the image again"
    )]
    Image { name: String, image: String, file: String },
    /// A container disk's image, and the machine does not say which file of it.
    #[error(
        "disk {name:?}: image {image}: /{directory}: {what}: name the file as containerDisk.path, or make the image again \
         with exactly one file there"
    )]
    Which { name: String, image: String, directory: String, what: String },
    /// In a kernel's image.
    #[error(
        "image {image}: there is no regular file {file:?} in it: correct kernelPath or initrdPath, or make the image again"
    )]
    Kernel { image: String, file: String },
    /// Of a claim.
    #[error("disk {name:?}: {problem}")]
    Claim { name: String, problem: claims::Problem },
    /// Of the node.
    #[error("disk {name:?}: {problem}")]
    HostDisk { name: String, problem: host_disks::Problem },
    /// In a secret.
    #[error("disk {name:?}: secret {secret}: {missing}")]
    Secret { name: String, secret: String, missing: secrets::Missing },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Seed(#[from] iso::TooMuch),
    #[error(transparent)]
    Files(#[from] seed::TooMuch),
}

/// Makes what the disks of an order need, of the files that came before it, and finds out what only images and claims say.
/// What an earlier try has left is made again, but for the disks of claims and of the node.
pub(crate) fn prepare(order: &mut Order, files: &Files) -> Result<Opened, NotReady> {
    let mut opened = Opened::default();
    if let Some(kernel) = &order.kernel {
        self::kernel(kernel, &mut opened)?;
    }
    order.disks.iter_mut().try_for_each(|disk| self::disk(disk, files, &mut opened))?;
    Ok(opened)
}

/// Files of images that QEMU opens through descriptors.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) kernel: Option<OwnedFd>,
    pub(crate) initrd: Option<OwnedFd>,
    /// By the names of disks.
    pub(crate) disks: BTreeMap<String, OwnedFd>,
}

fn disk(disk: &mut Disk, files: &Files, opened: &mut Opened) -> Result<(), NotReady> {
    let (name, path) = (&disk.name, &disk.path);
    let problem = |problem| NotReady::Disk { name: name.clone(), path: path.clone(), problem };
    let claimed = |problem| NotReady::Claim { name: name.clone(), problem };
    match &disk.prepare {
        None => Ok(()),
        Some(Prepare::Seed) => seed(name, path, files).map_err(problem),
        Some(Prepare::SeedOf { files, mounted }) => {
            let mut all = Files::default();
            let own = files.iter().map(|Inline { name: file, content }| {
                Ok(seed::File { disk: name.clone(), name: file.clone(), content: content.clone() })
            });
            for file in own.chain(mounted.iter().map(|file| secret(name, file))) {
                all.add(file?).map_err(|error| problem(error.into()))?;
            }
            seed(name, path, &all).map_err(problem)
        }
        Some(Prepare::Empty { bytes }) => {
            make(path, 0o600).and_then(|file| file.set_len(*bytes)).map_err(|error| problem(error.into()))
        }
        Some(Prepare::Image(image)) => {
            let (path, image) = (path.clone(), image.clone());
            found(disk, path, &image, opened)
        }
        Some(Prepare::OnlyFile(image)) => {
            let only = images::only_file(image, path).map_err(|what| NotReady::Which {
                name: name.clone(),
                image: image.reference.clone(),
                directory: images::within(image, path).to_owned(),
                what,
            })?;
            let image = image.clone();
            found(disk, only, &image, opened)
        }
        Some(Prepare::ClaimFile { claim, bytes }) => claims::file(disk, claim, *bytes).map_err(claimed),
        Some(Prepare::ClaimDevice { claim }) => claims::device(disk, claim).map_err(claimed),
        Some(Prepare::HostFile { bytes }) => host_disks::file(disk, *bytes)
            .map_err(|problem| NotReady::HostDisk { name: name.clone(), problem }),
    }
}

fn seed(name: &str, path: &str, files: &Files) -> Result<(), Problem> {
    Ok(make(path, 0o400)?.write_all(&files.image(name)?)?)
}

fn secret(disk: &str, file: &Mounted) -> Result<seed::File, NotReady> {
    let content = secrets::read(&file.directory, &file.keys).map_err(|missing| NotReady::Secret {
        name: disk.to_owned(),
        secret: file.secret.clone(),
        missing,
    })?;
    Ok(seed::File { disk: disk.to_owned(), name: file.name.clone(), content: Content(content) })
}

/// The disk is this file of an image.
fn found(disk: &mut Disk, path: String, image: &Image, opened: &mut Opened) -> Result<(), NotReady> {
    let (format, file) = images::format(image, &path).map_err(|()| NotReady::Image {
        name: disk.name.clone(),
        image: image.reference.clone(),
        file: images::within(image, &path).to_owned(),
    })?;
    disk.format = format;
    disk.path = match file {
        Some(file) => {
            let path = own_path(file.as_raw_fd());
            opened.disks.insert(disk.name.clone(), file);
            path
        }
        None => path,
    };
    Ok(())
}

fn kernel(kernel: &Kernel, opened: &mut Opened) -> Result<(), NotReady> {
    let Some(image) = &kernel.image else { return Ok(()) };
    let open = |path: &String| {
        images::boot_file(image, path).map_err(|()| NotReady::Kernel {
            image: image.reference.clone(),
            file: images::within(image, path).to_owned(),
        })
    };
    opened.kernel = kernel.kernel.as_ref().map(open).transpose()?.flatten();
    opened.initrd = kernel.initrd.as_ref().map(open).transpose()?.flatten();
    Ok(())
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
