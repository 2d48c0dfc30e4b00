//! Files in sysfs, above all the number of virtual functions of a real SR-IOV device.

use super::{Act, Place, anchor, try_open};
use rustix::{
    fs::{AtFlags, Mode, OFlags, chmodat, openat},
    io::{read as read_some, write as write_some},
};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::PathBuf,
};

/// The number of virtual functions that a device has, which is 0 before and after.
const NUMBER: &str = "sriov_numvfs";

/// The directory of the first device that has virtual functions.
fn device() -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        if path.join(NUMBER).exists() {
            return Ok(path);
        }
    }
    Err(io::Error::other("no device of this guest has SR-IOV"))
}

fn directory() -> io::Result<OwnedFd> {
    anchor(device()?)
}

fn opening(directory: OwnedFd, name: &'static str, how: OFlags) -> Act {
    Box::new(move || try_open(&directory, name, how))
}

pub(super) fn read(_: &Place) -> io::Result<Act> {
    let directory = directory()?;
    Ok(Box::new(move || {
        let file = openat(&directory, "sriov_totalvfs", OFlags::RDONLY, Mode::empty())?;
        Ok(read_some(&file, &mut [0_u8; 16]).map(drop)?)
    }))
}

/// Makes two virtual functions, looks for them, and removes them again.
pub(super) fn write(_: &Place) -> io::Result<Act> {
    let directory = directory()?;
    Ok(Box::new(move || {
        let set = |number: &[u8]| -> io::Result<()> {
            let file = openat(&directory, NUMBER, OFlags::WRONLY, Mode::empty())?;
            Ok(write_some(&file, number).map(drop)?)
        };
        set(b"2")?;
        // Neither followed nor opened: that asks for nothing but the directory.
        let there = openat(&directory, "virtfn1", OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        set(b"0")?;
        there
            .map(drop)
            .map_err(|_| io::Error::other("the device took the number and made no virtual functions"))
    }))
}

/// The rule names a type, not a file: this one has nothing to do with SR-IOV.
pub(super) fn write_other(_: &Place) -> io::Result<Act> {
    Ok(opening(anchor("/sys/kernel/mm/hugepages/hugepages-2048kB")?, "nr_hugepages", OFlags::WRONLY))
}

pub(super) fn append(_: &Place) -> io::Result<Act> {
    Ok(opening(directory()?, NUMBER, OFlags::WRONLY | OFlags::APPEND))
}

pub(super) fn chmod(_: &Place) -> io::Result<Act> {
    let mode = Mode::from_raw_mode(fs::metadata(device()?.join(NUMBER))?.permissions().mode() & 0o7777);
    let directory = directory()?;
    Ok(Box::new(move || Ok(chmodat(&directory, NUMBER, mode, AtFlags::empty())?)))
}

/// The neighbouring tree.
pub(super) fn proc_sys(_: &Place) -> io::Result<Act> {
    Ok(opening(anchor("/proc/sys/vm")?, "nr_hugepages", OFlags::WRONLY))
}
