//! Any text as CIL: nothing panics, and what is read is written so that it is read alike.
#![no_main]

use ferrovirt_selinux::cil;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let Ok(statements) = cil::parse(&text) else { return };
    let written = cil::text(&statements);
    assert_eq!(cil::parse(&written), Ok(statements), "{written}");
});
