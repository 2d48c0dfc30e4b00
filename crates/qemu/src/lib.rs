//! QEMU as data: the launcher's order, the messages between node agent and launcher, the command line, QMP
//! messages, the run-state of one guest and the DHCP answers to it. Nothing here opens a file or a socket.

pub mod command;
pub mod dhcp;
pub mod guest;
pub mod image;
pub mod order;
pub mod protocol;
pub mod qmp;
pub mod rules;
pub mod text;

pub use command::{Descriptors, OrderError, command_line};
