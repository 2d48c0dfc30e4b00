//! Aggregated cluster roles: their `rules` are written for those who read them. The authorizer does not depend on it.

use ferrovirt_kubernetes::json::set;
use ferrovirt_kubernetes::rbac::{GROUP, aggregate};
use serde_json::{Value, json};

use super::Wake;
use crate::store::{Change, Prefix, Store, StoreError};

/// Aggregates until the store closes.
pub async fn run(store: Store) {
    let prefix = Prefix::resource(GROUP, "clusterroles");
    let mut wake = Wake::new(&store, vec![prefix]);
    loop {
        if let Err(error) = reconcile(&store).await {
            tracing::warn!(%error, "cluster roles could not be aggregated");
        }
        if !wake.next().await {
            return;
        }
    }
}

async fn reconcile(store: &Store) -> Result<(), StoreError> {
    let roles = store.list(&Prefix::resource(GROUP, "clusterroles")).entries;
    let all: Vec<&Value> = roles.iter().map(|(_, role)| role.object.as_ref()).collect();
    for (key, role) in &roles {
        if role.object.get("aggregationRule").is_none_or(Value::is_null) {
            continue;
        }
        let rules = json!(aggregate(&role.object, &all));
        if role.object.get("rules") == Some(&rules) {
            continue;
        }
        let edit = |object: &Value| -> Result<Change, StoreError> {
            let mut object = object.clone();
            set(&mut object, &["rules"], rules.clone());
            Ok(Change::Write(object))
        };
        match store.guaranteed_update(key, edit).await {
            Ok(_) | Err(StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
