//! Allocations and bytes of one pod creation, both passes, on the recorded benchmark cases, and a plain time per
//! creation. The pod's own copy, which the reference's figures include, is given beside it.

// The counting allocator only forwards to the system's.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[path = "support/mod.rs"]
mod support;

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` through the functions of this impl, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size, Ordering::Relaxed);
        // SAFETY: `pointer` came from `System` through the functions of this impl, with this layout.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted<T>(work: impl FnOnce() -> T) -> (usize, usize, T) {
    let before = (COUNT.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    let result = work();
    (COUNT.load(Ordering::Relaxed) - before.0, BYTES.load(Ordering::Relaxed) - before.1, result)
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
