//! What a node answers about its machines: the words and codes, wherever it is asked.

use super::redacted::Redacted;
use ferrovirt_kubernetes::status;
use ferrovirt_qemu::protocol::Console;
use http::StatusCode;
use serde_json::Value;
use std::time::Duration;

/// Words for a machine without a guest that runs.
pub const NOT_RUNNING: &str = "VMI is not running";
/// How long a launcher may take to answer.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Why vCPUs are not stopped or run, or a console is not connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no running guest.
    #[error("{NOT_RUNNING}")]
    NotRunning,
    /// The launcher said no.
    #[error("{0}")]
    Launcher(Redacted),
    /// The launcher says nothing.
    #[error("the launcher does not answer")]
    Silent,
    /// Too many others wait for the same.
    #[error("too many requests wait for this machine: try again later")]
    Busy,
}

impl Refusal {
    /// The code of the answer.
    pub fn code(&self) -> StatusCode {
        match self {
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::NotRunning | Self::Launcher(_) | Self::Silent => StatusCode::CONFLICT,
        }
    }
}

/// What is said of a machine that is not on this node.
pub fn not_here(name: &str) -> String {
    format!("virtualmachineinstances.kubevirt.io \"{name}\" not found on this node")
}

/// What is said of a machine that has no such console.
pub fn no_console(console: Console) -> &'static str {
    match console {
        Console::Serial => "No serial console is attached to the VMI",
        Console::Vnc => "No graphics device is attached to the VMI",
    }
}

/// The body of a refusal: a Kubernetes Status.
pub fn failure(code: StatusCode, message: &str) -> String {
    let code = code.as_u16();
    status::failure(code, status::reason(code), message, &Value::Null).to_string()
}
