//! Sizes of memory and pages.

use std::{fmt, num::NonZeroU64};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// `n` mebibytes, saturating.
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }
}

impl fmt::Display for Bytes {
    /// In the largest binary unit that divides the number, as a Kubernetes quantity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// The size of a huge page in bytes; never zero.
///
/// Whether a node offers this size is the scheduler's question, as it is upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(NonZeroU64);

impl PageSize {
    /// `None` for zero, which upstream's webhook divides by.
    pub fn new(bytes: u64) -> Option<Self> {
        NonZeroU64::new(bytes).map(Self)
    }

    /// Bytes of one page.
    pub fn bytes(self) -> u64 {
        self.0.get()
    }

    /// Pages needed for `size`, rounded up.
    pub fn pages(self, size: Bytes) -> u64 {
        size.0.div_ceil(self.bytes())
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.bytes()).fmt(f)
    }
}
