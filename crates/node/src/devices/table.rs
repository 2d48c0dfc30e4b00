//! Which devices there are and which pod has them: a kubelet's rules, without a socket, clock or file.

use super::error::Error;
use ferrovirt_kubernetes::names;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most resources of plug-ins on a node.
pub const MOST_RESOURCES: usize = 64;

/// Devices by resource.
pub type Ids = BTreeMap<String, BTreeSet<String>>;

/// The container that has devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container.
    pub container: String,
}

/// What a pod's container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who.
    pub holder: Holder,
    /// What.
    pub devices: Ids,
}

/// What survives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Every resource that was registered: until its plug-in comes again the node has none of it, and says so.
    pub resources: BTreeSet<String>,
    /// By the pod's UID.
    pub pods: BTreeMap<String, Held>,
}

/// How many devices of a resource there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub capacity: usize,
    /// The healthy ones.
    pub allocatable: usize,
}

#[derive(Clone, Debug, Default)]
struct Resource {
    /// Which registration it is of; an earlier plug-in has nothing to say any more.
    generation: u64,
    healthy: BTreeSet<String>,
    unhealthy: BTreeSet<String>,
}

/// The devices of a node.
#[derive(Clone, Debug)]
pub struct Table {
    reserved: BTreeSet<String>,
    resources: BTreeMap<String, Resource>,
    pods: BTreeMap<String, Held>,
    generations: u64,
}

/// Whether plug-ins may offer this: the rule of Kubernetes for the names of extended resources.
pub fn is_extended(resource: &str) -> bool {
    resource.contains('/')
        && !resource.contains("kubernetes.io/")
        && !resource.starts_with("requests.")
        && names::qualified_errors(&format!("requests.{resource}")).is_empty()
}

impl Table {
    /// What an earlier process has kept. Names of `reserved` are not taken from plug-ins.
    pub fn new(record: Record, reserved: impl IntoIterator<Item = String>) -> Self {
        let resources = record.resources.into_iter().map(|name| (name, Resource::default())).collect();
        Self { reserved: reserved.into_iter().collect(), resources, pods: record.pods, generations: 0 }
    }

    /// What to keep.
    pub fn record(&self) -> Record {
        Record { resources: self.resources.keys().cloned().collect(), pods: self.pods.clone() }
    }

    /// A plug-in offers a resource: the number of its registration, with which it says more. The last one counts.
    ///
    /// # Errors
    /// When no plug-in may offer it, or there are too many.
    pub fn register(&mut self, resource: &str) -> Result<u64, Error> {
        if !is_extended(resource) {
            return Err(Error::Name(resource.chars().take(100).collect()));
        }
        if self.reserved.contains(resource) {
            return Err(Error::Reserved(resource.to_owned()));
        }
        if !self.resources.contains_key(resource) && self.resources.len() >= MOST_RESOURCES {
            return Err(Error::Full(self.resources.len()));
        }
        self.generations += 1;
        self.resources.entry(resource.to_owned()).or_default().generation = self.generations;
        Ok(self.generations)
    }

    /// The plug-in of this registration has these devices, each healthy or not. False when another one counts now.
    pub fn listed(&mut self, resource: &str, generation: u64, devices: BTreeMap<String, bool>) -> bool {
        let Some(known) = self.resources.get_mut(resource).filter(|known| known.generation == generation)
        else {
            return false;
        };
        let (healthy, unhealthy): (Vec<_>, Vec<_>) = devices.into_iter().partition(|(_, healthy)| *healthy);
        known.healthy = healthy.into_iter().map(|(id, _)| id).collect();
        known.unhealthy = unhealthy.into_iter().map(|(id, _)| id).collect();
        true
    }

    /// The plug-in of this registration does not say anything any more: none of its devices is healthy.
    pub fn ended(&mut self, resource: &str, generation: u64) {
        if let Some(known) = self.resources.get_mut(resource).filter(|known| known.generation == generation) {
            known.unhealthy.append(&mut known.healthy);
        }
    }

    /// How many devices there are, by resource. A resource of which there were some stays, with none.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        let count = |resource: &Resource| Count {
            capacity: resource.healthy.len() + resource.unhealthy.len(),
            allocatable: resource.healthy.len(),
        };
        self.resources.iter().map(|(name, resource)| (name.clone(), count(resource))).collect()
    }

    /// Gives a pod as many healthy devices of each resource as are wanted, or none of any. What the pod had before it
    /// keeps, where that is healthy and as many.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn choose(
        &mut self,
        uid: &str,
        holder: Holder,
        wanted: &BTreeMap<String, u64>,
    ) -> Result<Ids, Error> {
        let before = self.pods.remove(uid);
        let mut devices = Ids::new();
        for (resource, count) in wanted.iter().filter(|(_, count)| **count > 0) {
            let had = before.as_ref().and_then(|held| held.devices.get(resource));
            let taken: BTreeSet<&String> =
                self.pods.values().filter_map(|held| held.devices.get(resource)).flatten().collect();
            let healthy = self.resources.get(resource).into_iter().flat_map(|known| &known.healthy);
            let mut free: Vec<&String> = healthy.filter(|id| !taken.contains(id)).collect();
            free.sort_by_key(|id| !had.is_some_and(|had| had.contains(*id)));
            let many = usize::try_from(*count).unwrap_or(usize::MAX);
            if free.len() < many {
                let short =
                    Error::Short { resource: resource.clone(), wanted: *count, free: free.len() as u64 };
                return Err(short);
            }
            devices.insert(resource.clone(), free.into_iter().take(many).cloned().collect());
        }
        if !devices.is_empty() {
            self.pods.insert(uid.to_owned(), Held { holder, devices: devices.clone() });
        }
        Ok(devices)
    }

    /// The pod needs nothing any more. True when it had something.
    pub fn release(&mut self, uid: &str) -> bool {
        self.pods.remove(uid).is_some()
    }

    /// What pods have, by their UIDs.
    pub fn held(&self) -> &BTreeMap<String, Held> {
        &self.pods
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THING: &str = "vendor.example/thing";

    fn holder(pod: &str) -> Holder {
        Holder { namespace: "n".to_owned(), pod: pod.to_owned(), container: "c".to_owned() }
    }

    fn list(devices: &[(&str, bool)]) -> BTreeMap<String, bool> {
        devices.iter().map(|(id, healthy)| ((*id).to_owned(), *healthy)).collect()
    }

    fn wanted(count: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([(THING.to_owned(), count)])
    }

    fn count(table: &Table) -> (usize, usize) {
        let count = table.counts()[THING];
        (count.capacity, count.allocatable)
    }

    #[test]
    fn names_are_those_of_extended_resources() {
        for name in [THING, "devices.example.org/a", "x/y_Z.1"] {
            assert!(is_extended(name), "{name}");
        }
        for name in [
            "cpu",
            "hugepages-2Mi",
            "kubernetes.io/x",
            "a.kubernetes.io/x",
            "requests.x/y",
            "x/",
            "/y",
            "x/y/z",
            "X/y",
            "",
        ] {
            assert!(!is_extended(name), "{name}");
        }
        let mut table = Table::new(Record::default(), [THING.to_owned()]);
        assert!(matches!(table.register(THING), Err(Error::Reserved(_))));
        assert!(matches!(table.register("cpu"), Err(Error::Name(_))));
        for number in 0..MOST_RESOURCES {
            table.register(&format!("vendor.example/r{number}")).unwrap();
        }
        assert!(matches!(table.register("vendor.example/more"), Err(Error::Full(_))));
        table.register("vendor.example/r0").unwrap();
    }

    #[test]
    fn a_device_is_one_pods_until_it_is_released() {
        let mut table = Table::new(Record::default(), []);
        let generation = table.register(THING).unwrap();
        assert!(table.listed(THING, generation, list(&[("a", true), ("b", true), ("c", false)])));
        assert_eq!(count(&table), (3, 2));
        let first = table.choose("1", holder("p"), &wanted(1)).unwrap();
        assert_eq!(first[THING], BTreeSet::from(["a".to_owned()]));
        assert_eq!(table.choose("1", holder("p"), &wanted(1)).unwrap(), first, "the same pod again");
        assert!(matches!(table.choose("2", holder("q"), &wanted(2)), Err(Error::Short { free: 1, .. })));
        assert!(!table.release("2"), "nothing is held of what was not given whole");
        assert_eq!(
            table.choose("2", holder("q"), &wanted(1)).unwrap()[THING],
            BTreeSet::from(["b".to_owned()])
        );
        assert!(table.release("1") && !table.release("1"));
        assert_eq!(table.choose("3", holder("r"), &wanted(1)).unwrap(), first);
        assert_eq!(table.choose("4", holder("s"), &wanted(0)).unwrap(), Ids::new());
        let unknown = BTreeMap::from([("vendor.example/other".to_owned(), 1)]);
        assert!(matches!(table.choose("4", holder("s"), &unknown), Err(Error::Short { free: 0, .. })));
    }

    #[test]
    fn a_plug_in_that_ended_has_a_capacity_of_which_nothing_is_given() {
        let mut table = Table::new(Record::default(), []);
        let first = table.register(THING).unwrap();
        table.listed(THING, first, list(&[("a", true), ("b", true)]));
        table.ended(THING, first);
        assert_eq!(count(&table), (2, 0));
        table.choose("1", holder("p"), &wanted(1)).unwrap_err();
        let second = table.register(THING).unwrap();
        assert!(!table.listed(THING, first, list(&[("x", true)])), "of an earlier registration");
        assert!(table.listed(THING, second, list(&[("b", true)])));
        table.ended(THING, first);
        assert_eq!(count(&table), (1, 1));
    }

    #[test]
    fn what_is_held_survives_and_what_was_offered_is_none_until_it_is_offered_again() {
        let mut table = Table::new(Record::default(), []);
        let generation = table.register(THING).unwrap();
        table.listed(THING, generation, list(&[("a", true), ("b", true)]));
        table.choose("1", holder("p"), &wanted(1)).unwrap();
        let text = serde_json::to_string(&table.record()).unwrap();
        let mut again = Table::new(serde_json::from_str(&text).unwrap(), []);
        assert_eq!(count(&again), (0, 0));
        assert_eq!(again.held(), table.held());
        let generation = again.register(THING).unwrap();
        again.listed(THING, generation, list(&[("a", true), ("b", true)]));
        let next = again.choose("2", holder("q"), &wanted(1)).unwrap();
        assert_eq!(next[THING], BTreeSet::from(["b".to_owned()]), "a is still the first pod's");
    }
}
