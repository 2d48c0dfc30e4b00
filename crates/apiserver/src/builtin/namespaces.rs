//! What each namespace has from its birth, and how it goes.

use ferrovirt_kubernetes::condition;
use ferrovirt_kubernetes::json::{list, set, text};
use ferrovirt_kubernetes::object::{is_deleting, no_finalizers};
use ferrovirt_scc::Ledger;
use serde_json::{Value, json};

use super::object::{change, create};
use super::{Wake, delete};
use crate::app::SccAdmission;
use crate::clock;
use crate::store::{Change, Key, Prefix, Store, StoreError};

/// The object that remembers which uid blocks were given out: a [`Ledger`].
const ALLOCATOR: (&str, &str) = ("kube-system", "scc-uid");

/// Keeps all namespaces equipped, and empties those that are being deleted. Uid ranges are left to what admits pods.
pub async fn run(store: Store, ca_pem: String, scc: SccAdmission) {
    let prefixes = vec![Prefix::everything()];
    let mut wake = Wake::new(&store, prefixes);
    loop {
        if let Err(error) = reconcile(&store, &ca_pem, scc).await {
            tracing::warn!(%error, "namespaces could not be brought into order");
        }
        if !wake.next().await {
            return;
        }
    }
}

async fn reconcile(store: &Store, ca_pem: &str, scc: SccAdmission) -> Result<(), StoreError> {
    for (key, entry) in store.list(&Prefix::resource("", "namespaces")).entries {
        if is_deleting(&entry.object) {
            empty(store, &key, &entry.object).await?;
        } else {
            equip(store, &key, &entry.object, ca_pem, scc).await?;
        }
    }
    Ok(())
}

async fn equip(
    store: &Store,
    key: &Key,
    namespace: &Value,
    ca_pem: &str,
    scc: SccAdmission,
) -> Result<(), StoreError> {
    let name = key.name();
    if scc == SccAdmission::InProcess
        && namespace.pointer("/metadata/annotations").and_then(|a| a.get(ferrovirt_scc::UID_RANGE)).is_none()
    {
        allocate(store, key, namespace).await?;
    }
    if store.get(&Key::new("", "serviceaccounts", name, "default")).is_none() {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount"});
        create(store, ("", "serviceaccounts"), name, "default", account).await?;
    }
    let wanted = json!({ "ca.crt": ca_pem });
    let bundle = Key::new("", "configmaps", name, "kube-root-ca.crt");
    match store.get(&bundle) {
        None => {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": wanted, "metadata": {"annotations":
                {"kubernetes.io/description": "Certificates that clients in this namespace trust the API server by."}}});
            create(store, ("", "configmaps"), name, "kube-root-ca.crt", object).await?;
        }
        Some(entry) if entry.object.get("data") != Some(&wanted) => {
            change(store, &bundle, |object| set(object, &["data"], wanted.clone())).await?;
        }
        Some(_) => {}
    }
    Ok(())
}

/// Gives a namespace its uid block. The ledger is durable before the block is used.
async fn allocate(store: &Store, key: &Key, namespace: &Value) -> Result<(), StoreError> {
    let Some(number) = next_block(store, text(namespace, "/metadata/uid")).await? else {
        tracing::error!(
            namespace = key.name(),
            "no uid block is left for this namespace: pods will be refused in it"
        );
        return Ok(());
    };
    let Some(annotations) = ferrovirt_scc::allocate(number) else { return Ok(()) };
    change(store, key, |object| {
        for (name, value) in &annotations {
            // The label is kept when somebody chose one; the ranges belong together.
            if *name == ferrovirt_scc::MCS
                && object.pointer("/metadata/annotations").and_then(|a| a.get(name)).is_some()
            {
                continue;
            }
            set(object, &["metadata", "annotations", name], value.as_str().into());
        }
    })
    .await
}

async fn next_block(store: &Store, uid: &str) -> Result<Option<u32>, StoreError> {
    let key = Key::new("", "configmaps", ALLOCATOR.0, ALLOCATOR.1);
    let namespaces = store.list(&Prefix::resource("", "namespaces")).entries;
    let path = "/metadata/annotations";
    let taken = namespaces
        .iter()
        .filter_map(|(_, e)| e.object.pointer(path)?.get(ferrovirt_scc::UID_RANGE)?.as_str());
    let entry = store.get(&key);
    let ledger = Ledger::of(entry.as_ref().and_then(|e| e.object.get("data")));
    let Some((number, ledger)) = ledger.assign(uid, taken) else { return Ok(None) };
    let data = ledger.data();
    if entry.is_some() {
        change(store, &key, |object| set(object, &["data"], data.clone())).await?;
    } else {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data});
        create(store, ("", "configmaps"), ALLOCATOR.0, ALLOCATOR.1, object).await?;
    }
    Ok(Some(number))
}

/// Deletes everything in a namespace; when nothing is left, the namespace itself.
async fn empty(store: &Store, key: &Key, namespace: &Value) -> Result<(), StoreError> {
    let name = key.name();
    let all = store.list(&Prefix::everything()).entries;
    let inside: Vec<_> = all.iter().filter(|(k, _)| k.namespace() == name).collect();
    if text(namespace, "/status/phase") != "Terminating" {
        change(store, key, |object| set(object, &["status", "phase"], "Terminating".into())).await?;
    }
    for (key, entry) in &inside {
        if !is_deleting(&entry.object) {
            delete::request(store, key).await?;
        }
    }
    let left: Vec<_> = inside.iter().filter(|(k, _)| store.get(k).is_some()).collect();
    if !left.is_empty() {
        return remaining(store, key, left.iter().map(|(k, e)| (k, e.object.as_ref()))).await;
    }
    let result = store
        .guaranteed_update(key, |object| -> Result<Change, StoreError> {
            if !is_deleting(object) {
                // Somebody else let it go, and it was made again meanwhile.
                return Ok(Change::Keep);
            }
            let mut object = object.clone();
            set(&mut object, &["spec", "finalizers"], json!([]));
            Ok(if no_finalizers(&object) { Change::Delete } else { Change::Write(object) })
        })
        .await;
    match result {
        Ok(_) | Err(StoreError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Says in the namespace's status what keeps it.
async fn remaining(
    store: &Store,
    key: &Key,
    left: impl Iterator<Item = (&Key, &Value)>,
) -> Result<(), StoreError> {
    let mut resources = std::collections::BTreeMap::new();
    let mut finalizers = std::collections::BTreeMap::new();
    for (key, object) in left {
        let mut parts = key.as_str().split('/').skip(1);
        let (group, resource) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let what = if group.is_empty() { format!("{resource}.") } else { format!("{resource}.{group}") };
        *resources.entry(what).or_insert(0u32) += 1;
        for finalizer in list(object, "/metadata/finalizers").filter_map(Value::as_str) {
            *finalizers.entry(finalizer.to_owned()).or_insert(0u32) += 1;
        }
    }
    let count = |map: &std::collections::BTreeMap<String, u32>, verb: &str| -> String {
        map.iter()
            .map(|(what, n)| format!("{what} {verb} {n} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let content = format!("Some resources are remaining: {}", count(&resources, "has"));
    let held =
        format!("Some content in the namespace has finalizers remaining: {}", count(&finalizers, "in"));
    change(store, key, |object| {
        let mut put = |kind: &str, on: bool, reason: &str, message: &str| {
            let status = if on { "True" } else { "False" };
            condition::set(object, kind, status, (reason, message), &clock::stamp());
        };
        put("NamespaceContentRemaining", true, "SomeResourcesRemain", &content);
        put("NamespaceFinalizersRemaining", !finalizers.is_empty(), "SomeFinalizersRemain", &held);
    })
    .await
}

/// Makes a namespace, as bootstrap does.
///
/// # Errors
/// The store's.
pub async fn ensure(store: &Store, name: &str) -> Result<(), StoreError> {
    if store.get(&Key::new("", "namespaces", "", name)).is_some() {
        return Ok(());
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"labels": {"kubernetes.io/metadata.name": name}, "creationTimestamp": clock::stamp()},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    });
    create(store, ("", "namespaces"), "", name, object).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_that_was_made_again_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        ensure(&store, "n").await.unwrap();
        let key = Key::new("", "namespaces", "", "n");
        let before = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Terminating"}});
        empty(&store, &key, &before).await.unwrap();
        assert!(store.get(&key).is_some());
    }
}
