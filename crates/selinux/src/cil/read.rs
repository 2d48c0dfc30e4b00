//! Text to statements.

use super::{
    CilError, Condition, Level, Place, Statement, keyword,
    tree::{self, Tree},
};
use crate::policy::RuleKind;

type Part = (Place, Tree);
type Result<T> = std::result::Result<T, CilError>;

/// Reads the statements that we write.
///
/// # Errors
/// The place and the problem; statements of CIL that we never write are refused.
pub fn parse(text: &str) -> Result<Vec<Statement>> {
    tree::parse(text)?.iter().map(statement).collect()
}

fn wrong<T>(place: Place, problem: impl Into<String>) -> Result<T> {
    Err(CilError { place, problem: problem.into() })
}

fn symbol((place, tree): &Part) -> Result<String> {
    match tree {
        Tree::Symbol(name) => Ok(name.clone()),
        _ => wrong(*place, "expected a name"),
    }
}

fn list((place, tree): &Part) -> Result<&[Part]> {
    match tree {
        Tree::List(list) => Ok(list),
        _ => wrong(*place, "expected a list in parentheses"),
    }
}

fn symbols(part: &Part) -> Result<Vec<String>> {
    list(part)?.iter().map(symbol).collect()
}

fn statement(part: &Part) -> Result<Statement> {
    let place = part.0;
    if let (_, Tree::Comment(text)) = part {
        return Ok(Statement::Comment(text.clone()));
    }
    let [(_, Tree::Symbol(word)), rest @ ..] = list(part)? else {
        return wrong(place, "expected a statement: a keyword in parentheses");
    };
    match (word.as_str(), rest) {
        ("block", [name, body @ ..]) => Ok(Statement::Block {
            name: symbol(name)?,
            body: body.iter().map(statement).collect::<Result<_>>()?,
        }),
        ("type", [name]) => Ok(Statement::Type(symbol(name)?)),
        ("typeattribute", [name]) => Ok(Statement::TypeAttribute(symbol(name)?)),
        ("typepermissive", [name]) => Ok(Statement::TypePermissive(symbol(name)?)),
        ("roletype", [role, kind]) => Ok(Statement::RoleType { role: symbol(role)?, kind: symbol(kind)? }),
        ("typebounds", [parent, child]) => {
            Ok(Statement::TypeBounds { parent: symbol(parent)?, child: symbol(child)? })
        }
        ("typeattributeset", [attribute, types]) => {
            Ok(Statement::TypeAttributeSet { attribute: symbol(attribute)?, types: symbols(types)? })
        }
        ("rangetransition", [source, target, class, range]) => {
            let [low, high] = list(range)? else {
                return wrong(range.0, "expected a low and a high level");
            };
            let (source, target, class) = (symbol(source)?, symbol(target)?, symbol(class)?);
            Ok(Statement::RangeTransition { source, target, class, low: level(low)?, high: level(high)? })
        }
        ("roletransition", [role, target, class, result]) => {
            let (role, target) = (symbol(role)?, symbol(target)?);
            Ok(Statement::RoleTransition { role, target, class: symbol(class)?, result: symbol(result)? })
        }
        ("booleanif", [condition, branches @ ..]) => boolean_if(condition, branches),
        (word, rest) => match RuleKind::ALL.into_iter().find(|kind| keyword(*kind) == word) {
            Some(kind) => rule(place, kind, rest),
            None => wrong(
                place,
                format!("\"{word}\" with {} parts is no statement that is known here", rest.len()),
            ),
        },
    }
}

fn rule(place: Place, kind: RuleKind, rest: &[Part]) -> Result<Statement> {
    match rest {
        [source, target, what] if kind.is_access() => {
            let [class, permissions] = list(what)? else {
                return wrong(what.0, "expected a class and permissions");
            };
            let (source, target, class) = (symbol(source)?, symbol(target)?, symbol(class)?);
            Ok(Statement::Access { kind, source, target, class, permissions: symbols(permissions)? })
        }
        [source, target, what] if kind.is_extended() => {
            let [sort, class, numbers] = list(what)? else {
                return wrong(what.0, "expected ioctl or nlmsg, a class and numbers");
            };
            let numbers = list(numbers)?.iter().map(numbers_of).collect::<Result<_>>()?;
            let (source, target) = (symbol(source)?, symbol(target)?);
            Ok(Statement::Extended {
                kind,
                source,
                target,
                sort: symbol(sort)?,
                class: symbol(class)?,
                numbers,
            })
        }
        [source, target, class, rest @ .., result] if kind.is_type() => {
            let name = match (rest, kind) {
                ([], _) => None,
                ([(_, Tree::Text(name))], RuleKind::TypeTransition) => Some(name.clone()),
                _ => {
                    return wrong(place, "expected at most a file name in quotation marks before the result");
                }
            };
            let (source, target, class) = (symbol(source)?, symbol(target)?, symbol(class)?);
            Ok(Statement::TypeRule { kind, source, target, class, name, result: symbol(result)? })
        }
        _ => wrong(place, format!("\"{}\" does not have {} parts", keyword(kind), rest.len())),
    }
}

fn number(part: &Part) -> Result<u32> {
    let text = symbol(part)?;
    let parsed =
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
    match parsed {
        Some(number) if number <= 0xffff => Ok(number),
        _ => wrong(part.0, format!("\"{text}\" is no number from 0 to 0xffff")),
    }
}

fn numbers_of(part: &Part) -> Result<(u32, u32)> {
    match &part.1 {
        Tree::List(range) => match range.as_slice() {
            [(_, Tree::Symbol(word)), low, high] if word == "range" => Ok((number(low)?, number(high)?)),
            _ => wrong(part.0, "expected (range low high)"),
        },
        _ => number(part).map(|number| (number, number)),
    }
}

fn level(part: &Part) -> Result<Level> {
    let (sensitivity, categories) = match list(part)? {
        [sensitivity] => (sensitivity, &[][..]),
        [sensitivity, categories] => (sensitivity, list(categories)?),
        _ => return wrong(part.0, "expected a sensitivity and categories"),
    };
    let categories = categories.iter().map(|part| match &part.1 {
        Tree::List(range) => match range.as_slice() {
            [(_, Tree::Symbol(word)), low, high] if word == "range" => Ok((symbol(low)?, symbol(high)?)),
            _ => wrong(part.0, "expected (range low high)"),
        },
        _ => symbol(part).map(|name| (name.clone(), name)),
    });
    Ok(Level { sensitivity: symbol(sensitivity)?, categories: categories.collect::<Result<_>>()? })
}

fn boolean_if(of: &Part, branches: &[Part]) -> Result<Statement> {
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    for branch in branches {
        let [(_, Tree::Symbol(word)), body @ ..] = list(branch)? else {
            return wrong(branch.0, "expected (true ...) or (false ...)");
        };
        let into = match word.as_str() {
            "true" => &mut yes,
            "false" => &mut no,
            _ => return wrong(branch.0, "expected (true ...) or (false ...)"),
        };
        for one in body {
            into.push(statement(one)?);
        }
    }
    Ok(Statement::BooleanIf { condition: condition(of)?, yes, no })
}

fn condition(part: &Part) -> Result<Condition> {
    let parts = match &part.1 {
        Tree::Symbol(name) => return Ok(Condition::Boolean(name.clone())),
        _ => list(part)?,
    };
    if let [name] = parts {
        return symbol(name).map(Condition::Boolean);
    }
    let [word, operands @ ..] = parts else {
        return wrong(part.0, "expected a condition");
    };
    let boxed = |part: &Part| condition(part).map(Box::new);
    match (symbol(word)?.as_str(), operands) {
        ("not", [one]) => Ok(Condition::Not(boxed(one)?)),
        ("and", [a, b]) => Ok(Condition::And(boxed(a)?, boxed(b)?)),
        ("or", [a, b]) => Ok(Condition::Or(boxed(a)?, boxed(b)?)),
        ("xor", [a, b]) => Ok(Condition::Xor(boxed(a)?, boxed(b)?)),
        ("eq", [a, b]) => Ok(Condition::Equal(boxed(a)?, boxed(b)?)),
        ("neq", [a, b]) => Ok(Condition::Unequal(boxed(a)?, boxed(b)?)),
        (word, _) => {
            wrong(part.0, format!("\"{word}\" is no operator of a condition with {} parts", operands.len()))
        }
    }
}
