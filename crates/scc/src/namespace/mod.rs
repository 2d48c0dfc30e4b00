//! Values that belong to a namespace: user ids, SELinux level and groups, and how a new namespace gets them.

pub(crate) mod scan;

use ferrovirt_kubernetes::{json, object};
use serde_json::Value;

use crate::names::{MCS, SUPPLEMENTAL_GROUPS, UID_RANGE};
use crate::namespace::scan::BlockError;

/// Ids from `start` to `end`, both included. A block whose end lies before its start holds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// First id.
    pub start: u32,
    /// Last id.
    pub end: u32,
}

impl Block {
    /// Reads `start/size` or `start-end`. Arithmetic wraps at 32 bits, so that a size of 0 gives an empty block.
    pub(crate) fn parse(text: &str) -> Result<Block, BlockError> {
        if text.contains('/') {
            let (start, size) = scan::pair(text, '/')?;
            Ok(Block { start, end: start.wrapping_add(size).wrapping_sub(1) })
        } else {
            let (start, end) = scan::pair(text, '-')?;
            Ok(Block { start, end })
        }
    }
}

/// The three annotations of a namespace; `None` is an absent key, which differs from an empty value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceValues<'a> {
    /// `openshift.io/sa.scc.uid-range`
    pub uid_range: Option<&'a str>,
    /// `openshift.io/sa.scc.mcs`
    pub mcs: Option<&'a str>,
    /// `openshift.io/sa.scc.supplemental-groups`
    pub supplemental_groups: Option<&'a str>,
}

impl<'a> NamespaceValues<'a> {
    /// Reads them off a Namespace object.
    pub fn of(namespace: &'a Value) -> Self {
        let get = |key: &str| object::annotation(namespace, key);
        Self { uid_range: get(UID_RANGE), mcs: get(MCS), supplemental_groups: get(SUPPLEMENTAL_GROUPS) }
    }

    /// The key that a namespace must have for any pod to be looked at, and has not.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        if self.uid_range.is_none() {
            Some(UID_RANGE)
        } else if self.mcs.is_none() {
            Some(MCS)
        } else {
            None
        }
    }

    /// The block of user ids.
    ///
    /// # Errors
    /// No annotation, or one that cannot be read.
    pub fn uids(&self) -> Result<Block, String> {
        match self.uid_range {
            None => Err(format!("unable to find annotation {UID_RANGE}")),
            Some("") => Err(format!("found annotation {UID_RANGE} but it was empty")),
            Some(text) => Block::parse(text).map_err(|e| e.to_string()),
        }
    }

    pub(crate) fn level(&self) -> Result<&'a str, String> {
        match self.mcs {
            None => Err(format!("unable to find annotation {MCS}")),
            Some("") => Err(format!("found annotation {MCS} but it was empty")),
            Some(text) => Ok(text),
        }
    }

    /// The text that holds the groups: the groups' own annotation, or the user ids' where that is absent.
    pub(crate) fn groups_text(&self) -> Result<&'a str, String> {
        match self.supplemental_groups.or(self.uid_range) {
            None | Some("") => {
                Err(format!("unable to find groups using {SUPPLEMENTAL_GROUPS} and {UID_RANGE} annotations"))
            }
            Some(text) => Ok(text),
        }
    }

    /// Every block of the groups; all must parse.
    ///
    /// # Errors
    /// No annotation, or one that cannot be read.
    pub fn groups(&self) -> Result<Vec<Block>, String> {
        self.groups_text()?.split(',').map(|b| Block::parse(b).map_err(|e| e.to_string())).collect()
    }
}

/// Ids in each namespace's block.
pub const BLOCK_SIZE: u32 = 10_000;
/// How many namespaces can have a block.
pub const BLOCK_COUNT: u32 = 100_000;
const FIRST_ID: u32 = 1_000_000_000;
const CATEGORIES: u64 = 1024;

/// The annotations of block number `n`, in the order uid-range, mcs, supplemental-groups; `None` when there is no
/// such block.
pub fn allocate(n: u32) -> Option<[(&'static str, String); 3]> {
    if n >= BLOCK_COUNT {
        return None;
    }
    let block = format!("{}/{BLOCK_SIZE}", FIRST_ID + n * BLOCK_SIZE);
    Some([(UID_RANGE, block.clone()), (MCS, level(n)), (SUPPLEMENTAL_GROUPS, block)])
}

/// The lowest block number that none of the given `uid-range` annotations occupies, wholly or in part. Values that
/// do not parse occupy nothing.
pub fn first_free<'a>(taken: impl IntoIterator<Item = &'a str>) -> Option<u32> {
    let mut used = vec![false; BLOCK_COUNT as usize];
    for block in taken.into_iter().filter_map(|text| Block::parse(text).ok()).filter(|b| b.start <= b.end) {
        let last = FIRST_ID + BLOCK_COUNT * BLOCK_SIZE - 1;
        if block.end < FIRST_ID || block.start > last {
            continue;
        }
        let from = block.start.saturating_sub(FIRST_ID) / BLOCK_SIZE;
        let to = (block.end.min(last) - FIRST_ID) / BLOCK_SIZE;
        used.iter_mut().take(to as usize + 1).skip(from as usize).for_each(|u| *u = true);
    }
    used.iter().position(|u| !u).and_then(|n| u32::try_from(n).ok())
}

/// What is remembered about the blocks that were given out, no matter who keeps it: a config map in every cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The first block that was never given out.
    pub next: u32,
    /// UID of the namespace that got the last one.
    pub holder: String,
}

impl Ledger {
    /// Reads the keys `next` and `holder` of a config map's data.
    pub fn of(data: Option<&Value>) -> Self {
        let text = |key: &str| data.map_or("", |data| json::text(data, key));
        Self { next: text("next").parse().unwrap_or(0), holder: text("holder").to_owned() }
    }

    /// The data of the config map.
    pub fn data(&self) -> Value {
        serde_json::json!({ "next": self.next.to_string(), "holder": self.holder })
    }

    /// The block for a namespace, and the ledger that has to be stored before the block is used: a crash in between
    /// loses nothing, since the holder gets its block again, and no block is given out twice, not even after its
    /// namespace is gone. `taken` are the `uid-range` annotations of all namespaces, no matter who wrote them. `None` when no
    /// block is left.
    pub fn assign<'a>(&self, uid: &str, taken: impl IntoIterator<Item = &'a str>) -> Option<(u32, Ledger)> {
        if self.next > 0 && !uid.is_empty() && self.holder == uid {
            return Some((self.next - 1, self.clone()));
        }
        let before =
            (self.next > 0).then(|| format!("{FIRST_ID}/{}", u64::from(self.next) * u64::from(BLOCK_SIZE)));
        let mut taken: Vec<&str> = taken.into_iter().collect();
        taken.extend(before.as_deref());
        let number = first_free(taken)?;
        Some((number, Ledger { next: number + 1, holder: uid.to_owned() }))
    }
}

/// Label of block `n`: number 5n of the pairs of categories, in co-lexicographic order.
fn level(n: u32) -> String {
    let rank = 5 * u64::from(n);
    let high = (1..CATEGORIES).rev().find(|c| c * (c - 1) / 2 <= rank).unwrap_or(1);
    format!("s0:c{high},c{}", rank - high * (high - 1) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_real_allocator() {
        for (n, want) in [
            (0, "s0:c1,c0"),
            (1, "s0:c3,c2"),
            (2, "s0:c5,c0"),
            (3, "s0:c6,c0"),
            (10, "s0:c10,c5"),
            (21, "s0:c15,c0"),
            (62, "s0:c25,c10"),
            (63, "s0:c25,c15"),
            (68, "s0:c26,c15"),
            (100, "s0:c32,c4"),
            (1000, "s0:c100,c50"),
            (9999, "s0:c316,c225"),
            (50000, "s0:c707,c429"),
            (99999, "s0:c1000,c495"),
        ] {
            assert_eq!(level(n), want);
        }
        let values = allocate(62).unwrap();
        assert_eq!(values[0].1, "1000620000/10000");
        assert!(allocate(BLOCK_COUNT).is_none());
    }

    #[test]
    fn a_block_is_never_handed_out_twice() {
        assert_eq!(first_free([]), Some(0));
        assert_eq!(first_free(["1000000000/10000", "1000020000/10000", "rubbish", ""]), Some(1));
        assert_eq!(first_free(["999990000-1000010005", "1/5", "4294967295/3"]), Some(2));
        assert_eq!(first_free(["0-4294967295"]), None);
    }

    #[test]
    fn a_holder_gets_its_block_again_and_nobody_else_does() {
        let (first, ledger) = Ledger::default().assign("a", []).unwrap();
        assert_eq!((first, ledger.assign("a", []).unwrap()), (0, (0, ledger.clone())));
        let (second, ledger) = ledger.assign("b", ["1000000000/10000", "1000010000/10000"]).unwrap();
        assert_eq!((second, ledger.next), (2, 3));
        assert_eq!(Ledger::of(Some(&ledger.data())), ledger);
        assert_eq!(ledger.assign("a", []).unwrap().0, 3, "blocks of namespaces that are gone stay taken");
        let full = Ledger { next: BLOCK_COUNT, holder: "z".to_owned() };
        assert_eq!(full.assign("y", []), None);
    }

    #[test]
    fn arithmetic_wraps() {
        assert_eq!(Block::parse("1000/0"), Ok(Block { start: 1000, end: 999 }));
        assert_eq!(Block::parse("4294967295/3"), Ok(Block { start: 4294967295, end: 1 }));
        assert_eq!(Block::parse("1000-1010,2000-2010"), Ok(Block { start: 1000, end: 1010 }));
    }

    #[test]
    fn groups_fall_back_only_when_absent() {
        let mut values =
            NamespaceValues { uid_range: Some("1/2"), mcs: Some("s0"), supplemental_groups: None };
        assert_eq!(values.groups().unwrap().len(), 1);
        values.supplemental_groups = Some("");
        assert!(values.groups().is_err());
        values.supplemental_groups = Some("1/2,");
        assert_eq!(values.groups(), Err("EOF".to_owned()));
    }
}
