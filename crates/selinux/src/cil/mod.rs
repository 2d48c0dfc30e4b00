//! The part of CIL that we write: a syntax tree, its text, and the way back.

mod read;
mod tree;
mod write;

pub use read::parse;
pub use tree::{CilError, Place};
pub use write::{text, unwritable};

use crate::policy::RuleKind;

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Statement {
    /// `; text`
    Comment(String),
    /// `(block name ...)`: names inside are `name.inner` outside.
    Block { name: String, body: Vec<Statement> },
    /// `(type name)`
    Type(String),
    /// `(typeattribute name)`
    TypeAttribute(String),
    /// `(roletype role type)`
    RoleType { role: String, kind: String },
    /// `(typeattributeset attribute (types))`
    TypeAttributeSet { attribute: String, types: Vec<String> },
    /// `(typebounds parent child)`
    TypeBounds { parent: String, child: String },
    /// `(typepermissive type)`
    TypePermissive(String),
    /// `(allow source target (class (permissions)))`, or dontaudit or auditallow
    Access { kind: RuleKind, source: String, target: String, class: String, permissions: Vec<String> },
    /// `(allowx source target (ioctl class (numbers)))`; runs of numbers, both ends included
    Extended {
        kind: RuleKind,
        source: String,
        target: String,
        sort: String,
        class: String,
        numbers: Vec<(u32, u32)>,
    },
    /// `(typetransition source target class "name" result)`, the name only in transitions, or typechange or typemember
    TypeRule {
        kind: RuleKind,
        source: String,
        target: String,
        class: String,
        name: Option<String>,
        result: String,
    },
    /// `(rangetransition source target class (low high))`
    RangeTransition { source: String, target: String, class: String, low: Level, high: Level },
    /// `(roletransition role target class result)`
    RoleTransition { role: String, target: String, class: String, result: String },
    /// `(booleanif condition (true ...) (false ...))`
    BooleanIf { condition: Condition, yes: Vec<Statement>, no: Vec<Statement> },
}

/// A level: a sensitivity and runs of categories.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Level {
    pub sensitivity: String,
    pub categories: Vec<(String, String)>,
}

/// A condition over booleans.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants are what their names say")]
pub enum Condition {
    Boolean(String),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Xor(Box<Condition>, Box<Condition>),
    Equal(Box<Condition>, Box<Condition>),
    Unequal(Box<Condition>, Box<Condition>),
}

/// The keyword of a rule.
pub(crate) fn keyword(kind: RuleKind) -> &'static str {
    match kind {
        RuleKind::Allow => "allow",
        RuleKind::AuditAllow => "auditallow",
        RuleKind::DontAudit => "dontaudit",
        RuleKind::TypeTransition => "typetransition",
        RuleKind::TypeMember => "typemember",
        RuleKind::TypeChange => "typechange",
        RuleKind::AllowXperm => "allowx",
        RuleKind::AuditAllowXperm => "auditallowx",
        RuleKind::DontAuditXperm => "dontauditx",
    }
}
