//! The kinds of denials, and the parts of a machine that they are about.

/// The part of a machine that a denial is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Opening a TAP device that exists, or a further queue.
    NetworkTap,
    /// Enabling a queue again.
    NetworkMultiqueue,
    /// Huge pages.
    HugePages,
    /// Memory that is shared through a file.
    MemoryBacking,
    /// Host devices.
    Sriov,
    /// None of them.
    None,
}

impl Topic {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkTap => "network-tap",
            Self::NetworkMultiqueue => "network-multiqueue",
            Self::HugePages => "hugepages",
            Self::MemoryBacking => "memory-backing",
            Self::Sriov => "sriov",
            Self::None => "none",
        }
    }
}

/// What a denial means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A context that the policy does not know.
    UnknownContext,
    /// The policy allows it.
    AllowedNow,
    /// A program asks the kernel what the policy says.
    Query,
    /// A program that starts containers does not run in the runtime's domain.
    MislabelledRuntime,
    /// A container's domain tries to leave its confinement.
    EscapeAttempt,
    /// A rule allows it, a constraint keeps containers apart.
    Isolation,
    /// The TAP device was made by another domain.
    ForeignTap,
    /// A rule exists, but its boolean is off.
    Boolean,
    /// The privilege table grants this with a feature.
    FeatureRule,
    /// The type that was copied may do this, the copy may not.
    LostFromBase,
    /// More access than the table grants to something that it grants a part of.
    NotGranted,
    /// The feature needs this, and neither the base policy nor the table gives it.
    BaseGap,
    /// Nothing of the above.
    Other,
}

impl Kind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::FeatureRule => "feature-rule",
            Self::ForeignTap => "foreign-tap",
            Self::LostFromBase => "lost-from-container_t",
            Self::BaseGap => "base-gap",
            Self::Isolation => "isolation",
            Self::Query => "query",
            Self::MislabelledRuntime => "mislabelled-runtime",
            Self::EscapeAttempt => "escape-attempt",
            Self::NotGranted => "not-granted",
            Self::Boolean => "boolean",
            Self::AllowedNow => "allowed-now",
            Self::UnknownContext => "unknown-context",
            Self::Other => "other",
        }
    }

    /// What to do.
    pub fn advice(self) -> &'static str {
        match self {
            Self::FeatureRule => {
                "if the machine has this feature, install the module that is made for it; otherwise the denial is right"
            }
            Self::ForeignTap => {
                "make the TAP device in the launcher's own context (or pass its open queues); do not widen the policy"
            }
            Self::LostFromBase => {
                "the module was made from attributes alone or is stale: make it again from this node's policy"
            }
            Self::BaseGap => {
                "this base policy lacks what the feature needs; the documented rules do not add it: use a base that has \
                 it, or the minimal profile, which needs no such access"
            }
            Self::Isolation => {
                "two machines or containers are kept apart, as they should be; never add a rule for this"
            }
            Self::Query => {
                "nothing is left or changed by a question; the program does without the answer, or its own policy module \
                 lets it ask"
            }
            Self::MislabelledRuntime => {
                "the container runtime runs in its caller's domain, since its file has not the label of a runtime: see it \
                 with `ls -Z` of runc or crun, mend it with `restorecon -v`, and add no rule"
            }
            Self::EscapeAttempt => {
                "treat it as an attack or a misconfigured program; never add a rule for this"
            }
            Self::NotGranted => "change the program: only plain writing is granted; do not widen the policy",
            Self::Boolean => {
                "switch the boolean on if its whole meaning is wanted on this node (setsebool -P)"
            }
            Self::AllowedNow => {
                "this policy allows it: the denial is older than the policy, or of another node; nothing is missing"
            }
            Self::UnknownContext => {
                "the log and the policy do not belong together: explain with the node's own policy"
            }
            Self::Other => "no feature of a machine needs this; find out which program asks for it",
        }
    }
}
