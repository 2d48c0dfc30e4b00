//! Columns of KubeVirt's kinds: those of its CRDs.

use super::{AGE, Cell, Column, NAME};

/// Columns of virtual machines.
pub const MACHINES: &[Column] = &[
    NAME,
    AGE,
    Column::new("Status", Cell::At("/status/printableStatus")),
    Column::new("Ready", Cell::Condition("Ready")),
];

/// Columns of virtual machine instances.
pub const INSTANCES: &[Column] = &[
    NAME,
    AGE,
    Column::new("Phase", Cell::At("/status/phase")),
    Column::new("IP", Cell::At("/status/interfaces/0/ipAddress")),
    Column::new("NodeName", Cell::At("/status/nodeName")),
    Column::new("Ready", Cell::Condition("Ready")),
    Column::new("Live-Migratable", Cell::Condition("LiveMigratable")).wide(),
    Column::new("Paused", Cell::Condition("Paused")).wide(),
];

/// Columns of the installation's object.
pub const KUBEVIRTS: &[Column] = &[NAME, AGE, Column::new("Phase", Cell::At("/status/phase"))];
