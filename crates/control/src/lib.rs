//! The controllers: watches and leases around the decisions of the plan crate, against any Kubernetes API.
