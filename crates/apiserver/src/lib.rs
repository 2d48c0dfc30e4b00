//! The embedded Kubernetes API: durable store, watch, admission, authorization and discovery.
