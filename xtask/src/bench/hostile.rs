//! `cargo xtask bench --hostile`: what a third user notices while two do their worst, on one core of their own.

use super::{Round, Watch, percentile, row};
use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{
    Cluster, Options,
    raw::{Connection, Server},
};
use ferrovirt_hostile::Users;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Requests of the third user, and how long it waits between them.
const GETS: usize = 1000;
const PAUSE: Duration = Duration::from_millis(5);
/// What must hold.
const SLOWEST: Duration = Duration::from_millis(100);
const SLOWER: f64 = 1.5;
const MEMORY_KIB: u64 = 256 << 10;
/// Lists that nobody takes, and connections that are only held.
const HELD: usize = 90;

/// Measures in peace and under attack, and fails when a bound does not hold.
pub(super) fn bench(rounds: usize) -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let api = cluster.api().context("no API server")?;
    let mut watch = Watch::start(&cluster)?;
    Round::ours(&cluster, &mut watch, "hostile-first")?;
    println!("| what | median | range | n |\n|---|---|---|---|");
    let (_, calm) = measure(&cluster, &mut watch, &server, &users.bob.token, rounds, "in peace")?;
    let stop = AtomicBool::new(false);
    let tokens = [users.alice.token.as_str(), users.adam.token.as_str()];
    let measured = thread::scope(|scope| {
        for (number, token) in tokens.into_iter().enumerate() {
            for attack in [yaml, wide, maps, bindings, lists] {
                let (server, stop) = (&server, &stop);
                scope.spawn(move || {
                    let mut core = CpuSet::new();
                    core.set(0);
                    let _ = sched_setaffinity(None, &core);
                    let mut held = Vec::new();
                    let mut turn = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // Refusals and broken connections are what an attacker has to expect.
                        let _ = attack(server, token, &format!("h{number}-{turn}"), &mut held);
                        turn += 1;
                    }
                });
            }
        }
        thread::sleep(Duration::from_secs(5));
        let measured = measure(&cluster, &mut watch, &server, &users.bob.token, rounds, "under attack");
        stop.store(true, Ordering::Relaxed);
        measured
    });
    let (slow, start) = measured?;
    let memory = api.peak_kib()?;
    println!("\n| under attack | measured | limit |\n|---|---|---|");
    println!(
        "| get of a third user, p99 | {:.1} ms | {} ms |",
        slow.as_secs_f64() * 1e3,
        SLOWEST.as_millis()
    );
    println!("| start of a machine, to that in peace | {:.2} | {SLOWER} |", start / calm);
    println!("| API server, most that was resident | {} MiB | {} MiB |", memory >> 10, MEMORY_KIB >> 10);
    ensure!(bearable(slow, start, calm, memory), "two hostile users cost the others more than they may");
    drop((watch, users));
    cluster.stop()
}

/// Whether every bound holds. A start that was not measured (NaN) is within none.
fn bearable(slow: Duration, start: f64, calm: f64, memory: u64) -> bool {
    slow < SLOWEST && start < SLOWER * calm && memory < MEMORY_KIB
}

/// The p99 of a connected client's get, and the median start of a machine in ms.
fn measure(
    cluster: &Cluster,
    watch: &mut Watch,
    server: &Server,
    token: &str,
    rounds: usize,
    when: &str,
) -> Result<(Duration, f64)> {
    let mut connection = server.connect()?;
    let mut times = Vec::with_capacity(GETS);
    for _ in 0..GETS {
        let start = Instant::now();
        connection.send(token, "GET", "/api/v1/namespaces/beta/configmaps/kube-root-ca.crt", "", b"")?;
        let answer = connection.answer()?;
        ensure!(answer.code == 200, "{answer:?}");
        times.push(start.elapsed());
        thread::sleep(PAUSE);
    }
    let slow = percentile(times.clone(), 99).context("no times")?;
    row(&format!("get of a connected client, {when}"), times);
    let starts = (0..rounds)
        .map(|round| {
            Ok(Round::ours(cluster, watch, &format!("hostile-{}-{round}", when.replace(' ', "-")))?.running)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok((slow, row(&format!("`kubectl apply` to a running QEMU, {when}"), starts)))
}

type Held = Vec<Connection>;

/// Deep YAML.
fn yaml(server: &Server, token: &str, _: &str, _: &mut Held) -> Result<()> {
    let body = ["{a: ".repeat(50_000), "}".repeat(50_000)].concat();
    server.ask(token, "POST", REVIEWS, "application/yaml", body.as_bytes()).map(drop)
}

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// JSON of as many values as are read.
fn wide(server: &Server, token: &str, _: &str, _: &mut Held) -> Result<()> {
    let body = ["{\"spec\":[".to_owned(), "{},".repeat(60_000), "{}]}".to_owned()].concat();
    server.ask(token, "POST", REVIEWS, "application/json", body.as_bytes()).map(drop)
}

/// Large objects of small values, deleted when the namespace is full.
fn maps(server: &Server, token: &str, name: &str, _: &mut Held) -> Result<()> {
    let path = "/api/v1/namespaces/alpha/configmaps";
    let data: serde_json::Map<String, Value> =
        (0..50_000).map(|key| (format!("k{key}"), json!("v"))).collect();
    let answer = server.post(token, path, &json!({"metadata": {"name": name}, "data": data}))?;
    if answer.code == 403 {
        server.ask(token, "DELETE", path, "application/json", b"")?;
    }
    Ok(())
}

/// Bindings of many subjects.
fn bindings(server: &Server, token: &str, name: &str, _: &mut Held) -> Result<()> {
    let group = "rbac.authorization.k8s.io";
    let subjects: Vec<Value> = (0..1000)
        .map(|user| json!({"kind": "User", "apiGroup": group, "name": format!("{name}-{user}")}))
        .collect();
    let body = json!({"metadata": {"name": name}, "subjects": subjects,
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "view"}});
    server.post(token, &format!("/apis/{group}/v1/namespaces/alpha/rolebindings"), &body).map(drop)
}

/// Lists and watches that nobody takes, on as many connections as there may be.
fn lists(server: &Server, token: &str, _: &str, held: &mut Held) -> Result<()> {
    if held.len() >= HELD {
        held.clear();
    }
    let mut connection = server.connect()?;
    let watch = if held.len().is_multiple_of(2) { "?watch=1" } else { "" };
    connection.send(token, "GET", &format!("/api/v1/namespaces/alpha/configmaps{watch}"), "", b"")?;
    held.push(connection);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each bound alone is enough to fail, and what was not measured passes none.
    #[test]
    fn each_bound_counts() {
        let fine = Duration::from_millis(99);
        assert!(bearable(fine, 149.0, 100.0, MEMORY_KIB - 1));
        assert!(!bearable(SLOWEST, 149.0, 100.0, MEMORY_KIB - 1));
        assert!(!bearable(fine, 150.0, 100.0, MEMORY_KIB - 1));
        assert!(!bearable(fine, 149.0, 100.0, MEMORY_KIB));
        assert!(!bearable(fine, f64::NAN, 100.0, 0) && !bearable(fine, 1.0, f64::NAN, 0));
    }
}
