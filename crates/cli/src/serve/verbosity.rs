//! How much a part of the control plane logs, as the KubeVirt object says it while it runs.

use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_plan::config::verbosity::{Program, verbosity};
use ferrovirt_plan::config::{KUBEVIRT, NAMESPACE};
use kube::{Api, Client};
use std::time::Duration;

/// How often the object is looked at: everybody may read it, and not everybody follow it.
const LOOK: Duration = Duration::from_secs(10);

/// Follows it. Never ends.
pub(super) async fn follow(client: Client, program: Program) {
    let objects: Api<KubeVirt> = Api::namespaced(client, NAMESPACE);
    loop {
        // What was said last holds while nobody answers.
        if let Ok(found) = objects.get_opt(KUBEVIRT).await {
            ferrovirt_log::verbosity(found.and_then(|object| verbosity(&object, program, "")));
        }
        tokio::time::sleep(LOOK).await;
    }
}
