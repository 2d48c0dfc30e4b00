//! The comparison of a proof: it holds when the guest saw exactly what the table says, and one difference of any kind ends it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use ferrovirt_model::Profile;
use ferrovirt_plan::selinux::prove::{
    Expected, OPERATIONS, OutcomeError, Plan, Proof, Question, Trial, Witnessed, compare, html, json, judge,
    plan, scenario, text,
};
use ferrovirt_selinux::Database;
use std::{collections::BTreeSet, io::Read as _, path::PathBuf};

/// Debian's policy with a container module that gives what container-selinux gave early in 2020.
fn base() -> Database {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../selinux/tests/data/refpolicy-base.33.gz");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    Database::open(&bytes).unwrap()
}

fn level(context: &str) -> &str {
    context.splitn(4, ':').last().unwrap()
}

/// What a guest would leave in which everything is as the table says: results and kernel's log.
fn obedient(base: &Database, plan: &Plan) -> (String, String) {
    let (text, _) = scenario(base, &plan.trials).unwrap();
    let workers: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|words| words[0] == "worker")
        .collect();
    let (mut results, mut log) = ("kernel\t6.1\nloaded\t1\n".to_owned(), String::new());
    for words in &workers {
        let (number, context, neighbour) = (words[1], words[2], words[4]);
        let other = workers.iter().find(|one| one[1] == neighbour).map_or(context, |one| one[2]);
        let trial = plan.trials.iter().find(|trial| context.contains(&format!(":{}:", trial.kind))).unwrap();
        for (place, name) in words[5..].iter().enumerate() {
            let operation = OPERATIONS.iter().find(|one| one.name == *name).unwrap();
            match judge(base, trial, operation, (level(context), level(other))).unwrap() {
                Expected::Allowed(_) => results += &format!("seen\t{number}\t{place}\tdone\t-\n"),
                Expected::Refused(refusal) => {
                    results += &format!("seen\t{number}\t{place}\trefused\t{}\n", refusal.error);
                    if !refusal.recorded.is_empty() {
                        log += &format!(
                            "[ 1.0] audit: type=1400 audit(1.0:1): avc:  denied  {{ {} }} for  pid=7 \
                             comm=\"w{number}.{place}\" scontext={context} tcontext={} tclass={} permissive=0\n",
                            refusal.recorded.join(" "),
                            refusal.target,
                            refusal.class
                        );
                    }
                }
            }
        }
        results += &format!("worker\t{number}\tcomplete\t1\n");
    }
    (results + "end\n", log)
}

fn seen(base: &Database, plan: &Plan, results: &str, log: &str) -> Result<Proof, OutcomeError> {
    compare((base, base), plan, &[], (results, log), String::new())
}

fn expected(base: &Database, trial: &Trial, name: &str) -> Expected {
    let operation = OPERATIONS.iter().find(|one| one.name == name).unwrap();
    judge(base, trial, operation, ("s0:c1,c2", "s0:c3,c4")).unwrap()
}

#[test]
fn one_difference_of_any_kind_is_seen() {
    let base = base();
    let plan = plan(&base, &[Profile::Documented]).unwrap();
    let (results, log) = obedient(&base, &plan);
    let proof = seen(&base, &plan, &results, &log).unwrap();
    assert!(proof.holds(), "{}", text(&proof, "x"));
    assert_eq!(proof.rules.len(), 12);
    assert!(proof.rules.iter().all(|(_, one)| matches!(one, Witnessed::Needed(..))), "{:?}", proof.rules);
    assert_eq!(json(&proof, "x")["holds"], true);
    assert!(html(&proof, "<x>").contains("base policy &lt;x&gt;"));
    assert!(!text(&proof, "x").contains("DIFFERS"));

    // The first worker with operations is container_t's: 0 is allowed to it, 2 is refused with a record.
    let record = log.lines().find(|line| line.contains("comm=\"w1.2\"")).unwrap();
    let changes: [(&str, String, String); 9] = [
        ("success", results.replace("seen\t1\t2\trefused\t13", "seen\t1\t2\tdone\t-"), log.clone()),
        ("refusal", results.replace("seen\t1\t0\tdone\t-", "seen\t1\t0\trefused\t13"), log.clone()),
        ("another error", results.replace("seen\t1\t2\trefused\t13", "seen\t1\t2\trefused\t1"), log.clone()),
        ("not prepared", results.replace("seen\t1\t0\tdone\t-", "seen\t1\t0\tunprepared\t2"), log.clone()),
        ("not tried", results.replace("seen\t1\t0\tdone\t-\n", ""), log.clone()),
        ("no record", results.clone(), log.replace(record, "")),
        (
            "another permission",
            results.clone(),
            log.replace(record, &record.replace("relabelfrom", "relabelto")),
        ),
        (
            "another target",
            results.clone(),
            log.replace(record, &record.replace("tcontext=system_u:system_r", "tcontext=system_u:object_r")),
        ),
        (
            "a record of what was allowed",
            results.clone(),
            format!("{log}{}\n", record.replace("w1.2", "w1.0")),
        ),
    ];
    for (what, results, log) in changes {
        let proof = seen(&base, &plan, &results, &log).unwrap();
        assert!(!proof.holds(), "{what}");
        assert_eq!(proof.disagreements().0, 1, "{what}");
        assert!(text(&proof, "x").contains("DIFFERS"), "{what}");
        assert!(html(&proof, "x").contains("class=\"wrong\""), "{what}");
    }
    let mut other = seen(&base, &plan, &results, &log).unwrap();
    other.difference = "a rule more".to_owned();
    assert!(!other.holds());
}

#[test]
fn a_guest_that_did_not_finish_proves_nothing() {
    let base = base();
    let plan = plan(&base, &[Profile::Documented]).unwrap();
    let (results, log) = obedient(&base, &plan);
    let error = |results: &str| seen(&base, &plan, results, &log).unwrap_err();
    assert_eq!(error(""), OutcomeError::Unfinished);
    assert_eq!(error(&results.replace("end\n", "")), OutcomeError::Unfinished);
    assert_eq!(error(&results.replace("worker\t1\tcomplete\t1\n", "")), OutcomeError::Unfinished);
    assert!(matches!(
        error(&results.replace("\tcomplete\t1", "\tcomplete\t0")),
        OutcomeError::NotEnforcing(_)
    ));
    assert!(matches!(
        error(&results.replace("\tcomplete\t1", "\tkilled by signal 9\t1")),
        OutcomeError::Worker(..)
    ));
    assert_eq!(error("error\tno policy\n"), OutcomeError::Guest("no policy".to_owned()));
    assert_eq!(error("seen\tx\t0\tdone\t-\n"), OutcomeError::Line("seen\tx\t0\tdone\t-".to_owned()));
}

#[test]
fn the_kernels_own_answers_are_compared() {
    let base = base();
    let plan = plan(&base, &[Profile::Documented]).unwrap();
    let (results, log) = obedient(&base, &plan);
    let question = Question {
        source: "system_u:system_r:container_t:s0:c1,c2".to_owned(),
        target: "system_u:object_r:sysfs_t:s0".to_owned(),
        class: "file".to_owned(),
    };
    let ours = {
        let source = base.find_context(&question.source).unwrap();
        let target = base.find_context(&question.target).unwrap();
        base.decide(&source, &target, base.find_class("file").unwrap())
    };
    let asked = |allowed: u32| {
        let results = format!("answer\t0\t{allowed:x} ffffffff 0 {:x} 1 0\n{results}", ours.audit_deny);
        compare((&base, &base), &plan, std::slice::from_ref(&question), (&results, &log), String::new())
            .unwrap()
    };
    assert!(asked(ours.allowed).holds());
    assert_eq!(asked(ours.allowed ^ 1).disagreements(), (0, 1, 0));
}

/// What the page of the experiments says about this base, in a few lines.
#[test]
fn expectations_on_this_base() {
    let base = base();
    let plan = plan(&base, &[Profile::Documented]).unwrap();
    let (container, launcher) = (&plan.trials[0], &plan.trials[1]);
    assert_eq!((&*container.kind, &*launcher.kind), ("container_t", "virt_launcher.process"));
    let refused = |trial: &Trial, name: &str| match expected(&base, trial, name) {
        Expected::Refused(refusal) => {
            Some((refusal.class, refusal.permissions.join(" "), refusal.constraint))
        }
        Expected::Allowed(_) => None,
    };
    let missing = |class: &str, permissions: &str| Some((class.to_owned(), permissions.to_owned(), false));
    for (name, class, permission) in [
        ("tap-second-queue", "tun_socket", "relabelfrom"),
        ("tap-attach-queue", "tun_socket", "attach_queue"),
        ("huge-mkdir", "dir", "write"),
        ("huge-chmod-dir", "dir", "setattr"),
        ("sysfs-write", "file", "write"),
    ] {
        assert_eq!(refused(container, name), missing(class, permission), "{name}");
        assert_eq!(refused(launcher, name), None, "{name}");
    }
    assert_eq!(refused(container, "huge-open"), None);
    for trial in [container, launcher] {
        assert_eq!(refused(trial, "tap-create"), None);
        for name in [
            "tap-open-foreign",
            "huge-rename",
            "huge-relabel",
            "sysfs-append",
            "sysfs-chmod",
            "escape-enforcing",
        ] {
            assert!(refused(trial, name).is_some_and(|(.., constraint)| !constraint), "{name}");
        }
        for name in ["other-file-reopen", "other-socket", "other-signal"] {
            assert!(refused(trial, name).is_some_and(|(.., constraint)| constraint), "{name}");
        }
        assert_eq!(refused(trial, "other-exists"), None);
    }
}

#[test]
fn operations_have_names_of_their_own_and_fit_in_a_record() {
    let names: BTreeSet<_> = OPERATIONS.iter().map(|one| one.name).collect();
    assert_eq!(names.len(), OPERATIONS.len());
    // Two digits for the operation and three for the worker are within the 15 bytes of a thread's name.
    assert!(OPERATIONS.len() < 100);
    let base = base();
    let plan = plan(&base, &[Profile::Documented]).unwrap();
    for trial in &plan.trials {
        assert!(trial.operations().next().is_some(), "{}", trial.kind);
    }
}
