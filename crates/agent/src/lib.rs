//! The node agent: runs launcher pods through an OCI runtime and does the privileged part of every machine.
