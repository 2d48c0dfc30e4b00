//! What can be wrong with a policy and with a question about it.

/// Why bytes are not a kernel binary policy. Offsets count bytes from the start of the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The input is something else.
    #[error(
        "this is no kernel binary policy: the file starts with {found:#010x}, expected 0xf97cff8c ({hint})"
    )]
    Magic {
        /// The first four bytes, little-endian.
        found: u32,
        /// What the input looks like and how a policy is made of it.
        hint: &'static str,
    },
    /// The input ends too early.
    #[error(
        "byte {offset}: {what} needs {needed} bytes, but only {left} are left; the policy is cut off or damaged"
    )]
    Ended {
        /// Where the value starts.
        offset: usize,
        /// The value.
        what: &'static str,
        /// Its size.
        needed: usize,
        /// What is there.
        left: usize,
    },
    /// The input cannot be read.
    #[error("byte {offset}: the policy cannot be read: {problem}")]
    Source {
        /// How much was read.
        offset: usize,
        /// What the source says.
        problem: String,
    },
    /// A count that the rest of the input cannot hold.
    #[error("byte {offset}: {found} {what} are announced, but the {left} bytes left hold at most {most}")]
    Count {
        /// Where the count stands.
        offset: usize,
        /// What is counted.
        what: &'static str,
        /// The count.
        found: u32,
        /// The most that can follow.
        most: usize,
        /// Bytes after the count.
        left: usize,
    },
    /// A value outside its range.
    #[error("byte {offset}: {what} is {found}, expected {expected}")]
    Value {
        /// Where the value stands.
        offset: usize,
        /// The value.
        what: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What is there.
        found: u64,
    },
    /// A name that is not text.
    #[error("byte {offset}: {what} is not UTF-8 text")]
    Name {
        /// Where the name starts.
        offset: usize,
        /// Whose name.
        what: &'static str,
    },
    /// More bytes than the policy has.
    #[error("byte {offset}: the policy ends here, but {left} more bytes follow")]
    Trailing {
        /// The end of the policy.
        offset: usize,
        /// Bytes after it.
        left: usize,
    },
}

/// What makes a well-formed policy meaningless: a reference to nothing, or a value that two entries share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// A value that no entry of the table has.
    #[error("{place}: {table} {value} does not exist (there are {highest})")]
    Reference {
        /// Where the reference is.
        place: String,
        /// The table it points into.
        table: &'static str,
        /// The value.
        value: u32,
        /// The table's highest value.
        highest: u32,
    },
    /// A table whose highest value and entries do not agree.
    #[error("table of {table}: {problem}")]
    Table {
        /// The table.
        table: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A record that means nothing.
    #[error("{place}: {problem}")]
    Record {
        /// The record.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The bytes are no policy.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The policy contradicts itself.
    #[error("the policy contradicts itself: {0}")]
    Invalid(#[from] InvalidPolicy),
}

/// A name in a question that the policy does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such name.
    #[error("the policy has no {kind} \"{name}\"{}", suggestion(.near))]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// The name in the question.
        name: String,
        /// Names that are spelt alike, best first.
        near: Vec<String>,
    },
    /// A text that is no security context.
    #[error("\"{text}\" is no security context: {problem}")]
    Context {
        /// The text.
        text: String,
        /// What is wrong.
        problem: String,
    },
}

fn suggestion(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}
