//! Any bytes as an AdmissionReview: read, decided as a pod and as an SCC, answered. Nothing panics, and an answer is JSON.
#![no_main]

use ferrovirt_scc::{Constraints, Pass, Subject, defaults, webhook::{Answer, Review}};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let review = match Review::read(data) {
        Ok(review) => review,
        Err(why) => {
            assert!(why.to_string().len() < 2_000);
            return;
        }
    };
    let constraints = Constraints::compile(defaults::all());
    let namespace = json!({"metadata": {"annotations": {
        "openshift.io/sa.scc.uid-range": "1000620000/10000", "openshift.io/sa.scc.mcs": "s0:c25,c10"}}});
    let everybody = |_: &Subject<'_>, scc: &str, _: &str| scc != "anyuid";
    for pass in [Pass::Mutating, Pass::Validating] {
        let answer = review.decide(pass, &constraints, Some(&namespace), &everybody).unwrap_or_else(Answer::denied);
        for answer in [answer, review.decide_object(pass)] {
            let bytes = answer.render(&review.uid, |patch| patch.len().to_string());
            let answered: Value = serde_json::from_slice(&bytes).expect("an answer is JSON");
            assert_eq!(answered["response"]["uid"], review.uid.as_str());
        }
    }
});
