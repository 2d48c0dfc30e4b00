//! Wire types of kubevirt.io, their CRDs, defaulting, validation and conversion into the model.

pub mod cause;
pub mod config;
pub mod convert;
mod crd;
pub mod defaults;
pub mod document;
pub mod kubevirt;
pub mod support;
pub mod validate;
mod wire;

pub use cause::{Cause, Reason, rejection};
pub use config::ClusterDefaults;
pub use convert::machine;
pub use crd::{crd, schema};
pub use defaults::{
    GRACE_SECONDS, Identity, RUNTIME_USER, VM_FINALIZER, VMI_FINALIZER, default_vm, default_vmi,
    default_vmi_spec,
};
pub use ferrovirt_qemu::text;
pub use validate::{validate_vm, validate_vmi, validate_vmi_spec, validate_vmi_update};
pub use wire::Opaque;
