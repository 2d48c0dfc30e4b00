//! Entries of a hugetlbfs, and memory in huge pages.

use super::{Act, Place, anchor, try_open};
use ferrovirt_sys::memory::{Backing, map_and_write};
use rustix::fs::{
    AtFlags, FileType, MemfdFlags, Mode, OFlags, XattrFlags, chmodat, fsetxattr, memfd_create, mknodat,
    unlinkat,
};
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
};

/// Bytes of a huge page.
const PAGE: usize = 2 << 20;

/// Makes a file of one huge page.
pub(super) fn file(path: &str) -> io::Result<OwnedFd> {
    let file: OwnedFd =
        File::options().read(true).write(true).create(true).truncate(false).open(path)?.into();
    rustix::fs::ftruncate(&file, PAGE as u64)?;
    Ok(file)
}

/// The worker's directory: each operation gets at its entries through it, so that the path's other parts play no role.
fn directory(place: &Place) -> io::Result<OwnedFd> {
    anchor(place.huge(""))
}

pub(super) fn list(place: &Place) -> io::Result<Act> {
    let directory = directory(place)?;
    Ok(Box::new(move || try_open(&directory, ".", OFlags::RDONLY | OFlags::DIRECTORY)))
}

pub(super) fn mkdir(place: &Place) -> io::Result<Act> {
    let directory = directory(place)?;
    Ok(Box::new(move || Ok(rustix::fs::mkdirat(&directory, "new", Mode::RWXU)?)))
}

pub(super) fn rmdir(place: &Place) -> io::Result<Act> {
    fs::create_dir(place.huge("old"))?;
    let directory = directory(place)?;
    Ok(Box::new(move || Ok(unlinkat(&directory, "old", AtFlags::REMOVEDIR)?)))
}

pub(super) fn chmod_dir(place: &Place) -> io::Result<Act> {
    fs::create_dir(place.huge("mode"))?;
    let directory = directory(place)?;
    Ok(Box::new(move || Ok(chmodat(&directory, "mode", Mode::RWXU | Mode::RGRP, AtFlags::empty())?)))
}

/// Without an open: that is another access.
pub(super) fn create(place: &Place) -> io::Result<Act> {
    let directory = directory(place)?;
    Ok(Box::new(move || Ok(mknodat(&directory, "made", FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0)?)))
}

pub(super) fn unlink(place: &Place) -> io::Result<Act> {
    drop(file(&place.huge("gone"))?);
    let directory = directory(place)?;
    Ok(Box::new(move || Ok(unlinkat(&directory, "gone", AtFlags::empty())?)))
}

pub(super) fn open_file(place: &Place) -> io::Result<Act> {
    drop(file(&place.huge("there"))?);
    let directory = directory(place)?;
    Ok(Box::new(move || try_open(&directory, "there", OFlags::RDWR)))
}

pub(super) fn map(place: &Place) -> io::Result<Act> {
    let file = file(&place.huge("mapped"))?;
    Ok(Box::new(move || map_and_write(Backing::File(file.as_fd()), PAGE)))
}

pub(super) fn anonymous(_: &Place) -> io::Result<Act> {
    Ok(Box::new(|| map_and_write(Backing::HugePages, PAGE)))
}

pub(super) fn memfd(_: &Place) -> io::Result<Act> {
    Ok(Box::new(|| {
        let file = memfd_create("memory", MemfdFlags::HUGETLB | MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, PAGE as u64)?;
        map_and_write(Backing::File(file.as_fd()), PAGE)
    }))
}

pub(super) fn rename(place: &Place) -> io::Result<Act> {
    drop(file(&place.huge("from"))?);
    let directory = directory(place)?;
    Ok(Box::new(move || Ok(rustix::fs::renameat(&directory, "from", &directory, "to")?)))
}

pub(super) fn symlink(place: &Place) -> io::Result<Act> {
    let directory = directory(place)?;
    Ok(Box::new(move || Ok(rustix::fs::symlinkat("memory", &directory, "link")?)))
}

pub(super) fn chmod_file(place: &Place) -> io::Result<Act> {
    drop(file(&place.huge("bits"))?);
    let directory = directory(place)?;
    Ok(Box::new(move || Ok(chmodat(&directory, "bits", Mode::RUSR | Mode::RGRP, AtFlags::empty())?)))
}

pub(super) fn relabel(place: &Place) -> io::Result<Act> {
    let file = file(&place.huge("label"))?;
    let label = b"system_u:object_r:container_file_t:s0\0";
    Ok(Box::new(move || Ok(fsetxattr(&file, "security.selinux", label, XattrFlags::empty())?)))
}
