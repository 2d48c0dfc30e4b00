//! The recorded benchmark cases, ready to run.
#![allow(unreachable_pub)] // Each benchmark is a crate of its own that includes this file.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // A broken case should stop the benchmark.

use std::io::Read;

use ferrovirt_scc::{
    Authorizer, Constraints, Grants, NamespaceValues, Operation, Request, SecurityContextConstraints, Subject,
};
use serde_json::Value;

/// One benchmark case.
pub struct Case {
    case: Value,
    user: String,
    groups: Vec<String>,
    /// The pod as submitted.
    pub pod: Value,
    /// The cluster's SCCs.
    pub constraints: Constraints,
}

/// Grants to groups, as the case lists them.
pub struct Granted {
    list: Vec<(String, String)>,
    lists: bool,
}

impl Authorizer for Granted {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, _: &str) -> bool {
        self.list.iter().any(|(group, name)| name == scc && subject.groups.contains(group))
    }

    fn grants<'a>(&'a self, subject: &Subject<'_>, _: &str) -> Grants<'a> {
        if !self.lists {
            return Grants::Ask;
        }
        let own = self.list.iter().filter(|(group, _)| subject.groups.contains(group));
        Grants::Named(own.map(|(_, name)| name.as_str()).collect())
    }
}

impl Case {
    /// Loads a case; further SCCs that the requester may not use make up the total.
    pub fn load(name: &str, total: usize) -> Case {
        let path = format!("{}/../../tests/conformance/scc/{name}.json.gz", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        let case: Value = serde_json::from_str(&text).unwrap();
        let mut sccs: Vec<SecurityContextConstraints> = serde_json::from_value(case["sccs"].clone()).unwrap();
        for n in sccs.len()..total {
            let mut more = sccs[n % 13].clone();
            more.metadata.name = Some(format!("{}-{n}", more.name()));
            (more.users, more.groups) = (vec![format!("user-{n}")], vec![format!("group-{n}")]);
            sccs.push(more);
        }
        let groups = case["user"]["groups"].as_array().unwrap();
        Case {
            user: case["user"]["name"].as_str().unwrap().to_owned(),
            groups: groups.iter().map(|g| g.as_str().unwrap().to_owned()).collect(),
            pod: case["pod"].clone(),
            constraints: Constraints::compile(sccs),
            case,
        }
    }

    /// The request.
    pub fn request(&self) -> Request<'_> {
        Request {
            operation: Operation::Create,
            subresource: "",
            name: "",
            namespace: self.case["namespace"]["metadata"]["name"].as_str().unwrap(),
            values: Some(NamespaceValues::of(&self.case["namespace"])),
            user: &self.user,
            groups: &self.groups,
        }
    }

    fn granted(&self, lists: bool) -> Granted {
        let list = self.case["authorizedSccs"].as_array().unwrap();
        let text = |g: &Value, key: &str| g[key].as_str().unwrap().to_owned();
        Granted { list: list.iter().map(|g| (text(g, "name"), text(g, "scc"))).collect(), lists }
    }

    /// An authorizer that lists what a subject may use.
    pub fn listing(&self) -> Granted {
        self.granted(true)
    }

    /// An authorizer that has to be asked for each SCC.
    pub fn asking(&self) -> Granted {
        self.granted(false)
    }
}
