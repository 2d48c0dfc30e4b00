//! MCS pairs: two categories that are one machine's alone while it exists.
//!
//! SELinux lets a process reach what has a subset of its own categories. No pair is a subset of another one, so
//! machines with different pairs are apart although they have the same type.

use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, fmt};

/// Categories of every policy with MCS: c0 to c1023.
const CATEGORIES: u64 = 1024;
/// Pairs of different categories.
pub const PAIRS: u64 = CATEGORIES * (CATEGORIES - 1) / 2;

/// A pair of different categories at sensitivity s0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mcs {
    low: u16,
    high: u16,
}

impl Mcs {
    /// Reads a level such as `s0:c12,c345`, in either order. `None` for every other form: it is no machine's pair.
    pub fn parse(level: &str) -> Option<Self> {
        let (first, second) = level.strip_prefix("s0:")?.split_once(',')?;
        let category = |text: &str| {
            let digits = text.strip_prefix('c')?;
            let number: u16 = digits.parse().ok()?;
            (digits.bytes().all(|byte| byte.is_ascii_digit()) && u64::from(number) < CATEGORIES)
                .then_some(number)
        };
        let (first, second) = (category(first)?, category(second)?);
        (first != second).then(|| Self { low: first.min(second), high: first.max(second) })
    }

    /// The pair with this number below [`PAIRS`]: c0,c1 is 0, c0,c2 is 1, c1,c2 is 2 and so on.
    fn numbered(number: u64) -> Self {
        // The largest `high` with high * (high - 1) / 2 <= number; the root is at most one off.
        let mut high = (8 * number + 1).isqrt().saturating_add(1) / 2;
        while high * high.saturating_sub(1) / 2 > number {
            high -= 1;
        }
        let low = number - high * high.saturating_sub(1) / 2;
        let narrow = |value: u64| u16::try_from(value).unwrap_or_default();
        Self { low: narrow(low), high: narrow(high) }
    }

    /// A free pair for a machine. Where to look first and how to go on follows from `seed`, so that the same machine
    /// mostly gets the same pair again. `None` when all are taken.
    pub fn allocate(seed: &str, taken: &BTreeSet<Self>) -> Option<Self> {
        let digest = Sha256::digest(seed.as_bytes());
        let word = |bytes: Option<&[u8]>| {
            bytes.into_iter().flatten().fold(0_u64, |word, byte| word << 8 | u64::from(*byte))
        };
        let mut number = word(digest.get(..8)) % PAIRS;
        let mut stride = word(digest.get(8..16)) % PAIRS;
        // A stride without a common divisor visits every pair.
        while greatest_common_divisor(stride, PAIRS) != 1 {
            stride += 1;
        }
        for _ in 0..PAIRS {
            let pair = Self::numbered(number);
            if !taken.contains(&pair) {
                return Some(pair);
            }
            number = (number + stride) % PAIRS;
        }
        None
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl fmt::Display for Mcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s0:c{},c{}", self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers are pairs one to one, the last free one is found, and then there is none.
    #[test]
    fn every_pair_is_used() {
        let mut taken: BTreeSet<Mcs> = (0..PAIRS).map(Mcs::numbered).collect();
        assert_eq!(taken.len() as u64, PAIRS);
        assert!(taken.iter().all(|pair| pair.low < pair.high && u64::from(pair.high) < CATEGORIES));
        assert_eq!(Mcs::allocate("machine", &taken), None);
        let free = Mcs::numbered(4711);
        taken.remove(&free);
        assert_eq!(Mcs::allocate("machine", &taken), Some(free));
    }

    #[test]
    fn other_forms_are_no_pairs() {
        for text in [
            "",
            "s0",
            "s0:c1",
            "s0:c1,c1",
            "s0:c1.c5",
            "s0:c1,c1024",
            "s1:c1,c2",
            "s0:c1,c2,c3",
            "s0:c+1,c2",
            "s0:c1, c2",
        ] {
            assert_eq!(Mcs::parse(text), None, "{text}");
        }
        assert_eq!(Mcs::parse("s0:c26,c5").unwrap().to_string(), "s0:c5,c26");
    }

    proptest! {
        #[test]
        fn allocated_pairs_are_free_stable_and_readable(seeds in prop::collection::vec("[a-z0-9]{1,8}", 1..40)) {
            let mut taken = BTreeSet::new();
            for seed in &seeds {
                let pair = Mcs::allocate(seed, &taken).unwrap();
                prop_assert_eq!(Mcs::allocate(seed, &taken), Some(pair));
                prop_assert_eq!(Mcs::parse(&pair.to_string()), Some(pair));
                prop_assert!(taken.insert(pair));
            }
        }
    }
}
