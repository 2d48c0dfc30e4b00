//! SecurityContextConstraints and machines: which one admits a launcher pod, what one grants, and whose right to it counts.

pub mod admission;
pub mod excess;
pub mod rights;
