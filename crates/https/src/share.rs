//! Something of which there is so much for each, and so much for all.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what each holds.
#[derive(Debug)]
pub struct Share<K>(Arc<Counts<K>>);

#[derive(Debug)]
struct Counts<K> {
    each: usize,
    all: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    of: HashMap<K, usize>,
}

impl<K> Clone for Share<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash> Share<K> {
    /// `each` for one, and `all` together.
    #[must_use]
    pub fn new(each: usize, all: usize) -> Self {
        Self(Arc::new(Counts { each, all, taken: Mutex::new(Taken { all: 0, of: HashMap::new() }) }))
    }

    /// A place for one more; none where `key`, or all together, have as many as they may.
    pub fn take<Q>(&self, key: &Q) -> Option<Place<K>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.of.get(key).copied().unwrap_or_default();
        if own >= self.0.each || taken.all >= self.0.all {
            return None;
        }
        let key = key.to_owned();
        taken.all += 1;
        taken.of.insert(key.clone(), own + 1);
        Some(Place { of: self.clone(), key })
    }
}

/// One part of a share, given back when it is dropped.
#[derive(Debug)]
pub struct Place<K: Clone + Eq + Hash> {
    of: Share<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.of.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(count) = taken.of.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.of.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_address_has_so_many_connections_and_others_theirs() {
        let addresses = Share::new(3, 5);
        let [one, other, third] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut places: Vec<_> = (0..4).filter_map(|_| addresses.take(&one)).collect();
        assert_eq!(places.len(), 3);
        assert!(addresses.take(&one).is_none());
        let others = [addresses.take(&other).unwrap(), addresses.take(&other).unwrap()];
        assert!(addresses.take(&third).is_none(), "all are taken");
        places.pop();
        assert!(addresses.take(&third).is_some());
        places.extend(addresses.take(&one));
        assert_eq!(places.len(), 3);
        drop((places, others));
        let taken = addresses.0.taken.lock().unwrap();
        assert!(taken.all == 0 && taken.of.is_empty());
    }
}
