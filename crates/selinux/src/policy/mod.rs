//! A kernel binary policy, record by record in the order of the file.
//!
//! [`Policy::parse`] checks the form, [`Policy::validate`] that every reference leads somewhere, and
//! [`Policy::serialize`] writes the same bytes again. Versions 30 to 35 are known. The layout has no document: it is
//! what the kernel's `security/selinux/ss/policydb.c` reads.

mod bitmap;
mod cursor;
mod ocontext;
mod read;
mod rules;
mod symbols;
mod validate;
mod write;

pub use bitmap::Bitmap;
pub(crate) use bitmap::Growing;
pub use ocontext::{Endport, FileSystem, FsUse, Node, Ocontexts, PartitionKey, Path, Port, Twice};
pub use rules::{
    Conditional, NamedTransition, RangeTransition, RoleAllow, RoleTransition, Rule, RuleKind, Step, Xperm,
    XpermSort,
};
pub use symbols::{
    Boolean, Category, Class, Common, Constraint, Context, Expression, Level, NameSet, Operand, Operator,
    Permission, Range, Role, Sensitivity, Table, Type, TypeKind, User,
};

use crate::error::{InvalidPolicy, ReadError};
use cursor::Cursor;
use std::io::Read;

/// The oldest version that is read.
pub const OLDEST: u32 = 30;
/// The newest version that is read.
pub const NEWEST: u32 = 35;

/// Permissions of unknown classes: what the kernel does with what the policy does not define.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleUnknown {
    /// They are denied.
    Deny,
    /// A policy with unknown permissions is not loaded.
    Reject,
    /// They are allowed.
    Allow,
}

impl HandleUnknown {
    /// The word that other tools print.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Allow => "allow",
        }
    }
}

/// A policy as its file has it. Symbol values start at 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The version of the format.
    pub version: u32,
    /// Bit 0: multi-level security; bits 1 and 2: unknown permissions are rejected or allowed.
    pub config: u32,
    /// Numbers of the policy capabilities.
    pub capabilities: Bitmap,
    /// Values of the permissive types.
    pub permissive: Bitmap,
    /// Values of the types that are never audited; version 35.
    pub neveraudit: Bitmap,
    /// Sets of permissions that classes inherit.
    pub commons: Table<Common>,
    /// Classes of objects.
    pub classes: Table<Class>,
    /// Roles.
    pub roles: Table<Role>,
    /// Types, attributes and aliases of types.
    pub types: Table<Type>,
    /// Users.
    pub users: Table<User>,
    /// Booleans.
    pub booleans: Table<Boolean>,
    /// Sensitivities and their aliases.
    pub sensitivities: Table<Sensitivity>,
    /// Categories and their aliases.
    pub categories: Table<Category>,
    /// The rules outside of conditionals, then those of the conditionals in their order.
    pub rules: Vec<Rule>,
    /// How many rules stand outside of conditionals.
    pub unconditional: usize,
    /// What [`Rule::data`] of extended rules counts.
    pub xperms: Vec<Xperm>,
    /// Conditionals.
    pub conditionals: Vec<Conditional>,
    /// Changes of the role when a program is executed or an object made.
    pub role_transitions: Vec<RoleTransition>,
    /// Which role may become which.
    pub role_allows: Vec<RoleAllow>,
    /// Types of new objects with a certain name.
    pub named_transitions: Vec<NamedTransition>,
    /// Contexts of what has no label of its own.
    pub ocontexts: Ocontexts,
    /// Contexts by path for file systems without labels.
    pub paths: Vec<FileSystem>,
    /// Changes of the range.
    pub range_transitions: Vec<RangeTransition>,
    /// For each type value its attributes (bits are values minus 1).
    pub attribute_maps: Vec<Bitmap>,
}

impl Policy {
    /// Reads a policy and checks its form; what its values refer to is left to [`Policy::validate`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        read::policy(&mut Cursor::whole(bytes))
    }

    /// The same from a source of `length` bytes, piece by piece.
    ///
    /// # Errors
    /// Those of [`Policy::parse`], and [`ReadError::Source`] when the source has less.
    pub fn read(source: &mut dyn Read, length: usize) -> Result<Self, ReadError> {
        read::policy(&mut Cursor::new(source, length))
    }

    /// Checks that tables are complete, references lead somewhere and expressions can be evaluated. Values of roles may be
    /// without an entry: compilers leave those of attributes of roles out.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        validate::policy(self)
    }

    /// The bytes that the policy was read from.
    pub fn serialize(&self) -> Vec<u8> {
        write::policy(self)
    }

    /// Whether levels are in force.
    pub fn mls(&self) -> bool {
        self.config & 1 != 0
    }

    /// What happens to unknown permissions.
    pub fn handle_unknown(&self) -> HandleUnknown {
        match self.config & 6 {
            2 => HandleUnknown::Reject,
            4 => HandleUnknown::Allow,
            _ => HandleUnknown::Deny,
        }
    }
}
