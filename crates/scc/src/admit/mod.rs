//! Admission: who may use which SCC, defaulting and checks under one, the choice, and what it changes in the pod.

pub(crate) mod access;
pub(crate) mod candidates;
pub(crate) mod checks;
pub(crate) mod consider;
pub(crate) mod decision;
pub(crate) mod evaluate;
pub(crate) mod pass;
pub(crate) mod patch;
pub(crate) mod skip;
