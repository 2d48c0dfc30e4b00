//! QEMU as data: the launcher's order, the messages between node agent and launcher, the command line, QMP
//! messages and the run-state of one guest. Nothing here opens a file or a socket.

pub mod order;
pub mod protocol;
