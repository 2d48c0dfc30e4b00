//! Rules of two policies as sorted numbers.

use super::names::{Common, Mapped};
use crate::{
    policy::{RuleKind, XpermSort},
    text::{braces, runs},
};

/// A rule without its data, packed so that rules of both policies sort alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u128);

impl Key {
    fn new(
        condition: u32,
        branch: bool,
        kind: RuleKind,
        source: u32,
        target: u32,
        class: u32,
        extra: u32,
    ) -> Self {
        let mut packed = u128::from(source);
        for (width, part) in [
            (20, target),
            (16, class),
            (11, kind as u32),
            (28, condition),
            (1, u32::from(branch)),
            (32, extra),
        ] {
            packed = packed << width | u128::from(part);
        }
        Self(packed)
    }

    fn part(self, shift: u32, width: u32) -> u32 {
        (self.0 >> shift & ((1 << width) - 1)) as u32
    }

    /// The number of the condition plus 1, 0 without one.
    fn condition(self) -> u32 {
        self.part(33, 28)
    }

    fn branch(self) -> bool {
        self.part(32, 1) == 1
    }

    fn kind(self) -> RuleKind {
        let number = self.part(61, 11);
        RuleKind::ALL.into_iter().find(|kind| *kind as u32 == number).unwrap_or(RuleKind::Allow)
    }

    pub(super) fn source(self) -> u32 {
        self.part(108, 20)
    }

    pub(super) fn target(self) -> u32 {
        self.part(88, 20)
    }

    fn class(self) -> u32 {
        self.part(72, 16)
    }

    fn extra(self) -> u32 {
        self.part(0, 32)
    }

    /// What stands before the data, and the condition.
    pub(super) fn condition_text(self, common: &Common) -> Option<(String, bool)> {
        let number = self.condition().checked_sub(1)?;
        let text = common.written.get(number as usize).cloned().unwrap_or_default();
        Some((text, self.branch()))
    }

    /// The rule with these data.
    pub(super) fn text(self, common: &Common, data: u64) -> String {
        let kind = self.kind();
        let (source, target) = (common.types.name(self.source()), common.types.name(self.target()));
        let target = if source == target { "self" } else { target };
        let head = format!("{} {source} {target}:{}", kind.name(), common.classes.name(self.class()));
        if kind.is_type() {
            return format!("{head} {};", common.types.name(self.extra()));
        }
        let bits = (0..64).filter(|bit| data >> bit & 1 == 1);
        if kind.is_extended() {
            let [chunk, driver, sort, _] = self.extra().to_le_bytes();
            let (chunk, driver) = (u32::from(chunk) * 32, u32::from(driver) << 8);
            let name = if sort == XpermSort::Netlink as u8 { "nlmsg" } else { "ioctl" };
            let numbers: Vec<String> = runs(bits.map(|bit| bit + chunk))
                .into_iter()
                .map(|(low, high)| match (sort == XpermSort::IoctlDriver as u8, low == high) {
                    (true, _) => format!("{:#06x}-{:#06x}", low << 8, high << 8 | 0xff),
                    (false, true) => format!("{:#06x}", driver | low),
                    (false, false) => format!("{:#06x}-{:#06x}", driver | low, driver | high),
                })
                .collect();
            return format!("{head} {name} {};", braces(&numbers));
        }
        let permissions = common.permissions.get(self.class() as usize);
        let mut names: Vec<&str> = bits.filter_map(|bit| permissions.map(|all| all.name(bit))).collect();
        names.sort_unstable();
        format!("{head} {};", braces(&names))
    }
}

/// All rules of a policy, sorted, each key once.
pub(super) fn sorted(mapped: &Mapped<'_>) -> Vec<(Key, u64)> {
    let policy = mapped.database.policy();
    let mut all = Vec::with_capacity(policy.rules.len());
    let mut take = |range: std::ops::Range<usize>, condition: u32, branch: bool| {
        for rule in policy.rules.get(range).unwrap_or_default() {
            let source = mapped.type_number(rule.source.into());
            let target = mapped.type_number(rule.target.into());
            let class = mapped.class_number(rule.class.into());
            let key = |extra| Key::new(condition, branch, rule.kind, source, target, class, extra);
            if rule.kind.is_type() {
                all.push((key(mapped.type_number(rule.data)), 1));
            } else if rule.kind.is_extended() {
                let Some(xperm) = policy.xperms.get(rule.data as usize) else { continue };
                for (chunk, bits) in (0_u8..).zip(xperm.bits).filter(|(_, bits)| *bits != 0) {
                    let driver = if xperm.sort == XpermSort::IoctlDriver { 0 } else { xperm.driver };
                    let extra = u32::from_le_bytes([chunk, driver, xperm.sort as u8, 0]);
                    all.push((key(extra), bits.into()));
                }
            } else {
                let whole = mapped.database.class(rule.class.into());
                let whole = whole.map_or(0, |class| mapped.database.all_permissions(class));
                let vector = mapped.vector(rule.class.into(), rule.permissions() & whole);
                if vector != 0 {
                    all.push((key(0), vector));
                }
            }
        }
    };
    take(0..policy.unconditional, 0, true);
    for (conditional, (number, exchanged)) in policy.conditionals.iter().zip(&mapped.conditions) {
        take(conditional.yes.clone(), number + 1, !exchanged);
        take(conditional.no.clone(), number + 1, *exchanged);
    }
    let mut all = by_source(all);
    all.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 |= next.1;
        }
        same
    });
    all
}

/// Sorts by key: first into buckets by source, which are small.
fn by_source(all: Vec<(Key, u64)>) -> Vec<(Key, u64)> {
    let most = all.iter().map(|(key, _)| key.source()).max().unwrap_or(0) as usize;
    let mut next = vec![0_u32; most + 2];
    for (key, _) in &all {
        if let Some(count) = next.get_mut(key.source() as usize + 1) {
            *count += 1;
        }
    }
    let mut sum = 0;
    for start in &mut next {
        sum += *start;
        *start = sum;
    }
    let mut sorted = vec![(Key(0), 0); all.len()];
    for entry in all {
        if let Some(place) = next.get_mut(entry.0.source() as usize) {
            if let Some(slot) = sorted.get_mut(*place as usize) {
                *slot = entry;
            }
            *place += 1;
        }
    }
    for bucket in sorted.chunk_by_mut(|one, other| one.0.source() == other.0.source()) {
        bucket.sort_unstable_by_key(|(key, _)| *key);
    }
    sorted
}

/// Walks through two sorted lists; gives each key with what only the first and only the second has.
pub(super) fn differing(first: &[(Key, u64)], second: &[(Key, u64)], mut take: impl FnMut(Key, u64, u64)) {
    let (mut first, mut second) = (first.iter().peekable(), second.iter().peekable());
    loop {
        match (first.peek(), second.peek()) {
            (None, None) => return,
            (Some((key, data)), other) if other.is_none_or(|(other, _)| key < other) => {
                take(*key, *data, 0);
                first.next();
            }
            (other, Some((key, data))) if other.is_none_or(|(other, _)| key < other) => {
                take(*key, 0, *data);
                second.next();
            }
            (Some((key, one)), Some((_, two))) => {
                if one != two {
                    take(*key, one & !two, two & !one);
                }
                first.next();
                second.next();
            }
            _ => return,
        }
    }
}
