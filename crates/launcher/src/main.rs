//! `virt-launcher`: runs one guest.
//!
//! It listens on the descriptor that it was started with, or connects to the handler in its slot, takes one order and open descriptors from the node agent,
//! starts QEMU, and tells everyone who is connected what becomes of the guest. It decides nothing, asks no
//! Kubernetes, and is the first process of its container: it reaps, and SIGTERM means a graceful shutdown.
//!
//! One thread, one poll loop; its own memory stays under a few MiB because there is one launcher for each machine.

mod agents;
mod claims;
mod dhcp;
mod disks;
mod files;
mod images;
mod launcher;
mod log;
mod options;
mod qemu;
mod secrets;
mod serial;
mod slot;
mod start;

use options::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            log::line(&message);
            return ExitCode::from(2);
        }
    };
    match launcher::run(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            log::line(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
