//! The bytes of a QEMU that a guest has taken over: split into lines, read, and taken by the run-state machine.
#![no_main]

use ferrovirt_qemu::{
    guest::{Exit, Guest},
    order::Order,
    protocol::State,
    qmp::{Lines, parse},
};
use libfuzzer_sys::fuzz_target;
use std::{sync::LazyLock, time::Duration};

static ORDER: LazyLock<Order> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../crates/qemu/tests/golden/minimal/order.json")).expect("golden order")
});

fuzz_target!(|bytes: &[u8]| {
    let mut guest = Guest::new(&ORDER);
    let mut lines = Lines::new(4096);
    let mut now = Duration::ZERO;
    for piece in bytes.chunks(97) {
        lines.push(piece);
        while let Ok(Some(line)) = lines.next_line() {
            let Ok(message) = parse(&line) else { continue };
            now += Duration::from_secs(1);
            guest.message(message, now);
            guest.tick(now);
        }
    }
    guest.shutdown(Duration::from_secs(1), now);
    assert!(matches!(guest.gone(Exit::Signal(9), "last words"), State::Ended { .. }));
});
