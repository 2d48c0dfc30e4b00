//! The log of what runs until it is stopped.

use std::io::{IsTerminal as _, stderr};
use tracing_subscriber::EnvFilter;

/// Logs to standard error from now on: what `RUST_LOG` says, or `info`.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,kube=warn".into());
    tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        .init();
}
