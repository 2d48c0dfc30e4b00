//! What the parts of the handler say to each other.
#![no_main]

use ferrovirt_handler::net::talk::{FromApi, Open, Opened, ToApi, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((_, body)) = read::<FromApi>(bytes) {
        assert!(bytes.ends_with(body) && body.len() < bytes.len());
    }
    drop((read::<Open>(bytes), read::<Opened>(bytes)));
    if let Ok((head, _)) = read::<ToApi>(bytes) {
        let line = serde_json::to_vec(&head).unwrap_or_default();
        assert_eq!(read::<ToApi>(&[&line[..], b"\n"].concat()).ok().map(|(head, _)| head), Some(head));
    }
});
