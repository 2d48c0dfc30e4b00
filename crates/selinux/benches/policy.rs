//! Loading, searching and comparing a full policy. The limits are in the documents: 20 ms to load.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use ferrovirt_selinux::{
    Database, Policy,
    diff::{between_policies, between_types},
    policy::RuleKind,
    query::{self, Query, search},
};
use std::{hint::black_box, io::Read as _, path::PathBuf};

fn policy(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn query() -> Query {
    Query {
        kinds: vec![RuleKind::Allow, RuleKind::AllowXperm],
        source: Some(query::Criterion { name: "container_t".to_owned(), direct: false }),
        ..Query::default()
    }
}

fn all(bencher: &mut Criterion) {
    let (first, second) = (policy("refpolicy-base.33.gz"), policy("refpolicy-virt_launcher.33.gz"));
    bencher.bench_function("parse", |bencher| bencher.iter(|| Policy::parse(black_box(&second)).unwrap()));
    bencher.bench_function("load", |bencher| bencher.iter(|| Database::open(black_box(&second)).unwrap()));
    bencher.bench_function("load and first query", |bencher| {
        bencher.iter(|| {
            let database = Database::open(black_box(&second)).unwrap();
            search(&database, &query())
                .unwrap()
                .into_iter()
                .map(|found| database.found_text(found).len())
                .sum::<usize>()
        })
    });
    let database = Database::open(&second).unwrap();
    bencher
        .bench_function("query", |bencher| bencher.iter(|| search(black_box(&database), &query()).unwrap()));
    let (from, to) =
        (database.find_type("container_t").unwrap(), database.find_type("virt_launcher.process").unwrap());
    bencher.bench_function("two types", |bencher| bencher.iter(|| between_types(&database, from, to)));
    bencher.bench_function("load and compare two policies", |bencher| {
        bencher.iter(|| {
            let first = Database::open(black_box(&first)).unwrap();
            let second = Database::open(black_box(&second)).unwrap();
            between_policies(&first, &second).to_string()
        })
    });
    bencher.bench_function("serialize", |bencher| bencher.iter(|| database.policy().serialize()));
}

criterion_group!(benches, all);
criterion_main!(benches);
