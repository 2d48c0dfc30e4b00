//! Which machine a context belongs to, by its MCS categories.

use crate::client;
use anyhow::{Context, Result};
use clap::Args;
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_plan::selinux::label::Mcs;
use kube::{Api, api::ListParams};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

#[derive(Args)]
#[group(multiple = false)]
pub(super) struct MachinesOptions {
    /// Ask the cluster of the kubeconfig in force which machine each denial belongs to
    #[arg(long)]
    cluster: bool,
    /// The same with this kubeconfig
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The same from a file: what `kubectl get vmi -A -o json` prints
    #[arg(long)]
    machines: Option<PathBuf>,
}

/// Machines by their pairs: `namespace/name`.
#[derive(Debug, Default)]
pub(super) struct Machines(BTreeMap<Mcs, String>);

/// Reads the machines; none without an option.
pub(super) fn read(options: &MachinesOptions) -> Result<Machines> {
    let list = match options {
        MachinesOptions { machines: Some(path), .. } => {
            let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let value: Value = serde_json::from_slice(&text).with_context(|| {
                format!("{} is no JSON: use `kubectl get vmi -A -o json`", path.display())
            })?;
            let items = match value {
                Value::Object(mut fields) if fields.contains_key("items") => {
                    fields.remove("items").unwrap_or_default()
                }
                one => Value::Array(vec![one]),
            };
            serde_json::from_value(items)
                .with_context(|| format!("{} holds no VirtualMachineInstances", path.display()))?
        }
        MachinesOptions { kubeconfig: Some(path), .. } => client::run(list(Some(path)))?,
        MachinesOptions { cluster: true, .. } => client::run(list(None))?,
        _ => Vec::new(),
    };
    Ok(Machines::of(&list))
}

async fn list(kubeconfig: Option<&Path>) -> Result<Vec<VirtualMachineInstance>> {
    let client = match kubeconfig {
        None => client::connect().await?.0,
        Some(path) => client::connect_with(path).await?,
    };
    let machines: Api<VirtualMachineInstance> = Api::all(client);
    let found = machines.list(&ListParams::default()).await;
    Ok(found.context("cannot list the machines of the cluster")?.items)
}

impl Machines {
    fn of(list: &[VirtualMachineInstance]) -> Self {
        let mut all = BTreeMap::new();
        for vmi in list {
            let Some(status) = &vmi.status else { continue };
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let name = format!("{}/{}", text(&vmi.metadata.namespace), text(&vmi.metadata.name));
            // The level of its own; on a node where it runs without one the level that it has.
            let context = status.selinux_context.as_deref().and_then(level);
            if let Some(pair) = status.selinux_level.as_deref().or(context).and_then(Mcs::parse) {
                all.insert(pair, name);
            }
        }
        Self(all)
    }

    /// The machine with the categories of a context.
    pub(super) fn of_context(&self, context: &str) -> Option<&str> {
        self.0.get(&Mcs::parse(level(context)?)?).map(String::as_str)
    }
}

/// The low level of a context: what follows the type, up to a range.
fn level(context: &str) -> Option<&str> {
    let mut parts = context.splitn(4, ':');
    parts.nth(2)?;
    let range = parts.next()?;
    Some(range.split_once('-').map_or(range, |(low, _)| low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_context_belongs_to_the_machine_with_its_categories() {
        let list: Vec<VirtualMachineInstance> = serde_json::from_value(json!([
            {"metadata": {"name": "a", "namespace": "n"}, "spec": {"domain": {"devices": {}}},
                "status": {"selinuxLevel": "s0:c1,c2", "selinuxContext": "none"}},
            {"metadata": {"name": "b", "namespace": "n"}, "spec": {"domain": {"devices": {}}},
                "status": {"selinuxContext": "system_u:system_r:container_t:s0:c3,c4"}},
            {"metadata": {"name": "c", "namespace": "n"}, "spec": {"domain": {"devices": {}}}},
        ]))
        .unwrap();
        let machines = Machines::of(&list);
        assert_eq!(machines.of_context("system_u:system_r:virt_machine.kvm:s0:c1,c2"), Some("n/a"));
        assert_eq!(machines.of_context("system_u:object_r:container_file_t:s0:c3,c4"), Some("n/b"));
        assert_eq!(machines.of_context("u:r:t:s0:c1,c2-s0:c1,c2"), Some("n/a"));
        for other in ["u:r:t:s0:c1,c3", "u:r:t:s0", "u:r:t", "", "u:r:t:s0:c0.c1023"] {
            assert_eq!(machines.of_context(other), None, "{other}");
        }
    }
}
