//! Rules of two policies, in the common numbers.

use super::names::{Common, Mapped};
use crate::{
    policy::{Rule, RuleKind, Xperm, XpermSort},
    text::{braces, runs},
};

/// A rule without its data, packed so that rules of both policies sort alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u128);

impl Key {
    fn new(rule: &Meaning<'_>, source: u32, extra: u32) -> Self {
        let mut packed = u128::from(source);
        let (condition, branch) = rule.condition;
        for (width, part) in [
            (20, rule.target),
            (16, rule.class),
            (11, rule.kind.number().into()),
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
        RuleKind::ALL.into_iter().find(|kind| u32::from(kind.number()) == number).unwrap_or(RuleKind::Allow)
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
    pub(super) fn condition_text(self, common: &Common<'_>) -> Option<(String, bool)> {
        let number = self.condition().checked_sub(1)?;
        let text = common.written.get(number as usize).cloned().unwrap_or_default();
        Some((text, self.branch()))
    }

    /// The rule with these data.
    pub(super) fn text(self, common: &Common<'_>, data: u64) -> String {
        let kind = self.kind();
        let (source, target) = (common.types.name(self.source()), common.types.name(self.target()));
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

/// Gives each rule with what only the first and only the second policy has of it, in no certain order. `same_numbers` as
/// [`Mapped::has_same_numbers`] says.
pub(super) fn differing(
    first: &Mapped<'_>,
    second: &Mapped<'_>,
    pairs: &[(u32, u32)],
    same_numbers: bool,
    mut take: impl FnMut(Key, u64, u64),
) {
    let sources = if same_numbers { unmatched(first, second) } else { None };
    let few = sources.map(|sources| [first, second].map(|side| side.database.rules_of_sources(&sources)));
    let [first_rules, second_rules] = match &few {
        Some(few) => few.each_ref(),
        None => [first, second].map(|side| side.database.by_source()),
    };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (first_value, second_value) in pairs {
        let (ours, theirs) = (first_rules.of(*first_value), second_rules.of(*second_value));
        let mut rules = ours.iter().zip(theirs);
        if ours.len() == theirs.len()
            && rules.all(|(ours, theirs)| Meaning::of(first, *ours).eq(&Meaning::of(second, *theirs)))
        {
            continue;
        }
        sorted(first, ours, &mut left);
        sorted(second, theirs, &mut right);
        walk(&left, &right, &mut take);
    }
}

/// How far the same rule is looked for in the other list.
const NEAR: usize = 64;

/// How many rules may be without a partner near by until the lists count as differently sorted.
const FAR: usize = 4096;

/// Goes through the rules of two policies side by side and says for each value whether it is the source of a rule without
/// a partner: an equal one in the other policy that is nobody else's. All other sources have the same rules in both. `None`
/// when the lists are sorted differently.
///
/// Where the same names have the same values compilers mostly write the same rules in the same order, so that partners are
/// near and no list has to be sorted.
fn unmatched(first: &Mapped<'_>, second: &Mapped<'_>) -> Option<Vec<bool>> {
    let (left, right) = (first.database.policy(), second.database.policy());
    let mut sources = vec![false; left.types.highest.max(right.types.highest) as usize + 1];
    let mut mark = |rules: &[Rule]| {
        for rule in rules {
            if let Some(source) = sources.get_mut(usize::from(rule.source)) {
                *source = true;
            }
        }
    };
    let same = |mine: usize, other: usize| match (left.rules.get(mine), right.rules.get(other)) {
        (Some(a), Some(b)) => {
            (a.source, a.target, a.class, a.kind) == (b.source, b.target, b.class, b.kind)
                && first.condition(mine as u32) == second.condition(other as u32)
                && if a.kind.is_extended() {
                    left.xperms.get(a.data as usize) == right.xperms.get(b.data as usize)
                } else {
                    a.data == b.data
                }
        }
        _ => false,
    };
    let (mut mine, mut other, mut far) = (0, 0, 0);
    while mine < left.rules.len() || other < right.rules.len() {
        let (skipped, missed) = if same(mine, other) {
            mine += 1;
            other += 1;
            continue;
        } else if let Some(more) = (1..NEAR).find(|more| same(mine, other + more)) {
            (0, more)
        } else if let Some(more) = (1..NEAR).find(|more| same(mine + more, other)) {
            (more, 0)
        } else {
            far += 1;
            (1, 1)
        };
        if far > FAR {
            return None;
        }
        mark(left.rules.get(mine..).unwrap_or_default().get(..skipped).unwrap_or_default());
        mark(right.rules.get(other..).unwrap_or_default().get(..missed).unwrap_or_default());
        mine += skipped;
        other += missed;
    }
    Some(sources)
}

/// The values of each type and attribute in both policies, 0 where there is none.
pub(super) fn pairs(first: &Mapped<'_>, second: &Mapped<'_>) -> Vec<(u32, u32)> {
    let most = first.types.iter().chain(&second.types).max().map_or(0, |most| *most as usize + 1);
    let mut pairs = vec![(0, 0); most];
    for (value, number) in (0..).zip(&first.types).skip(1) {
        if let Some((first, _)) = pairs.get_mut(*number as usize) {
            *first = value;
        }
    }
    for (value, number) in (0..).zip(&second.types).skip(1) {
        if let Some((_, second)) = pairs.get_mut(*number as usize) {
            *second = value;
        }
    }
    pairs
}

/// A rule in the common numbers, but for its source.
#[derive(PartialEq)]
struct Meaning<'a> {
    kind: RuleKind,
    target: u32,
    class: u32,
    /// The number of the condition plus 1, and the branch; 0 without one.
    condition: (u32, bool),
    data: Data<'a>,
}

#[derive(PartialEq)]
enum Data<'a> {
    Vector(u64),
    Type(u32),
    Xperm(&'a Xperm),
}

impl<'a> Meaning<'a> {
    fn of(mapped: &Mapped<'a>, number: u32) -> Option<Self> {
        let database = mapped.database;
        let rule = database.rule(number)?;
        let class = rule.class.into();
        Some(Self {
            kind: rule.kind,
            target: mapped.type_number(rule.target.into()),
            class: mapped.class_number(class),
            condition: mapped.condition(number),
            data: if rule.kind.is_type() {
                Data::Type(mapped.type_number(rule.data))
            } else if rule.kind.is_extended() {
                Data::Xperm(database.policy().xperms.get(rule.data as usize)?)
            } else {
                Data::Vector(mapped.vector(class, rule.permissions()))
            },
        })
    }
}

/// Rules of one source by key, each key once.
fn sorted(mapped: &Mapped<'_>, rules: &[u32], all: &mut Vec<(Key, u64)>) {
    all.clear();
    for (number, rule) in rules.iter().filter_map(|number| Some((*number, mapped.database.rule(*number)?))) {
        let Some(meaning) = Meaning::of(mapped, number) else { continue };
        let source = mapped.type_number(rule.source.into());
        let key = |extra| Key::new(&meaning, source, extra);
        match meaning.data {
            Data::Type(result) => all.push((key(result), 1)),
            Data::Vector(vector) => all.push((key(0), vector)),
            Data::Xperm(xperm) => {
                for (chunk, bits) in (0_u8..).zip(xperm.bits) {
                    let driver = if xperm.sort == XpermSort::IoctlDriver { 0 } else { xperm.driver };
                    let extra = u32::from_le_bytes([chunk, driver, xperm.sort as u8, 0]);
                    all.push((key(extra), bits.into()));
                }
            }
        }
    }
    all.retain(|(_, data)| *data != 0);
    all.sort_unstable_by_key(|(key, _)| *key);
    all.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 |= next.1;
        }
        same
    });
}

/// Walks through two sorted lists.
fn walk(first: &[(Key, u64)], second: &[(Key, u64)], take: &mut impl FnMut(Key, u64, u64)) {
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
            (Some((key, ours)), Some((_, theirs))) => {
                if ours != theirs {
                    take(*key, ours & !theirs, theirs & !ours);
                }
                first.next();
                second.next();
            }
            _ => return,
        }
    }
}
