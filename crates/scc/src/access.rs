//! Who may use an SCC.

/// Somebody whose right to use an SCC is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// User name; for a service account `system:serviceaccount:NAMESPACE:NAME`.
    pub user: &'a str,
    /// Groups, exactly those that count for this question.
    pub groups: &'a [String],
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

impl<F: Fn(&Subject<'_>, &str, &str) -> bool> Authorizer for F {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        self(subject, scc, namespace)
    }
}

/// A set of positions in the ordered list of SCCs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn new(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    pub(crate) fn set(&mut self, n: usize) {
        if let Some(word) = self.0.get_mut(n / 64) {
            *word |= 1 << (n % 64);
        }
    }

    pub(crate) fn has(&self, n: usize) -> bool {
        self.0.get(n / 64).is_some_and(|word| word & (1 << (n % 64)) != 0)
    }

    pub(crate) fn set_all(&mut self) {
        self.0.iter_mut().for_each(|word| *word = u64::MAX);
    }

    /// The first position from `from` on that is in this or in the other set.
    pub(crate) fn next(&self, other: &Bits, from: usize) -> Option<usize> {
        let mut mask = u64::MAX << (from % 64);
        for (n, (a, b)) in self.0.iter().zip(&other.0).enumerate().skip(from / 64) {
            let word = (a | b) & mask;
            if word != 0 {
                return Some(n * 64 + word.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }
}
