//! Rules and transitions.

use super::{Bitmap, Range};

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RuleKind {
    /// Permissions are allowed.
    Allow,
    /// Uses of permissions are logged.
    AuditAllow,
    /// Denials of permissions are not logged.
    DontAudit,
    /// The type of a new object.
    TypeTransition,
    /// The type of a member of a polyinstantiated object.
    TypeMember,
    /// The type that an object is relabelled to.
    TypeChange,
    /// Extended permissions are allowed.
    AllowXperm,
    /// Uses of extended permissions are logged.
    AuditAllowXperm,
    /// Denials of extended permissions are not logged.
    DontAuditXperm,
}

impl RuleKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Allow,
        Self::AuditAllow,
        Self::DontAudit,
        Self::TypeTransition,
        Self::TypeMember,
        Self::TypeChange,
        Self::AllowXperm,
        Self::AuditAllowXperm,
        Self::DontAuditXperm,
    ];

    /// The bit that stands for the kind in the file.
    pub fn number(self) -> u16 {
        match self {
            Self::Allow => 0x1,
            Self::AuditAllow => 0x2,
            Self::DontAudit => 0x4,
            Self::TypeTransition => 0x10,
            Self::TypeMember => 0x20,
            Self::TypeChange => 0x40,
            Self::AllowXperm => 0x100,
            Self::AuditAllowXperm => 0x200,
            Self::DontAuditXperm => 0x400,
        }
    }

    pub(super) fn of(number: u16) -> Option<Self> {
        Some(match number {
            0x1 => Self::Allow,
            0x2 => Self::AuditAllow,
            0x4 => Self::DontAudit,
            0x10 => Self::TypeTransition,
            0x20 => Self::TypeMember,
            0x40 => Self::TypeChange,
            0x100 => Self::AllowXperm,
            0x200 => Self::AuditAllowXperm,
            0x400 => Self::DontAuditXperm,
            _ => return None,
        })
    }

    /// The keyword of policy sources.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::AuditAllow => "auditallow",
            Self::DontAudit => "dontaudit",
            Self::TypeTransition => "type_transition",
            Self::TypeMember => "type_member",
            Self::TypeChange => "type_change",
            Self::AllowXperm => "allowxperm",
            Self::AuditAllowXperm => "auditallowxperm",
            Self::DontAuditXperm => "dontauditxperm",
        }
    }

    /// Whether the rule is about permissions.
    pub fn is_access(self) -> bool {
        matches!(self, Self::Allow | Self::AuditAllow | Self::DontAudit)
    }

    /// Whether the rule is about extended permissions.
    pub fn is_extended(self) -> bool {
        matches!(self, Self::AllowXperm | Self::AuditAllowXperm | Self::DontAuditXperm)
    }

    /// Whether the rule names the type of something new.
    pub fn is_type(self) -> bool {
        matches!(self, Self::TypeTransition | Self::TypeMember | Self::TypeChange)
    }
}

/// A rule of the access table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The value of the source type or attribute.
    pub source: u16,
    /// The value of the target type or attribute.
    pub target: u16,
    /// The value of the class.
    pub class: u16,
    /// What the rule does.
    pub kind: RuleKind,
    /// Bit 15 of the kind: a conditional rule that is in force.
    pub enabled: bool,
    /// As the file has it: permissions (those still audited for [`RuleKind::DontAudit`]), the value of a type, or the
    /// place in [`super::Policy::xperms`].
    pub data: u32,
}

impl Rule {
    /// The permissions of an access rule.
    pub fn permissions(&self) -> u32 {
        if self.kind == RuleKind::DontAudit { !self.data } else { self.data }
    }
}

/// What the bits of an extended permission mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum XpermSort {
    /// The low bytes of ioctl numbers whose high byte is the driver.
    IoctlFunction = 1,
    /// High bytes of ioctl numbers, with all low bytes.
    IoctlDriver = 2,
    /// Netlink message types whose high byte is the driver.
    Netlink = 3,
}

/// The extended permissions of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Xperm {
    /// What the bits mean.
    pub sort: XpermSort,
    /// The high byte, where the sort has one.
    pub driver: u8,
    /// 256 bits.
    pub bits: [u32; 8],
}

impl Xperm {
    /// The numbers of the bits, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=255u8).filter(|bit| {
            self.bits.get(usize::from(bit / 32)).is_some_and(|word| word >> (bit % 32) & 1 == 1)
        })
    }
}

/// A step of a conditional's expression, postfix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The state of the boolean with this value.
    Boolean(u32),
    /// The contrary of the one before.
    Not,
    /// One of the two before.
    Or,
    /// Both of the two before.
    And,
    /// Exactly one of the two before.
    Xor,
    /// The two before are the same.
    Equal,
    /// The two before differ.
    Unequal,
}

/// Rules that are in force while an expression is true, and others while it is false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditional {
    /// The expression's result when the policy was written; -1 (all ones) is undefined.
    pub state: u32,
    /// The expression, with the word that the file keeps for steps that are no booleans.
    pub expression: Vec<(Step, u32)>,
    /// The rules of the true branch: a part of [`super::Policy::rules`].
    pub yes: std::ops::Range<usize>,
    /// The rules of the false branch.
    pub no: std::ops::Range<usize>,
}

/// The role of a new process or object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct RoleTransition {
    pub role: u32,
    pub kind: u32,
    pub result: u32,
    pub class: u32,
}

/// A role that may become another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct RoleAllow {
    pub old: u32,
    pub new: u32,
}

/// The type of new objects of a name. Up to version 32 there is one source for each; later they share an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct NamedTransition {
    pub name: Box<str>,
    pub target: u32,
    pub class: u32,
    /// Sources (bits are values minus 1) and the type that their new objects get.
    pub results: Vec<(Bitmap, u32)>,
}

/// The range of a new process or object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub struct RangeTransition {
    pub source: u32,
    pub target: u32,
    pub class: u32,
    pub range: Range,
}
