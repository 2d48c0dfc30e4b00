//! Numbers of other network namespaces.

use super::Target;
use crate::{
    channel::{Error, Socket},
    message::Message,
    read,
};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

const NEW: u16 = 88;
const GET: u16 = 90;
/// Attributes: the number, and an open descriptor of the namespace.
const NUMBER: u16 = 1;
const DESCRIPTOR: u16 = 3;

/// The number by which the socket's namespace knows the one that is open; it gets one when it has none. It keeps it
/// until one of the two ends.
///
/// # Errors
/// See [`Error`].
pub fn target(socket: &mut Socket, namespace: BorrowedFd<'_>) -> Result<Target, Error> {
    let request = |kind| {
        let mut message = Message::new(kind, 0, &[0; 4]);
        message.attributes().number(DESCRIPTOR, namespace.as_raw_fd().cast_unsigned());
        message
    };
    let mut new = request(NEW);
    // Any that is free.
    new.attributes().push(NUMBER, &(-1_i32).to_ne_bytes());
    match socket.order(&new) {
        Err(error) if error.errno() == Some(Errno::EXIST) => {}
        other => other?,
    }
    let mut found = None;
    socket.ask(&request(GET), |part| {
        let payload = part.payload.get(4..).unwrap_or_default();
        let numbers = read::attributes(payload).filter_map(Result::ok).filter(|(kind, _)| *kind == NUMBER);
        found = numbers.filter_map(|(_, bytes)| read::u32_at(bytes, 0)).next();
    })?;
    found.map(u32::cast_signed).filter(|number| *number >= 0).ok_or(Error::Malformed)
}
