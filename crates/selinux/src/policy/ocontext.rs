//! Contexts of things that have no label of their own.

use super::Context;

/// All kinds, in the order of the file. The last two exist from version 31.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Ocontexts {
    /// Initial security identifiers by number.
    pub initial: Vec<(u32, Context)>,
    pub file_systems: Vec<Twice>,
    pub ports: Vec<Port>,
    pub interfaces: Vec<Twice>,
    pub nodes: Vec<Node<4>>,
    pub uses: Vec<FsUse>,
    pub nodes6: Vec<Node<16>>,
    pub partition_keys: Vec<PartitionKey>,
    pub endports: Vec<Endport>,
}

/// A name with two contexts: of the thing, and of what goes through it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Twice {
    pub name: Box<str>,
    pub first: Context,
    pub second: Context,
}

/// Ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Port {
    pub protocol: u32,
    pub low: u32,
    pub high: u32,
    pub context: Context,
}

/// A network: address and mask in network order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Node<const N: usize> {
    pub address: [u8; N],
    pub mask: [u8; N],
    pub context: Context,
}

/// How a file system is labelled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct FsUse {
    /// 1 extended attributes, 2 by transition, 3 by the creating task.
    pub behaviour: u32,
    pub name: Box<str>,
    pub context: Context,
}

/// InfiniBand partition keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct PartitionKey {
    pub prefix: [u8; 8],
    pub low: u32,
    pub high: u32,
    pub context: Context,
}

/// An InfiniBand port of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Endport {
    pub name: Box<str>,
    pub port: u32,
    pub context: Context,
}

/// A file system whose files get contexts by path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct FileSystem {
    pub name: Box<str>,
    pub paths: Vec<Path>,
}

/// A path's context.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Path {
    pub path: Box<str>,
    /// 0 means every class.
    pub class: u32,
    pub context: Context,
}
