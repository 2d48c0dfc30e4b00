//! What the history has forgotten: the last change of each resource in each namespace that a watch cannot have any more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::{Key, Prefix, StoreError};

/// The last forgotten change of each place, which is a resource in a namespace.
///
/// Where everybody shared one revision, who writes much of one kind would end the watches of all other kinds.
pub(super) struct Forgotten {
    /// Of each place, the revision of the last change that was forgotten. All are above the floor.
    places: BTreeMap<Arc<str>, u64>,
    /// The same, the one that was left alone for the longest time first.
    order: BTreeSet<(u64, Arc<str>)>,
    /// Up to this revision anything may be forgotten of any place.
    floor: u64,
    /// Nothing later than this is forgotten anywhere.
    last: u64,
    /// How many places have a revision of their own.
    most: usize,
}

impl Forgotten {
    /// Everything up to `revision` is forgotten. At most so many places have a revision of their own; the others share the floor.
    pub(super) fn new(revision: u64, most: usize) -> Self {
        Self { places: BTreeMap::new(), order: BTreeSet::new(), floor: revision, last: revision, most }
    }

    /// A change is forgotten. Revisions come in their order.
    pub(super) fn add(&mut self, key: &Key, revision: u64) {
        self.last = self.last.max(revision);
        let place = if let Some((place, old)) = self.places.get_key_value(key.place()) {
            let place = Arc::clone(place);
            self.order.remove(&(*old, Arc::clone(&place)));
            place
        } else {
            Arc::from(key.place())
        };
        self.places.insert(Arc::clone(&place), revision);
        self.order.insert((revision, place));
        while self.places.len() > self.most {
            let Some((revision, place)) = self.order.pop_first() else { return };
            self.places.remove(&place);
            self.floor = self.floor.max(revision);
        }
    }

    /// The oldest revision that a watch below this prefix can start from: no later change there is forgotten.
    fn oldest(&self, prefix: &Prefix) -> u64 {
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let places =
            self.places.range::<str, _>(from).take_while(|(place, _)| place.starts_with(prefix.as_str()));
        places.map(|(_, revision)| *revision).fold(self.floor, u64::max)
    }

    /// Whether the history still has everything below this prefix that came after `revision`.
    ///
    /// # Errors
    /// [`StoreError::Expired`] when it has not.
    pub(super) fn check(&self, revision: u64, prefix: &Prefix) -> Result<(), StoreError> {
        // Anyone who keeps up does not pay for the look at the places.
        if revision >= self.last {
            return Ok(());
        }
        let oldest = self.oldest(prefix);
        if revision < oldest { Err(StoreError::Expired { asked: revision, oldest }) } else { Ok(()) }
    }
}
