//! The comparison of a proof: it holds when the guest saw exactly what the table says, and one difference of any kind ends it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use ferrovirt_lab_protocol::{
    Error, Operation, Said,
    proof::{Observed, Question, Seen, Turn},
};
use ferrovirt_model::Profile;
use ferrovirt_plan::selinux::prove::{
    EXPERIMENTS, Expected, OutcomeError, Plan, Proof, Trial, Witnessed, compare, html, json, judge, plan,
    scenario, text,
};
use ferrovirt_selinux::Database;
use std::{io::Read as _, path::PathBuf};

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

/// What a guest would report in which everything is as the table says, and the kernel's log.
fn obedient(base: &Database, plan: &Plan) -> (Vec<Seen>, String) {
    let workers = scenario(base, &plan.trials).unwrap().workers;
    let (mut reports, mut log) = (vec![Seen::Kernel("6.1".to_owned()), Seen::Loaded(1)], String::new());
    for worker in &workers {
        let (number, context) = (worker.number, &worker.context);
        let neighbour = workers.iter().find(|other| Some(other.number) == worker.neighbour);
        let other = neighbour.map_or(context, |other| &other.context);
        let trial = plan.trials.iter().find(|trial| context.contains(&format!(":{}:", trial.kind))).unwrap();
        let mut gave = Vec::new();
        for (place, operation) in worker.operations.iter().enumerate() {
            match expected(base, trial, *operation, (level(context), level(other))) {
                Expected::Allowed(_) => gave.push(Observed::Done),
                Expected::Refused(refusal) => {
                    gave.push(Observed::Refused(refusal.error));
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
        reports.push(Seen::Worker(Turn { number, gave, broke: None, enforcing: true }));
    }
    (reports, log)
}

fn said(reports: Vec<Seen>) -> Said<Seen> {
    Said { reports, notes: Vec::new(), end: Ok(()) }
}

fn seen(base: &Database, plan: &Plan, reports: &[Seen], log: &str) -> Result<Proof, OutcomeError> {
    compare((base, base), plan, &[], (said(reports.to_vec()), log), String::new())
}

/// The reports with the turn of one worker changed.
fn with_turn(reports: &[Seen], number: u32, change: impl Fn(&mut Turn)) -> Vec<Seen> {
    let mut changed = reports.to_vec();
    for report in &mut changed {
        match report {
            Seen::Worker(turn) if turn.number == number => change(turn),
            _ => {}
        }
    }
    assert_ne!(changed, reports);
    changed
}

fn expected(base: &Database, trial: &Trial, operation: Operation, levels: (&str, &str)) -> Expected {
    let experiment = EXPERIMENTS.iter().find(|experiment| experiment.operation == operation).unwrap();
    judge(base, trial, experiment, levels).unwrap()
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
    let turn = |place: usize, from: Observed, to: Observed| {
        with_turn(&results, 1, |turn| {
            assert_eq!(turn.gave[place], from);
            turn.gave[place] = to.clone();
        })
    };
    let broken = Observed::Broken("unprepared: no such device".to_owned());
    let cut = with_turn(&results, 1, |turn| turn.gave.truncate(turn.gave.len() - 1));
    let changes: [(&str, Vec<Seen>, String); 9] = [
        ("success", turn(2, Observed::Refused(13), Observed::Done), log.clone()),
        ("refusal", turn(0, Observed::Done, Observed::Refused(13)), log.clone()),
        ("another error", turn(2, Observed::Refused(13), Observed::Refused(1)), log.clone()),
        ("not prepared", turn(0, Observed::Done, broken), log.clone()),
        ("not tried", cut, log.clone()),
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
    let error = |reports: &[Seen]| seen(&base, &plan, reports, &log).unwrap_err();
    let without = |number: u32| -> Vec<Seen> {
        let is_other = |report: &&Seen| !matches!(report, Seen::Worker(turn) if turn.number == number);
        results.iter().filter(is_other).cloned().collect()
    };
    assert!(matches!(error(&[]), OutcomeError::Missing(_)));
    assert!(matches!(error(&without(1)), OutcomeError::Missing(_)));
    let permissive = with_turn(&results, 1, |turn| turn.enforcing = false);
    assert!(matches!(error(&permissive), OutcomeError::NotEnforcing(_)));
    let killed = with_turn(&results, 1, |turn| turn.broke = Some("killed by signal 9".to_owned()));
    assert!(matches!(error(&killed), OutcomeError::Worker(..)));
    // Whatever it reported before.
    for end in [Error::Unfinished, Error::Failed("no policy".to_owned()), Error::TooLong(1)] {
        let said = Said { end: Err(end.clone()), ..said(results.clone()) };
        let error = compare((&base, &base), &plan, &[], (said, &log), String::new()).unwrap_err();
        assert_eq!(error, OutcomeError::Guest(end));
    }
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
        let mut reports = vec![Seen::Answer(0, Some((allowed, ours.audit_deny)))];
        reports.extend(results.iter().cloned());
        let said = said(reports);
        compare((&base, &base), &plan, std::slice::from_ref(&question), (said, &log), String::new()).unwrap()
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
    let refused = |trial: &Trial, operation| match expected(&base, trial, operation, ("s0:c1,c2", "s0:c3,c4"))
    {
        Expected::Refused(refusal) => {
            Some((refusal.class, refusal.permissions.join(" "), refusal.constraint))
        }
        Expected::Allowed(_) => None,
    };
    let missing = |class: &str, permissions: &str| Some((class.to_owned(), permissions.to_owned(), false));
    for (operation, class, permission) in [
        (Operation::TapSecondQueue, "tun_socket", "relabelfrom"),
        (Operation::TapAttachQueue, "tun_socket", "attach_queue"),
        (Operation::HugeMkdir, "dir", "write"),
        (Operation::HugeChmodDir, "dir", "setattr"),
        (Operation::SysfsWrite, "file", "write"),
    ] {
        assert_eq!(refused(container, operation), missing(class, permission), "{operation}");
        assert_eq!(refused(launcher, operation), None, "{operation}");
    }
    assert_eq!(refused(container, Operation::HugeOpen), None);
    for trial in [container, launcher] {
        assert_eq!(refused(trial, Operation::TapCreate), None);
        for operation in [
            Operation::TapOpenForeign,
            Operation::HugeRename,
            Operation::HugeRelabel,
            Operation::SysfsAppend,
            Operation::SysfsChmod,
            Operation::EscapeEnforcing,
        ] {
            assert!(refused(trial, operation).is_some_and(|(.., constraint)| !constraint), "{operation}");
        }
        for operation in [Operation::OtherFileReopen, Operation::OtherSocket, Operation::OtherSignal] {
            assert!(refused(trial, operation).is_some_and(|(.., constraint)| constraint), "{operation}");
        }
        assert_eq!(refused(trial, Operation::OtherExists), None);
    }
}

#[test]
fn experiments_fit_in_a_record_and_each_domain_has_some() {
    // Two digits for the operation and three for the worker are within the 15 bytes of a thread's name.
    assert!(EXPERIMENTS.len() < 100);
    let base = base();
    let plan = plan(&base, &[Profile::Documented]).unwrap();
    for trial in &plan.trials {
        assert!(trial.experiments().next().is_some(), "{}", trial.kind);
    }
}
