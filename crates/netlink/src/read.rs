//! Answers: read without trust in any length.

use crate::message::{HEADER, Header};

/// The last part of an answer in several.
pub const DONE: u16 = 3;
/// An error, or success with the number 0.
pub const ERROR: u16 = 2;
/// Types below are netlink's own.
pub const FIRST_KIND: u16 = 16;

/// Of an answer to a request with a text of the kernel: flag and attribute (`enum nlmsgerr_attrs`).
const CAPPED: u16 = 0x100;
const HAS_ATTRIBUTES: u16 = 0x200;
const TEXT: u16 = 1;
/// Most of the kernel's text that is kept, bytes.
const MOST_TEXT: usize = 200;
/// The type without its two flags.
const KIND: u16 = 0x3fff;

/// Bytes that are no netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a netlink message")]
pub struct Malformed;

/// One message of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Its header.
    pub header: Header,
    /// What stands behind it.
    pub payload: &'a [u8],
}

/// The messages of a datagram. After a malformed one there are no more.
#[derive(Clone, Debug)]
pub struct Parts<'a>(&'a [u8]);

/// Reads a datagram.
pub fn parts(datagram: &[u8]) -> Parts<'_> {
    Parts(datagram)
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = read(self.0);
        self.0 = part.map(|(_, rest)| rest).unwrap_or_default();
        Some(part.map(|(part, _)| part).ok_or(Malformed))
    }
}

fn read(bytes: &[u8]) -> Option<(Part<'_>, &[u8])> {
    let header = header(bytes)?;
    let length = usize::try_from(header.length).ok()?;
    let payload = bytes.get(HEADER..length)?;
    // The last one need not be padded.
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Part { header, payload }, rest))
}

fn header(bytes: &[u8]) -> Option<Header> {
    Some(Header {
        length: u32_at(bytes, 0)?,
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
    })
}

/// A number in the machine's order.
pub fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    let bytes = bytes.get(place..place.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn u16_at(bytes: &[u8], place: usize) -> Option<u16> {
    let bytes = bytes.get(place..place.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// What the kernel says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// An error number, or 0 for success.
    pub error: i32,
    /// The header of the request as the kernel read it.
    pub request: Header,
    /// Its reason in words, where it gives one.
    pub text: Option<String>,
}

/// Reads a message of type [`ERROR`].
///
/// # Errors
/// When it is too short, or the number is none of an error.
pub fn answer(part: &Part<'_>) -> Result<Answer, Malformed> {
    let number = u32_at(part.payload, 0).ok_or(Malformed)?.cast_signed();
    let error = number.checked_neg().filter(|error| (0..4096).contains(error)).ok_or(Malformed)?;
    let request = part.payload.get(4..).and_then(header).ok_or(Malformed)?;
    let mut text = None;
    if part.header.flags & HAS_ATTRIBUTES != 0 {
        // The whole request stands before them, unless it was left out: always so with success.
        let repeated = match part.header.flags & CAPPED != 0 || error == 0 {
            true => HEADER,
            false => usize::try_from(request.length).unwrap_or(usize::MAX),
        };
        let rest = 4_usize
            .checked_add(repeated)
            .and_then(|place| place.checked_next_multiple_of(4))
            .and_then(|place| part.payload.get(place..))
            .unwrap_or_default();
        let words = attributes(rest).filter_map(Result::ok).find(|(kind, _)| *kind == TEXT);
        text = words.map(|(_, bytes)| words_of(bytes)).filter(|text| !text.is_empty());
    }
    Ok(Answer { error, request, text })
}

/// Printable ASCII of the kernel's text.
fn words_of(bytes: &[u8]) -> String {
    let printable = |byte: &&u8| byte.is_ascii_graphic() || **byte == b' ';
    bytes.iter().take(MOST_TEXT).take_while(printable).map(|byte| char::from(*byte)).collect()
}

/// Attributes with their types. After a malformed one there are no more.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(&'a [u8]);

/// Reads attributes.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let attribute = attribute(self.0);
        self.0 = attribute.map(|(_, _, rest)| rest).unwrap_or_default();
        Some(attribute.map(|(kind, payload, _)| (kind, payload)).ok_or(Malformed))
    }
}

fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16_at(bytes, 0)?);
    let kind = u16_at(bytes, 2)? & KIND;
    let payload = bytes.get(4..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, payload, rest))
}

/// A text with or without its terminating zero; `None` when it is no UTF-8.
pub fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(bytes.get(..end)?).ok()
}
