//! Differences: between two policies, and between two types of one policy.
//!
//! A difference is empty exactly when both sides mean the same. What belongs together stands together: a type that
//! joined an attribute is one line, not the thousands of rules that follow from it.

mod kinds;
mod names;
mod policies;
mod rules;
mod sections;
mod type_sections;

pub use kinds::{Access, Condition, Side, TypeDifference, between_types};
pub use policies::between_policies;

use std::{collections::BTreeSet, fmt};

/// On which side something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sign {
    /// Only on the first.
    Removed,
    /// Only on the second.
    Added,
}

impl Sign {
    /// `-` or `+`.
    pub fn symbol(self) -> char {
        match self {
            Self::Removed => '-',
            Self::Added => '+',
        }
    }
}

/// One thing that is only on one side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// What, as policy sources write it.
    pub text: String,
    /// On which side.
    pub sign: Sign,
}

/// Differences with a common cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The cause.
    pub cause: String,
    /// The differences, sorted.
    pub lines: Vec<Line>,
}

/// All differences. No group is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// By cause.
    pub groups: Vec<Group>,
}

impl Difference {
    /// Whether both sides mean the same.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn group(&mut self, cause: impl Into<String>, mut lines: Vec<Line>) {
        if !lines.is_empty() {
            lines.sort_unstable();
            self.groups.push(Group { cause: cause.into(), lines });
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in &self.groups {
            writeln!(f, "{}:", group.cause)?;
            for line in &group.lines {
                writeln!(f, "  {} {}", line.sign.symbol(), line.text)?;
            }
        }
        Ok(())
    }
}

/// Lines of two sets of texts that are only in one.
fn compare(first: Vec<String>, second: Vec<String>) -> Vec<Line> {
    if first == second {
        return Vec::new();
    }
    let first: BTreeSet<String> = first.into_iter().collect();
    let second: BTreeSet<String> = second.into_iter().collect();
    let removed = first.difference(&second).map(|text| Line { sign: Sign::Removed, text: text.clone() });
    let added = second.difference(&first).map(|text| Line { sign: Sign::Added, text: text.clone() });
    removed.chain(added).collect()
}
