//! Speed of one pod creation, both passes, on the recorded benchmark cases; also with 200 and 2,000 SCCs.
//! The recorded figures of the reference implementation are in docs/scc.md.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

#[path = "support/mod.rs"]
mod support;

fn passes(c: &mut Criterion) {
    for name in ["bench-case", "bench-case-plain"] {
        for total in [13, 200, 2000] {
            let case = support::Case::load(name, total);
            let grants = case.listing();
            c.bench_function(&format!("{name}/{total} SCCs/both passes"), |b| {
                b.iter_batched_ref(
                    || case.pod.clone(),
                    |pod| black_box(case.constraints.admit(&case.request(), &grants, pod)),
                    BatchSize::PerIteration,
                );
            });
        }
        let case = support::Case::load(name, 13);
        let asking = case.asking();
        c.bench_function(&format!("{name}/13 SCCs/both passes, authorizer asked for each SCC"), |b| {
            b.iter_batched_ref(
                || case.pod.clone(),
                |pod| black_box(case.constraints.admit(&case.request(), &asking, pod)),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, passes);
criterion_main!(benches);
