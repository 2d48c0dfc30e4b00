//! The binder of claims and persistent volumes.
//!
//! A claim gets the smallest available volume that fits its size, access modes, class, volume mode and selector. The
//! volume's `claimRef` is written first and decides: a crash in between is finished on the next look.

use ferrovirt_kubernetes::json::{list, set, text};
use ferrovirt_kubernetes::object::{drop_finalizer, has_finalizer, is_deleting, no_finalizers, uid};
use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_kubernetes::selector::Labels;
use serde_json::{Value, json};

use super::object::change;
use super::{Wake, delete};
use crate::store::{Key, Prefix, Store, StoreError};

const VOLUMES: &str = "persistentvolumes";
const CLAIMS: &str = "persistentvolumeclaims";
/// Keeps a claim until no pod uses it.
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume until no claim is bound to it.
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// Binds until the store closes.
pub async fn run(store: Store) {
    let prefixes = [VOLUMES, CLAIMS, "pods"].into_iter().map(|r| Prefix::resource("", r)).collect();
    let mut wake = Wake::new(&store, prefixes);
    loop {
        if let Err(error) = reconcile(&store).await {
            tracing::warn!(%error, "volumes could not be bound");
        }
        if !wake.next().await {
            return;
        }
    }
}

async fn reconcile(store: &Store) -> Result<(), StoreError> {
    for (key, entry) in store.list(&Prefix::resource("", VOLUMES)).entries {
        volume(store, &key, &entry.object).await?;
    }
    for (key, entry) in store.list(&Prefix::resource("", CLAIMS)).entries {
        claim(store, &key, &entry.object).await?;
    }
    Ok(())
}

/// A volume's phase follows from its claim: Available, Bound, or Released when the claim is gone.
async fn volume(store: &Store, key: &Key, volume: &Value) -> Result<(), StoreError> {
    let (namespace, name) = (text(volume, "/spec/claimRef/namespace"), text(volume, "/spec/claimRef/name"));
    let wanted = text(volume, "/spec/claimRef/uid");
    let claim = (!name.is_empty()).then(|| store.get(&Key::new("", CLAIMS, namespace, name))).flatten();
    let held = claim.is_some_and(|c| wanted.is_empty() || uid(&c.object) == wanted);
    let phase = match (name.is_empty(), held, wanted.is_empty()) {
        (true, _, _) => "Available",
        // Reserved for a claim that has not been bound yet.
        (false, _, true) => "Available",
        (false, true, false) => "Bound",
        (false, false, false) => "Released",
    };
    if is_deleting(volume) {
        if phase != "Bound" && has_finalizer(volume, VOLUME_PROTECTION) {
            change(store, key, |object| drop_finalizer(object, VOLUME_PROTECTION)).await?;
            return delete::request(store, key).await;
        }
        return Ok(());
    }
    if text(volume, "/status/phase") == phase && has_finalizer(volume, VOLUME_PROTECTION) {
        return Ok(());
    }
    change(store, key, |object| {
        protect(object, VOLUME_PROTECTION);
        set(object, &["status", "phase"], phase.into());
    })
    .await
}

fn protect(object: &mut Value, finalizer: &str) {
    if is_deleting(object) || has_finalizer(object, finalizer) {
        return;
    }
    if no_finalizers(object) {
        set(object, &["metadata", "finalizers"], json!([]));
    }
    if let Some(Value::Array(list)) = object.pointer_mut("/metadata/finalizers") {
        list.push(finalizer.into());
    }
}

async fn claim(store: &Store, key: &Key, claim: &Value) -> Result<(), StoreError> {
    if is_deleting(claim) {
        if has_finalizer(claim, CLAIM_PROTECTION) && !used(store, key) {
            change(store, key, |object| drop_finalizer(object, CLAIM_PROTECTION)).await?;
            return delete::request(store, key).await;
        }
        return Ok(());
    }
    if !has_finalizer(claim, CLAIM_PROTECTION) {
        change(store, key, |object| protect(object, CLAIM_PROTECTION)).await?;
    }
    let bound_to = text(claim, "/spec/volumeName");
    if !bound_to.is_empty() && text(claim, "/status/phase") == "Bound" {
        let lost = store.get(&Key::new("", VOLUMES, "", bound_to)).is_none();
        if lost {
            change(store, key, |object| set(object, &["status", "phase"], "Lost".into())).await?;
        }
        return Ok(());
    }
    let Some((volume_key, volume)) = choose(store, key, claim) else {
        if text(claim, "/status/phase").is_empty() {
            change(store, key, |object| set(object, &["status", "phase"], "Pending".into())).await?;
        }
        return Ok(());
    };
    bind(store, key, claim, &volume_key, &volume).await
}

async fn bind(
    store: &Store,
    key: &Key,
    claim: &Value,
    volume_key: &Key,
    volume: &Value,
) -> Result<(), StoreError> {
    let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": key.namespace(),
        "name": key.name(), "uid": uid(claim)});
    change(store, volume_key, |object| {
        // Somebody may have taken it meanwhile: then it stays theirs, and the claim looks again.
        let owner = text(object, "/spec/claimRef/uid");
        if owner.is_empty() || owner == uid(claim) {
            set(object, &["spec", "claimRef"], reference.clone());
            set(object, &["status", "phase"], "Bound".into());
        }
    })
    .await?;
    let Some(taken) = store.get(volume_key) else { return Ok(()) };
    if text(&taken.object, "/spec/claimRef/uid") != uid(claim) {
        return Ok(());
    }
    let field = |path: &str| volume.pointer(path).cloned().unwrap_or_default();
    change(store, key, |object| {
        set(object, &["spec", "volumeName"], volume_key.name().into());
        set(object, &["status", "phase"], "Bound".into());
        set(object, &["status", "accessModes"], field("/spec/accessModes"));
        set(object, &["status", "capacity"], field("/spec/capacity"));
        set(object, &["metadata", "annotations", "pv.kubernetes.io/bind-completed"], "yes".into());
    })
    .await
}

fn used(store: &Store, claim: &Key) -> bool {
    store.list(&Prefix::namespace("", "pods", claim.namespace())).entries.iter().any(|(_, pod)| {
        ferrovirt_plan::decide::fit::takes(&pod.object)
            && list(&pod.object, "/spec/volumes")
                .any(|v| text(v, "/persistentVolumeClaim/claimName") == claim.name())
    })
}

/// The volume for a claim: the one that is reserved for it, else the smallest that fits.
fn choose(store: &Store, key: &Key, claim: &Value) -> Option<(Key, std::sync::Arc<Value>)> {
    let volumes = store.list(&Prefix::resource("", VOLUMES)).entries;
    let mut fitting: Vec<_> = volumes.into_iter().filter(|(k, v)| fits(k, &v.object, key, claim)).collect();
    fitting.sort_by_key(|(k, v)| {
        let reserved = text(&v.object, "/spec/claimRef/name") == key.name();
        (!reserved, size(&v.object, "/spec/capacity/storage"), k.clone())
    });
    fitting.into_iter().next().map(|(k, v)| (k, v.object))
}

fn size(object: &Value, path: &str) -> i128 {
    Amount::parse(text(object, path)).map_or(0, Amount::thousandths)
}

fn fits(volume_key: &Key, volume: &Value, claim_key: &Key, claim: &Value) -> bool {
    let named = text(claim, "/spec/volumeName");
    let owner = (text(volume, "/spec/claimRef/namespace"), text(volume, "/spec/claimRef/name"));
    let owner_uid = text(volume, "/spec/claimRef/uid");
    let ours = owner == (claim_key.namespace(), claim_key.name())
        && (owner_uid.is_empty() || owner_uid == uid(claim));
    let free = owner.1.is_empty();
    let mode = |object: &Value| match text(object, "/spec/volumeMode") {
        "" => "Filesystem".to_owned(),
        mode => mode.to_owned(),
    };
    let has_mode = |wanted: &Value| list(volume, "/spec/accessModes").any(|have| have == wanted);
    let selector = claim.pointer("/spec/selector").filter(|s| !s.is_null());
    !is_deleting(volume)
        && (ours || free)
        && (named.is_empty() || named == volume_key.name())
        && text(volume, "/spec/storageClassName") == text(claim, "/spec/storageClassName")
        && mode(volume) == mode(claim)
        && list(claim, "/spec/accessModes").all(has_mode)
        && size(volume, "/spec/capacity/storage") >= size(claim, "/spec/resources/requests/storage")
        && selector.is_none_or(|selector| Labels::from_object(selector).matches(volume))
}
