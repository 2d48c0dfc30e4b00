//! TAP devices and their queues.

use super::{Act, Place};
use ferrovirt_sys::tap::{enable, join, keep};
use rustix::io::{Errno, read, write};
use std::{
    io::{self, stdin, stdout},
    os::fd::{AsFd, OwnedFd},
};

/// Names of devices are at most 15 bytes.
fn name(place: &Place, what: &str) -> String {
    format!("{what}{}", place.number)
}

pub(super) fn create(place: &Place) -> io::Result<Act> {
    let (node, name) = (place.node()?, name(place, "new"));
    Ok(Box::new(move || join(&node, &name, true)))
}

pub(super) fn create_single(place: &Place) -> io::Result<Act> {
    let (node, name) = (place.node()?, name(place, "one"));
    Ok(Box::new(move || join(&node, &name, false)))
}

pub(super) fn second_queue(place: &Place) -> io::Result<Act> {
    let (first, second, name) = (place.node()?, place.node()?, name(place, "two"));
    join(&first, &name, true)?;
    Ok(Box::new(move || {
        let joined = join(&second, &name, true);
        drop(first);
        joined
    }))
}

pub(super) fn detach_queue(place: &Place) -> io::Result<Act> {
    let queue = place.node()?;
    join(&queue, &name(place, "det"), true)?;
    Ok(Box::new(move || enable(&queue, false)))
}

pub(super) fn attach_queue(place: &Place) -> io::Result<Act> {
    let queue = place.node()?;
    join(&queue, &name(place, "att"), true)?;
    enable(&queue, false)?;
    Ok(Box::new(move || enable(&queue, true)))
}

/// A device that a helper in the same context made, and left.
pub(super) fn open_own(place: &Place) -> io::Result<Act> {
    let (maker, node, name) = (place.node()?, place.node()?, name(place, "kept"));
    join(&maker, &name, true)?;
    keep(&maker)?;
    drop(maker);
    Ok(Box::new(move || join(&node, &name, true)))
}

/// A device that the first process made in the kernel's own domain.
pub(super) fn open_foreign(place: &Place) -> io::Result<Act> {
    let (node, name) = (place.node()?, name(place, "far"));
    Ok(Box::new(move || join(&node, &name, false)))
}

/// The two queues that the agent passed: the standard input, and the output, which is switched off.
fn passed() -> io::Result<[OwnedFd; 2]> {
    Ok([stdin().as_fd().try_clone_to_owned()?, stdout().as_fd().try_clone_to_owned()?])
}

/// A device that is down has no packet and takes none; that is said only after the policy was asked.
pub(super) fn passed_read(_: &Place) -> io::Result<Act> {
    let [queue, _] = passed()?;
    Ok(Box::new(move || match read(&queue, &mut [0_u8; 64]) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }))
}

pub(super) fn passed_write(_: &Place) -> io::Result<Act> {
    let [queue, _] = passed()?;
    Ok(Box::new(move || match write(&queue, &[0_u8; 64]) {
        Ok(_) | Err(Errno::IO) => Ok(()),
        Err(error) => Err(error.into()),
    }))
}

pub(super) fn passed_detach(_: &Place) -> io::Result<Act> {
    let [queue, _] = passed()?;
    Ok(Box::new(move || enable(&queue, false)))
}

pub(super) fn passed_attach(_: &Place) -> io::Result<Act> {
    let [_, queue] = passed()?;
    Ok(Box::new(move || enable(&queue, true)))
}

/// A further queue of the device that the agent made.
pub(super) fn open_agents(place: &Place) -> io::Result<Act> {
    let (node, name) = (place.node()?, name(place, "age"));
    Ok(Box::new(move || join(&node, &name, true)))
}
