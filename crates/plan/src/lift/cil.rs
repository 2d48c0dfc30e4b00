//! SELinux rules out of a CIL text.

use ferrovirt_privilege::Right;
use std::collections::BTreeSet;

/// A text that is not the CIL that we write.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CilError {
    /// A parenthesis too many or too few.
    #[error("the parentheses of the CIL text do not match")]
    Parentheses,
    /// Nested too deeply.
    #[error("the CIL text is nested more than {LIMIT} deep")]
    Deep,
    /// A statement that grants and is not understood.
    #[error("CIL statement `{0}` is not an allow rule or a block")]
    Unknown(String),
}

/// Deepest nesting: a block, an allow rule, its class and its permissions are four.
const LIMIT: usize = 16;

/// Every allowed permission.
///
/// # Errors
/// Text that is not balanced, and statements other than blocks and allow rules: they could grant something.
pub fn lift(text: &str) -> Result<BTreeSet<Right<String>>, CilError> {
    let mut out = BTreeSet::new();
    for node in parse(text)? {
        statement(&node, &[], &mut out)?;
    }
    Ok(out)
}

enum Node {
    Word(String),
    List(Vec<Node>),
}

fn parse(text: &str) -> Result<Vec<Node>, CilError> {
    let mut stack: Vec<Vec<Node>> = vec![Vec::new()];
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if !matches!(char, '(' | ')' | ';') && !char.is_whitespace() {
            word.push(char);
            continue;
        }
        if !word.is_empty()
            && let Some(top) = stack.last_mut()
        {
            top.push(Node::Word(std::mem::take(&mut word)));
        }
        match char {
            '(' if stack.len() > LIMIT => return Err(CilError::Deep),
            '(' => stack.push(Vec::new()),
            ')' => {
                let list = stack.pop().ok_or(CilError::Parentheses)?;
                stack.last_mut().ok_or(CilError::Parentheses)?.push(Node::List(list));
            }
            ';' => while chars.next_if(|char| *char != '\n').is_some() {},
            _ => {}
        }
    }
    match (stack.pop(), stack.is_empty(), word.is_empty()) {
        (Some(top), true, true) => Ok(top),
        _ => Err(CilError::Parentheses),
    }
}

fn statement(node: &Node, blocks: &[&str], out: &mut BTreeSet<Right<String>>) -> Result<(), CilError> {
    let unknown = |what: &str| Err(CilError::Unknown(what.to_owned()));
    let Node::List(list) = node else { return unknown("a word outside a statement") };
    match list.as_slice() {
        [Node::Word(keyword), Node::Word(name), body @ ..] if keyword == "block" => {
            let mut inner = blocks.to_vec();
            inner.push(name);
            body.iter().try_for_each(|node| statement(node, &inner, out))
        }
        [Node::Word(keyword), Node::Word(source), Node::Word(target), Node::List(access)]
            if keyword == "allow" =>
        {
            let [Node::Word(class), Node::List(permissions)] = access.as_slice() else {
                return unknown("allow without a class and permissions");
            };
            let mut path = blocks.to_vec();
            path.push(source);
            for permission in permissions {
                let Node::Word(permission) = permission else {
                    return unknown("an expression of permissions");
                };
                out.insert(Right::Selinux {
                    source: path.join("."),
                    target: target.clone(),
                    class: class.clone(),
                    permission: permission.clone(),
                });
            }
            Ok(())
        }
        [Node::Word(keyword), ..] => unknown(keyword),
        _ => unknown("a list without a keyword"),
    }
}
