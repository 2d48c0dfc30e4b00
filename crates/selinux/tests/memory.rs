//! What a hostile policy makes us reserve is a small multiple of its size.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use common::data;
use ferrovirt_selinux::{
    Database,
    query::{Criterion, Query, search},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that were asked for while reading, checking and searching, also those that were given back in between.
fn reserved(bytes: &[u8]) -> usize {
    let region = Region::new(ALLOCATOR);
    if let Ok(database) = Database::open(bytes)
        && let Some(kind) = database.types().next()
    {
        let name = database.type_name(kind).to_owned();
        let source = Some(Criterion { name, direct: false });
        let _ = search(&database, &Query { source, ..Query::default() });
    }
    region.change().bytes_allocated
}

/// One test, since the count is the whole process's.
#[test]
fn memory_is_bounded_by_the_size() {
    a_full_policy_takes_a_few_times_its_size();
    a_lie_about_a_count_reserves_little();
}

/// Each word of the file in turn is a length or count that nothing stands behind.
fn a_lie_about_a_count_reserves_little() {
    for name in ["tiny.30", "tiny.35"] {
        let bytes = data(name);
        let honest = reserved(&bytes);
        assert!(honest < 4 * bytes.len(), "{name}: {honest} for {} bytes", bytes.len());
        for place in 0..bytes.len() - 3 {
            for number in [u32::MAX, 0x0100_0000, bytes.len() as u32 / 12] {
                let mut damaged = bytes.clone();
                damaged[place..place + 4].copy_from_slice(&number.to_le_bytes());
                let reserved = reserved(&damaged);
                assert!(
                    reserved < 5 * bytes.len(),
                    "{name}: byte {place} as {number} reserves {reserved} for {} bytes",
                    bytes.len()
                );
            }
        }
    }
}

fn a_full_policy_takes_a_few_times_its_size() {
    let bytes = data("refpolicy-base.33.gz");
    let reserved = reserved(&bytes);
    assert!(reserved < 8 * bytes.len(), "{reserved} for {} bytes", bytes.len());
}
