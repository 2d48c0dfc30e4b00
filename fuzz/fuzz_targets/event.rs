//! Messages of a launcher: whatever they hold, their text is short and acts on nothing that shows it.
#![no_main]

use ferrovirt_qemu::{
    protocol::{Event, State},
    text,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(event) = serde_json::from_slice::<Event>(bytes) else { return };
    let message = match event.plain() {
        Event::Refused { message, .. }
        | Event::NotReady { message }
        | Event::State { state: State::Ended { message, .. }, .. } => message,
        Event::State { .. } | Event::Network => return,
    };
    assert!(!message.chars().any(text::acts));
    assert!(message.chars().count() <= text::LAST_WORDS + 40);
    assert_eq!(text::Escaped(&message).to_string(), message);
});
