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
mod host_disks;
mod image_server;
mod images;
mod launcher;
mod log;
mod options;
mod qemu;
mod secrets;
mod serial;
mod slot;
mod start;

use options::Task;
use std::process::ExitCode;

fn main() -> ExitCode {
    let task = match Task::parse(std::env::args_os().skip(1)) {
        Ok(task) => task,
        Err(message) => {
            log::line(&message);
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Run(options) => launcher::run(options).map_err(|error| error.to_string()),
        Task::CopyTo(file) => image_server::copy(&file)
            .map(|()| true)
            .map_err(|error| format!("copying the program to {}: {error}", file.display())),
        Task::ServeImage(socket, root) => image_server::serve(&socket, &root)
            .map(|()| true)
            .map_err(|error| format!("serving the image at {}: {error}", socket.display())),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            log::line(&error);
            ExitCode::FAILURE
        }
    }
}
