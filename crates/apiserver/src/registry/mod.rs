//! The kinds that this API serves: one table.

use crate::store::{Key, Prefix};

/// One kind of object.
#[derive(Debug)]
pub struct Kind {
    /// API group, empty for core.
    pub group: &'static str,
    /// Versions served, the stored one first.
    pub versions: &'static [&'static str],
    /// Kind, for example `Pod`.
    pub kind: &'static str,
    /// Plural resource name.
    pub plural: &'static str,
    /// Singular resource name.
    pub singular: &'static str,
    /// Lives in a namespace.
    pub namespaced: bool,
}

impl Kind {
    /// Where an object of this kind is stored.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        Key::new(self.group, self.plural, if self.namespaced { namespace } else { "" }, name)
    }

    /// All objects of this kind.
    #[must_use]
    pub fn prefix(&self) -> Prefix {
        Prefix::resource(self.group, self.plural)
    }
}
