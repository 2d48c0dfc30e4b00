//! Who may use an SCC.

use ferrovirt_kubernetes::rbac::{Action, Rights, User};
use ferrovirt_kubernetes::subject::MASTERS;

use crate::names::GROUP;

/// What lets somebody use an SCC.
pub const USE: Action<'static> = Action { verb: "use", group: GROUP, resource: "securitycontextconstraints" };

/// Somebody whose right to use an SCC is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// User name; for a service account `system:serviceaccount:NAMESPACE:NAME`.
    pub user: &'a str,
    /// Groups, exactly those that count for this question.
    pub groups: &'a [String],
}

impl<'a> Subject<'a> {
    fn user(&self) -> User<'a> {
        User { name: self.user, groups: self.groups }
    }
}

/// Whose right admitted a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectType {
    /// The requesting user's.
    User,
    /// The pod's service account's.
    ServiceAccount,
}

impl SubjectType {
    /// As the annotation spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "serviceaccount",
        }
    }
}

/// What an authorizer can say at once about all SCCs.
#[derive(Clone, Debug)]
pub enum Grants<'a> {
    /// Every SCC may be used.
    All,
    /// Exactly these may be used.
    Named(Vec<&'a str>),
    /// Ask for each one.
    Ask,
}

/// Answers for verb `use` on an SCC in a namespace, beyond what the SCC's own `users` and `groups` grant.
///
/// An error while finding out counts as "no". Closures `Fn(&Subject, scc, namespace) -> bool` are authorizers; an
/// authorizer that can list the names should implement [`Authorizer::grants`], so that a decision costs nothing for
/// SCCs that the subject may not use.
pub trait Authorizer {
    /// Whether the subject may use the named SCC in the namespace.
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool;

    /// All that the subject may use in the namespace, if that is cheap to say.
    fn grants<'a>(&'a self, subject: &Subject<'_>, namespace: &str) -> Grants<'a> {
        let _ = (subject, namespace);
        Grants::Ask
    }
}

/// Rights to [`USE`], out of roles and bindings.
impl Authorizer for Rights {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        let user = subject.user();
        user.in_group(MASTERS) || self.of(user, namespace).any(|objects| objects.has(scc))
    }

    fn grants<'a>(&'a self, subject: &Subject<'_>, namespace: &str) -> Grants<'a> {
        let user = subject.user();
        // API servers do not look at roles for these.
        if user.in_group(MASTERS) {
            return Grants::All;
        }
        let mut names = Vec::new();
        for objects in self.of(user, namespace) {
            if objects.all() {
                return Grants::All;
            }
            names.extend(objects.names());
        }
        Grants::Named(names)
    }
}

impl<F: Fn(&Subject<'_>, &str, &str) -> bool> Authorizer for F {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        self(subject, scc, namespace)
    }
}

/// A set of positions in the ordered list of SCCs. The usual number of SCCs needs no memory of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    first: [u64; FIRST],
    rest: Vec<u64>,
}

/// Words that are kept in place.
const FIRST: usize = 4;

impl Bits {
    pub(crate) fn new(len: usize) -> Bits {
        Bits { first: [0; FIRST], rest: vec![0; len.div_ceil(64).saturating_sub(FIRST)] }
    }

    fn word(&mut self, n: usize) -> Option<&mut u64> {
        match n.checked_sub(FIRST) {
            Some(n) => self.rest.get_mut(n),
            None => self.first.get_mut(n),
        }
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        self.first.iter().chain(&self.rest).copied()
    }

    pub(crate) fn set(&mut self, n: usize) {
        if let Some(word) = self.word(n / 64) {
            *word |= 1 << (n % 64);
        }
    }

    pub(crate) fn has(&self, n: usize) -> bool {
        let word = match (n / 64).checked_sub(FIRST) {
            Some(n) => self.rest.get(n),
            None => self.first.get(n / 64),
        };
        word.is_some_and(|word| word & (1 << (n % 64)) != 0)
    }

    pub(crate) fn set_all(&mut self) {
        self.first.iter_mut().chain(&mut self.rest).for_each(|word| *word = u64::MAX);
    }

    /// The first position from `from` on that is in this or in the other set.
    pub(crate) fn next(&self, other: &Bits, from: usize) -> Option<usize> {
        let mut mask = u64::MAX << (from % 64);
        for (n, (a, b)) in self.words().zip(other.words()).enumerate().skip(from / 64) {
            let word = (a | b) & mask;
            if word != 0 {
                return Some(n * 64 + word.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use ferrovirt_kubernetes::object;
    use serde_json::json;

    use super::*;

    #[test]
    fn both_answers_of_roles_and_bindings_agree() {
        let role = |name: &str, names: &[&str]| {
            json!({"kind": "ClusterRole", "metadata": {"name": name}, "rules": [{"verbs": [USE.verb],
                   "apiGroups": [USE.group], "resources": [USE.resource], "resourceNames": names}]})
        };
        let binding = |role: &str, kind: &str, name: &str| {
            json!({"kind": "ClusterRoleBinding", "roleRef": {"kind": "ClusterRole", "name": role},
                   "subjects": [{"kind": kind, "name": name}]})
        };
        let objects = [
            role("one", &["one"]),
            role("all", &[]),
            binding("one", "Group", "staff"),
            binding("all", "User", "root"),
        ];
        let rights = Rights::read(objects.iter().map(|object| (object::kind(object), object)), &USE);
        let may = |user: &str, group: &str, scc: &str| {
            let groups = [group.to_owned()];
            let subject = Subject { user, groups: &groups };
            let listed = match rights.grants(&subject, "n") {
                Grants::All => true,
                Grants::Named(names) => names.contains(&scc),
                Grants::Ask => panic!("rights can be listed"),
            };
            assert_eq!(listed, rights.may_use(&subject, scc, "n"));
            listed
        };
        assert!(may("eve", "staff", "one") && !may("eve", "staff", "two") && !may("eve", "others", "one"));
        assert!(may("root", "others", "anything") && may("nobody", MASTERS, "anything"));
    }

    #[test]
    fn positions_are_found_in_order_within_and_beyond_the_words_in_place() {
        let (mut a, mut b) = (Bits::new(400), Bits::new(400));
        for n in [0, 63, 64, 255, 256, 399] {
            if n % 2 == 0 { a.set(n) } else { b.set(n) }
        }
        a.set(4000);
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(n) = a.next(&b, from) {
            found.push(n);
            from = n + 1;
        }
        assert_eq!(found, [0, 63, 64, 255, 256, 399]);
        assert!(a.has(256) && !a.has(255) && b.has(399) && !b.has(4000));
        a.set_all();
        assert!(a.has(1) && a.has(398) && !a.has(4000));
    }
}
