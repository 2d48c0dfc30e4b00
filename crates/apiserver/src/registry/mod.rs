//! The kinds that this API serves: one table.
//!
//! A row says everything about a kind that is not behaviour of its own: names, scope, subresources, columns, and the
//! type that its objects must decode into. Discovery, OpenAPI, tables and the generic REST layer read it.

mod authorization;
pub mod columns;
mod core;
pub mod decode;
mod events;
mod groups;
mod kubevirt;
mod security;

use ferrovirt_machines::subresource;
use serde_json::Value;

use crate::store::{Key, Prefix};
use columns::Column;
use decode::Decode;

/// What generic REST does with a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Part of Kubernetes itself.
    BuiltIn,
    /// A custom resource: generation follows everything but metadata and status, no strategic merge patch, an update
    /// must name the resource version.
    Custom,
    /// Never stored: POST asks a question and is answered (reviews).
    Review,
}

/// One subresource, for discovery and routing.
#[derive(Debug)]
pub struct Subresource {
    /// Last part of the path, for example `log`.
    pub name: &'static str,
    /// API group of `kind`, when it is not the parent's.
    pub group: &'static str,
    /// Version of `kind`, when it is not the parent's.
    pub version: &'static str,
    /// Kind that it exchanges; the parent's when empty.
    pub kind: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

impl Subresource {
    const fn of_parent(name: &'static str, verbs: &'static [&'static str]) -> Self {
        Self { name, group: "", version: "", kind: "", verbs }
    }

    const STATUS: Self = Self::of_parent("status", &["get", "patch", "update"]);
}

/// A kind that is another view of stored objects of a different group.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Group and version under which the objects are stored.
    pub group: &'static str,
    /// Version under which the objects are stored.
    pub version: &'static str,
    /// From this view to the stored form.
    pub to_stored: fn(&mut Value),
    /// From the stored form to this view.
    pub from_stored: fn(&mut Value),
}

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
    /// Short names.
    pub short: &'static [&'static str],
    /// Categories, for example `all`.
    pub categories: &'static [&'static str],
    /// Lives in a namespace.
    pub namespaced: bool,
    /// How generic REST treats it.
    pub class: Class,
    /// Subresources.
    pub subresources: &'static [Subresource],
    /// Columns of tables.
    pub columns: &'static [Column],
    /// Strict decoding into the kind's type.
    pub decode: Decode,
    /// Stored elsewhere, in another form.
    pub view: Option<View>,
    /// PUT of an object that does not exist makes it.
    pub create_on_update: bool,
    /// Names may hold what a path segment may hold (RBAC), not only a DNS name.
    pub loose_names: bool,
}

const BASE: Kind = Kind {
    group: "",
    versions: &["v1"],
    kind: "",
    plural: "",
    singular: "",
    short: &[],
    categories: &[],
    namespaced: true,
    class: Class::BuiltIn,
    subresources: &[],
    columns: columns::NAME_AGE,
    decode: decode::any,
    view: None,
    create_on_update: false,
    loose_names: false,
};

impl Kind {
    /// Where an object of this kind is stored.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        Key::new(self.stored_group(), self.plural, if self.namespaced { namespace } else { "" }, name)
    }

    /// All objects of this kind.
    #[must_use]
    pub fn prefix(&self) -> Prefix {
        Prefix::resource(self.stored_group(), self.plural)
    }

    /// The objects of this kind in one namespace.
    #[must_use]
    pub fn prefix_in(&self, namespace: &str) -> Prefix {
        Prefix::namespace(self.stored_group(), self.plural, namespace)
    }

    /// `/status` exists: spec and status are written apart.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// A subresource by name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// The version that objects are stored in.
    #[must_use]
    pub fn stored_version(&self) -> &'static str {
        match self.view {
            Some(view) => view.version,
            None => self.versions.first().copied().unwrap_or("v1"),
        }
    }

    fn stored_group(&self) -> &'static str {
        self.view.map_or(self.group, |view| view.group)
    }

    /// `apiVersion` for one of the versions.
    #[must_use]
    pub fn api_version(&self, version: &str) -> String {
        api_version(self.group, version)
    }

    /// Turns a request's object into the stored form.
    pub fn to_stored(&self, object: &mut Value) {
        if let Some(view) = self.view {
            (view.to_stored)(object);
        }
        if let Value::Object(fields) = object {
            let version = api_version(self.stored_group(), self.stored_version());
            fields.insert("apiVersion".to_owned(), Value::String(version));
            fields.insert("kind".to_owned(), Value::String(self.kind.to_owned()));
        }
    }

    /// Turns a stored object into the form that a client of `version` asked for. Answers whether it is a copy; the
    /// common case costs nothing.
    #[must_use]
    pub fn from_stored(&self, object: &Value, version: &str) -> Option<Value> {
        if self.view.is_none() && version == self.stored_version() {
            return None;
        }
        let mut object = object.clone();
        if let Some(view) = self.view {
            (view.from_stored)(&mut object);
        }
        if let Value::Object(fields) = &mut object {
            fields.insert("apiVersion".to_owned(), Value::String(self.api_version(version)));
        }
        Some(object)
    }

    /// Verbs of the main resource.
    #[must_use]
    pub fn verbs(&self) -> &'static [&'static str] {
        match self.class {
            Class::Review => &["create"],
            Class::BuiltIn | Class::Custom => {
                &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            }
        }
    }
}

/// `group/version`, or the bare version in the core group.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// All kinds, in the order of discovery.
pub fn all() -> impl Iterator<Item = &'static Kind> {
    core::KINDS
        .iter()
        .chain(groups::KINDS)
        .chain(security::KINDS)
        .chain(events::KINDS)
        .chain(authorization::KINDS)
        .chain(kubevirt::KINDS)
}

/// The kind behind a plural resource name.
#[must_use]
pub fn find(group: &str, plural: &str) -> Option<&'static Kind> {
    all().find(|kind| kind.group == group && kind.plural == plural)
}

/// The kind behind a kind name.
#[must_use]
pub fn find_kind(group: &str, kind: &str) -> Option<&'static Kind> {
    all().find(|row| row.group == group && row.kind == kind)
}

/// Groups in the order of discovery, each with its versions; core is the empty group.
#[must_use]
pub fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
    for kind in all() {
        let at = groups.iter().position(|(group, _)| *group == kind.group).unwrap_or_else(|| {
            groups.push((kind.group, Vec::new()));
            groups.len() - 1
        });
        if let Some((_, versions)) = groups.get_mut(at) {
            for version in kind.versions {
                if !versions.contains(version) {
                    versions.push(version);
                }
            }
        }
    }
    groups.push((SUBRESOURCES_GROUP, subresource::VERSIONS.to_vec()));
    groups
}

/// The group of KubeVirt's verbs on machines; it has no objects of its own.
pub const SUBRESOURCES_GROUP: &str = subresource::GROUP;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_complete() {
        let mut plurals = BTreeSet::new();
        let mut short = BTreeSet::new();
        for kind in all() {
            assert!(plurals.insert((kind.group, kind.plural)), "{} twice", kind.plural);
            assert!(!kind.kind.is_empty() && !kind.singular.is_empty() && !kind.versions.is_empty());
            if kind.view.is_none() {
                for name in kind.short {
                    assert!(short.insert(*name), "short name {name} twice");
                }
            }
        }
        assert!(find("kubevirt.io", "virtualmachines").is_some());
        assert!(find_kind("", "Pod").is_some_and(Kind::has_status));
        assert!(!find("kubevirt.io", "virtualmachineinstances").unwrap().has_status());
    }
}
