//! The data that the tests share.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use ferrovirt_selinux::Database;
use std::{io::Read as _, path::PathBuf};

pub(crate) const TINY: [&str; 6] = ["tiny.30", "tiny.31", "tiny.32", "tiny.33", "tiny.34", "tiny.35"];

pub(crate) fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if !name.ends_with(".gz") {
        return bytes;
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
    unpacked
}

pub(crate) fn text(name: &str) -> String {
    String::from_utf8(data(name)).unwrap()
}

pub(crate) fn database(name: &str) -> Database {
    Database::open(&data(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
