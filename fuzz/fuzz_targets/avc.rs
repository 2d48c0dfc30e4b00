//! Any text as an audit log: nothing panics, and without a policy nothing is said about one.
#![no_main]

use ferrovirt_plan::selinux::denial;
use ferrovirt_selinux::avc;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (events, _) = avc::events(text.lines());
    for event in &events {
        let _ = event.tun_request();
        for (_, denial) in event.denials() {
            let explanation = denial::explain(event, denial, None, &|_, _, _, _| None);
            assert!(explanation.details.is_empty());
        }
    }
});
