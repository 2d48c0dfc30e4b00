//! Any text as an audit log, and as CIL: nothing panics, and CIL that is read is written so that it is read alike.
#![no_main]

use ferrovirt_selinux::{avc, cil};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (events, _) = avc::events(text.lines());
    for event in &events {
        let _ = event.tun_request();
        for (_, denial) in event.denials() {
            let explanation = avc::explain(event, denial, None, &|_, _, _| None);
            assert!(explanation.details.is_empty());
        }
    }
    if let Ok(statements) = cil::parse(&text) {
        let written = cil::text(&statements);
        assert_eq!(cil::parse(&written), Ok(statements), "{written}");
    }
});
