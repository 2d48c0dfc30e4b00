//! System calls that the standard library does not offer; the only crate with unsafe code.
