//! How much the objects of a namespace, and all objects, may take.
//!
//! All objects are in memory, so what counts is what an object takes there: its text, and something for each name and
//! value in it. Deletions, changes that make an object smaller, and what the system itself writes always go through:
//! the limits stop users, never their cleaning up.

use std::collections::HashMap;

use serde_json::Value;

use crate::fresh::Followed;
use crate::registry::Kind;
use crate::request::Requester;
use crate::status::ApiError;
use crate::store::{Key, Store};

/// Most weight of the objects of one namespace: some hundreds of machines with their instances and pods.
pub const MAX_NAMESPACE: usize = 32 << 20;
/// Most weight of all objects.
pub const MAX_TOTAL: usize = 128 << 20;
/// What a name or value takes in memory beside its text.
const PER_VALUE: usize = 64;
/// What an object takes beside its content: its key, its revision, its place in the history.
const PER_OBJECT: usize = 512;

/// Length of the text of a value, but for escapes, and the number of names and values in it.
fn measure(value: &Value) -> (usize, usize) {
    let (mut bytes, mut count) = (0usize, 0usize);
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        count += 1;
        bytes += match value {
            Value::Null | Value::Bool(_) => 5,
            Value::Number(_) => 8,
            Value::String(text) => text.len() + 3,
            Value::Array(items) => {
                todo.extend(items);
                3
            }
            Value::Object(fields) => {
                count += fields.len();
                todo.extend(fields.values());
                fields.keys().map(|name| name.len() + 3).sum::<usize>() + 3
            }
        };
    }
    (bytes, count)
}

/// True when a value is larger than `limit` bytes as text or in memory; looks at no more of it than it must.
pub(crate) fn exceeds(value: &Value, limit: usize) -> bool {
    let mut left = limit;
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        let size = match value {
            Value::String(text) => text.len(),
            Value::Array(items) => {
                todo.extend(items.iter().take(left / PER_VALUE + 1));
                0
            }
            Value::Object(fields) => {
                todo.extend(fields.values().take(left / PER_VALUE + 1));
                0
            }
            _ => 0,
        };
        match left.checked_sub(size + PER_VALUE) {
            Some(less) => left = less,
            None => return true,
        }
    }
    false
}

/// About how many bytes an object has as text.
pub(crate) fn serialized(value: &Value) -> usize {
    measure(value).0
}

/// About how many bytes an object takes in memory.
pub(crate) fn weight(value: &Value) -> usize {
    let (bytes, count) = measure(value);
    bytes + count * PER_VALUE + PER_OBJECT
}

/// What is stored, by namespace.
#[derive(Default)]
struct Usage {
    total: usize,
    /// Weight and number of objects.
    namespaces: HashMap<String, (usize, usize)>,
}

impl Usage {
    fn add(&mut self, namespace: &str, object: &Value) {
        let weight = weight(object);
        self.total = self.total.saturating_add(weight);
        let (used, count) = self.namespaces.entry(namespace.to_owned()).or_default();
        (*used, *count) = (used.saturating_add(weight), count.saturating_add(1));
    }

    fn apply(&mut self, key: &Key, old: Option<&Value>, new: Option<&Value>) {
        let namespace = key.namespace();
        if let Some(old) = old {
            let weight = weight(old);
            self.total = self.total.saturating_sub(weight);
            if let Some((used, count)) = self.namespaces.get_mut(namespace) {
                (*used, *count) = (used.saturating_sub(weight), count.saturating_sub(1));
                if *count == 0 {
                    self.namespaces.remove(namespace);
                }
            }
        }
        if let Some(new) = new {
            self.add(namespace, new);
        }
    }
}

/// The limits of what is stored.
pub struct Quota {
    usage: Followed<Usage>,
}

impl Quota {
    /// Limits of `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { usage: Followed::new(store, Usage::apply) }
    }

    /// How many objects a namespace has; all of them for the empty name.
    pub(crate) fn count(&self, namespace: &str) -> usize {
        self.usage.read(|usage| match namespace {
            "" => usage.namespaces.values().map(|(_, count)| count).sum(),
            namespace => usage.namespaces.get(namespace).map_or(0, |(_, count)| *count),
        })
    }

    /// What the objects of a namespace weigh; all of them for the empty name.
    pub(crate) fn stored(&self, namespace: &str) -> usize {
        self.usage.read(|usage| match namespace {
            "" => usage.total,
            namespace => usage.namespaces.get(namespace).map_or(0, |(used, _)| *used),
        })
    }

    /// Whether `user`, who is authenticated, no matter who they act as, may store `object` in place of `old`. Requests that are on their way at the same time do not count
    /// each other; their number and size are bounded.
    ///
    /// # Errors
    /// 403 when the namespace is full, 507 when everything is.
    pub(crate) fn check(
        &self,
        user: &Requester,
        kind: &Kind,
        (namespace, name): (&str, &str),
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let more = weight(object).saturating_sub(old.map_or(0, weight));
        if more == 0 || user.is_system() {
            return Ok(());
        }
        let (used, total) = self.usage.read(|usage| {
            let used = usage.namespaces.get(namespace).map_or(0, |(used, _)| *used);
            (used, usage.total)
        });
        if !namespace.is_empty() && used.saturating_add(more) > MAX_NAMESPACE {
            let qualified = match kind.group {
                "" => kind.plural.to_owned(),
                group => format!("{}.{group}", kind.plural),
            };
            let message = format!(
                "{qualified} {name:?} is forbidden: exceeded quota: stored-bytes, requested: {more}, used: {used}, \
                 limited: {MAX_NAMESPACE}: delete objects of the namespace {namespace:?}"
            );
            return Err(ApiError::forbidden(kind.group, kind.plural, name, message));
        }
        if total.saturating_add(more) > MAX_TOTAL {
            let message = format!(
                "the store is full: requested: {more}, used: {total}, limited: {MAX_TOTAL}: delete objects that nobody \
                 needs, in any namespace"
            );
            return Err(ApiError::new(507, "InsufficientStorage", message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::UserInfo;
    use crate::store::Preconditions;

    #[tokio::test]
    async fn a_full_namespace_takes_deletions_and_the_systems_writes_only() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("s")).unwrap();
        let quota = Quota::new(store.clone());
        let kind = crate::registry::find("", "configmaps").unwrap();
        let user = Requester::of(&UserInfo::authenticated("u", []));
        let check = |user: &Requester, namespace: &str, object: &Value, old: Option<&Value>| {
            quota.check(user, kind, (namespace, "x"), object, old)
        };
        let large = json!({"metadata": {}, "data": {"a": "x".repeat(1 << 20)}});
        let mut made = 0;
        while check(&user, "n", &large, None).is_ok() {
            store.create(Key::new("", "configmaps", "n", &made.to_string()), large.clone()).await.unwrap();
            made += 1;
        }
        assert_eq!(made, 31);
        let refused = check(&user, "n", &large, None).unwrap_err();
        assert_eq!((refused.code, &*refused.reason), (403, "Forbidden"));
        assert!(refused.message.starts_with("configmaps \"x\" is forbidden: exceeded quota: "), "{refused}");
        assert!(check(&Requester::of(&UserInfo::server()), "n", &large, None).is_ok(), "the system writes");
        assert!(check(&user, "other", &large, None).is_ok(), "other namespaces have their own");
        assert!(check(&user, "n", &json!({}), Some(&large)).is_ok(), "less is always possible");
        store.delete(Key::new("", "configmaps", "n", "0"), Preconditions::default()).await.unwrap();
        assert!(check(&user, "n", &large, None).is_ok());
        assert_eq!((quota.count("n"), quota.count("")), (30, 30));
        assert!(quota.stored("n") > 30 << 20 && quota.stored("other") == 0);
    }

    #[test]
    fn small_values_weigh_what_they_take() {
        let many: serde_json::Map<String, Value> = (0..1000).map(|n| (n.to_string(), json!(""))).collect();
        assert!(weight(&json!({"data": many})) > 100_000);
        let many: Value = vec![json!({}); 10_000].into();
        assert!(exceeds(&many, 32 << 10) && exceeds(&json!("x".repeat(40_000)), 32 << 10));
        assert!(!exceeds(&json!({"a": ["x".repeat(30_000), 1, {}]}), 32 << 10));
        let text = json!({"a": [1, true, null, {"b": "c"}]});
        assert!(serialized(&text).abs_diff(text.to_string().len()) < 30);
    }
}
