//! The privilege profile of a cluster.

use std::{fmt, str::FromStr};

/// How much privilege launcher pods get. Chosen on the KubeVirt object, see `docs/profiles.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Profile {
    /// Only what the features of the machine at hand need; the node agent performs the privileged steps and
    /// passes open descriptors.
    #[default]
    Minimal,
    /// What the documents say, for every machine: `container_t` and the four rules, the SCC
    /// `kubevirt-controller`, NET_ADMIN, NET_RAW and SYS_NICE.
    Documented,
}

impl Profile {
    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Documented => "documented",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A profile name that is neither `minimal` nor `documented`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown profile `{0}`: use `minimal` or `documented`")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "minimal" => Ok(Self::Minimal),
            "documented" => Ok(Self::Documented),
            other => Err(UnknownProfile(other.to_owned())),
        }
    }
}
