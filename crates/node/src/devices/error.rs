//! What goes wrong between plug-ins and the node.

use std::{io, path::PathBuf};

/// Why a plug-in is not taken, or a container gets no device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another version of the API.
    #[error("version {0:?} of the device plug-in API is not supported: use v1beta1")]
    Version(String),
    /// A name that no extended resource has.
    #[error("{0:?} is no name of an extended resource, such as vendor.example/thing")]
    Name(String),
    /// A name of which the node has devices of its own.
    #[error("{0} is offered by the node itself")]
    Reserved(String),
    /// Too many plug-ins.
    #[error("there are {0} resources of device plug-ins already, which is all that this node takes")]
    Full(usize),
    /// A list of devices that makes no sense.
    #[error("device plug-in of {resource}: {what}")]
    List {
        /// The resource.
        resource: String,
        /// What is wrong with it.
        what: String,
    },
    /// Nobody offers it, or not enough.
    #[error("{resource}: {wanted} wanted, {free} healthy and free on this node")]
    Short {
        /// The resource.
        resource: String,
        /// Devices that the container asks for.
        wanted: u64,
        /// Devices that it could get.
        free: u64,
    },
    /// The plug-in did not give what it offers.
    #[error("Allocate of the device plug-in of {resource}: {what}")]
    Refused {
        /// The resource.
        resource: String,
        /// What it said, or what is wrong with what it said.
        what: String,
    },
    /// The record of what was allocated.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
}
