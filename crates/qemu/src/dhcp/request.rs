//! What a client asks.

use std::net::Ipv4Addr;

/// Length of the part before the options.
pub(super) const FIXED: usize = 236;
/// What the options start with (RFC 2131, section 3).
pub(super) const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// Kinds of messages that clients send (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who has an address for me?
    Discover,
    /// May I have this one?
    Request,
    /// Somebody else uses it.
    Decline,
    /// I am done with it.
    Release,
    /// I have an address; tell me the rest.
    Inform,
}

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Kind.
    pub kind: Kind,
    /// Number that the answer repeats.
    pub transaction: [u8; 4],
    /// Flags, repeated by the answer.
    pub flags: [u8; 2],
    /// Address that the client uses already.
    pub client: Ipv4Addr,
    /// Relay; repeated by the answer.
    pub relay: Ipv4Addr,
    /// The client's Ethernet address.
    pub mac: [u8; 6],
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: the server that the client has chosen.
    pub server: Option<Ipv4Addr>,
    /// Option 61, which the answer repeats (RFC 6842).
    pub client_id: Vec<u8>,
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Ends too early.
    #[error("too short")]
    Short,
    /// Not a request of an Ethernet client.
    #[error("not a request of an Ethernet client")]
    NotEthernet,
    /// No DHCP: BOOTP or something else.
    #[error("no DHCP options")]
    NoOptions,
    /// An option is longer than what is left.
    #[error("option {0} is cut off")]
    CutOff(u8),
    /// No message type or an unknown one.
    #[error("no message type that a client sends")]
    Kind,
}

impl Request {
    /// Reads a datagram.
    ///
    /// # Errors
    /// [`Malformed`]; such a datagram is to be ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let array = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk::<4>).copied();
        // BOOTREQUEST, Ethernet, addresses of six bytes.
        if !bytes.starts_with(&[1, 1, 6]) {
            return Err(if bytes.len() < 3 { Malformed::Short } else { Malformed::NotEthernet });
        }
        let mut options = match bytes.get(FIXED..) {
            None => return Err(Malformed::Short),
            Some(rest) => rest.strip_prefix(&MAGIC).ok_or(Malformed::NoOptions)?,
        };
        let mut kind = None;
        let mut requested = None;
        let mut server = None;
        let mut client_id = Vec::new();
        while let [code, rest @ ..] = options {
            options = match code {
                0 => rest,
                255 => break,
                code => {
                    let (value, after) = rest
                        .split_first()
                        .and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)))
                        .ok_or(Malformed::CutOff(*code))?;
                    match (code, value) {
                        (53, [1]) => kind = Some(Kind::Discover),
                        (53, [3]) => kind = Some(Kind::Request),
                        (53, [4]) => kind = Some(Kind::Decline),
                        (53, [7]) => kind = Some(Kind::Release),
                        (53, [8]) => kind = Some(Kind::Inform),
                        (50, [a, b, c, d]) => requested = Some(Ipv4Addr::new(*a, *b, *c, *d)),
                        (54, [a, b, c, d]) => server = Some(Ipv4Addr::new(*a, *b, *c, *d)),
                        (61, id) => client_id = id.to_vec(),
                        _ => {}
                    }
                    after
                }
            };
        }
        let field = |at| array(at).ok_or(Malformed::Short);
        Ok(Self {
            kind: kind.ok_or(Malformed::Kind)?,
            transaction: field(4)?,
            flags: bytes.get(10..).and_then(<[u8]>::first_chunk).copied().ok_or(Malformed::Short)?,
            client: field(12)?.into(),
            relay: field(24)?.into(),
            mac: bytes.get(28..).and_then(<[u8]>::first_chunk).copied().ok_or(Malformed::Short)?,
            requested,
            server,
            client_id,
        })
    }
}
