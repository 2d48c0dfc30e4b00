//! The state that a decision depends on: from files, from a cluster, or assumed.

use super::{Known, input, roles};
use crate::client;
use anyhow::{Context, Result};
use ferrovirt_kubernetes::rbac::Rights;
use ferrovirt_kubernetes::{json, object};
use ferrovirt_plan::{config::ClusterConfig, render};
use ferrovirt_privilege::cluster_grants;
use ferrovirt_scc::{Constraints, NamespaceValues, SecurityContextConstraints, defaults};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// SCCs, roles and namespaces, and what of them was made up.
pub(super) struct State {
    pub(super) constraints: Constraints,
    pub(super) rights: Rights,
    /// By name; empty when they are assumed.
    namespaces: BTreeMap<String, Value>,
    assumed_namespace: Option<Value>,
    /// What was assumed, in sentences.
    pub(super) assumed: Vec<String>,
}

/// The defaults of a cluster and the SCCs of our controllers.
pub(super) fn built_in() -> Vec<SecurityContextConstraints> {
    let grants = cluster_grants(ferrovirt_model::Profile::default());
    let ours = [render::scc::controller(&grants), render::scc::machine(&grants)];
    defaults::all()
        .into_iter()
        .chain(ours.into_iter().filter_map(|scc| serde_json::from_value(scc).ok()))
        .collect()
}

/// The SCCs among these objects.
pub(super) fn sccs(objects: &[Value]) -> Result<Vec<SecurityContextConstraints>> {
    let mut all = Vec::new();
    for object in objects.iter().filter(|object| object::kind(object) == "SecurityContextConstraints") {
        let scc: SecurityContextConstraints = serde_json::from_value(object.clone())
            .with_context(|| format!("SecurityContextConstraints {}", object::name(object)))?;
        all.push(scc);
    }
    Ok(all)
}

impl State {
    pub(super) fn load(known: &Known, namespaces: &[&str]) -> Result<Self> {
        if known.cluster {
            return client::run(Self::ask(namespaces));
        }
        let mut assumed = Vec::new();
        let given = sccs(&input::documents(&known.sccs)?)?;
        let has = |name: &str| given.iter().any(|scc| scc.name() == name);
        let mut all = built_in();
        if known.sccs.is_empty() {
            assumed.push(
                "the default SCCs, kubevirt-controller and kubevirt-machine exist (--sccs FILE or --cluster says otherwise)"
                    .to_owned(),
            );
        } else {
            // Without the standard ones no pod is admitted at all.
            all.retain(|scc| ferrovirt_scc::STANDARD_NAMES.contains(&scc.name()) && !has(scc.name()));
            if !all.is_empty() {
                let names: Vec<&str> = all.iter().map(|scc| scc.name()).collect();
                assumed.push(format!(
                    "standard SCCs that are not in the file are the defaults: {}",
                    names.join(", ")
                ));
            }
        }
        all.extend(given);
        let roles = if known.rbac.is_empty() {
            assumed.push("everybody may use restricted-v2 and restricted-v3, other SCCs only whom they name (--rbac FILE or --cluster says otherwise)".to_owned());
            render::install::embedded(&ClusterConfig::default())
        } else {
            input::documents(&known.rbac)?
        };
        let block = ferrovirt_scc::allocate(0).unwrap_or_default();
        assumed.push(format!(
            "namespaces have {}",
            block.each_ref().map(|(key, value)| format!("{key}={value}")).join(", ")
        ));
        let annotations: BTreeMap<&str, &str> =
            block.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let assumed_namespace = Some(json!({"metadata": {"annotations": annotations}}));
        let (constraints, rights) = (Constraints::compile(all), roles::rights(&roles));
        Ok(Self { constraints, rights, namespaces: BTreeMap::new(), assumed_namespace, assumed })
    }

    async fn ask(names: &[&str]) -> Result<Self> {
        let (client, _) = client::connect().await?;
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let list = async |path: String, kind: &str| -> Result<Vec<Value>> {
            let request = http::Request::get(&path).body(Vec::new())?;
            let answer: Value = client.request(request).await.with_context(|| path)?;
            let items = json::list(&answer, "items").cloned();
            // Items of a list do not say what they are.
            let typed = items.map(|mut item| {
                if let Value::Object(fields) = &mut item {
                    fields.insert("kind".to_owned(), kind.into());
                }
                item
            });
            Ok(typed.collect())
        };
        let path = "/apis/security.openshift.io/v1/securitycontextconstraints";
        let all = sccs(&list(path.to_owned(), "SecurityContextConstraints").await?)?;
        let mut roles = list(format!("{rbac}/clusterroles"), "ClusterRole").await?;
        roles.extend(list(format!("{rbac}/clusterrolebindings"), "ClusterRoleBinding").await?);
        let mut namespaces = BTreeMap::new();
        for name in names {
            roles.extend(list(format!("{rbac}/namespaces/{name}/roles"), "Role").await?);
            roles.extend(list(format!("{rbac}/namespaces/{name}/rolebindings"), "RoleBinding").await?);
            let request = http::Request::get(format!("/api/v1/namespaces/{name}")).body(Vec::new())?;
            let namespace: Value =
                client.request(request).await.with_context(|| format!("namespace {name}"))?;
            namespaces.insert((*name).to_owned(), namespace);
        }
        Ok(Self {
            constraints: Constraints::compile(all),
            rights: roles::rights(&roles),
            namespaces,
            assumed_namespace: None,
            assumed: Vec::new(),
        })
    }

    /// The values of a namespace.
    pub(super) fn values(&self, namespace: &str) -> Option<NamespaceValues<'_>> {
        self.namespaces.get(namespace).or(self.assumed_namespace.as_ref()).map(NamespaceValues::of)
    }
}
