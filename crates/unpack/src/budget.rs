//! What one image may take.

use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    io::{self, Read},
};

/// An image may always grow to this many bytes, however small it is packed.
const FREE_GROWTH: u64 = 16 << 20;

/// Limits of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of all layers after decompression, holes in files included.
    pub bytes: u64,
    /// Files, directories and links of all layers.
    pub entries: u64,
    /// How many times larger than its layers an image may get on disk. Zeroes become holes and do not count.
    pub ratio: u64,
    /// Bytes that must stay free on the file system.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 50_000, ratio: 100, reserve: 0 }
    }
}

/// What an image has taken so far.
pub(crate) struct Budget {
    limits: Limits,
    /// Bytes of the layers as they are packed.
    packed: u64,
    read: Cell<u64>,
    written: Cell<u64>,
    entries: Cell<u64>,
}

impl Budget {
    pub(crate) fn new(limits: Limits, packed: u64) -> Self {
        Self { limits, packed, read: Cell::new(0), written: Cell::new(0), entries: Cell::new(0) }
    }

    /// Counts a file, directory or link.
    pub(crate) fn entry(&self) -> io::Result<()> {
        let limit = self.limits.entries;
        count(&self.entries, 1, limit, || format!("it has over {limit} files, directories and links"))
    }

    /// Counts bytes that take space on disk.
    pub(crate) fn write(&self, bytes: usize) -> io::Result<()> {
        let limit = self.packed.saturating_mul(self.limits.ratio).max(FREE_GROWTH);
        count(&self.written, bytes, limit, || {
            format!("its {} bytes of layers unpack to over {limit} bytes of data", self.packed)
        })
    }

    fn read(&self, bytes: usize) -> io::Result<()> {
        let limit = self.limits.bytes;
        count(&self.read, bytes, limit, || format!("it has over {limit} bytes"))
    }

    /// Bytes that must stay free.
    pub(crate) fn reserve(&self) -> u64 {
        self.limits.reserve
    }
}

fn count(so_far: &Cell<u64>, more: usize, limit: u64, what: impl FnOnce() -> String) -> io::Result<()> {
    let sum = so_far.get().saturating_add(more as u64);
    so_far.set(sum);
    if sum > limit { Err(io::Error::new(io::ErrorKind::QuotaExceeded, what())) } else { Ok(()) }
}

/// A decompressed stream, counted.
pub(crate) struct Counted<'b, R> {
    pub(crate) inner: R,
    pub(crate) budget: &'b Budget,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.budget.read(length)?;
        Ok(length)
    }
}
