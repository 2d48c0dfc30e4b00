//! Lists of conditions, typed: one condition of each type, and when its status changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// What the types of conditions have in common.
pub trait Condition: Clone {
    /// A condition whose status never changed. Empty reasons and messages are left out.
    #[must_use]
    fn new(kind: &str, status: &str, reason: &str, message: &str) -> Self;
    /// Its type.
    fn kind(&self) -> &str;
    /// `True`, `False` or `Unknown`.
    fn status(&self) -> &str;
    /// Empty when it has none.
    fn reason(&self) -> &str;
    /// Whether both say the same, whenever it began.
    fn same(&self, other: &Self) -> bool;
    /// When the status last changed.
    fn changed_at(&mut self) -> &mut Option<Time>;
}

/// The condition of a type.
pub fn find<'a, C: Condition>(list: &'a [C], kind: &str) -> Option<&'a C> {
    list.iter().find(|condition| condition.kind() == kind)
}

/// The condition is there and True.
pub fn is_true<C: Condition>(list: &[C], kind: &str) -> bool {
    find(list, kind).is_some_and(|condition| condition.status() == "True")
}

/// Puts a condition in its place. The transition time moves only when the status does.
pub fn set<C: Condition>(list: &mut Vec<C>, mut condition: C, now: Timestamp) {
    match list.iter_mut().find(|old| old.kind() == condition.kind()) {
        Some(old) if old.same(&condition) => {}
        Some(old) => {
            *condition.changed_at() =
                if old.status() == condition.status() { old.changed_at().clone() } else { Some(Time(now)) };
            *old = condition;
        }
        None => {
            *condition.changed_at() = Some(Time(now));
            list.push(condition);
        }
    }
}

/// Takes the condition of a type away.
pub fn remove<C: Condition>(list: &mut Vec<C>, kind: &str) {
    list.retain(|condition| condition.kind() != kind);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Plain {
        kind: String,
        status: String,
        reason: String,
        since: Option<Time>,
    }

    impl Condition for Plain {
        fn new(kind: &str, status: &str, reason: &str, _: &str) -> Self {
            Self { kind: kind.into(), status: status.into(), reason: reason.into(), since: None }
        }
        fn kind(&self) -> &str {
            &self.kind
        }
        fn status(&self) -> &str {
            &self.status
        }
        fn reason(&self) -> &str {
            &self.reason
        }
        fn same(&self, other: &Self) -> bool {
            (&self.status, &self.reason) == (&other.status, &other.reason)
        }
        fn changed_at(&mut self) -> &mut Option<Time> {
            &mut self.since
        }
    }

    #[test]
    fn the_transition_time_moves_with_the_status_alone() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut list = Vec::new();
        for (seconds, status, reason, since) in
            [(1, "True", "A", 1), (2, "True", "A", 1), (3, "True", "B", 1), (4, "False", "B", 4)]
        {
            set(&mut list, Plain::new("Ready", status, reason, ""), at(seconds));
            let found = find(&list, "Ready").unwrap();
            assert_eq!((list.len(), found.reason()), (1, reason));
            assert_eq!(found.since, Some(Time(at(since))), "{seconds}");
        }
        set(&mut list, Plain::new("Paused", "True", "", ""), at(5));
        assert!(is_true(&list, "Paused") && !is_true(&list, "Ready") && !is_true(&list, "Other"));
        remove(&mut list, "Ready");
        assert!(list.len() == 1 && find(&list, "Ready").is_none());
    }
}
