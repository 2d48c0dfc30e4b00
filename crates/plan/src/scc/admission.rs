//! Which SCC admits a launcher pod on a cluster as it is installed, asked of the same crate as the cluster's admission.

use crate::config::NAMESPACE;
use ferrovirt_kubernetes::subject;
use ferrovirt_scc::{
    Constraints, NamespaceValues, Operation, Outcome, Request, SecurityContextConstraints, Subject, defaults,
    prepare,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// A pod that an SCC admits.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// Name of the SCC.
    pub scc: String,
    /// The pod with what the SCC adds.
    pub pod: Value,
}

/// Admits a pod that the controller makes: with the platform's SCCs, of which everybody may use `restricted-v2` and
/// `restricted-v3`, and
/// those of the controller's account.
///
/// # Errors
/// The refusal, in the words of the cluster.
pub fn admit(pod: &Pod, own: &[Value]) -> Result<Admitted, String> {
    let mut all = defaults::all();
    for scc in own {
        let words = |errors: Vec<ferrovirt_scc::FieldError>| {
            errors.iter().map(|error| error.text.clone()).collect::<Vec<_>>().join(", ")
        };
        let scc = prepare(scc.clone()).map_err(words)?;
        all.push(
            serde_json::from_value::<SecurityContextConstraints>(scc).map_err(|error| error.to_string())?,
        );
    }
    let constraints = Constraints::compile(all);
    let everybody = |_: &Subject<'_>, scc: &str, _: &str| ["restricted-v2", "restricted-v3"].contains(&scc);
    let user = subject::service_account(NAMESPACE, crate::render::scc::CONTROLLER);
    let groups = [subject::SERVICE_ACCOUNTS, subject::AUTHENTICATED].map(str::to_owned);
    let request = Request {
        operation: Operation::Create,
        subresource: "",
        name: pod.metadata.name.as_deref().unwrap_or_default(),
        namespace: pod.metadata.namespace.as_deref().unwrap_or_default(),
        // Any namespace's: launcher pods name no number that has to be in them.
        values: Some(NamespaceValues {
            uid_range: Some("1000620000/10000"),
            mcs: Some("s0:c25,c10"),
            supplemental_groups: None,
        }),
        user: &user,
        groups: &groups,
    };
    let mut pod = serde_json::to_value(pod).map_err(|error| error.to_string())?;
    match constraints.admit(&request, &everybody, &mut pod) {
        Ok(Outcome::Admitted(admitted)) => Ok(Admitted { scc: admitted.scc.to_string(), pod }),
        // Only updates and other operations are passed over.
        Ok(_) => Ok(Admitted { scc: String::new(), pod }),
        Err(denied) => Err(denied.to_string()),
    }
}

/// The SCC without one of its values; a strategy becomes the one of `restricted-v2`.
pub fn without(scc: &Value, field: &str, value: &str) -> Value {
    let mut scc = scc.clone();
    let Some(place) = scc.get_mut(field) else { return scc };
    match (field, value) {
        ("runAsUser", _) => *place = json!({"type": "MustRunAsRange"}),
        ("fsGroup" | "supplementalGroups" | "seLinuxContext", _) => *place = json!({"type": "MustRunAs"}),
        (_, "true") => *place = json!(false),
        _ => {
            if let Some(list) = place.as_array_mut() {
                list.retain(|listed| listed != value);
            }
        }
    }
    scc
}
