//! CIL's outer form: symbols, strings, lists and comments.

use std::fmt;

/// As deep as lists may be nested.
const DEEPEST: usize = 64;

/// A place in a text; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a text is not the CIL that we write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct CilError {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    Symbol(String),
    Text(String),
    List(Vec<(Place, Tree)>),
    Comment(String),
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    place: Place,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        if next == '\n' {
            self.place = Place { line: self.place.line + 1, column: 1 };
        } else {
            self.place.column += 1;
        }
        Some(next)
    }

    fn until(&mut self, end: impl Fn(char) -> bool) -> String {
        let mut text = String::new();
        while let Some(next) = self.rest.peek().copied().filter(|next| !end(*next)) {
            text.push(next);
            self.next();
        }
        text
    }
}

fn wrong(place: Place, problem: &str) -> CilError {
    CilError { place, problem: problem.to_owned() }
}

/// All parts of a text.
pub(super) fn parse(text: &str) -> Result<Vec<(Place, Tree)>, CilError> {
    let mut reader = Reader { rest: text.chars().peekable(), place: Place { line: 1, column: 1 } };
    let mut open: Vec<(Place, Vec<(Place, Tree)>)> = Vec::new();
    let mut done = Vec::new();
    loop {
        reader.until(|next| !next.is_whitespace());
        let place = reader.place;
        let Some(next) = reader.rest.peek().copied() else {
            return match open.pop() {
                None => Ok(done),
                Some((place, _)) => Err(wrong(place, "this parenthesis is not closed")),
            };
        };
        let tree = match next {
            '(' => {
                reader.next();
                if open.len() >= DEEPEST {
                    return Err(wrong(place, "nested too deeply"));
                }
                open.push((place, Vec::new()));
                continue;
            }
            ')' => {
                reader.next();
                let (place, list) =
                    open.pop().ok_or_else(|| wrong(place, "nothing is open that this closes"))?;
                let parent = open.last_mut().map_or(&mut done, |(_, list)| list);
                parent.push((place, Tree::List(list)));
                continue;
            }
            ';' => {
                reader.next();
                // As it is written: a carriage return inside would end the comment for other readers.
                Tree::Comment(reader.until(|next| next == '\n').replace('\r', " ").trim().to_owned())
            }
            '"' => {
                reader.next();
                let text = reader.until(|next| next == '"' || next == '\n');
                if reader.next() != Some('"') {
                    return Err(wrong(place, "this string does not end on its line"));
                }
                Tree::Text(text)
            }
            _ => Tree::Symbol(reader.until(|next| next.is_whitespace() || "();\"".contains(next))),
        };
        open.last_mut().map_or(&mut done, |(_, list)| list).push((place, tree));
    }
}
