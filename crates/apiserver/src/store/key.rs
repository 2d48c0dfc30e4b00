//! Keys: where an object lives.

/// The place of one object: `/group/resource/namespace/name`, the namespace empty for cluster-scoped kinds.
///
/// The order of keys is the order of lists: by namespace, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The key of one object. Kubernetes names hold no `/`; callers validate names before they get here.
    #[must_use]
    pub fn new(group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self(format!("/{group}/{resource}/{namespace}/{name}"))
    }

    pub(crate) fn from_stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The key as it is written on disk.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace part, empty for cluster-scoped kinds.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split('/').nth(3).unwrap_or_default()
    }

    /// Everything before the name: the resource and the namespace, as [`Prefix::namespace`] writes them.
    pub(crate) fn place(&self) -> &str {
        self.0.rfind('/').and_then(|slash| self.0.get(..=slash)).unwrap_or_default()
    }

    /// The name part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split('/').nth(4).unwrap_or_default()
    }
}

/// A set of keys that is listed or watched together. It ends with a `/`: keys of one `Key::place` are all in it, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Everything that is stored.
    #[must_use]
    pub fn everything() -> Self {
        Self("/".to_owned())
    }

    /// All objects of one resource, in every namespace.
    #[must_use]
    pub fn resource(group: &str, resource: &str) -> Self {
        Self(format!("/{group}/{resource}/"))
    }

    /// All objects of one resource in one namespace.
    #[must_use]
    pub fn namespace(group: &str, resource: &str, namespace: &str) -> Self {
        Self(format!("/{group}/{resource}/{namespace}/"))
    }

    /// True when the key belongs to the set.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(&self.0)
    }

    /// How the keys of the set begin.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The smallest key that can belong to the set.
    #[must_use]
    pub(crate) fn start(&self) -> Key {
        Key(self.0.clone())
    }
}
