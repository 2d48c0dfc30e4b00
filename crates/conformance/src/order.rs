//! Order of candidates.

use std::collections::BTreeMap;

use ferrovirt_kubernetes::json;
use ferrovirt_scc::{Constraints, SecurityContextConstraints, points, why_before};
use serde_json::Value;

use crate::{sccs, texts};

pub(crate) fn differences(case: &Value) -> Result<Vec<String>, String> {
    let constraints = Constraints::compile(sccs(case, &Value::Null)?);
    let sorted: Vec<&SecurityContextConstraints> = constraints.iter().collect();
    let mut list = Vec::new();
    let mut compare = |what: &str, want: String, have: String| {
        if want != have {
            list.push(format!("{what}: want {want}, have {have}"));
        }
    };
    let names: Vec<&str> = sorted.iter().map(|s| s.name()).collect();
    compare("order", format!("{:?}", texts(case, "order")), format!("{names:?}"));
    let have: BTreeMap<&str, u64> = sorted.iter().map(|s| (s.name(), points(s).into())).collect();
    let want = json::fields(case, "points");
    let want: BTreeMap<&str, u64> =
        want.into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_u64().unwrap_or(u64::MAX))).collect();
    compare("points", format!("{want:?}"), format!("{have:?}"));
    let pairs = sorted.iter().zip(sorted.iter().skip(1));
    let reasons: Vec<&str> = pairs.map(|(a, b)| why_before(a, b).as_str()).collect();
    compare("reasons", format!("{:?}", texts(case, "reasons")), format!("{reasons:?}"));
    Ok(list)
}
