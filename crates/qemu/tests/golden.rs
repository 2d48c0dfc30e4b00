//! Whole command lines: `golden/<case>/order.json` gives `golden/<case>/command.txt`, one argument to a line.
//! `GOLDEN=write` writes what is made now; the difference is the review.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

use ferrovirt_qemu::{Descriptors, command_line, order::Order};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// Descriptors as a launcher would number them.
fn descriptors(order: &Order) -> Descriptors {
    let mut next = 5;
    let mut taps = BTreeMap::new();
    for nic in &order.nics {
        let count = i32::try_from(nic.queues).unwrap();
        taps.insert(nic.name.clone(), (next..next + count).collect());
        next += count;
    }
    Descriptors {
        qmp: 3,
        serial: order.serial.then_some(4),
        taps,
        vnc: order.graphics.then(|| "/var/run/kubevirt/sockets/vnc.sock".into()),
        direct: order
            .disks
            .iter()
            .filter(|disk| disk.name == "direct")
            .map(|disk| disk.name.clone())
            .collect(),
        block_devices: order
            .disks
            .iter()
            .filter(|disk| disk.path.starts_with("/dev/"))
            .map(|disk| disk.name.clone())
            .collect(),
    }
}

/// The order of keys in an object says nothing; everything else does.
fn comparable(text: &str) -> Vec<Result<Value, String>> {
    text.lines().map(|line| serde_json::from_str(line).map_err(|_| line.to_owned())).collect()
}

#[test]
fn command_lines_are_as_reviewed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    for case in fs::read_dir(directory).unwrap() {
        let case = case.unwrap().path();
        let order: Order = serde_json::from_slice(&fs::read(case.join("order.json")).unwrap()).unwrap();
        let line = command_line(&order, &descriptors(&order)).unwrap();
        let text: String = line.iter().map(|arg| format!("{}\n", arg.to_str().unwrap())).collect();
        let golden = case.join("command.txt");
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            fs::write(&golden, &text).unwrap();
        }
        let want = fs::read_to_string(&golden).unwrap();
        assert_eq!(comparable(&text), comparable(&want), "{}", case.display());
        cases += 1;
    }
    assert!(cases >= 5);
}
