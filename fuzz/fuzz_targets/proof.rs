//! Any text as the results and the kernel's log of a proof's guest, with a line `log` between them: nothing panics, and what
//! did not happen is never told as agreeing with the table.
#![no_main]

use ferrovirt_plan::selinux::prove::{Plan, compare};
use ferrovirt_selinux::Database;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static POLICY: LazyLock<Database> =
    LazyLock::new(|| Database::open(include_bytes!("../seeds/policy/tiny.33")).expect("a valid policy"));

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (results, log) = text.split_once("\nlog\n").unwrap_or((&text, ""));
    let plan = Plan { trials: Vec::new(), module: String::new(), blank: String::new() };
    if let Ok(proof) = compare((&POLICY, &POLICY), &plan, &[], (results, log), String::new()) {
        assert!(!proof.holds());
    }
});
