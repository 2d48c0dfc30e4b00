//! TAP devices and their queues.

use super::{Act, Place, Prepare};
use ferrovirt_sys::tap::{enable, join, keep};
use std::io;

pub(super) const ALL: &[(&str, Prepare)] = &[
    ("tap-create", create),
    ("tap-create-single", create_single),
    ("tap-second-queue", second_queue),
    ("tap-detach-queue", detach_queue),
    ("tap-attach-queue", attach_queue),
    ("tap-open-own", open_own),
    ("tap-open-foreign", open_foreign),
];

/// Names of devices are at most 15 bytes.
fn name(place: &Place, what: &str) -> String {
    format!("{what}{}", place.number)
}

fn create(place: &Place) -> io::Result<Act> {
    let (node, name) = (place.node()?, name(place, "new"));
    Ok(Box::new(move || join(&node, &name, true)))
}

fn create_single(place: &Place) -> io::Result<Act> {
    let (node, name) = (place.node()?, name(place, "one"));
    Ok(Box::new(move || join(&node, &name, false)))
}

fn second_queue(place: &Place) -> io::Result<Act> {
    let (first, second, name) = (place.node()?, place.node()?, name(place, "two"));
    join(&first, &name, true)?;
    Ok(Box::new(move || {
        let joined = join(&second, &name, true);
        drop(first);
        joined
    }))
}

fn detach_queue(place: &Place) -> io::Result<Act> {
    let queue = place.node()?;
    join(&queue, &name(place, "det"), true)?;
    Ok(Box::new(move || enable(&queue, false)))
}

fn attach_queue(place: &Place) -> io::Result<Act> {
    let queue = place.node()?;
    join(&queue, &name(place, "att"), true)?;
    enable(&queue, false)?;
    Ok(Box::new(move || enable(&queue, true)))
}

/// A device that a helper in the same context made, and left.
fn open_own(place: &Place) -> io::Result<Act> {
    let (maker, node, name) = (place.node()?, place.node()?, name(place, "kept"));
    join(&maker, &name, true)?;
    keep(&maker)?;
    drop(maker);
    Ok(Box::new(move || join(&node, &name, true)))
}

/// A device that the first process made in the kernel's own domain.
fn open_foreign(place: &Place) -> io::Result<Act> {
    let (node, name) = (place.node()?, name(place, "far"));
    Ok(Box::new(move || join(&node, &name, false)))
}
