//! When a pod takes too much, and which pod has to go when the node has too little: pure, and in a kubelet's words.

use super::usage::{Free, Usage};
use ferrovirt_kubernetes::quantity::Amount;
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity,
};
use std::{str::FromStr, time::Duration};

const EPHEMERAL: &str = "ephemeral-storage";

/// What a pod holds on the node's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its emptyDir volumes on disk, by name.
    pub volumes: Vec<(String, Usage)>,
    /// Logs, and files that are open and have no name any more.
    pub rest: Usage,
}

impl Held {
    /// All of it.
    pub fn total(&self) -> Usage {
        let mut sum = self.rest;
        for (_, usage) in &self.volumes {
            sum += *usage;
        }
        sum
    }
}

/// The message of the pod's eviction when it holds more than it may: an emptyDir more than its `sizeLimit`, or
/// `default` where it has none, or all of it together more than the containers' limits, or `default` without.
pub fn over_limit(pod: &Pod, held: &Held, default: u64) -> Option<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        let Some(source) = &volume.empty_dir else { continue };
        let limit = source.size_limit.as_ref().and_then(bytes);
        let used = held.volumes.iter().find(|(name, _)| *name == volume.name).map(|(_, usage)| usage.bytes);
        let limit = limit.unwrap_or(default);
        if used.is_some_and(|used| used > limit) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name,
                source
                    .size_limit
                    .as_ref()
                    .map_or_else(|| Amount::from_bytes(limit).to_string(), |text| text.0.clone())
            ));
        }
    }
    let limits = containers(pod)
        .map(|container| container.resources.as_ref()?.limits.as_ref()?.get(EPHEMERAL).and_then(bytes));
    // One container without a limit, and the pod has the default.
    let limits: Option<Vec<u64>> = limits.collect();
    let limit = limits.map_or(default, |limits| limits.into_iter().fold(0, u64::saturating_add));
    (held.total().bytes > limit).then(|| {
        format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            Amount::from_bytes(limit)
        )
    })
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

fn bytes(quantity: &Quantity) -> Option<u64> {
    Amount::parse(&quantity.0).and_then(Amount::bytes).ok()
}

/// Bytes of disk that the containers of a pod ask for.
pub fn requested(pod: &Pod) -> u64 {
    let of = |container: &Container| {
        container.resources.as_ref()?.requests.as_ref()?.get(EPHEMERAL).and_then(bytes)
    };
    containers(pod).filter_map(of).fold(0, u64::saturating_add)
}

/// A pod that may have to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Priority of the pod.
    pub priority: i32,
    /// What it asked for, in bytes.
    pub requested: u64,
    /// What it holds.
    pub used: Usage,
}

/// Which one goes first, as a kubelet ranks: a pod that holds more than it asked for, then the lower priority, then the
/// largest difference between both (or the most inodes).
pub fn first(candidates: &[Candidate], of_inodes: bool) -> Option<usize> {
    let rank = |(_, candidate): &(usize, &Candidate)| {
        // Below the request it counts, too: of two that hold less than they asked for, one holds nothing.
        let amount = if of_inodes {
            i128::from(candidate.used.inodes)
        } else {
            i128::from(candidate.used.bytes) - i128::from(candidate.requested)
        };
        let exceeds = of_inodes || candidate.used.bytes > candidate.requested;
        (exceeds, std::cmp::Reverse(candidate.priority), amount)
    };
    candidates.iter().enumerate().max_by_key(rank).map(|(index, _)| index)
}

/// When a node is short of disk, in the form of a kubelet's `--eviction-hard`:
/// `nodefs.available<10%,nodefs.inodesFree<5%`. A signal that is not named has no threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    available: Option<Threshold>,
    inodes: Option<Threshold>,
}

/// An amount, or a part of a whole: `1Gi` or `10%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Hundredths of the whole.
    Percent(u64),
    /// Bytes or inodes.
    Amount(u64),
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => Amount::parse(text).and_then(Amount::bytes).ok().map(Self::Amount),
        };
        found.ok_or_else(|| format!("{text:?} is neither an amount such as 1Gi nor a part such as 10%"))
    }
}

impl Threshold {
    /// The amount where the whole is `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => {
                let part = u128::from(total).saturating_mul(percent.into()) / 100;
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let wrong = || format!("{part:?} is not of the form SIGNAL<QUANTITY or SIGNAL<PERCENT%");
            let (signal, value) = part.trim().split_once('<').ok_or_else(wrong)?;
            let threshold = Some(value.parse()?);
            match signal {
                "nodefs.available" => out.available = threshold,
                "nodefs.inodesFree" => out.inodes = threshold,
                other => {
                    return Err(format!(
                        "signal {other:?} is not supported: use nodefs.available and nodefs.inodesFree"
                    ));
                }
            }
        }
        Ok(out)
    }
}

/// A lack of space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// It is inodes that lack.
    pub of_inodes: bool,
    threshold: u64,
    available: u64,
}

impl Thresholds {
    /// Bytes that must stay free on a file system of this size.
    pub fn reserve(self, capacity: u64) -> u64 {
        self.available.map_or(0, |threshold| threshold.of(capacity))
    }

    /// Whether a file system is short of something.
    pub fn short(self, free: Free) -> Option<Short> {
        let check = |of_inodes, threshold: Option<Threshold>, total, available| {
            let threshold = threshold?.of(total);
            (available < threshold).then_some(Short { of_inodes, threshold, available })
        };
        let bytes = check(false, self.available, free.capacity, free.available);
        // A file system that makes inodes as it needs them counts none.
        bytes.or_else(|| {
            let inodes = self.inodes.filter(|_| free.inodes > 0);
            check(true, inodes, free.inodes, free.inodes_free)
        })
    }
}

impl Short {
    /// The message of the eviction of a pod for it.
    pub fn message(&self, pod: &Pod, candidate: &Candidate) -> String {
        let resource = if self.of_inodes { "inodes" } else { EPHEMERAL };
        let show = |amount: u64| {
            if self.of_inodes { amount.to_string() } else { Amount::from_bytes(amount).to_string() }
        };
        let mut text = format!(
            "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
            show(self.threshold),
            show(self.available)
        );
        if !self.of_inodes && candidate.used.bytes > candidate.requested {
            let name = containers(pod).next().map(|container| container.name.as_str()).unwrap_or_default();
            let (used, requested) =
                (Amount::from_bytes(candidate.used.bytes), Amount::from_bytes(candidate.requested));
            text.push_str(&format!(
                "Container {name} was using {used}, request is {requested}, has larger consumption of {resource}. "
            ));
        }
        text
    }
}

/// Whether the node says that it is short: for a while after it was, so that pods do not come and go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pressure {
    last: Option<Duration>,
}

impl Pressure {
    /// Takes note of a look at `now`, a time since any beginning; true while the node is short or was so within
    /// `transition`.
    pub fn look(&mut self, short: bool, now: Duration, transition: Duration) -> bool {
        if short {
            self.last = Some(now);
        }
        let holds = self.last.is_some_and(|last| short || now.saturating_sub(last) < transition);
        if !holds {
            self.last = None;
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(volumes: Value, resources: Value) -> Pod {
        serde_json::from_value(json!({"spec": {
            "volumes": volumes, "containers": [{"name": "compute", "resources": resources}],
        }}))
        .unwrap()
    }

    fn held(volumes: &[(&str, u64)], rest: u64) -> Held {
        let usage = |bytes| Usage { bytes, inodes: 1 };
        let volumes = volumes.iter().map(|(name, bytes)| ((*name).to_owned(), usage(*bytes))).collect();
        Held { volumes, rest: usage(rest) }
    }

    #[test]
    fn an_empty_dir_has_its_own_limit_or_the_default() {
        let pod = pod(
            json!([{"name": "own", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "none", "emptyDir": {}}]),
            json!({}),
        );
        let over = |volumes: &[(&str, u64)]| over_limit(&pod, &held(volumes, 0), 5 << 20);
        assert_eq!(over(&[("own", 1 << 20), ("none", 4 << 20)]), None);
        let said = over(&[("own", 1 << 20), ("none", (4 << 20) + 1)]).unwrap();
        assert_eq!(said, "Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ");
        assert_eq!(
            over(&[("own", (1 << 20) + 1)]).unwrap(),
            "Usage of EmptyDir volume \"own\" exceeds the limit \"1Mi\". "
        );
        assert_eq!(
            over(&[("none", u64::MAX)]).unwrap(),
            "Usage of EmptyDir volume \"none\" exceeds the limit \"5Mi\". "
        );
    }

    #[test]
    fn the_containers_limit_counts_volumes_and_logs() {
        let pod =
            pod(json!([{"name": "v", "emptyDir": {}}]), json!({"limits": {"ephemeral-storage": "2Mi"}}));
        assert_eq!(over_limit(&pod, &held(&[("v", 1 << 20)], 1 << 20), u64::MAX), None);
        let said = over_limit(&pod, &held(&[("v", 1 << 20)], (1 << 20) + 1), u64::MAX).unwrap();
        assert_eq!(said, "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ");
    }

    #[test]
    fn thresholds_are_read_as_a_kubelet_reads_them() {
        let free = |available, inodes_free| Free { capacity: 1000, available, inodes: 200, inodes_free };
        let both: Thresholds = "nodefs.available<10%,nodefs.inodesFree<5%".parse().unwrap();
        assert_eq!(both.short(free(100, 10)), None);
        assert!(!both.short(free(99, 0)).unwrap().of_inodes);
        assert!(both.short(free(100, 9)).unwrap().of_inodes);
        assert_eq!(both.reserve(1000), 100);
        assert_eq!(both.short(Free { inodes: 0, ..free(100, 0) }), None);
        let bytes: Thresholds = "nodefs.available<1Ki".parse().unwrap();
        assert!(bytes.short(free(1000, 0)).is_some());
        assert_eq!("".parse::<Thresholds>().unwrap().short(free(0, 0)), None);
        for text in
            ["nodefs.available", "nodefs.available<x", "nodefs.available<101%", "memory.available<1Gi"]
        {
            text.parse::<Thresholds>().unwrap_err();
        }
    }

    #[test]
    fn a_pod_that_holds_more_than_it_asked_for_goes_first() {
        let one = |priority, requested, bytes, inodes| Candidate {
            priority,
            requested,
            used: Usage { bytes, inodes },
        };
        let all = [one(0, 100, 99, 9), one(5, 0, 500, 1), one(0, 10, 60, 1), one(0, 0, 55, 1)];
        assert_eq!(first(&all, false), Some(3));
        assert_eq!(first(&all, true), Some(0));
        assert_eq!(first(&[], false), None);
        // Who holds more goes first, also where nobody holds more than it asked for, in any order.
        let (much, little) = (one(0, 50, 45, 1), one(0, 50, 1, 1));
        assert_eq!(first(&[much.clone(), little.clone()], false), Some(0));
        assert_eq!(first(&[little, much], false), Some(1));
        let short = "nodefs.available<10%".parse::<Thresholds>().unwrap();
        let short = short.short(Free { capacity: 1 << 30, available: 1 << 20, ..Free::default() }).unwrap();
        assert_eq!(
            short.message(&pod(json!([]), json!({})), &one(0, 1 << 10, 1 << 20, 1)),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 107374182, available: 1Mi. \
             Container compute was using 1Mi, request is 1Ki, has larger consumption of ephemeral-storage. "
        );
    }

    #[test]
    fn pressure_holds_for_a_while_after_the_last_lack() {
        let mut pressure = Pressure::default();
        let second = Duration::from_secs;
        let mut look = |short, now| pressure.look(short, second(now), second(300));
        assert!(!look(false, 0));
        assert!(look(true, 10) && look(false, 309) && !look(false, 310) && !look(false, 311));
    }
}
