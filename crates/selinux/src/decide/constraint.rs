//! Constraints: evaluated, and as text.

use crate::{
    database::Database,
    policy::{Bitmap, Constraint, Context, Expression, Level, NameSet, Operand, Operator},
    text::braces,
};

/// Who a constraint is about.
#[derive(Debug, Clone, Copy)]
pub struct Parties<'a> {
    /// The source, in label changes the old context.
    pub source: &'a Context,
    /// The target, in label changes the new context.
    pub target: &'a Context,
    /// The process that changes a label.
    pub third: Option<&'a Context>,
}

fn dominates(one: &Level, other: &Level) -> bool {
    one.sensitivity >= other.sensitivity && other.categories.is_subset(&one.categories)
}

/// Whether the high level of the first range is at least the second's and the low one at most.
pub(super) fn contains(outer: (&Level, &Level), inner: (&Level, &Level)) -> bool {
    dominates(inner.0, outer.0) && dominates(outer.1, inner.1)
}

pub(super) fn dominates_level(one: &Level, other: &Level) -> bool {
    dominates(one, other)
}

fn related<T: PartialEq>(operator: Operator, a: &T, b: &T, dominates: impl Fn(&T, &T) -> bool) -> bool {
    match operator {
        Operator::Equal => a == b,
        Operator::Unequal => a != b,
        Operator::Dominates => dominates(a, b),
        Operator::DominatedBy => dominates(b, a),
        Operator::Incomparable => !dominates(a, b) && !dominates(b, a),
    }
}

/// Whether a constraint is met. One that cannot be evaluated counts as not met, as in the kernel.
pub fn holds(database: &Database, constraint: &Constraint, parties: &Parties<'_>) -> bool {
    let mut stack: Vec<bool> = Vec::new();
    for step in &constraint.expression {
        let result = match step {
            Expression::Not(_) => stack.pop().map(|value| !value),
            Expression::And(_) => stack.pop().zip(stack.pop()).map(|(a, b)| a && b),
            Expression::Or(_) => stack.pop().zip(stack.pop()).map(|(a, b)| a || b),
            Expression::Compare { operand, operator } => compare(database, *operand, *operator, parties),
            Expression::Names { operand, operator, set } => names(*operand, *operator, &set.names, parties),
        };
        match result {
            Some(result) => stack.push(result),
            None => return false,
        }
    }
    stack.pop().unwrap_or(false)
}

fn compare(database: &Database, operand: Operand, operator: Operator, parties: &Parties<'_>) -> Option<bool> {
    let (source, target) = (parties.source, parties.target);
    let (l1, h1) = (&source.range.low, source.range.high());
    let (l2, h2) = (&target.range.low, target.range.high());
    let levels = match operand.0 {
        Operand::USER => return Some(related(operator, &source.user, &target.user, |_, _| false)),
        Operand::TYPE => return Some(related(operator, &source.kind, &target.kind, |_, _| false)),
        Operand::ROLE => {
            let above = |a: &u32, b: &u32| {
                database
                    .role(*a)
                    .is_some_and(|role| b.checked_sub(1).is_some_and(|bit| role.dominates.contains(bit)))
            };
            return Some(related(operator, &source.role, &target.role, above));
        }
        Operand::L1_L2 => (l1, l2),
        Operand::L1_H2 => (l1, h2),
        Operand::H1_L2 => (h1, l2),
        Operand::H1_H2 => (h1, h2),
        Operand::L1_H1 => (l1, h1),
        Operand::L2_H2 => (l2, h2),
        _ => return None,
    };
    Some(related(operator, levels.0, levels.1, dominates))
}

fn names(operand: Operand, operator: Operator, names: &Bitmap, parties: &Parties<'_>) -> Option<bool> {
    let context = if operand.0 & Operand::TARGET != 0 {
        parties.target
    } else if operand.0 & Operand::THIRD != 0 {
        parties.third?
    } else {
        parties.source
    };
    let value = match operand.0 & 7 {
        Operand::USER => context.user,
        Operand::ROLE => context.role,
        Operand::TYPE => context.kind,
        _ => return None,
    };
    let found = value > 0 && names.contains(value - 1);
    match operator {
        Operator::Equal => Some(found),
        Operator::Unequal => Some(!found),
        _ => None,
    }
}

fn word(operator: Operator) -> &'static str {
    match operator {
        Operator::Equal => "==",
        Operator::Unequal => "!=",
        Operator::Dominates => "dom",
        Operator::DominatedBy => "domby",
        Operator::Incomparable => "incomp",
    }
}

/// Whether the set as it was written is what the kernel looks at.
fn as_written(database: &Database, set: &NameSet) -> bool {
    set.negated.is_empty()
        && set.flags == 0
        && Bitmap::union(set.written.iter().map(|bit| database.members(bit + 1))) == set.names
}

/// Whether a constraint is the same as one of another policy in which the same names have the same values: equal by value, or
/// with sets of types that were written alike, of which [`text`] tells no more.
pub(crate) fn same_text(
    (ours, mine): (&Database, &Constraint),
    (theirs, other): (&Database, &Constraint),
) -> bool {
    mine.permissions == other.permissions
        && mine.expression.len() == other.expression.len()
        && mine.expression.iter().zip(&other.expression).all(|steps| match steps {
            (
                Expression::Names { operand, operator, set: one },
                Expression::Names { operand: peer, operator: word, set: two },
            ) => {
                (operand, operator) == (peer, word)
                    && (one == two
                        || operand.0 & 7 == Operand::TYPE
                            && one.written == two.written
                            && as_written(ours, one)
                            && as_written(theirs, two))
            }
            (one, two) => one == two,
        })
}

/// A constraint as policy sources write it. Sets of types keep their attributes.
pub fn text(database: &Database, class: u32, constraint: &Constraint, on_change: bool) -> String {
    let mut levels = false;
    let mut stack: Vec<(String, bool)> = Vec::new();
    for step in &constraint.expression {
        let entry = match step {
            Expression::Not(_) => (format!("not ({})", stack.pop().unwrap_or_default().0), false),
            Expression::And(_) | Expression::Or(_) => {
                let (right, right_is_or) = stack.pop().unwrap_or_default();
                let (left, left_is_or) = stack.pop().unwrap_or_default();
                let or = matches!(step, Expression::Or(_));
                let side = |text: String, is_or: bool| if is_or && !or { format!("({text})") } else { text };
                let word = if or { "or" } else { "and" };
                (format!("{} {word} {}", side(left, left_is_or), side(right, right_is_or)), or)
            }
            Expression::Compare { operand, operator } => {
                levels |= operand.0 >= Operand::L1_L2;
                let (left, right) = match operand.0 {
                    Operand::USER => ("u1", "u2"),
                    Operand::ROLE => ("r1", "r2"),
                    Operand::TYPE => ("t1", "t2"),
                    Operand::L1_L2 => ("l1", "l2"),
                    Operand::L1_H2 => ("l1", "h2"),
                    Operand::H1_L2 => ("h1", "l2"),
                    Operand::H1_H2 => ("h1", "h2"),
                    Operand::L1_H1 => ("l1", "h1"),
                    _ => ("l2", "h2"),
                };
                (format!("{left} {} {right}", word(*operator)), false)
            }
            Expression::Names { operand, operator, set } => {
                let side = match operand.0 & !7 {
                    Operand::TARGET => "2",
                    Operand::THIRD => "3",
                    _ => "1",
                };
                let written = if as_written(database, set) { &set.written } else { &set.names };
                let (letter, mut names): (_, Vec<&str>) = match operand.0 & 7 {
                    Operand::USER => ("u", set.names.iter().map(|bit| database.user_name(bit + 1)).collect()),
                    Operand::ROLE => ("r", set.names.iter().map(|bit| database.role_name(bit + 1)).collect()),
                    _ => ("t", written.iter().map(|bit| database.type_name(bit + 1)).collect()),
                };
                names.sort_unstable();
                (format!("{letter}{side} {} {}", word(*operator), braces(&names)), false)
            }
        };
        stack.push(entry);
    }
    let keyword = match (levels, on_change) {
        (false, false) => "constrain",
        (true, false) => "mlsconstrain",
        (false, true) => "validatetrans",
        (true, true) => "mlsvalidatetrans",
    };
    let head = format!("{keyword} {}", database.class_name(class));
    let expression = stack.pop().unwrap_or_default().0;
    if on_change {
        return format!("{head} ({expression});");
    }
    let permissions = braces(&database.permission_names(class, constraint.permissions));
    format!("{head} {permissions} ({expression});")
}
