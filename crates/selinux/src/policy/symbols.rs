//! The eight tables of names.

use super::Bitmap;

/// A table: the entries in the order of the file, and the highest value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table<T> {
    /// The highest value that an entry has.
    pub highest: u32,
    /// The entries; values are in no order.
    pub entries: Vec<T>,
}

/// A permission of a class or a common: bit `value - 1` of an access vector.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Permission {
    pub name: Box<str>,
    pub value: u32,
}

/// A set of permissions that classes inherit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Common {
    pub name: Box<str>,
    pub value: u32,
    pub permissions: Table<Permission>,
}

/// A class of objects. The values of its own permissions go on after those of the common; `permissions.highest` counts
/// both.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Class {
    pub name: Box<str>,
    /// The name of the common, empty without one.
    pub common: Box<str>,
    pub value: u32,
    pub permissions: Table<Permission>,
    pub constraints: Vec<Constraint>,
    pub validatetrans: Vec<Constraint>,
    /// 0 none, 1 source, 2 target.
    pub default_user: u32,
    /// As `default_user`.
    pub default_role: u32,
    /// 0 none; 1 low, 2 high, 3 both of the source; 4 to 6 of the target; 7 greatest lower and least upper bound.
    pub default_range: u32,
    /// As `default_user`.
    pub default_type: u32,
}

/// A condition on access vectors: the permissions of the mask are lost where the expression is false.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Constraint {
    pub permissions: u32,
    /// Postfix.
    pub expression: Vec<Expression>,
}

impl Constraint {
    /// Whether levels are compared.
    pub fn compares_levels(&self) -> bool {
        self.expression
            .iter()
            .any(|step| matches!(step, Expression::Compare { operand, .. } if operand.0 >= Operand::L1_L2))
    }
}

/// What a comparison of a constraint is about. The numbers are those of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operand(pub u32);

#[allow(missing_docs, reason = "u1, r2, t3, l1 and so on, as policy sources write them")]
impl Operand {
    pub const USER: u32 = 1;
    pub const ROLE: u32 = 2;
    pub const TYPE: u32 = 4;
    pub const TARGET: u32 = 8;
    pub const THIRD: u32 = 16;
    pub const L1_L2: u32 = 32;
    pub const L1_H2: u32 = 64;
    pub const H1_L2: u32 = 128;
    pub const H1_H2: u32 = 256;
    pub const L1_H1: u32 = 512;
    pub const L2_H2: u32 = 1024;
}

/// How two things are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// They are the same, or the name is in the set.
    Equal,
    /// The contrary.
    Unequal,
    /// The first has everything of the second.
    Dominates,
    /// The second has everything of the first.
    DominatedBy,
    /// Neither.
    Incomparable,
}

/// The names of a comparison, as the compiler expanded them and as the source had them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameSet {
    /// Types, roles or users, attributes expanded: what the kernel looks at. Bits are values minus 1.
    pub names: Bitmap,
    /// The set as written, attributes kept.
    pub written: Bitmap,
    /// Names that were excluded.
    pub negated: Bitmap,
    /// 1 all, 2 complement.
    pub flags: u32,
}

/// A step of a constraint's expression.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Expression {
    /// The operand of `!`; the file keeps two words that mean nothing.
    Not([u32; 2]),
    /// Both of the two before.
    And([u32; 2]),
    /// One of the two before.
    Or([u32; 2]),
    /// Source and target are compared.
    Compare { operand: Operand, operator: Operator },
    /// One of them is compared with names.
    Names { operand: Operand, operator: Operator, set: Box<NameSet> },
}

/// A sensitivity and categories (bits are values minus 1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Level {
    pub sensitivity: u32,
    pub categories: Bitmap,
}

/// A low and a high level.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    /// The low level.
    pub low: Level,
    /// The high level where the file has one of its own.
    pub high: Option<Level>,
}

impl Range {
    /// The high level, which is the low one if the range has only one.
    pub fn high(&self) -> &Level {
        self.high.as_ref().unwrap_or(&self.low)
    }
}

/// A security context by values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Context {
    pub user: u32,
    pub role: u32,
    pub kind: u32,
    pub range: Range,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Role {
    pub name: Box<str>,
    pub value: u32,
    pub bounds: u32,
    pub dominates: Bitmap,
    /// The types that the role may have; bits are values minus 1.
    pub types: Bitmap,
}

/// What an entry of the table of types is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeKind {
    /// A type.
    Type,
    /// A second name; the value is the type's.
    Alias,
    /// A set of types.
    Attribute,
}

/// A type, an attribute or an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Type {
    pub name: Box<str>,
    pub value: u32,
    /// Bit 0: the primary name; bit 1: an attribute.
    pub properties: u32,
    /// The value of the type whose rights are the limit, 0 for none.
    pub bounds: u32,
}

impl Type {
    /// What the entry is.
    pub fn kind(&self) -> TypeKind {
        match self.properties {
            value if value & 2 != 0 => TypeKind::Attribute,
            value if value & 1 != 0 => TypeKind::Type,
            _ => TypeKind::Alias,
        }
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct User {
    pub name: Box<str>,
    pub value: u32,
    pub bounds: u32,
    /// The roles that the user may have; bits are values minus 1.
    pub roles: Bitmap,
    pub range: Range,
    pub level: Level,
}

/// A boolean.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Boolean {
    pub name: Box<str>,
    pub value: u32,
    pub state: bool,
}

/// A sensitivity, with the categories that may go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Sensitivity {
    pub name: Box<str>,
    pub alias: bool,
    pub level: Level,
}

/// A category.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct Category {
    pub name: Box<str>,
    pub value: u32,
    pub alias: bool,
}
