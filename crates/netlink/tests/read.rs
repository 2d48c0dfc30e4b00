//! Answers: whatever the bytes are, they are read within their bounds, and what was written is read back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use ferrovirt_netlink::{
    message::{ACK, Attributes, Header, Message},
    read::{self, Answer, ERROR, Malformed},
    route::{Address, Shown},
};
use proptest::prelude::*;

/// An answer as the kernel writes it.
fn answer(flags: u16, error: i32, request: &[u8], attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = 16 + 4 + request.len().next_multiple_of(4) + attributes.len();
    bytes.extend(u32::try_from(length).unwrap().to_ne_bytes());
    bytes.extend(ERROR.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend((-error).to_ne_bytes());
    bytes.extend(request);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(attributes);
    bytes
}

fn request(attributes: usize) -> (Vec<u8>, Header) {
    let mut message = Message::new(16, 0, &[0; 16]);
    message.attributes().push(3, &vec![b'x'; attributes]);
    let mut bytes = Vec::new();
    let header = message.write(ACK, 7, &mut bytes).unwrap();
    (bytes, header)
}

#[test]
fn an_answer_has_the_header_of_its_request_and_the_kernels_reason() {
    let (bytes, header) = request(5);
    let mut text = Attributes::new();
    text.number(2, 20).text(1, "no such thing");
    for (flags, repeated) in [(0x200, &bytes[..]), (0x300, &bytes[..16])] {
        let datagram = answer(flags, 22, repeated, text.bytes());
        let part = read::parts(&datagram).next().unwrap().unwrap();
        let expected = Answer { error: 22, request: header, text: Some("no such thing".to_owned()) };
        assert_eq!(read::answer(&part), Ok(expected));
    }
    let datagram = answer(0, 0, &bytes[..16], &[]);
    let part = read::parts(&datagram).next().unwrap().unwrap();
    assert_eq!(read::answer(&part), Ok(Answer { error: 0, request: header, text: None }));
}

#[test]
fn numbers_that_are_no_errors_and_answers_without_a_request_are_malformed() {
    let (bytes, _) = request(0);
    for error in [-1, 4096, i32::MIN + 1] {
        let datagram = answer(0, error, &bytes[..16], &[]);
        assert_eq!(read::answer(&read::parts(&datagram).next().unwrap().unwrap()), Err(Malformed));
    }
    let datagram = answer(0, 1, &bytes[..11], &[]);
    let mut part = read::parts(&datagram).next().unwrap().unwrap();
    part.payload = &part.payload[..15];
    assert_eq!(read::answer(&part), Err(Malformed));
}

#[test]
fn a_text_of_the_kernel_is_cut_at_what_cannot_be_printed() {
    let (bytes, _) = request(0);
    let mut text = Attributes::new();
    text.push(1, b"fine\x1b[2J\xff");
    let datagram = answer(0x300, 1, &bytes[..16], text.bytes());
    let part = read::parts(&datagram).next().unwrap().unwrap();
    assert_eq!(read::answer(&part).unwrap().text.as_deref(), Some("fine"));
}

#[test]
fn what_is_too_long_is_not_written() {
    for length in [65_531, 65_532] {
        let mut message = Message::new(16, 0, &[]);
        message.attributes().push(1, &vec![0; length]);
        let mut bytes = Vec::new();
        assert_eq!(message.write(0, 1, &mut bytes).is_some(), length == 65_531);
        assert_eq!(bytes.is_empty(), length != 65_531);
    }
    let mut inner = Attributes::new();
    inner.push(1, &vec![0; 70_000]);
    let mut outer = Attributes::new();
    outer.nest(1, &inner);
    let mut message = Message::new(16, 0, &[]);
    message.attributes().nest(1, &outer);
    assert_eq!(message.write(0, 1, &mut Vec::new()), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_within_their_bounds(bytes: Vec<u8>) {
        let mut behind_headers = 0;
        for part in read::parts(&bytes) {
            let Ok(part) = part else { break };
            behind_headers += part.payload.len() + 16;
            let _answer = read::answer(&part);
            let _link = Shown::read(&part);
            let _address = Address::read(&part);
        }
        prop_assert!(behind_headers <= bytes.len());
        let inside: usize = read::attributes(&bytes).filter_map(Result::ok).map(|(_, it)| it.len() + 4).sum();
        prop_assert!(inside <= bytes.len());
    }

    /// Right headers, so that more than the first length is looked at.
    #[test]
    fn any_answer_and_link_is_read_within_its_bounds(kind in 0_u16..40, flags: u16, payload: Vec<u8>) {
        let header = Header { length: 0, kind, flags, sequence: 1 };
        let part = read::Part { header, payload: &payload };
        let _link = Shown::read(&part);
        let _address = Address::read(&part);
        if let Ok(answer) = read::answer(&part) {
            prop_assert!((0..4096).contains(&answer.error));
            prop_assert!(answer.text.is_none_or(|text| text.len() <= 200 && text.is_ascii()));
        }
    }

    #[test]
    fn what_was_written_is_read_back(
        kind: u16, flags: u16, sequence: u32, fixed in proptest::collection::vec(any::<u8>(), 0..20),
        attributes in proptest::collection::vec((0_u16..0x4000, proptest::collection::vec(any::<u8>(), 0..50)), 0..6),
    ) {
        let mut message = Message::new(kind, flags, &fixed);
        for (kind, payload) in &attributes {
            message.attributes().push(*kind, payload);
        }
        let mut bytes = Vec::new();
        let header = message.write(0, sequence, &mut bytes).unwrap();
        let parts: Vec<_> = read::parts(&bytes).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(parts.len(), 1);
        prop_assert_eq!(parts[0].header, header);
        let rest = &parts[0].payload[fixed.len().next_multiple_of(4)..];
        let back: Vec<_> = read::attributes(rest).map(|it| it.unwrap()).map(|(kind, it)| (kind, it.to_vec())).collect();
        prop_assert_eq!(back, attributes);
    }
}
