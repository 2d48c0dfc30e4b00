//! Wire types of kubevirt.io, their CRDs, defaulting, validation and conversion into the model.

mod config;
mod crd;
mod defaults;
pub mod kubevirt;
pub mod quantity;
mod wire;

pub use config::ClusterDefaults;
pub use crd::{crd, schema};
pub use defaults::{
    GRACE_SECONDS, Identity, RUNTIME_USER, VM_FINALIZER, VMI_FINALIZER, default_vm, default_vmi,
    default_vmi_spec,
};
pub use wire::Opaque;
