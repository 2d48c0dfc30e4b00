//! Two types of one policy: what one may and the other may not, as source and as target.

use super::{Difference, Line, Sign, type_sections};
use crate::{
    database::Database,
    policy::{RuleKind, Xperm, XpermSort},
    text::{braces, xperm_name, xperm_runs},
};
use std::collections::{BTreeMap, BTreeSet};

/// Which part the compared type has in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// It is the source.
    Source,
    /// It is the target.
    Target,
}

/// The text of a condition, and whether it must be true.
pub type Condition = Option<(String, bool)>;

/// A right that only one of the two types has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// Which of the two.
    pub sign: Sign,
    /// Which part it has.
    pub side: Side,
    /// What the rule does.
    pub kind: RuleKind,
    /// The other type: `self` for the type itself.
    pub other: String,
    /// The class.
    pub class: String,
    /// Of extended permissions `ioctl` or `nlmsg`, empty for others.
    pub sort: &'static str,
    /// The permissions, or the numbers of extended ones, or the resulting type.
    pub what: Vec<String>,
    /// The condition, and whether it must be true.
    pub condition: Condition,
    /// The rules that give it, as sesearch prints them.
    pub rules: Vec<String>,
}

/// The difference of two types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeDifference {
    /// Rights, attributes expanded.
    pub accesses: Vec<Access>,
    /// Everything else: attributes, roles, bounds, constraints and so on.
    pub rest: Difference,
}

impl TypeDifference {
    /// Whether the two types are the same but for their names.
    pub fn is_empty(&self) -> bool {
        self.accesses.is_empty() && self.rest.is_empty()
    }

    /// As groups: rights that come from the same rules are one line.
    pub fn grouped(&self, from: &str, to: &str) -> Difference {
        let mut lines: BTreeMap<(Sign, Side, &Condition), Vec<Line>> = BTreeMap::new();
        let mut merged: BTreeMap<_, Vec<&Access>> = BTreeMap::new();
        for access in &self.accesses {
            let key = (
                access.sign,
                access.side,
                access.kind,
                &access.class,
                access.sort,
                &access.what,
                &access.condition,
                &access.rules,
            );
            merged.entry(key).or_default().push(access);
        }
        for ((sign, side, kind, class, sort, what, condition, rules), accesses) in merged {
            let others: Vec<&str> = accesses.iter().map(|access| &*access.other).collect();
            let many = others.len() > 4;
            let others = if many { format!("({} types)", others.len()) } else { braces(&others) };
            let name = if sign == Sign::Removed { from } else { to };
            let (source, target) = if side == Side::Source { (name, &*others) } else { (&*others, name) };
            let space = if sort.is_empty() { "" } else { " " };
            let mut text =
                format!("{} {source} {target}:{class} {sort}{space}{};", kind.name(), braces(what));
            if many {
                text.push_str(&format!("  by {}", rules.join(" ")));
            }
            lines.entry((sign, side, condition)).or_default().push(Line { sign, text });
        }
        let mut difference = self.rest.clone();
        for ((sign, side, condition), lines) in lines {
            let name = if sign == Sign::Removed { from } else { to };
            let part = if side == Side::Source { "source" } else { "target" };
            let condition = match condition {
                None => String::new(),
                Some((text, true)) => format!(", if {text}"),
                Some((text, false)) => format!(", unless {text}"),
            };
            difference.group(format!("rules with only {name} as {part}{condition}"), lines);
        }
        difference
    }
}

/// What a pair of types has for a class: by kind, condition, branch, and sort and driver of extended permissions.
type Profile = BTreeMap<(RuleKind, Condition, u16), ([u32; 8], Vec<u32>)>;

/// In place of the value of a resulting type: the compared type itself. Values of types are below 65,536.
const ITSELF: u32 = u32::MAX;
/// The type that it is compared with.
const PEER: u32 = u32::MAX - 1;

struct Comparison<'a> {
    database: &'a Database,
    from: u32,
    to: u32,
}

/// The sort of a profile's key.
fn xperm_sort(key: u16) -> XpermSort {
    let [_, sort] = key.to_le_bytes();
    [XpermSort::IoctlFunction, XpermSort::IoctlDriver]
        .into_iter()
        .find(|candidate| *candidate as u8 == sort)
        .unwrap_or(XpermSort::Netlink)
}

/// Compares two types. What one may to itself is compared with what the other may to itself.
pub fn between_types(database: &Database, from: u32, to: u32) -> TypeDifference {
    let comparison = Comparison { database, from, to };
    let mut accesses = BTreeSet::new();
    for (side, other, class) in comparison.touched() {
        comparison.compare(side, other, class, &mut accesses);
    }
    TypeDifference {
        accesses: accesses.into_iter().collect(),
        rest: type_sections::difference(database, from, to),
    }
}

impl Comparison<'_> {
    /// Sides, other types and classes where a rule covers only one of the two types. The other type is `None` for
    /// the type itself and `Some(0)` for the compared one.
    fn touched(&self) -> BTreeSet<(Side, Option<u32>, u32)> {
        let database = self.database;
        let cover = |kind| database.attributes_of(kind).chain([kind]).collect::<BTreeSet<u32>>();
        let mut touched = BTreeSet::new();
        let (from, to) = (cover(self.from), cover(self.to));
        for value in from.symmetric_difference(&to) {
            for number in database.rules_from(*value) {
                if let Some(rule) = database.rule(*number) {
                    for other in database.members(rule.target.into()).iter().map(|bit| bit + 1) {
                        self.touch(&mut touched, Side::Source, other, rule.class.into());
                    }
                }
            }
            for number in database.rules_to(*value) {
                if let Some(rule) = database.rule(*number) {
                    for other in database.members(rule.source.into()).iter().map(|bit| bit + 1) {
                        self.touch(&mut touched, Side::Target, other, rule.class.into());
                    }
                }
            }
        }
        touched
    }

    fn touch(&self, touched: &mut BTreeSet<(Side, Option<u32>, u32)>, side: Side, other: u32, class: u32) {
        if other == self.from || other == self.to {
            touched.insert((Side::Source, None, class));
            touched.insert((Side::Source, Some(0), class));
        } else {
            touched.insert((side, Some(other), class));
        }
    }

    fn compare(&self, side: Side, other: Option<u32>, class: u32, accesses: &mut BTreeSet<Access>) {
        let from = self.profile(self.from, self.to, side, other, class);
        let to = self.profile(self.to, self.from, side, other, class);
        let keys: BTreeSet<_> = from.keys().chain(to.keys()).collect();
        for key in keys {
            let none = ([0; 8], Vec::new());
            let (first, second) = (from.get(key).unwrap_or(&none), to.get(key).unwrap_or(&none));
            for (sign, (bits, rules), (others, _)) in
                [(Sign::Removed, first, second), (Sign::Added, second, first)]
            {
                let (kind, condition, sort) = key;
                let mut only = [0; 8];
                if kind.is_type() {
                    if bits == others || bits == &[0; 8] {
                        continue;
                    }
                    only = *bits;
                } else {
                    for (only, (bits, others)) in only.iter_mut().zip(bits.iter().zip(others)) {
                        *only = bits & !others;
                    }
                }
                if only == [0; 8] {
                    continue;
                }
                let peer = if sign == Sign::Removed { self.to } else { self.from };
                let name = match other {
                    None => "self",
                    Some(0) => self.database.type_name(peer),
                    Some(value) => self.database.type_name(value),
                };
                accesses.insert(Access {
                    sign,
                    side,
                    kind: *kind,
                    other: name.to_owned(),
                    class: self.database.class_name(class).to_owned(),
                    sort: if kind.is_extended() { xperm_name(xperm_sort(*sort)) } else { "" },
                    what: self.what(*kind, class, *sort, only, peer),
                    condition: condition.clone(),
                    rules: rules.iter().map(|number| self.database.rule_text(*number)).collect(),
                });
            }
        }
    }

    fn what(&self, kind: RuleKind, class: u32, sort: u16, bits: [u32; 8], peer: u32) -> Vec<String> {
        let [first, ..] = bits;
        if kind.is_type() {
            return vec![match first {
                ITSELF => "self".to_owned(),
                PEER => self.database.type_name(peer).to_owned(),
                value => self.database.type_name(value).to_owned(),
            }];
        }
        if kind.is_extended() {
            let [driver, _] = sort.to_le_bytes();
            let numbers = xperm_runs(&Xperm { sort: xperm_sort(sort), driver, bits });
            let text = |(low, high)| {
                if low == high { format!("{low:#06x}") } else { format!("{low:#06x}-{high:#06x}") }
            };
            return numbers.into_iter().map(text).collect();
        }
        self.database.permission_names(class, first).into_iter().map(str::to_owned).collect()
    }

    fn profile(&self, kind: u32, peer: u32, side: Side, other: Option<u32>, class: u32) -> Profile {
        let other = match other {
            None => kind,
            Some(0) => peer,
            Some(value) => value,
        };
        let (source, target) = if side == Side::Source { (kind, other) } else { (other, kind) };
        let mut profile = Profile::new();
        self.database.each_rule(source, target, class, |number| {
            let Some(rule) = self.database.rule(number) else { return };
            let exact = u32::from(rule.source) == source && u32::from(rule.target) == target;
            if rule.kind.is_type() && !exact {
                return;
            }
            let condition = self.database.conditional(number);
            let condition =
                condition.map(|(condition, branch)| (self.database.condition_text(condition), branch));
            let xperm =
                self.database.policy().xperms.get(rule.data as usize).filter(|_| rule.kind.is_extended());
            let sort = xperm.map_or(0, |xperm| u16::from_le_bytes([xperm.driver, xperm.sort as u8]));
            let (bits, rules) = profile.entry((rule.kind, condition, sort)).or_default();
            rules.push(number);
            if let Some(xperm) = xperm {
                for (bits, more) in bits.iter_mut().zip(xperm.bits) {
                    *bits |= more;
                }
                return;
            }
            let [first, ..] = bits;
            *first |= match rule.data {
                result if rule.kind.is_type() && result == kind => ITSELF,
                result if rule.kind.is_type() && result == peer => PEER,
                result if rule.kind.is_type() => result,
                _ => {
                    rule.permissions()
                        & self.database.class(class).map_or(0, |class| self.database.all_permissions(class))
                }
            };
        });
        profile
    }
}
