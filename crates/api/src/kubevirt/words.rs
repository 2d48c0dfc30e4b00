//! The words that fields of type string hold.

use std::str::FromStr;

/// Phases of a VirtualMachineInstance (`status.phase`).
pub mod phase {
    pub const PENDING: &str = "Pending";
    pub const SCHEDULING: &str = "Scheduling";
    pub const SCHEDULED: &str = "Scheduled";
    pub const RUNNING: &str = "Running";
    pub const SUCCEEDED: &str = "Succeeded";
    pub const FAILED: &str = "Failed";
    pub const UNKNOWN: &str = "Unknown";
}

/// When a VirtualMachine runs (`spec.runStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStrategy {
    /// Always running; started again whatever ended it.
    Always,
    /// Never running.
    Halted,
    /// Only on request.
    Manual,
    /// Started again after a failure, not after a shutdown.
    RerunOnFailure,
    /// Started once.
    Once,
    /// Waits for a migration from another cluster; refused by validation.
    WaitAsReceiver,
}

impl RunStrategy {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::Halted => "Halted",
            Self::Manual => "Manual",
            Self::RerunOnFailure => "RerunOnFailure",
            Self::Once => "Once",
            Self::WaitAsReceiver => "WaitAsReceiver",
        }
    }
}

/// A run strategy that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid RunStrategy ({0})")]
pub struct UnknownRunStrategy(String);

impl FromStr for RunStrategy {
    type Err = UnknownRunStrategy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Always, Self::Halted, Self::Manual, Self::RerunOnFailure, Self::Once, Self::WaitAsReceiver]
            .into_iter()
            .find(|strategy| strategy.name() == text)
            .ok_or_else(|| UnknownRunStrategy(text.to_owned()))
    }
}

impl super::VirtualMachineSpec {
    /// The run strategy in force: `runStrategy`, or what the deprecated `running` stands for; `None` if neither
    /// is given or the word is unknown, which validation refuses.
    pub fn strategy(&self) -> Option<RunStrategy> {
        match (&self.run_strategy, self.running) {
            (Some(strategy), _) => strategy.parse().ok(),
            (None, Some(true)) => Some(RunStrategy::Always),
            (None, Some(false)) => Some(RunStrategy::Halted),
            (None, None) => None,
        }
    }
}
