//! Reading little-endian values from a source, without trust in any length.

use crate::error::ReadError;
use std::{borrow::Cow, io::Read};

/// Bytes that are taken from the source at once: what is read piece by piece needs no memory for the whole.
const PIECE: usize = 64 << 10;

/// The source and how much of it is read.
pub(super) struct Cursor<'a> {
    /// `None` when the piece is the whole.
    source: Option<&'a mut dyn Read>,
    /// What was taken from the source.
    piece: Cow<'a, [u8]>,
    /// How much of it is read.
    at: usize,
    offset: usize,
    length: usize,
}

impl<'a> Cursor<'a> {
    /// A source that has `length` bytes.
    pub(super) fn new(source: &'a mut dyn Read, length: usize) -> Self {
        Self { source: Some(source), piece: Cow::default(), at: 0, offset: 0, length }
    }

    /// Bytes that are all there.
    pub(super) fn whole(bytes: &'a [u8]) -> Self {
        Self { source: None, piece: bytes.into(), at: 0, offset: 0, length: bytes.len() }
    }

    /// Sees to it that the piece holds `needed` more bytes. It never holds any beyond the length.
    #[cold]
    fn refill(&mut self, needed: usize, what: &'static str) -> Result<(), ReadError> {
        let left = self.left();
        let Some(source) = self.source.as_mut().filter(|_| left >= needed) else {
            return Err(ReadError::Ended { offset: self.offset, what, needed, left });
        };
        let piece = self.piece.to_mut();
        piece.drain(..self.at);
        self.at = 0;
        let missing = needed.max(PIECE).min(left).saturating_sub(piece.len());
        match source.take(missing as u64).read_to_end(piece) {
            Ok(_) if piece.len() >= needed => Ok(()),
            Ok(_) => Err(ReadError::Source { offset: self.offset, problem: "it became shorter".to_owned() }),
            Err(error) => Err(ReadError::Source { offset: self.offset, problem: error.to_string() }),
        }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn left(&self) -> usize {
        self.length.saturating_sub(self.offset)
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize, what: &'static str) -> Result<&[u8], ReadError> {
        if self.piece.len() - self.at < length {
            self.refill(length, what)?;
        }
        let taken = self.piece.get(self.at..self.at + length).unwrap_or_default();
        self.offset += length;
        self.at += length;
        Ok(taken)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], ReadError> {
        Ok(self.take(N, what)?.first_chunk().copied().unwrap_or([0; N]))
    }

    /// Several words at once.
    pub(super) fn words<const N: usize>(&mut self, what: &'static str) -> Result<[u32; N], ReadError> {
        let bytes = self.take(N * 4, what)?;
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            if let Some(chunk) = chunk.first_chunk::<4>() {
                *word = u32::from_le_bytes(*chunk);
            }
        }
        Ok(words)
    }

    pub(super) fn word(&mut self, what: &'static str) -> Result<u32, ReadError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A count of things that take at least `least` bytes each.
    pub(super) fn count(&mut self, what: &'static str, least: usize) -> Result<usize, ReadError> {
        let offset = self.offset;
        let count = self.word(what)?;
        self.fits(offset, what, count, least)
    }

    /// Checks a count that was read at `offset` against the bytes left.
    pub(super) fn fits(
        &self,
        offset: usize,
        what: &'static str,
        count: u32,
        least: usize,
    ) -> Result<usize, ReadError> {
        let left = self.left();
        let most = left / least;
        match usize::try_from(count) {
            Ok(found) if found <= most => Ok(found),
            _ => Err(ReadError::Count { offset, what, found: count, most, left }),
        }
    }

    /// Things, after a count that was checked.
    pub(super) fn list<T>(
        &mut self,
        count: usize,
        mut one: impl FnMut(&mut Self) -> Result<T, ReadError>,
    ) -> Result<Vec<T>, ReadError> {
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(one(self)?);
        }
        Ok(list)
    }

    pub(super) fn name(&mut self, length: u32, what: &'static str) -> Result<Box<str>, ReadError> {
        let offset = self.offset;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map(Box::from).map_err(|_| ReadError::Name { offset, what })
    }
}
