//! Links as the kernel shows them.

use super::{GET_LINK, NEW_LINK, Target, UP, attribute, head};
use crate::{
    channel::{Error, Socket},
    message::Message,
    read::{self, Part},
};

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Its index, of its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Other names.
    pub alternatives: Vec<String>,
    /// Its kind, such as `bridge`, `veth` or `tun`; empty for what is not virtual.
    pub kind: String,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// The other end, or the link below, by the index of that one's namespace.
    pub other_end: Option<u32>,
    /// Hardware address, where it is one of six bytes.
    pub address: Option<[u8; 6]>,
    /// Its longest packet, bytes.
    pub mtu: u32,
    /// Up.
    pub up: bool,
}

impl Shown {
    /// Reads a message; `None` when it is none of a link.
    pub fn read(part: &Part<'_>) -> Option<Self> {
        if part.header.kind != NEW_LINK {
            return None;
        }
        let index = read::u32_at(part.payload, 4).filter(|index| *index > 0)?;
        let mut link = Self { index, up: read::u32_at(part.payload, 8)? & UP != 0, ..Self::default() };
        for item in read::attributes(part.payload.get(16..)?) {
            let (kind, bytes) = item.ok()?;
            match kind {
                attribute::NAME => link.name = read::text(bytes)?.to_owned(),
                attribute::ADDRESS => link.address = bytes.try_into().ok(),
                attribute::MTU => link.mtu = read::u32_at(bytes, 0)?,
                attribute::LINK => link.other_end = read::u32_at(bytes, 0),
                attribute::MASTER => link.master = read::u32_at(bytes, 0),
                attribute::INFO => {
                    let kind = read::attributes(bytes).filter_map(Result::ok).find(|(kind, _)| *kind == 1);
                    link.kind = kind.and_then(|(_, bytes)| read::text(bytes)).unwrap_or_default().to_owned();
                }
                attribute::PROPERTIES => {
                    let names = read::attributes(bytes).filter_map(Result::ok);
                    let names = names.filter(|(kind, _)| *kind == attribute::ALTERNATIVE);
                    let names = names.filter_map(|(_, bytes)| read::text(bytes).map(str::to_owned));
                    link.alternatives = names.collect();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// The links of the socket's namespace or of another, all or the ports of one bridge.
///
/// # Errors
/// See [`Error`].
pub fn links(socket: &mut Socket, target: Option<Target>, master: Option<u32>) -> Result<Vec<Shown>, Error> {
    let mut message = Message::new(GET_LINK, 0, &head(0, 0, 0));
    if let Some(target) = target {
        message.attributes().push(attribute::TARGET, &target.to_ne_bytes());
    }
    if let Some(master) = master {
        message.attributes().number(attribute::MASTER, master);
    }
    let all = socket.list(&message, Shown::read)?;
    // Kernels before 4.4 list all.
    Ok(all.into_iter().filter(|link| master.is_none() || link.master == master).collect())
}

/// The link of this name in the socket's namespace or in another; `None` when there is none. Names in the kernel's
/// sense: also alternative ones.
///
/// # Errors
/// See [`Error`].
pub fn link_named(socket: &mut Socket, target: Option<Target>, name: &str) -> Result<Option<Shown>, Error> {
    one(socket, target, 0, Some(name))
}

/// The link with this index in the socket's namespace or in another; `None` when there is none.
///
/// # Errors
/// See [`Error`].
pub fn link_at(socket: &mut Socket, target: Option<Target>, index: u32) -> Result<Option<Shown>, Error> {
    one(socket, target, index, None)
}

fn one(
    socket: &mut Socket,
    target: Option<Target>,
    index: u32,
    name: Option<&str>,
) -> Result<Option<Shown>, Error> {
    let mut message = Message::new(GET_LINK, 0, &head(index, 0, 0));
    if let Some(name) = name {
        message.attributes().text(attribute::NAME, name);
    }
    if let Some(target) = target {
        message.attributes().push(attribute::TARGET, &target.to_ne_bytes());
    }
    let mut found = None;
    match socket.ask(&message, |part| found = Shown::read(part)) {
        Err(error) if error.errno() == Some(rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}
