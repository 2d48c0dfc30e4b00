//! Back from what is applied to rights: whatever a document grants is seen here, no matter who wrote it.
//!
//! Each function reads one kind of document and returns every right in it, also those that no feature asks for; the
//! proof is that the result equals the grants that the document was rendered from.

pub mod calls;
pub mod cil;
pub mod made;
pub mod order;
pub mod pod;
pub mod policy;
pub mod rbac;
pub mod scc;
pub mod seccomp;

#[cfg(test)]
mod tests;
