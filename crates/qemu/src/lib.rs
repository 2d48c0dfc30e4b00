//! QEMU as data: the launcher's order, the messages between node agent and launcher, the command line, the images of
//! seeds, QMP messages, the run-state of one guest and the DHCP answers to it. Nothing here opens a file or a socket.

pub mod command;
pub mod dhcp;
pub mod guest;
pub mod image;
pub mod iso;
pub mod order;
pub mod protocol;
pub mod qmp;
pub mod rules;
pub mod seed;
pub mod text;

pub use command::{Descriptors, OrderError, check, command_line};
