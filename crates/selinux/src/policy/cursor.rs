//! Reading little-endian values from a slice, without trust in any length.

use crate::error::ReadError;

/// The bytes and how many of them are read.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    pub(super) fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], ReadError> {
        let end = self.offset.checked_add(length);
        match end.and_then(|end| self.bytes.get(self.offset..end)) {
            Some(taken) => {
                self.offset += length;
                Ok(taken)
            }
            None => Err(ReadError::Ended { offset: self.offset, what, needed: length, left: self.left() }),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], ReadError> {
        match self.bytes.get(self.offset..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(chunk) => {
                self.offset += N;
                Ok(*chunk)
            }
            None => Err(ReadError::Ended { offset: self.offset, what, needed: N, left: self.left() }),
        }
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
