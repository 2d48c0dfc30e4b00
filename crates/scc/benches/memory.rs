//! Allocations and bytes of one pod creation, both passes, on the recorded benchmark cases, and a plain time per
//! creation. The pod's own copy, which the reference's figures include, is given beside it.

use std::alloc::System;
use std::hint::black_box;
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "support/mod.rs"]
mod support;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations (growing one counts as one) and bytes of some work.
fn counted<T>(work: impl FnOnce() -> T) -> (usize, usize, T) {
    let region = Region::new(ALLOCATOR);
    let result = work();
    let change = region.change();
    (change.allocations + change.reallocations, change.bytes_allocated, result)
}

fn main() {
    const ROUNDS: usize = 2000;
    const BATCHES: usize = 20;
    for name in ["bench-case", "bench-case-plain"] {
        for (total, lists) in [(13, true), (13, false), (200, true), (2000, true)] {
            let case = support::Case::load(name, total);
            let grants = if lists { case.listing() } else { case.asking() };
            let (copy_count, copy_bytes, mut pod) = counted(|| case.pod.clone());
            let mut other = case.pod.clone();
            let first = counted(|| case.constraints.mutate(&case.request(), &grants, &mut other));
            let second = counted(|| case.constraints.validate(&case.request(), &grants, &other));
            let (count, bytes, outcome) =
                counted(|| case.constraints.admit(&case.request(), &grants, &mut pod));
            assert!(outcome.is_ok(), "{outcome:?}");
            // The best of the batches' medians: other work on the machine disturbs single creations by far more.
            let mut best = Duration::MAX;
            for _ in 0..BATCHES {
                let mut times: Vec<Duration> = Vec::with_capacity(ROUNDS);
                for _ in 0..ROUNDS {
                    // A pod that has just been decoded, as it is where admission runs.
                    let mut pod = case.pod.clone();
                    let start = Instant::now();
                    let _ = black_box(case.constraints.admit(&case.request(), &grants, &mut pod));
                    times.push(start.elapsed());
                }
                times.sort_unstable();
                best = best.min(times.get(ROUNDS / 2).copied().unwrap_or(best));
            }
            let asked = if lists { "" } else { ", authorizer asked for each SCC" };
            println!(
                "{name}, {total} SCCs{asked}: {:.2} us, {count} allocations, {bytes} bytes \
                 (mutating pass {} and {}, validating pass {} and {}; \
                 a copy of the pod: {copy_count} allocations, {copy_bytes} bytes)",
                best.as_secs_f64() * 1e6,
                first.0,
                first.1,
                second.0,
                second.1
            );
        }
    }
}
