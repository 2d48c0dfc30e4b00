//! Another machine: a process of the same type with other categories, its files, its socket, its memory, its TAP device.

use super::{Act, Place, anchor, try_open};
use ferrovirt_sys::{tap::join, trace};
use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket},
    process::{Pid, Signal, kill_process, test_kill_process},
};
use std::{fs, io, os::fd::AsRawFd};

fn pid(place: &Place) -> io::Result<Pid> {
    let text = fs::read_to_string(place.neighbours("pid")?)?;
    text.parse().ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("the neighbour has no number"))
}

fn read_in(directory: &str, name: &'static str, how: OFlags) -> io::Result<Act> {
    let directory = anchor(directory)?;
    Ok(Box::new(move || try_open(&directory, name, how)))
}

/// The control: one's own file can be read by the same steps.
pub(super) fn own_file(place: &Place) -> io::Result<Act> {
    read_in(&place.path(""), "secret", OFlags::RDONLY)
}

pub(super) fn file(place: &Place) -> io::Result<Act> {
    read_in(&place.neighbours("")?, "secret", OFlags::RDONLY)
}

/// Past the directory: a descriptor that gives no right to the file is opened again.
pub(super) fn reopen(place: &Place) -> io::Result<Act> {
    let file = open(place.neighbours("secret")?, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let descriptors = anchor("/proc/self/fd")?;
    Ok(Box::new(move || {
        let name = file.as_raw_fd().to_string();
        try_open(&descriptors, name, OFlags::RDONLY)
    }))
}

pub(super) fn huge_file(place: &Place) -> io::Result<Act> {
    read_in(&place.neighbours_huge()?, "memory", OFlags::RDWR)
}

pub(super) fn other_socket(place: &Place) -> io::Result<Act> {
    let address = SocketAddrUnix::new_abstract_name(format!("machine-{}", place.neighbour()?).as_bytes())?;
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    Ok(Box::new(move || Ok(connect(&socket, &address)?)))
}

/// A signal that is ignored.
pub(super) fn signal(place: &Place) -> io::Result<Act> {
    let pid = pid(place)?;
    Ok(Box::new(move || Ok(kill_process(pid, Signal::URG)?)))
}

pub(super) fn exists(place: &Place) -> io::Result<Act> {
    let pid = pid(place)?;
    Ok(Box::new(move || Ok(test_kill_process(pid)?)))
}

pub(super) fn trace_it(place: &Place) -> io::Result<Act> {
    let pid = pid(place)?;
    Ok(Box::new(move || trace::attach(pid)))
}

pub(super) fn status(place: &Place) -> io::Result<Act> {
    read_in(&format!("/proc/{}", pid(place)?.as_raw_nonzero()), "status", OFlags::RDONLY)
}

pub(super) fn tap(place: &Place) -> io::Result<Act> {
    let (node, name) = (place.node()?, format!("own{}", place.neighbour()?));
    Ok(Box::new(move || join(&node, &name, false)))
}
