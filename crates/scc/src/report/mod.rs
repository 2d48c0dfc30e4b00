//! What people and the audit log get to read.

pub(crate) mod audit;
pub(crate) mod quote;
pub(crate) mod refusal;
