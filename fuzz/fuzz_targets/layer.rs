//! Layers of images: whatever they hold, nothing is written beside the directory, and no more than the limits allow.
#![no_main]

use ferrovirt_unpack::{Limits, Tree, apply};
use libfuzzer_sys::fuzz_target;
use std::fs;

fuzz_target!(|bytes: &[u8]| {
    let Ok(outside) = tempfile::tempdir() else { return };
    let root = outside.path().join("root");
    if fs::create_dir(&root).is_err() {
        return;
    }
    let Ok(tree) = Tree::open(&root) else { return };
    let limits = Limits { bytes: 1 << 20, entries: 100, ratio: 10, reserve: 0 };
    // Most bytes are no archive; that is an error like any other.
    let _refused = apply(bytes, &tree, limits, bytes.len() as u64);
    let beside = fs::read_dir(outside.path()).map(Iterator::count);
    assert_eq!(beside.ok(), Some(1), "something lies beside the root");
});
