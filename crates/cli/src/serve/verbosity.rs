//! How much a part of the control plane logs, as the KubeVirt object says it while it runs.

use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_plan::config::verbosity::{Program, verbosity};
use ferrovirt_plan::config::{KUBEVIRT, NAMESPACE};
use kube::{Api, Client, api::GetParams};
use std::time::Duration;

/// How often the object is looked at: everybody may read it, and not everybody follow it.
const LOOK: Duration = Duration::from_secs(10);

/// Follows it. Never ends.
pub(super) async fn follow(client: Client, program: Program) {
    let objects: Api<KubeVirt> = Api::namespaced(client, NAMESPACE);
    loop {
        // Out of the API server's memory. What was said last holds while nobody answers.
        match objects.get_with(KUBEVIRT, &GetParams::any()).await {
            Ok(object) => ferrovirt_log::verbosity(verbosity(&object, program, "")),
            Err(kube::Error::Api(status)) if status.code == 404 => ferrovirt_log::verbosity(None),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}
