//! How much our programs log: `spec.configuration.developerConfiguration.logVerbosity` of the KubeVirt object, which
//! `virtctl adm log-verbosity` writes.

use std::collections::BTreeMap;

use ferrovirt_api::kubevirt::KubeVirt;
use serde::Deserialize;
use serde_json::Value;

/// A program that follows it while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `kubevirt-api`.
    Api,
    /// `kubevirt-controller`.
    Controller,
    /// `virt-handler api`.
    Handler,
}

/// The field, with upstream's names; what it says of programs that there are not here is kept and changes nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verbosity {
    #[serde(rename = "virtAPI")]
    virt_api: Option<u32>,
    virt_controller: Option<u32>,
    virt_handler: Option<u32>,
    /// Of the handler on a node, in place of the other one.
    #[serde(default)]
    node_verbosity: BTreeMap<String, u32>,
}

/// How much a program logs, on KubeVirt's scale; nothing where nobody says it, or nothing that is a number.
pub fn verbosity(object: &KubeVirt, program: Program, node: &str) -> Option<u32> {
    let read = read(object).unwrap_or_default();
    match program {
        Program::Api => read.virt_api,
        Program::Controller => read.virt_controller,
        Program::Handler => read.node_verbosity.get(node).copied().or(read.virt_handler),
    }
}

/// Whether it can be read.
///
/// # Errors
/// What is wrong, with the field.
pub fn check(object: &KubeVirt) -> Result<(), String> {
    let wrong =
        |why| format!("spec.configuration.developerConfiguration.logVerbosity of the KubeVirt object: {why}");
    read(object).map(|_| ()).map_err(wrong)
}

fn read(object: &KubeVirt) -> serde_json::Result<Verbosity> {
    let developer = object.spec.configuration.as_ref().and_then(|all| all.developer_configuration.as_ref());
    match developer.and_then(|developer| developer.log_verbosity.as_ref()) {
        Some(given) => Verbosity::deserialize(Value::Object(given.0.clone())),
        None => Ok(Verbosity::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(verbosity: Value) -> KubeVirt {
        let developer = json!({"logVerbosity": verbosity});
        let spec = json!({"configuration": {"developerConfiguration": developer}});
        serde_json::from_value(json!({"metadata": {"name": "kubevirt"}, "spec": spec})).unwrap()
    }

    #[test]
    fn each_program_has_its_own_and_a_node_that_of_its_name() {
        let all = object(json!({"virtAPI": 3, "virtController": 4, "virtHandler": 5, "virtLauncher": 9,
            "nodeVerbosity": {"b": 7}}));
        check(&all).unwrap();
        assert_eq!(verbosity(&all, Program::Api, ""), Some(3));
        assert_eq!(verbosity(&all, Program::Controller, ""), Some(4));
        assert_eq!(["a", "b"].map(|node| verbosity(&all, Program::Handler, node)), [Some(5), Some(7)]);
        assert_eq!(verbosity(&object(json!({})), Program::Api, ""), None);
    }

    #[test]
    fn what_is_no_number_is_refused_and_has_no_effect() {
        for bad in [json!({"virtAPI": "5"}), json!({"virtAPI": -1}), json!({"nodeVerbosity": 3})] {
            assert!(check(&object(bad.clone())).unwrap_err().contains("logVerbosity"), "{bad}");
            assert_eq!(verbosity(&object(bad), Program::Api, ""), None);
        }
    }
}
