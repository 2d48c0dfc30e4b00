//! KubeVirt's kinds.

use ferrovirt_api::kubevirt as api;

use super::columns::kubevirt as columns;
use super::{BASE, Class, Kind, Subresource, decode};

const KUBEVIRT: Kind = Kind {
    group: "kubevirt.io",
    versions: &["v1", "v1alpha3"],
    categories: &["all"],
    class: Class::Custom,
    ..BASE
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        kind: "VirtualMachine",
        plural: "virtualmachines",
        singular: "virtualmachine",
        short: &["vm", "vms"],
        subresources: &[Subresource::STATUS],
        columns: columns::MACHINES,
        decode: decode::typed_as_given::<api::VirtualMachine>,
        ..KUBEVIRT
    },
    // No status subresource, as upstream: status is written through the main resource.
    Kind {
        kind: "VirtualMachineInstance",
        plural: "virtualmachineinstances",
        singular: "virtualmachineinstance",
        short: &["vmi", "vmis"],
        columns: columns::INSTANCES,
        decode: decode::typed_as_given::<api::VirtualMachineInstance>,
        ..KUBEVIRT
    },
    Kind {
        kind: "KubeVirt",
        plural: "kubevirts",
        singular: "kubevirt",
        short: &["kv", "kvs"],
        subresources: &[Subresource::STATUS],
        columns: columns::KUBEVIRTS,
        decode: decode::typed_as_given::<api::KubeVirt>,
        ..KUBEVIRT
    },
];
