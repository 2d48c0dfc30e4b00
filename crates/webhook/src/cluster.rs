//! What the cluster looks like, kept by watches.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ferrovirt_kubernetes::rbac::{Binding, Objects, Rights, Rule, Subject, role_name};
use ferrovirt_plan::render::scc_webhook::{CRD, MANAGED_BY};
use ferrovirt_scc::{Constraints, MCS, SUPPLEMENTAL_GROUPS, SecurityContextConstraints, UID_RANGE, USE};
use futures::join;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject as BindingSubject,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::follow::{Table, follow as keep};

/// The group of SCCs.
pub(crate) const GROUP: &str = "security.openshift.io";
/// A group that OKD alone serves.
const OKD: &str = "config.openshift.io";
/// Pause before the cluster is asked again who serves SCCs.
const AGAIN: Duration = Duration::from_secs(5);
/// Labels of a namespace that keep SCC admission away.
const LABELS: [&str; 2] =
    ["openshift.io/run-level", "security.openshift.io/disable-securitycontextconstraints"];

/// Who serves SCCs in this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Not known yet, or nobody.
    Nobody,
    /// Our definition: this webhook decides.
    Us,
    /// The cluster itself: its own admission decides.
    Cluster,
}

/// The state that decisions are made from.
pub(crate) struct Cluster {
    constraints: RwLock<Arc<Constraints>>,
    rights: RwLock<Arc<Rights>>,
    /// Of each namespace the uid, and the labels and annotations that matter.
    pub(crate) namespaces: Table<Arc<Value>>,
    sccs: Table<SecurityContextConstraints>,
    cluster_roles: Table<Objects>,
    roles: Table<Objects>,
    cluster_bindings: Table<Binding>,
    bindings: Table<Binding>,
    owner: RwLock<Owner>,
    changes: watch::Sender<()>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            constraints: RwLock::new(Arc::new(Constraints::compile([]))),
            rights: RwLock::default(),
            namespaces: Table::default(),
            sccs: Table::default(),
            cluster_roles: Table::default(),
            roles: Table::default(),
            cluster_bindings: Table::default(),
            bindings: Table::default(),
            owner: RwLock::new(Owner::Nobody),
            changes: watch::Sender::new(()),
        }
    }
}

impl Cluster {
    pub(crate) fn constraints(&self) -> Arc<Constraints> {
        Arc::clone(&self.constraints.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn rights(&self) -> Arc<Rights> {
        Arc::clone(&self.rights.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<Arc<Value>> {
        self.namespaces.read().as_ref()?.get(&(String::new(), name.to_owned())).cloned()
    }

    pub(crate) fn owner(&self) -> Owner {
        *self.owner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// What has not been listed yet, so that nothing can be decided.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        match self.owner() {
            Owner::Cluster => return Vec::new(),
            Owner::Nobody => return vec![CRD],
            Owner::Us => {}
        }
        let all = [
            ("securitycontextconstraints", self.sccs.is_listed()),
            ("namespaces", self.namespaces.is_listed()),
            ("clusterroles", self.cluster_roles.is_listed()),
            ("roles", self.roles.is_listed()),
            ("clusterrolebindings", self.cluster_bindings.is_listed()),
            ("rolebindings", self.bindings.is_listed()),
        ];
        all.into_iter().filter(|(_, listed)| !listed).map(|(kind, _)| kind).collect()
    }

    pub(crate) fn set_owner(&self, owner: Owner) {
        *self.owner.write().unwrap_or_else(PoisonError::into_inner) = owner;
        self.changes.send_replace(());
    }

    fn sccs_changed(&self) {
        let sccs: Vec<_> = self.sccs.read().iter().flatten().map(|(_, scc)| scc.clone()).collect();
        let compiled = Arc::new(Constraints::compile(sccs));
        *self.constraints.write().unwrap_or_else(PoisonError::into_inner) = compiled;
        self.changes.send_replace(());
    }

    fn rights_changed(&self) {
        let none = HashMap::new();
        let (cluster_roles, roles) = (self.cluster_roles.read(), self.roles.read());
        let (cluster_bindings, bindings) = (self.cluster_bindings.read(), self.bindings.read());
        let all = [cluster_bindings.as_ref(), bindings.as_ref()];
        let all = all.into_iter().flatten().flatten();
        let rights = Rights::new(
            roles.as_ref().unwrap_or(&none),
            cluster_roles.as_ref().unwrap_or(&none),
            all.map(|((namespace, _), binding)| (namespace.as_str(), binding)),
        );
        *self.rights.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rights);
        self.changes.send_replace(());
    }
}

/// Keeps the cluster's state. Never ends.
pub(crate) async fn follow(client: Client, cluster: Arc<Cluster>) {
    loop {
        match owner(&client).await {
            Ok(Owner::Nobody) => tracing::warn!("{GROUP} is not served: apply the definition of SCCs"),
            Ok(Owner::Us) => break,
            Ok(Owner::Cluster) => {
                tracing::warn!(
                    "{GROUP} is served by the cluster itself, whose own admission decides: every request is allowed; \
                     remove this webhook"
                );
                cluster.set_owner(Owner::Cluster);
                return std::future::pending().await;
            }
            Err(error) => tracing::warn!(%error, "cannot find out who serves {GROUP}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
    cluster.set_owner(Owner::Us);
    let kind = GroupVersionKind::gvk(GROUP, "v1", "SecurityContextConstraints");
    let resource = ApiResource::from_gvk_with_plural(&kind, "securitycontextconstraints");
    let at = cluster.as_ref();
    let rights = || at.rights_changed();
    join!(
        keep(Api::all_with(client.clone(), &resource), &at.sccs, scc, || at.sccs_changed()),
        keep(Api::<Namespace>::all(client.clone()), &at.namespaces, namespace, || {
            at.changes.send_replace(());
        }),
        keep(
            Api::<ClusterRole>::all(client.clone()),
            &at.cluster_roles,
            |role| usable(role.rules.as_deref()),
            rights
        ),
        keep(Api::<Role>::all(client.clone()), &at.roles, |role| usable(role.rules.as_deref()), rights),
        keep(
            Api::<ClusterRoleBinding>::all(client.clone()),
            &at.cluster_bindings,
            |binding| bound("", &binding.role_ref, binding.subjects.as_deref()),
            rights
        ),
        keep(
            Api::<RoleBinding>::all(client.clone()),
            &at.bindings,
            |binding| {
                let namespace = binding.namespace().unwrap_or_default();
                bound(&namespace, &binding.role_ref, binding.subjects.as_deref())
            },
            rights
        ),
    );
}

/// OKD is known by its own group. The definition that we bring carries our label, one of somebody else's does not; the
/// embedded API server has the kind built in and no definition until ours is applied.
async fn owner(client: &Client) -> kube::Result<Owner> {
    let groups = client.list_api_groups().await?;
    let served = |name: &str| groups.groups.iter().any(|group| group.name == name);
    if served(OKD) {
        return Ok(Owner::Cluster);
    }
    let definition = Api::<CustomResourceDefinition>::all(client.clone()).get_opt(CRD).await?;
    if let Some(definition) = definition {
        let (label, value) = MANAGED_BY;
        let ours = definition.labels().get(label).is_some_and(|found| found == value);
        return Ok(if ours { Owner::Us } else { Owner::Cluster });
    }
    Ok(if served(GROUP) { Owner::Cluster } else { Owner::Nobody })
}

/// On which SCCs the rules of a role grant what it takes to use them.
fn usable(rules: Option<&[PolicyRule]>) -> Option<Objects> {
    Objects::of(rules.unwrap_or_default().iter().map(Rule::from), &USE)
}

fn bound(namespace: &str, role: &RoleRef, subjects: Option<&[BindingSubject]>) -> Option<Binding> {
    let subjects = subjects.unwrap_or_default().iter();
    let subjects = subjects.filter_map(|subject| Subject::typed(subject, namespace));
    Binding::of(role_name(&role.kind, &role.name, namespace), subjects)
}

fn scc(object: &DynamicObject) -> Option<SecurityContextConstraints> {
    let value = serde_json::to_value(object).ok()?;
    match serde_json::from_value(value) {
        Ok(scc) => Some(scc),
        Err(error) => {
            tracing::error!(name = object.name_any(), %error, "this SCC cannot be read and is left out");
            None
        }
    }
}

fn namespace(object: &Namespace) -> Option<Arc<Value>> {
    let annotations = [UID_RANGE, MCS, SUPPLEMENTAL_GROUPS];
    let annotations: HashMap<_, _> =
        annotations.into_iter().filter_map(|key| Some((key, object.annotations().get(key)?))).collect();
    let labels: HashMap<_, _> =
        LABELS.into_iter().filter_map(|key| Some((key, object.labels().get(key)?))).collect();
    Some(Arc::new(json!({"metadata": {"labels": labels, "annotations": annotations}})))
}
