//! Routes.

use super::INET;
use crate::{
    channel::{Channel, Error},
    message::{DUMP, Message},
    read::{self, Part},
};
use std::net::Ipv4Addr;

const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
/// Attributes.
const DESTINATION: u16 = 1;
const GATEWAY: u16 = 5;
/// The table of ordinary routes, `RT_TABLE_MAIN`.
const MAIN: u8 = 254;

/// The first default gateway of the socket's namespace.
///
/// No request for routes can name another namespace. So this is the one list that is read over a channel that may be
/// somebody else's, who can forge it: it is what that one says, and fit for nothing else.
///
/// # Errors
/// See [`Error`].
pub fn gateway_of_another(channel: &mut Channel) -> Result<Option<Ipv4Addr>, Error> {
    // `struct rtmsg`.
    let request = Message::new(GET_ROUTE, 0, &[INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut found = None;
    channel.question(&request, DUMP, |part| found = found.or_else(|| gateway(part)))?;
    Ok(found)
}

/// The gateway of a default route; `None` for every other message.
fn gateway(part: &Part<'_>) -> Option<Ipv4Addr> {
    let [family, prefix, _, _, table, ..] = *part.payload else { return None };
    if part.header.kind != NEW_ROUTE || family != INET || prefix != 0 || table != MAIN {
        return None;
    }
    let mut found = None;
    for item in read::attributes(part.payload.get(12..)?) {
        let (kind, bytes) = item.ok()?;
        match kind {
            DESTINATION => return None,
            GATEWAY => found = Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            _ => {}
        }
    }
    found
}
