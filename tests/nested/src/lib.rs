//! What `cargo xtask selinux-nested` tells the program inside, and what it hears from it.

use ferrovirt_lab_protocol::Setup;
use ferrovirt_qemu::order::Order;
use serde::{Deserialize, Serialize};

/// The file with [`Plan`] in the initial RAM file system.
pub const PLAN: &str = "/plan.json";
/// The root file system of the pods, below the machine's own.
pub const POD: &str = "/pod";
/// The log of a launcher that the agent starts, in the pod.
pub const LOG: &str = "/var/run/compute.log";
/// The launcher's program on a mount of its own without set-user-ID programs, as the agent has it.
pub const LAUNCHER: &str = "/virt-launcher";
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
    /// Before everything else.
    pub setup: Setup,
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
    /// The node agent is the container engine too, as in `ferrovirt up`: it starts the launcher in its own domain, and the
    /// log is a file.
    pub by_agent: bool,
    /// What the launcher is sent.
    pub order: Order,
    /// Device nodes in the pod: path in the pod, node of the machine.
    pub devices: Vec<(String, String)>,
    /// Files that are copied to the pod's scratch space: path, source.
    pub copies: Vec<(String, String)>,
    /// What the guest says on its serial port when all is well.
    pub expect: Vec<String>,
    /// What the failure says that is wanted instead of success.
    pub fails: Option<String>,
    /// Once all is well, QEMU is stopped by a signal and the launcher asked to end it, which it can do by killing it alone.
    pub deaf: bool,
    /// Seconds until it counts as failed.
    pub timeout: u64,
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

/// The file with [`Node`] on the disk of a whole node.
pub const NODE: &str = "/usr/libexec/nested/node.json";

/// Another policy of the whole node, which does not let the node agent start launchers of the documented profile.
pub const UNREACHABLE: &str = "/policy.unreachable";

/// A whole node: `ferrovirt up` with everything that it starts, and the machines that are made on it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Node {
    /// Denials are enforced; otherwise only logged.
    pub enforcing: bool,
    /// Before everything else.
    pub setup: Setup,
    /// The domain of the one who starts `ferrovirt up`.
    pub engine: String,
    /// The domain that `ferrovirt up` and the node agent come into by it.
    pub agent: String,
    /// Machines, made in this order, removed at the end.
    pub machines: Vec<Wanted>,
}

/// A machine of a whole node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// Name of the VirtualMachine.
    pub name: String,
    /// The privilege profile that the cluster has when it is made.
    pub profile: String,
    /// What kubectl applies.
    pub manifest: String,
    /// The SELinux type that its processes have to have.
    pub domain: String,
    /// Huge pages that it takes.
    pub huge_pages: u32,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// What was wrong; nothing when all is well.
    pub failure: Option<String>,
    /// What was seen.
    pub seen: String,
    /// Milliseconds.
    pub took: u64,
}
