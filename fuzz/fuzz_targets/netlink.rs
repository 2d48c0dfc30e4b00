//! Answers on a netlink socket of which somebody else has a copy.
#![no_main]

use ferrovirt_netlink::{
    read,
    route::{Address, Shown, read6},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut behind_headers = 0;
    for part in read::parts(bytes) {
        let Ok(part) = part else { break };
        behind_headers += part.payload.len() + 16;
        if let Ok(answer) = read::answer(&part) {
            assert!((0..4096).contains(&answer.error));
            assert!(answer.text.is_none_or(|text| text.len() <= 200 && text.is_ascii()));
        }
        if let Some(link) = Shown::read(&part) {
            assert!(link.index > 0 && link.name.len() <= part.payload.len());
        }
        if let Some(address) = Address::read(&part) {
            assert!(address.prefix <= 32 && read6(&part).is_none());
        }
        let inside: usize = read::attributes(part.payload).flatten().map(|(_, bytes)| bytes.len() + 4).sum();
        assert!(inside <= part.payload.len());
    }
    assert!(behind_headers <= bytes.len());
});
