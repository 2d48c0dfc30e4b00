//! Any bytes as the results and the kernel's log of a proof's guest, with a line `log` between them: nothing panics, and what
//! did not happen never agrees with the table.
#![no_main]

use ferrovirt_lab_protocol::{proof::Seen, read};
use ferrovirt_plan::selinux::prove::{Plan, compare};
use ferrovirt_selinux::Database;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static POLICY: LazyLock<Database> =
    LazyLock::new(|| Database::open(include_bytes!("../seeds/policy/tiny.33")).expect("a valid policy"));

fuzz_target!(|data: &[u8]| {
    let separator = b"\nlog\n";
    let end = data.windows(separator.len()).position(|part| part == separator);
    // The line before keeps its end.
    let (results, log) = end.map_or((data, &[][..]), |end| (&data[..=end], &data[end + separator.len()..]));
    let said = read::<Seen>(results);
    assert!(said.reports.len() + said.notes.len() <= results.split(|byte| *byte == b'\n').count());
    let plan = Plan { trials: Vec::new(), module: String::new(), blank: String::new() };
    let log = String::from_utf8_lossy(log);
    if let Ok(proof) = compare((&POLICY, &POLICY), &plan, &[], (said, &log), String::new()) {
        assert!(!proof.holds());
    }
});
