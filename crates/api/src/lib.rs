//! Wire types of kubevirt.io and security.openshift.io, their CRDs, defaulting, validation and conversion into the model.
