//! Wire types of kubevirt.io, their CRDs, defaulting, validation and conversion into the model.

pub mod kubevirt;
mod wire;

pub use wire::Opaque;
