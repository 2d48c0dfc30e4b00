//! The first process of a guest in which the rules of an SELinux policy are tried.
//!
//! It loads the policy, starts one worker in each domain, switches the kernel to enforcing and lets the workers do their
//! operations one after another. What it does and in which contexts stands in the scenario, which `ferrovirt selinux prove`
//! writes; what was seen goes to the second serial port, the kernel's records to the first. It knows no expectation.

mod init;
mod operations;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("worker") {
        return match worker::run(&words.next().unwrap_or_default()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("worker: {error}");
                ExitCode::FAILURE
            }
        };
    }
    ferrovirt_lab_guest::run(init::conduct)
}
