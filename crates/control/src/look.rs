//! A launcher pod in the API server, compared with its rendering, so that it can be recorded.

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_kubernetes::segment::segment;
use ferrovirt_plan::config::ClusterConfig;
use ferrovirt_plan::decide::accept::{candidates, record};
use ferrovirt_plan::decide::{Claim, Look};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::GetParams;
use kube::core::Request;
use kube::{Resource, ResourceExt};
use serde_json::Value;

use crate::reconcile::Controller;

impl Controller {
    /// Asks the API server what it has made of a pod; nothing where the pod is gone. Objects of the cache have lost the
    /// fields that this program does not know, which a node sees.
    pub(crate) async fn look(
        &self,
        vmi: &VirtualMachineInstance,
        pod: &Pod,
        config: &ClusterConfig,
        claims: &[Claim],
        labelled: bool,
    ) -> kube::Result<Option<Look>> {
        let block = claims.iter().filter(|claim| claim.block).map(|claim| claim.name.clone()).collect();
        // What is no valid machine has no pod of the controller's.
        let Ok(all) = candidates(vmi, config, &block, labelled) else { return Ok(None) };
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let (actual, home) =
            tokio::join!(self.read::<Pod>(Some(&namespace), &name), self.read::<Namespace>(None, &namespace));
        let actual = match actual {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            actual => actual?,
        };
        let same = actual.pointer("/metadata/uid").and_then(Value::as_str) == pod.metadata.uid.as_deref();
        let home = home?;
        Ok(same.then(|| record(&actual, &all, &home)))
    }

    /// An object with every field.
    async fn read<K>(&self, namespace: Option<&str>, name: &str) -> kube::Result<Value>
    where
        K: Resource<DynamicType = ()>,
    {
        let request = Request::new(K::url_path(&(), namespace)).get(&segment(name), &GetParams::default());
        self.client.request(request.map_err(kube::Error::BuildRequest)?).await
    }
}
