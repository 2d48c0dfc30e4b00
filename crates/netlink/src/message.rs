//! Requests: a header, a fixed part, attributes (`linux/netlink.h`).

/// A request must be answered.
pub const REQUEST: u16 = 0x01;
/// Answer success, too.
pub const ACK: u16 = 0x04;
/// An answer in several parts.
pub const MULTI: u16 = 0x02;
/// What was listed has changed meanwhile.
pub const DUMP_INTERRUPTED: u16 = 0x10;
/// List everything.
pub const DUMP: u16 = 0x300;
/// Of requests that make something: change what is there.
pub const REPLACE: u16 = 0x100;
/// Of requests that make something: fail when it is there.
pub const EXCLUSIVE: u16 = 0x200;
/// Of requests that make something: make it when it is not there.
pub const CREATE: u16 = 0x400;
/// Of requests that make something: at the end of the list.
pub const APPEND: u16 = 0x800;

/// Bytes of a header.
pub const HEADER: usize = 16;
/// The attribute has attributes inside.
const NESTED: u16 = 0x8000;

/// What stands before every message: `struct nlmsghdr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole message.
    pub length: u32,
    /// Type.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// Number of the request.
    pub sequence: u32,
}

/// Attributes, each with its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Attributes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one with these bytes.
    pub fn push(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        match u16::try_from(payload.len() + 4) {
            Ok(length) => {
                self.bytes.extend(length.to_ne_bytes());
                self.bytes.extend(kind.to_ne_bytes());
                self.bytes.extend(payload);
                self.pad();
            }
            Err(_) => self.too_long = true,
        }
        self
    }

    /// Adds a number in the machine's order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.push(kind, &value.to_ne_bytes())
    }

    /// Adds a number in the network's order, as netfilter has it.
    pub fn big(&mut self, kind: u16, value: u32) -> &mut Self {
        self.push(kind, &value.to_be_bytes())
    }

    /// Adds a text with its terminating zero.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend(text.bytes());
        bytes.push(0);
        self.push(kind, &bytes)
    }

    /// Adds one that has these inside.
    pub fn nest(&mut self, kind: u16, inner: &Attributes) -> &mut Self {
        self.too_long |= inner.too_long;
        self.push(kind | NESTED, &inner.bytes)
    }

    /// Their bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A request that is not numbered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    kind: u16,
    flags: u16,
    fixed: Vec<u8>,
    attributes: Attributes,
}

impl Message {
    /// A request of this type with these flags beside [`REQUEST`] and the fixed part that the type has.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: flags | REQUEST, fixed: fixed.to_owned(), attributes: Attributes::new() }
    }

    /// The type.
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// Its attributes, to be added to.
    pub fn attributes(&mut self) -> &mut Attributes {
        &mut self.attributes
    }

    /// Writes the message with this number and more flags behind `bytes`; its header, or `None` when an attribute or the
    /// message is longer than its length can say. Then nothing is written.
    pub fn write(&self, flags: u16, sequence: u32, bytes: &mut Vec<u8>) -> Option<Header> {
        let fixed = self.fixed.len().next_multiple_of(4);
        let length = HEADER + fixed + self.attributes.bytes.len();
        let length = u32::try_from(length).ok().filter(|_| !self.attributes.too_long)?;
        let header = Header { length, kind: self.kind, flags: self.flags | flags, sequence };
        bytes.extend(header.length.to_ne_bytes());
        bytes.extend(header.kind.to_ne_bytes());
        bytes.extend(header.flags.to_ne_bytes());
        bytes.extend(header.sequence.to_ne_bytes());
        // The port: the kernel knows who sent it.
        bytes.extend([0; 4]);
        bytes.extend(&self.fixed);
        bytes.resize(bytes.len() + fixed - self.fixed.len(), 0);
        bytes.extend(&self.attributes.bytes);
        Some(header)
    }
}
