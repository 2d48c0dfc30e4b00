//! Statements to text. The same statements give the same text, always.

use super::{Condition, Level, Statement, keyword};
use std::fmt::Write as _;

/// Statements as text, one on each line.
pub fn text(statements: &[Statement]) -> String {
    let mut out = String::new();
    for statement in statements {
        write(&mut out, statement, 0);
    }
    out
}

/// The first name that CIL cannot hold: names of files with quotation marks or line ends.
pub fn unwritable(statements: &[Statement]) -> Option<&str> {
    statements.iter().find_map(|statement| match statement {
        Statement::TypeRule { name: Some(name), .. } if name.contains(['"', '\n', '\r']) => {
            Some(name.as_str())
        }
        Statement::Block { body, .. } => unwritable(body),
        Statement::BooleanIf { yes, no, .. } => unwritable(yes).or_else(|| unwritable(no)),
        _ => None,
    })
}

fn write(out: &mut String, statement: &Statement, depth: usize) {
    for _ in 0..depth {
        out.push_str("    ");
    }
    // Writing to a String cannot fail.
    let _ = match statement {
        Statement::Comment(text) => write!(out, "; {}", text.replace(['\n', '\r'], " ")),
        Statement::Block { name, body } => {
            let _ = write!(out, "(block {name}");
            nested(out, body, depth)
        }
        Statement::Type(name) => write!(out, "(type {name})"),
        Statement::TypeAttribute(name) => write!(out, "(typeattribute {name})"),
        Statement::RoleType { role, kind } => write!(out, "(roletype {role} {kind})"),
        Statement::TypeAttributeSet { attribute, types } => {
            write!(out, "(typeattributeset {attribute} ({}))", types.join(" "))
        }
        Statement::TypeBounds { parent, child } => write!(out, "(typebounds {parent} {child})"),
        Statement::TypePermissive(name) => write!(out, "(typepermissive {name})"),
        Statement::Access { kind, source, target, class, permissions } => {
            let (keyword, permissions) = (keyword(*kind), permissions.join(" "));
            write!(out, "({keyword} {source} {target} ({class} ({permissions})))")
        }
        Statement::Extended { kind, source, target, sort, class, numbers } => {
            let numbers: Vec<String> = numbers
                .iter()
                .map(|(low, high)| {
                    if low == high {
                        format!("{low:#06x}")
                    } else {
                        format!("(range {low:#06x} {high:#06x})")
                    }
                })
                .collect();
            write!(out, "({} {source} {target} ({sort} {class} ({})))", keyword(*kind), numbers.join(" "))
        }
        Statement::TypeRule { kind, source, target, class, name, result } => {
            let name = name.as_ref().map_or(String::new(), |name| format!("\"{name}\" "));
            write!(out, "({} {source} {target} {class} {name}{result})", keyword(*kind))
        }
        Statement::RangeTransition { source, target, class, low, high } => {
            write!(out, "(rangetransition {source} {target} {class} ({} {}))", level(low), level(high))
        }
        Statement::RoleTransition { role, target, class, result } => {
            write!(out, "(roletransition {role} {target} {class} {result})")
        }
        Statement::BooleanIf { condition, yes, no } => {
            let _ = write!(out, "(booleanif {}", self::condition(condition, true));
            for (branch, body) in [("true", yes), ("false", no)] {
                if !body.is_empty() {
                    let _ = write!(out, "\n{}({branch}", "    ".repeat(depth + 1));
                    let _ = nested(out, body, depth + 1);
                }
            }
            write!(out, ")")
        }
    };
    out.push('\n');
}

/// The body of a list that is open, and its end. A comment cannot be the last on the closing line.
fn nested(out: &mut String, body: &[Statement], depth: usize) -> std::fmt::Result {
    out.push('\n');
    for statement in body {
        write(out, statement, depth + 1);
    }
    write!(out, "{})", "    ".repeat(depth))
}

fn level(level: &Level) -> String {
    let categories: Vec<String> = level
        .categories
        .iter()
        .map(|(low, high)| if low == high { low.clone() } else { format!("(range {low} {high})") })
        .collect();
    if categories.is_empty() {
        format!("({})", level.sensitivity)
    } else {
        format!("({} ({}))", level.sensitivity, categories.join(" "))
    }
}

fn condition(of: &Condition, outermost: bool) -> String {
    let pair = |word, a: &Condition, b: &Condition| {
        format!("({word} {} {})", condition(a, false), condition(b, false))
    };
    match of {
        Condition::Boolean(name) if outermost => format!("({name})"),
        Condition::Boolean(name) => name.clone(),
        Condition::Not(one) => format!("(not {})", condition(one, false)),
        Condition::And(a, b) => pair("and", a, b),
        Condition::Or(a, b) => pair("or", a, b),
        Condition::Xor(a, b) => pair("xor", a, b),
        Condition::Equal(a, b) => pair("eq", a, b),
        Condition::Unequal(a, b) => pair("neq", a, b),
    }
}
