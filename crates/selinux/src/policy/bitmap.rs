//! Sets of small numbers as the kernel stores them: words of 64 bits, those without a bit left out.

use super::cursor::Cursor;
use crate::error::ReadError;

/// One word that has at least one bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Word {
    /// The number of the word's lowest bit, a multiple of 64.
    start: u32,
    bits: u64,
}

/// A set of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Bitmap {
    words: Box<[Word]>,
}

/// A set in the making, to which numbers are added in ascending order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Growing(Vec<Word>);

impl Growing {
    pub(crate) fn add(&mut self, number: u32) {
        let word = Word { start: number & !63, bits: 1 << (number & 63) };
        match self.0.last_mut() {
            Some(last) if last.start == word.start => last.bits |= word.bits,
            _ => self.0.push(word),
        }
    }

    pub(crate) fn done(self) -> Bitmap {
        Bitmap { words: self.0.into() }
    }
}

impl Bitmap {
    /// A set of the numbers given, in any order.
    pub fn of(numbers: impl IntoIterator<Item = u32>) -> Self {
        let word = |number: u32| Word { start: number & !63, bits: 1 << (number & 63) };
        Self::merged(numbers.into_iter().map(word).collect())
    }

    /// All numbers that one of the sets has.
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::merged(sets.into_iter().flat_map(|set| set.words.iter().copied()).collect())
    }

    fn merged(mut words: Vec<Word>) -> Self {
        words.sort_unstable_by_key(|word| word.start);
        words.dedup_by(|next, kept| {
            let same = next.start == kept.start;
            if same {
                kept.bits |= next.bits;
            }
            same
        });
        Self { words: words.into() }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, ReadError> {
        let offset = cursor.offset();
        let [size, high, count] = cursor.words("bitmap")?;
        if size != 64 {
            return Err(ReadError::Value {
                offset,
                what: "word size of a bitmap",
                expected: "64",
                found: size.into(),
            });
        }
        let count = cursor.fits(offset + 8, "words of a bitmap", count, 12)?;
        let mut words = Vec::with_capacity(count);
        let mut next = 0;
        for _ in 0..count {
            let offset = cursor.offset();
            let [start, low, up] = cursor.words("word of a bitmap")?;
            let bits = u64::from(low) | u64::from(up) << 32;
            if start % 64 != 0 || start < next || start >= high {
                return Err(ReadError::Value {
                    offset,
                    what: "start of a bitmap's word",
                    expected: "a multiple of 64, growing, below the highest bit",
                    found: start.into(),
                });
            }
            if bits == 0 {
                return Err(ReadError::Value {
                    offset: offset + 4,
                    what: "word of a bitmap",
                    expected: "at least one bit",
                    found: 0,
                });
            }
            next = start.saturating_add(64);
            words.push(Word { start, bits });
        }
        if high != next {
            return Err(ReadError::Value {
                offset: offset + 4,
                what: "highest bit of a bitmap",
                expected: "the end of its last word",
                found: high.into(),
            });
        }
        Ok(Self { words: words.into() })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let high = self.words.last().map_or(0, |word| word.start.saturating_add(64));
        for value in [64, high, self.words.len() as u32] {
            out.extend(value.to_le_bytes());
        }
        for word in &self.words {
            out.extend(word.start.to_le_bytes());
            out.extend(word.bits.to_le_bytes());
        }
    }

    /// Whether the number is in the set.
    pub fn contains(&self, number: u32) -> bool {
        let start = number & !63;
        self.words
            .binary_search_by_key(&start, |word| word.start)
            .ok()
            .and_then(|at| self.words.get(at))
            .is_some_and(|word| word.bits >> (number & 63) & 1 == 1)
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().flat_map(|word| {
            let mut bits = word.bits;
            std::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                Some(word.start + bit)
            })
        })
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.bits.count_ones() as usize).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The greatest number.
    pub fn highest(&self) -> Option<u32> {
        self.words.last().map(|word| word.start + 63 - word.bits.leading_zeros())
    }

    /// Whether each number of this set is in the other one.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.words.iter().all(|word| {
            let theirs = other.words.binary_search_by_key(&word.start, |their| their.start).ok();
            let theirs = theirs.and_then(|at| other.words.get(at)).map_or(0, |their| their.bits);
            word.bits & !theirs == 0
        })
    }

    /// Whether the two sets share a number.
    pub fn meets(&self, other: &Self) -> bool {
        self.words.iter().any(|word| {
            let theirs = other.words.binary_search_by_key(&word.start, |their| their.start).ok();
            theirs.and_then(|at| other.words.get(at)).is_some_and(|their| word.bits & their.bits != 0)
        })
    }
}
