//! Security context constraints: every pod passes the `scc` crate, and the SCC objects themselves are checked.

use std::time::Duration;

use ferrovirt_scc::{
    Constraints, Denied, NamespaceValues, Operation as SccOperation, Pass, Request,
    SecurityContextConstraints, Subject, exempt_namespace,
};
use serde::Deserialize as _;

use crate::app::{App, SccAdmission};
use crate::auth::Authorizer;
use crate::fresh::Fresh;
use crate::request::{AdmissionRequest, Attributes, Operation, UserInfo};
use crate::status::{ApiError, Cause};
use crate::store::{Entry, Key, Prefix, Store};

const GROUP: &str = "security.openshift.io";
const RESOURCE: &str = "securitycontextconstraints";
/// How long a pod waits for its namespace's uid range or for the standard SCCs (scc-admission, passes 3 and 5).
const PATIENCE: Duration = Duration::from_secs(10);

/// The compiled constraints of the store.
pub type SccCache = Fresh<Constraints>;

/// The constraints that are stored, compiled; compiled again when one changes.
#[must_use]
pub fn constraints(store: Store) -> SccCache {
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
    let revision = app.store.revision();
    let mut watcher = app.store.watch(Prefix::everything(), revision).ok();
    let wait = async {
        loop {
            let denied = match once(app, request, pass) {
                Ok(()) => return Ok(()),
                Err(denied) => denied,
            };
            if !denied.may_pass_later() {
                return Err(denied);
            }
            let Some(watcher) = watcher.as_mut() else { return Err(denied) };
            if watcher.next().await.is_err() {
                return Err(denied);
            }
        }
    };
    let result = match tokio::time::timeout(PATIENCE, wait).await {
        Ok(result) => result,
        Err(_) => once(app, request, pass),
    };
    result.map_err(|denied| ApiError::forbidden("", "pods", request.name, denied.to_string()))
}

fn once(app: &App, request: &mut AdmissionRequest<'_>, pass: Pass) -> Result<(), Denied> {
    let namespace = app.store.get(&Key::new("", "namespaces", "", request.namespace));
    let namespace = namespace.as_ref().map(|entry| entry.object.as_ref());
    // OKD exempts `default` because its own parts live there. Here it is where people start, so that an exemption would
    // let everybody who may create pods in it become root of the machine.
    if request.namespace != "default" && exempt_namespace(request.namespace, namespace) {
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
    let authorizer = &app.auth.authorizer;
    let may_use =
        |subject: &Subject<'_>, scc: &str, namespace: &str| may_use(authorizer, subject, scc, namespace);
    let constraints = app.constraints.get();
    match pass {
        Pass::Mutating => constraints.mutate(&asked, &may_use, request.object),
        Pass::Validating => constraints.validate(&asked, &may_use, request.object),
    }
    .map(|_| ())
}

fn may_use(authorizer: &Authorizer, subject: &Subject<'_>, scc: &str, namespace: &str) -> bool {
    let user =
        UserInfo { name: subject.user.to_owned(), groups: subject.groups.to_vec(), ..UserInfo::default() };
    let attributes = Attributes {
        verb: "use".into(),
        group: GROUP.into(),
        version: "v1".into(),
        resource: RESOURCE.into(),
        namespace: namespace.into(),
        name: scc.into(),
        ..Attributes::default()
    };
    authorizer.may(&user, &attributes)
}

/// An SCC object that is written: defaulted and validated.
pub(super) fn object(request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation == Operation::Delete {
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
