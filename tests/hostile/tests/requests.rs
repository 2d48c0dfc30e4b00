//! Requests that are deep, large, many or never taken: the others are answered, and memory stays bounded.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{
    Cluster, Options, Person, machine,
    raw::{Connection, Server},
    wait_for,
};
use ferrovirt_hostile::Users;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

const MAPS: &str = "/api/v1/namespaces/alpha/configmaps";
/// Most resident memory of the API server, KiB.
const MEMORY: u64 = 256 << 10;

fn map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// Data of many small values: it weighs much more in memory than as text.
fn small(count: usize) -> Value {
    (0..count).map(|key| (format!("k{key}"), json!("v"))).collect::<serde_json::Map<_, _>>().into()
}

/// Resident memory of the API server, KiB.
fn memory(cluster: &Cluster) -> Result<u64> {
    cluster.api().context("no API server")?.resident_kib()
}

/// The most that it ever was, KiB.
fn peak(cluster: &Cluster) -> Result<u64> {
    cluster.api().context("no API server")?.peak_kib()
}

/// Bob, who has nothing to do with it, is served: he reads and writes in his own namespace.
fn bob_is_served(server: &Server, bob: &Person<'_>, turn: usize) -> Result<()> {
    let path = "/api/v1/namespaces/beta/configmaps";
    let made = server.post(&bob.token, path, &map(&format!("bob-{turn}"), &json!({"a": "b"})))?;
    ensure!(made.code == 201, "bob: {} {}", made.code, made.status("message"));
    let read = server.get(&bob.token, &format!("{path}/bob-{turn}"))?;
    ensure!(read.code == 200 && read.json()?["data"]["a"] == "b", "bob: {read:?}");
    Ok(())
}

/// Attackers do `attack` until bob was served ten times meanwhile; each gets its number and whether it is to go on.
fn while_bob_works(
    server: &Server,
    bob: &Person<'_>,
    attackers: usize,
    attack: impl Fn(usize) -> Result<()> + Sync,
) -> Result<()> {
    let (done, attacks) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..attackers)
            .map(|number| {
                let (attack, done, attacks) = (&attack, &done, &attacks);
                scope.spawn(move || -> Result<()> {
                    while !done.load(Ordering::Relaxed) {
                        attack(number)?;
                        attacks.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let served = (0..10).try_for_each(|turn| bob_is_served(server, bob, turn));
        done.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("an attacker panicked"))??;
        }
        ensure!(attacks.load(Ordering::Relaxed) >= attackers, "nobody attacked");
        served
    })
}

#[test]
fn bodies_that_are_hard_to_read_hold_up_nobody() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let yaml =
        |text: &str| server.ask(&users.carol.token, "POST", reviews, "application/yaml", text.as_bytes());
    let flow = |depth: usize| ["{a: ".repeat(depth), "}".repeat(depth)].concat();
    ensure!(yaml(&flow(60_000))?.code == 413, "YAML of 300 kB");
    for deep in [flow(50_000), "a: ".to_owned() + &"[".repeat(200_000), "- ".repeat(100_000)] {
        let refused = yaml(&deep)?;
        ensure!(refused.code == 400 && refused.status("reason") == "BadRequest", "{refused:?}");
    }
    let bomb: String = (1..12).fold("a0: &a0 [x]\n".to_owned(), |text, level| {
        let aliases = format!("*a{},", level - 1).repeat(9);
        format!("{text}a{level}: &a{level} [{aliases}]\n")
    });
    ensure!(matches!(yaml(&bomb)?.code, 400 | 413), "a bomb of aliases");
    let deep =
        server.ask(&users.carol.token, "POST", reviews, "application/json", &b"[".repeat(3_000_000))?;
    ensure!(deep.code == 400, "{deep:?}");
    let many = ["[".to_owned(), "{},".repeat(900_000), "{}]".to_owned()].concat();
    let many = server.ask(&users.carol.token, "POST", reviews, "application/json", many.as_bytes())?;
    ensure!(many.code == 413 && many.status("reason") == "RequestEntityTooLarge", "{many:?}");
    let wide = json!({"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"name": "x".repeat(2 << 20)}}});
    let tokens = [&users.carol.token, &users.alice.token];
    while_bob_works(&server, &users.bob, 16, |number| {
        let token = tokens[number % 2];
        if number < 8 {
            server.ask(token, "POST", reviews, "application/yaml", flow(40_000).as_bytes())?;
        } else {
            server.post(token, reviews, &wide)?;
        }
        Ok(())
    })?;
    let used = peak(&cluster)?;
    ensure!(used < MEMORY, "{used} KiB");
    drop(users);
    cluster.stop()
}

#[test]
fn what_a_namespace_stores_is_bounded_and_goes_back() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let alice = &users.alice.token;
    let before = memory(&cluster)?;
    let refused = server.post(alice, MAPS, &map("large", &json!({"a": "x".repeat((1 << 20) + 1)})))?;
    ensure!(refused.code == 422, "{refused:?}");
    let said = "ConfigMap \"large\" is invalid: []: Too long: may not be more than 1048576 bytes";
    ensure!(refused.status("message") == said, "{refused:?}");
    let mut noted = map("noted", &json!({}));
    noted["metadata"]["annotations"] = json!({"a": "x".repeat(300_000)});
    let refused = server.post(alice, MAPS, &noted)?;
    ensure!(refused.code == 422 && refused.status("message").contains("262144 bytes"), "{refused:?}");

    let mut made = 0;
    let full = loop {
        let answer = server.post(alice, MAPS, &map(&format!("m{made}"), &small(50_000)))?;
        if answer.code != 201 {
            break answer;
        }
        made += 1;
        ensure!(made < 50, "there is no limit");
    };
    ensure!(full.code == 403 && full.status("message").contains("exceeded quota: stored-bytes"), "{full:?}");
    ensure!(made > 2, "{made}");
    bob_is_served(&server, &users.bob, 100)?;
    let used = peak(&cluster)?;
    ensure!(used < MEMORY, "{used} KiB with {made} maps");

    // Lists that nobody takes.
    let mut held: Vec<Connection> = Vec::new();
    for _ in 0..40 {
        let mut connection = server.connect()?;
        connection.send(alice, "GET", MAPS, "application/json", b"")?;
        held.push(connection);
    }
    for turn in 200..210 {
        bob_is_served(&server, &users.bob, turn)?;
    }
    let used = peak(&cluster)?;
    ensure!(used < MEMORY, "{used} KiB with lists that nobody takes");
    drop(held);
    wait_for("a list to be whole again", Duration::from_secs(60), || {
        let list = server.get(alice, MAPS)?;
        if list.code == 429 {
            ensure!(list.head.contains("retry-after: 1"), "{}", list.head);
            ensure!(list.status("reason") == "TooManyRequests", "{list:?}");
            return Ok(None);
        }
        ensure!(list.code == 200, "{}", list.code);
        let items = list.json()?["items"].as_array().map_or(0, Vec::len);
        ensure!(items >= made, "{items} of {made}");
        Ok(Some(()))
    })?;
    let gone = server.ask(alice, "DELETE", MAPS, "application/json", b"")?;
    ensure!(gone.code == 200, "a full namespace is emptied: {}", gone.status("message"));
    ensure!(server.post(alice, MAPS, &map("again", &json!({"a": "b"})))?.code == 201, "there is room again");
    wait_for("memory to go back", Duration::from_secs(60), || {
        let now = memory(&cluster)?;
        // The history of recent changes holds some of what was deleted.
        Ok((now < before + (64 << 10)).then_some(()))
    })?;
    drop(users);
    cluster.stop()
}

#[test]
fn changes_of_large_objects_cost_little_however_many_watches_nobody_takes() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let alice = &users.alice.token;
    let mut held: Vec<Connection> = Vec::new();
    for token in [alice, &users.adam.token] {
        for _ in 0..60 {
            let mut connection = server.connect()?;
            connection.send(token, "GET", &format!("{MAPS}?watch=1"), "", b"")?;
            held.push(connection);
        }
    }
    for turn in 0..5 {
        for number in 0..3 {
            let made = server.post(alice, MAPS, &map(&format!("m{turn}-{number}"), &small(50_000)))?;
            ensure!(made.code == 201, "{}", made.status("message"));
        }
        let gone = server.ask(alice, "DELETE", MAPS, "application/json", b"")?;
        ensure!(gone.code == 200, "{}", gone.status("message"));
        bob_is_served(&server, &users.bob, turn)?;
    }
    let used = peak(&cluster)?;
    ensure!(used < MEMORY, "{used} KiB");
    drop(held);
    // Each of them waits for another version of the object.
    let held = (0..40)
        .map(|turn| {
            let name = format!("{MAPS}/versions");
            let data = map("versions", &small(50_000 - turn));
            let made = if turn == 0 {
                server.post(alice, MAPS, &data)?
            } else {
                server.ask(alice, "PUT", &name, "application/json", data.to_string().as_bytes())?
            };
            ensure!(matches!(made.code, 200 | 201), "{}", made.status("message"));
            let from =
                made.json()?["metadata"]["resourceVersion"].as_str().context("no revision")?.to_owned();
            let mut connection = server.connect()?;
            let path = format!("{MAPS}?watch=1&resourceVersion={from}");
            connection.send(&users.adam.token, "GET", &path, "", b"")?;
            let (code, head) = connection.head()?;
            ensure!(code == 200, "{head}");
            Ok(connection)
        })
        .collect::<Result<Vec<_>>>()?;
    let used = peak(&cluster)?;
    ensure!(used < MEMORY, "{used} KiB with versions that nobody takes");
    // Who takes an event has it whole, with the revision of the deletion.
    let made = server.post(alice, MAPS, &map("last", &small(5000)))?.json()?;
    let from = made["metadata"]["resourceVersion"].as_str().context("no revision")?.to_owned();
    let gone = server.ask(alice, "DELETE", &format!("{MAPS}/last"), "application/json", b"")?;
    ensure!(gone.code == 200, "{}", gone.status("message"));
    let seen =
        server.get(alice, &format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={from}"))?.json()?;
    let object = &seen["object"];
    ensure!(seen["type"] == "DELETED" && object["data"].as_object().is_some_and(|data| data.len() == 5000));
    let revision = object["metadata"]["resourceVersion"].as_str().context("no revision")?;
    ensure!(revision.parse::<u64>()? > from.parse()?, "{from}, then {revision}");
    drop((held, users));
    cluster.stop()
}

#[test]
fn bindings_of_many_subjects_cost_their_author_alone() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let adam = &users.adam.token;
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/alpha/rolebindings";
    let binding = |name: &str, first: usize, count: usize| {
        let subjects: Vec<Value> = (first..first + count)
            .map(|user| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": format!("u{user}")}))
            .collect();
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": subjects})
    };
    let refused = server.post(adam, path, &binding("many", 0, 10_000))?;
    ensure!(refused.code == 422, "{refused:?}");
    ensure!(
        refused.status("message").contains("subjects: Too many: 10000: must have at most 1000 items"),
        "{refused:?}"
    );
    let next = AtomicUsize::new(0);
    while_bob_works(&server, &users.bob, 4, |_| {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let made = server.post(adam, path, &binding(&format!("b{number}"), number * 1000, 1000))?;
        ensure!(matches!(made.code, 201 | 403 | 429), "{made:?}");
        Ok(())
    })?;
    let used = peak(&cluster)?;
    ensure!(used < MEMORY, "{used} KiB");

    // A right that is taken away does not count any more.
    let may = || -> Result<bool> { Ok(server.get(&users.carol.token, MAPS)?.code == 200) };
    ensure!(may()?, "carol may list");
    cluster.kubectl(&["delete", "rolebindings", "--all", "-n", "alpha"])?;
    ensure!(!may()?, "carol may list without a binding");
    drop(users);
    cluster.stop()
}

#[test]
fn connections_without_end_cost_their_user_alone() -> Result<()> {
    // As a login shell would start it.
    let own = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), ..own })?;
    let started = Cluster::start(Options::default());
    setrlimit(Resource::Nofile, own)?;
    let mut cluster = started?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;

    let mut held = (0..150)
        .map(|_| {
            let mut connection = server.connect()?;
            connection.send(&users.carol.token, "GET", MAPS, "application/json", b"")?;
            Ok((connection.answer()?.code, connection))
        })
        .collect::<Result<Vec<_>>>()?;
    let served = held.iter().filter(|(code, _)| *code == 200).count();
    ensure!(served == 100, "carol has {served} connections");
    let mut refused = held.iter_mut().filter(|(code, _)| *code != 200);
    ensure!(refused.all(|(code, connection)| *code == 429 && connection.is_ended()), "the others are closed");
    // Those who say nothing give way to others.
    let silent = (0..300).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
    (0..3).try_for_each(|turn| bob_is_served(&server, &users.bob, turn))?;
    drop((held, silent));
    wait_for("carol to be served again", Duration::from_secs(60), || {
        Ok((server.get(&users.carol.token, MAPS)?.code == 200).then_some(()))
    })?;

    for process in [cluster.api().context("no API server")?, cluster.agent().context("no agent")?] {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid))?;
        let files = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit")?;
        let numbers: Vec<u64> = files.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [soft, hard] = numbers[..] else { anyhow::bail!("{files}") };
        ensure!(soft == hard.min(1 << 20), "{:?}: {files}", process.arguments);
    }
    drop(users);
    cluster.stop()
}

#[test]
fn logs_that_are_followed_without_end_cost_their_reader_alone() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let machine =
        machine("m", "Always", 5).replace("metadata: {name: m}", "metadata: {name: m, namespace: alpha}");
    cluster.apply(&machine)?;
    cluster.wait_phase("alpha", "m", "Running")?;
    let pods = cluster.json(&["get", "pods", "-n", "alpha"])?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().context("no pod")?.to_owned();
    let path = format!("/api/v1/namespaces/alpha/pods/{pod}/log");
    let agent = cluster.agent().context("no agent")?;
    let open = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{}/fd", agent.pid))?.count()) };
    let before = open()?;

    let follow = |token: &str| -> Result<(u16, String, Connection)> {
        let mut connection = server.connect()?;
        connection.send(token, "GET", &format!("{path}?follow=true"), "text/plain", b"")?;
        let (code, head) = connection.head()?;
        Ok((code, head, connection))
    };
    let held = (0..90).map(|_| follow(&users.carol.token)).collect::<Result<Vec<_>>>()?;
    let served = held.iter().filter(|(code, ..)| *code == 200).count();
    ensure!(served == 32, "carol follows {served} times");
    ensure!(
        held.iter().all(|(code, head, _)| *code == 200 || (*code == 429 && head.contains("retry-after"))),
        "the others are asked to come later"
    );
    let now = open()?;
    ensure!(now < before + 3 * served, "the agent has {now} descriptors, {before} before");
    bob_is_served(&server, &users.bob, 0)?;
    let (code, _, others) = follow(&users.alice.token)?;
    ensure!(code == 200, "alice follows the same log: {code}");
    ensure!(server.get(&users.alice.token, &path)?.code == 200, "and reads it");

    drop((held, others));
    wait_for("carol to follow again", Duration::from_secs(60), || {
        Ok((follow(&users.carol.token)?.0 == 200).then_some(()))
    })?;
    wait_for("the agent to close what nobody reads", Duration::from_secs(60), || {
        Ok((open()? < before + 10).then_some(()))
    })?;
    drop(users);
    cluster.stop()
}

/// How much each thread of a process that has one of these names gives way, by nice(2).
fn gives_way(process: i32, name: &str) -> Result<Vec<i64>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // It may have ended.
        let Ok(text) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
        let (start, rest) = text.rsplit_once(')').context("no name")?;
        if start.ends_with(&format!("({name}")) {
            // The 19th field of all (proc_pid_stat(5)), two of which stand before.
            found.push(rest.split_whitespace().nth(16).context("no nice")?.parse()?);
        }
    }
    Ok(found)
}

#[test]
fn the_system_is_heard_where_no_user_is_and_threads_of_users_give_way() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let public = Server::of(&cluster.kubeconfig())?;
    let agent = cluster.data().join("agent");
    let path = "/api/v1/namespaces/beta/configmaps";
    let handler = cluster.kubectl(&["create", "token", "kubevirt-handler", "-n", "kubevirt"])?;
    let handler = handler.trim();
    for name in ["node.kubeconfig", "handler.kubeconfig"] {
        let system = Server::of(&agent.join(name))?;
        ensure!(public.get(&users.bob.token, path)?.code == 200, "bob may list");
        let refused = system.get(&users.bob.token, path)?;
        ensure!(refused.code == 403, "{refused:?}");
        let message = refused.status("message");
        ensure!(message.contains("use the server of your kubeconfig"), "{message}");
        ensure!(system.get("", "/version")?.code != 200, "nobody is answered");
        ensure!(system.get(handler, "/version")?.code == 200, "and the system's own accounts are");
    }
    let api = cluster.api().context("no API server")?;
    let made = public.post(&users.bob.token, path, &map("large", &small(4000)))?;
    ensure!(made.code == 201, "{made:?}");
    let large = gives_way(api.pid, "large")?;
    ensure!(!large.is_empty() && large.iter().all(|nice| *nice == 15), "{large:?}");
    let theirs = gives_way(api.pid, "users")?;
    // Those for what blocks may have been started by one for large requests.
    ensure!(theirs.len() >= 2 && theirs.iter().all(|nice| [5, 15].contains(nice)), "{theirs:?}");
    let system = gives_way(api.pid, "tokio-rt-worker")?;
    ensure!(system.len() >= 2 && system.iter().all(|nice| *nice == 0), "{system:?}");
    drop(users);
    cluster.stop()
}
