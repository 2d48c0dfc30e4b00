//! SELinux rights out of a CIL text.

use ferrovirt_privilege::Right;
use ferrovirt_selinux::{
    cil::{self, Statement},
    policy::RuleKind,
};
use std::collections::{BTreeMap, BTreeSet};

/// A text that is not the CIL that we write.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CilError {
    /// It cannot be read.
    #[error(transparent)]
    Text(#[from] cil::CilError),
    /// A statement that grants and is not understood.
    #[error("CIL statement `{0}` is none of those whose meaning is known here")]
    Unknown(String),
}

/// What the blocks of a text declare, names in full.
#[derive(Default)]
struct Declared {
    types: BTreeSet<String>,
    /// Attributes of the text's own with their types.
    attributes: BTreeMap<String, BTreeSet<String>>,
}

/// Everything that is granted: permissions, attributes and roles of each type. An attribute that the text declares
/// itself stands for its types.
///
/// # Errors
/// Text that is not balanced, and statements other than blocks, types, attributes, roles and allow rules: they could
/// grant something.
pub fn lift(text: &str) -> Result<BTreeSet<Right<String>>, CilError> {
    let statements = cil::parse(text)?;
    let mut declared = Declared::default();
    for statement in &statements {
        declared.take(statement, &[])?;
    }
    for statement in &statements {
        declared.join(statement, &[]);
    }
    let mut out = BTreeSet::new();
    for statement in &statements {
        declared.grant(statement, &[], &mut out);
    }
    Ok(out)
}

fn within<'a>(blocks: &[&'a str], name: &'a str) -> Vec<&'a str> {
    blocks.iter().copied().chain([name]).collect()
}

impl Declared {
    fn take(&mut self, statement: &Statement, blocks: &[&str]) -> Result<(), CilError> {
        match statement {
            Statement::Block { name, body } => {
                body.iter().try_for_each(|statement| self.take(statement, &within(blocks, name)))?;
            }
            Statement::Type(name) => drop(self.types.insert(within(blocks, name).join("."))),
            Statement::TypeAttribute(name) => {
                self.attributes.insert(within(blocks, name).join("."), BTreeSet::new());
            }
            Statement::Comment(_)
            | Statement::RoleType { .. }
            | Statement::TypeAttributeSet { .. }
            | Statement::Access { kind: RuleKind::Allow, .. } => {}
            other => return Err(CilError::Unknown(cil::text(std::slice::from_ref(other)).trim().to_owned())),
        }
        Ok(())
    }

    fn join(&mut self, statement: &Statement, blocks: &[&str]) {
        match statement {
            Statement::Block { name, body } => {
                body.iter().for_each(|statement| self.join(statement, &within(blocks, name)));
            }
            Statement::TypeAttributeSet { attribute, types } => {
                let types: Vec<_> = types.iter().map(|name| self.full(name, blocks)).collect();
                let attribute = self.full(attribute, blocks);
                if let Some(members) = self.attributes.get_mut(&attribute) {
                    members.extend(types);
                }
            }
            _ => {}
        }
    }

    /// The innermost declared name, or the name as it is: of another text.
    fn full(&self, name: &str, blocks: &[&str]) -> String {
        for depth in (0..=blocks.len()).rev() {
            let name = within(blocks.get(..depth).unwrap_or_default(), name).join(".");
            if self.types.contains(&name) || self.attributes.contains_key(&name) {
                return name;
            }
        }
        name.to_owned()
    }

    /// The types that a name stands for. A name of another text is itself: inside a block whose type it declares
    /// elsewhere (a clone), it has the block's name.
    fn types(&self, name: &str, blocks: &[&str]) -> Vec<String> {
        let full = self.full(name, blocks);
        self.attributes.get(&full).map_or_else(|| vec![full.clone()], |types| types.iter().cloned().collect())
    }

    fn grant(&self, statement: &Statement, blocks: &[&str], out: &mut BTreeSet<Right<String>>) {
        match statement {
            Statement::Block { name, body } => {
                body.iter().for_each(|statement| self.grant(statement, &within(blocks, name), out));
            }
            Statement::Access { source, target, class, permissions, .. } => {
                for source in self.types(source, blocks) {
                    for target in self.types(target, blocks) {
                        out.extend(permissions.iter().map(|permission| Right::Selinux {
                            source: source.clone(),
                            target: target.clone(),
                            class: class.clone(),
                            permission: permission.clone(),
                        }));
                    }
                }
            }
            Statement::TypeAttributeSet { attribute, types } => {
                let attribute = self.full(attribute, blocks);
                if !self.attributes.contains_key(&attribute) {
                    let domains = types.iter().flat_map(|name| self.types(name, blocks));
                    out.extend(
                        domains
                            .map(|domain| Right::SelinuxAttribute { domain, attribute: attribute.clone() }),
                    );
                }
            }
            Statement::RoleType { role, kind } => {
                let domains = self.types(kind, blocks).into_iter();
                out.extend(domains.map(|domain| Right::SelinuxRole { domain, role: role.clone() }));
            }
            _ => {}
        }
    }
}
