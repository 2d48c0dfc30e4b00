//! Every recorded SCC decision of the repository, and of a further directory when `FERROVIRT_CORPUS` names one.

use std::path::{Path, PathBuf};

fn all_equal(directory: &Path) {
    let mut report = Vec::new();
    let summary = ferrovirt_conformance::run(directory, &mut report);
    let report = String::from_utf8_lossy(&report);
    println!("{report}");
    assert!(matches!(summary, Ok(s) if s.run > 0 && s.different == 0), "{summary:?}\n{report}");
}

#[test]
fn recorded_decisions() {
    all_equal(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/scc"));
}

#[test]
fn further_decisions() {
    if let Some(directory) = std::env::var_os("FERROVIRT_CORPUS") {
        all_equal(&PathBuf::from(directory));
    }
}

#[test]
fn a_directory_without_cases_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(ferrovirt_conformance::run(directory.path(), &mut Vec::new()).is_err());
    std::fs::write(directory.path().join("cases.jsonl"), "{}\n").unwrap();
    let error = ferrovirt_conformance::run(directory.path(), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
    assert!(ferrovirt_conformance::run(Path::new("/nonexistent"), &mut Vec::new()).is_err());
}

#[test]
fn a_wrong_answer_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let case = |allowed: bool, message: &str| {
        serde_json::json!({
            "id": "x", "operation": "CREATE", "namespace": null, "requestNamespace": "demo", "sccs": [],
            "user": {"name": "a"}, "pod": {"metadata": {"name": "p"}, "spec": {}},
            "result": {"allowed": allowed, "phase": "admit", "errors": [message], "message": message}
        })
    };
    let missing = "pods \"p\" is forbidden: securitycontextconstraints.security.openshift.io cache is missing anyuid, \
                   hostaccess, hostmount-anyuid, hostnetwork, hostnetwork-v2, nonroot, nonroot-v2, privileged, \
                   restricted, restricted-v2";
    let lines =
        [case(false, missing), case(true, missing), case(false, "other")].map(|c| c.to_string()).join("\n");
    std::fs::write(directory.path().join("cases.jsonl"), lines).unwrap();
    let mut report = Vec::new();
    let summary = ferrovirt_conformance::run(directory.path(), &mut report).unwrap();
    assert_eq!((summary.run, summary.different), (3, 2), "{}", String::from_utf8_lossy(&report));
}
