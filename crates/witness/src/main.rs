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

/// Held by a test that starts a program, and by one for which it counts who has a descriptor: until it is executed, a program has
/// a copy of each.
#[cfg(test)]
fn programs() -> std::sync::MutexGuard<'static, ()> {
    static PROGRAMS: std::sync::Mutex<()> = std::sync::Mutex::new(());
    PROGRAMS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
