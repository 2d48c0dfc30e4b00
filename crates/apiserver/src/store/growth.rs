//! What changes may add while the disk is full: deletions go on by changes of status and finalizers.
//!
//! Three parts, so that nobody stops the others: changes by users, changes that begin a deletion, and what the system
//! itself writes; of each a part for a namespace. What becomes smaller gives back.

use std::collections::HashMap;

use serde_json::Value;

use super::{Event, EventKind};

/// How many bytes one change may add.
const MAX_CHANGE: usize = 512;
/// How many bytes all changes of a part may add: the reserve has to bear all parts.
const MAX_PART: usize = 256 << 10;
/// How many of these in one namespace.
const MAX_NAMESPACE: usize = 64 << 10;

/// Bytes that were added.
#[derive(Default)]
struct Part {
    total: usize,
    namespaces: HashMap<String, usize>,
}

impl Part {
    fn take(&mut self, namespace: &str, added: usize) -> bool {
        let own = self.namespaces.get(namespace).copied().unwrap_or_default().saturating_add(added);
        let total = self.total.saturating_add(added);
        let fits = added <= MAX_CHANGE && own <= MAX_NAMESPACE && total <= MAX_PART;
        if fits && added > 0 {
            self.total = total;
            self.namespaces.insert(namespace.to_owned(), own);
        }
        fits
    }

    /// Answers what is more than was taken.
    fn give_back(&mut self, namespace: &str, bytes: usize) -> usize {
        let Some(own) = self.namespaces.get_mut(namespace) else { return bytes };
        let back = bytes.min(*own);
        *own -= back;
        self.total = self.total.saturating_sub(back);
        bytes - back
    }
}

/// What was added since the disk is full.
#[derive(Default)]
pub(super) struct Growth {
    users: Part,
    deletions: Part,
    system: Part,
}

impl Growth {
    /// Whether a change to `bytes` bytes goes on while the disk is full; counts what it adds.
    pub(super) fn take(&mut self, event: &Event, bytes: usize, of_user: bool) -> bool {
        let Some(old) = &event.old else { return false };
        if event.kind == EventKind::Deleted {
            return true;
        }
        let part = if !is_deleting(old) && is_deleting(&event.object) {
            &mut self.deletions
        } else if of_user {
            &mut self.users
        } else {
            &mut self.system
        };
        part.take(event.key.namespace(), bytes.saturating_sub(length(old)))
    }

    /// Counts back what a stored change gave back.
    pub(super) fn give_back(&mut self, event: &Event, bytes: usize) {
        let before = event.old.as_deref().map_or(0, length);
        let after = if event.kind == EventKind::Deleted { 0 } else { bytes };
        let mut left = before.saturating_sub(after);
        for part in [&mut self.deletions, &mut self.users, &mut self.system] {
            left = part.give_back(event.key.namespace(), left);
        }
    }
}

fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

fn length(object: &Value) -> usize {
    serde_json::to_vec(object).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::store::Key;

    fn change(namespace: &str, old: Value, new: Value) -> (Event, usize) {
        let bytes = length(&new);
        let key = Key::new("", "configmaps", namespace, "a");
        let (object, old) = (Arc::new(new), Some(Arc::new(old)));
        (Event { kind: EventKind::Modified, revision: 1, key, object, old }, bytes)
    }

    #[test]
    fn a_user_who_changes_much_on_a_full_disk_stops_no_deletion_nobody_else_and_not_the_system() {
        let mut growth = Growth::default();
        let grow = |namespace| change(namespace, json!({"a": ""}), json!({"a": "x".repeat(MAX_CHANGE)}));
        let (mine, bytes) = grow("mine");
        let taken = (0..1000).take_while(|_| growth.take(&mine, bytes, true)).count();
        assert_eq!(taken, MAX_NAMESPACE / MAX_CHANGE);
        let marked = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let (mark, length) = change("mine", json!({"metadata": {}}), marked);
        assert!(growth.take(&mark, length, true), "deletions begin");
        assert!(growth.take(&mine, bytes, false), "the system writes");
        let (other, bytes) = grow("other");
        assert!(growth.take(&other, bytes, true), "others write");
    }

    #[test]
    fn what_becomes_smaller_or_goes_gives_back_what_it_took() {
        let (small, large) = (json!({"a": ""}), json!({"a": "x".repeat(MAX_CHANGE)}));
        let (grown, bytes) = change("n", small.clone(), large.clone());
        let (shrunk, less) = change("n", large.clone(), small);
        let mut growth = Growth::default();
        for _ in 0..1000 {
            assert!(growth.take(&grown, bytes, true));
            assert!(growth.take(&shrunk, less, true));
            growth.give_back(&shrunk, less);
        }
        while growth.take(&grown, bytes, true) {}
        growth.give_back(&Event { kind: EventKind::Deleted, ..shrunk }, less);
        assert!(growth.take(&grown, bytes, true));
        assert!(!growth.take(&grown, bytes, true), "no more than that");
    }
}
