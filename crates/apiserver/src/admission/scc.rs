//! Security context constraints: every pod passes the `scc` crate, and the SCC objects themselves are checked.

use std::time::Duration;

use ferrovirt_scc::{
    Constraints, Denied, NamespaceValues, Operation as SccOperation, Pass, Request,
    SecurityContextConstraints, Subject, exempt_namespace,
};
use serde::Deserialize as _;
use serde_json::Value;

use crate::app::{App, SccAdmission};
use crate::auth::Authorizer;
use crate::fresh::Fresh;
use crate::request::{AdmissionRequest, Attributes, Operation, UserInfo};
use crate::status::{ApiError, Cause};
use crate::store::{Entry, Key, Prefix, Store};

const GROUP: &str = "security.openshift.io";
const RESOURCE: &str = "securitycontextconstraints";
/// How long a pod waits for its namespace's uid range or for the standard SCCs (scc-admission, passes 3 and 5).
const TIMEOUT: Duration = Duration::from_secs(10);

/// The constraints that are stored, compiled; compiled again when one changes.
#[must_use]
pub fn constraints(store: Store) -> Fresh<Constraints> {
    Fresh::new(store, format!("/{GROUP}/{RESOURCE}/"), |store| {
        let entries = store.list(&Prefix::resource(GROUP, RESOURCE)).entries;
        let read = |entry: Entry| match SecurityContextConstraints::deserialize(entry.object.as_ref()) {
            Ok(scc) => Some(scc),
            Err(why) => {
                tracing::error!(%why, "a stored SecurityContextConstraints cannot be read and is left out");
                None
            }
        };
        Constraints::compile(entries.into_iter().filter_map(|(_, entry)| read(entry)))
    })
}

/// The mutating pass: chooses the SCC for a pod and applies it.
pub(super) async fn mutate(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    pass(app, request, Pass::Mutating).await
}

/// The validating pass: some SCC admits the pod as it is.
pub(super) async fn validate(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    pass(app, request, Pass::Validating).await
}

async fn pass(app: &App, request: &mut AdmissionRequest<'_>, pass: Pass) -> Result<(), ApiError> {
    if app.scc_admission == SccAdmission::Webhook {
        return Ok(());
    }
    let ask = || once(app, request, pass);
    let result = patiently(&app.store, ask, Denied::may_pass_later).await;
    result.map_err(|denied| ApiError::forbidden("", "pods", request.name, denied.to_string()))
}

/// Asks again after each change of the store while the answer is a refusal that may pass later, within bounds.
pub(super) async fn patiently<T, E>(
    store: &Store,
    mut ask: impl FnMut() -> Result<T, E>,
    may_pass_later: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut watcher = store.watch(Prefix::everything(), store.revision()).ok();
    let wait = async {
        loop {
            match (ask(), watcher.as_mut()) {
                (Err(refusal), Some(watcher)) if may_pass_later(&refusal) => {
                    if watcher.next().await.is_err() {
                        return Err(refusal);
                    }
                }
                (answer, _) => return answer,
            }
        }
    };
    match tokio::time::timeout(TIMEOUT, wait).await {
        Ok(answer) => answer,
        Err(_) => ask(),
    }
}

fn once(app: &App, request: &mut AdmissionRequest<'_>, pass: Pass) -> Result<(), Denied> {
    let namespace = app.store.get(&Key::new("", "namespaces", "", request.namespace));
    let namespace = namespace.as_ref().map(|entry| entry.object.as_ref());
    if is_exempt(request.namespace, namespace) {
        return Ok(());
    }
    let operation = match (request.operation, request.old) {
        (Operation::Update, Some(old)) => SccOperation::Update { old },
        _ => SccOperation::Create,
    };
    let asked = Request {
        operation,
        subresource: request.subresource,
        name: request.name,
        namespace: request.namespace,
        values: namespace.map(NamespaceValues::of),
        user: &request.user.name,
        groups: &request.user.groups,
    };
    let roles = Roles(&app.auth.authorizer);
    let constraints = app.constraints.get();
    match pass {
        Pass::Mutating => constraints.mutate(&asked, &roles, request.object),
        Pass::Validating => constraints.validate(&asked, &roles, request.object),
    }
    .map(|_| ())
}

/// Whether no SCC is asked for in this namespace.
///
/// OKD exempts `default` because its own parts live there. Here it is where people start, so that an exemption would let
/// everybody who may create pods in it become root of the machine.
pub(super) fn is_exempt(name: &str, namespace: Option<&Value>) -> bool {
    name != "default" && exempt_namespace(name, namespace)
}

/// The roles of the cluster, asked for verb `use` on SCCs.
pub(super) struct Roles<'a>(pub(super) &'a Authorizer);

impl ferrovirt_scc::Authorizer for Roles<'_> {
    fn may_use(&self, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
        let user = UserInfo {
            name: subject.user.to_owned(),
            groups: subject.groups.to_vec(),
            ..UserInfo::default()
        };
        let attributes = Attributes {
            verb: "use".into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: RESOURCE.into(),
            namespace: namespace.into(),
            name: scc.into(),
            ..Attributes::default()
        };
        self.0.may(&user, &attributes)
    }
}

/// An SCC object that is written: defaulted and validated.
pub(super) fn object(app: &App, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation == Operation::Delete || app.scc_admission == SccAdmission::Webhook {
        return Ok(());
    }
    match ferrovirt_scc::prepare(request.object.clone()) {
        Ok(prepared) => {
            *request.object = prepared;
            Ok(())
        }
        Err(errors) => {
            let causes: Vec<Cause> = errors
                .into_iter()
                .map(|e| Cause { reason: e.reason.to_string(), message: e.text, field: e.field })
                .collect();
            Err(ApiError::invalid(GROUP, request.kind.kind, request.name, &causes))
        }
    }
}
