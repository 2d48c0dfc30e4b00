//! What `cargo xtask selinux-nested` tells the program inside, and what it hears from it.

use ferrovirt_qemu::order::Order;
use serde::{Deserialize, Serialize};

/// The file with [`Plan`] in the initial RAM file system.
pub const PLAN: &str = "/plan.json";
/// The root file system of the pods, below the machine's own.
pub const POD: &str = "/pod";
/// The level of every pod: they run one after another.
pub const LEVEL: &str = "s0:c1,c2";

/// What is to be tried.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Denials are enforced; otherwise only logged.
    pub enforcing: bool,
    /// The domain of the container runtime.
    pub runtime: String,
    /// The domain of the node agent.
    pub agent: String,
    /// Modules of the kernel in loading order.
    pub modules: Vec<String>,
    /// Labels of files before anything runs.
    pub labels: Vec<(String, String)>,
    /// Huge pages of 2 MiB to reserve.
    pub huge_pages: u32,
    /// One after another.
    pub scenarios: Vec<Scenario>,
}

/// One machine under one type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name in results.
    pub name: String,
    /// The SELinux type of its pod.
    pub domain: String,
    /// What the launcher is told.
    pub order: Order,
    /// Device nodes in the pod: path in the pod, node of the machine.
    pub devices: Vec<(String, String)>,
    /// Files that are copied to the pod's scratch space: path, source.
    pub copies: Vec<(String, String)>,
    /// What the guest says on its serial port when all is well.
    pub expect: Vec<String>,
    /// What the failure says that is wanted instead of success.
    pub fails: Option<String>,
    /// Seconds until it counts as failed.
    pub patience: u64,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The scenario.
    pub name: String,
    /// The type.
    pub domain: String,
    /// The first step that failed, and why; nothing when all is well.
    pub failure: Option<String>,
    /// Milliseconds.
    pub took: u64,
    /// What the guest said.
    pub serial: String,
    /// What the launcher and QEMU logged.
    pub log: String,
}
