//! Who may do what, out of roles and bindings.

use ferrovirt_kubernetes::json;
use ferrovirt_privilege::{Held, Right, Subject};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A manifest that gives rights to somebody whom the table does not know, or in a form that it does not use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RbacError {
    /// The holder is unknown.
    #[error("{role} gives rights to `{holder}`, who is not a subject of the privilege table")]
    Holder {
        /// The binding's role.
        role: String,
        /// The subject of the binding.
        holder: String,
    },
    /// Rights that are not on resources.
    #[error("{role} has a rule that is not on resources")]
    Form {
        /// The role.
        role: String,
    },
    /// A binding without its role.
    #[error("role {role} is bound but not part of the manifests")]
    Missing {
        /// The role.
        role: String,
    },
}

/// Every verb that roles, bindings and aggregation give. Other kinds of manifests are passed over.
///
/// # Errors
/// Rights whose holder or form the table does not know.
pub fn lift(manifests: &[Value]) -> Result<BTreeSet<Held>, RbacError> {
    let text = |value: &Value, path: &str| json::text(value, path).to_owned();
    let kind = |value: &Value| text(value, "/kind");
    let mut roles = BTreeMap::new();
    let mut bound = Vec::new();
    for manifest in manifests {
        let namespace = text(manifest, "/metadata/namespace");
        match kind(manifest).as_str() {
            "ClusterRole" | "Role" => {
                let name = text(manifest, "/metadata/name");
                for (label, _) in json::entries(manifest, "/metadata/labels") {
                    if let Some(into) = label.strip_prefix("rbac.authorization.k8s.io/aggregate-to-") {
                        bound.push((kind(manifest), String::new(), name.clone(), aggregated(into)));
                    }
                }
                roles.insert((kind(manifest), namespace, name), manifest);
            }
            "ClusterRoleBinding" | "RoleBinding" => {
                let role = text(manifest, "/roleRef/name");
                let home = match text(manifest, "/roleRef/kind").as_str() {
                    "Role" => namespace,
                    _ => String::new(),
                };
                let subjects = json::list(manifest, "subjects");
                for subject in subjects {
                    let holder =
                        [text(subject, "/kind"), text(subject, "/namespace"), text(subject, "/name")];
                    let holder =
                        holder.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
                    bound.push((text(manifest, "/roleRef/kind"), home.clone(), role.clone(), known(&holder)));
                }
            }
            _ => {}
        }
    }
    let mut out = BTreeSet::new();
    for (kind, namespace, role, holder) in bound {
        let subject = holder.map_err(|holder| RbacError::Holder { role: role.clone(), holder })?;
        let manifest = roles
            .get(&(kind, namespace.clone(), role.clone()))
            .ok_or_else(|| RbacError::Missing { role: role.clone() })?;
        for rule in json::list(manifest, "rules") {
            let list = |field: &str| json::texts(rule, field).map(str::to_owned).collect::<Vec<_>>();
            if rule.get("nonResourceURLs").is_some() {
                return Err(RbacError::Form { role });
            }
            let mut names: Vec<_> = list("resourceNames").into_iter().map(Some).collect();
            if names.is_empty() {
                names.push(None);
            }
            for group in list("apiGroups") {
                for resource in list("resources") {
                    for verb in list("verbs") {
                        out.extend(names.iter().map(|name| Held {
                            subject,
                            right: Right::Verb {
                                group: group.clone(),
                                resource: resource.clone(),
                                verb: verb.clone(),
                                namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
                                name: name.clone(),
                            },
                        }));
                    }
                }
            }
        }
    }
    Ok(out)
}

fn known(holder: &str) -> Result<Subject, String> {
    match holder {
        "ServiceAccount kubevirt kubevirt-api" => Ok(Subject::MachineApi),
        "ServiceAccount kubevirt kubevirt-controller" => Ok(Subject::Controller),
        "ServiceAccount kubevirt kubevirt-handler" => Ok(Subject::NodeAgent),
        "ServiceAccount scc-webhook scc-webhook" => Ok(Subject::SccWebhook),
        "Group system:nodes" => Ok(Subject::Node),
        "Group system:authenticated" => Ok(Subject::Anybody),
        other => Err(other.to_owned()),
    }
}

fn aggregated(into: &str) -> Result<Subject, String> {
    match into {
        "view" => Ok(Subject::Viewer),
        "edit" => Ok(Subject::Editor),
        "admin" => Ok(Subject::Administrator),
        other => Err(format!("aggregated role {other}")),
    }
}
