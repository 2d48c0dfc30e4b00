//! What the server counts of trouble, in the text format of Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    too_many: AtomicU64,
    expired: AtomicU64,
    certificates: AtomicBool,
}

impl Metrics {
    /// A request was refused because its user, or all users, have too many (429).
    pub(crate) fn too_many(&self) {
        self.too_many.fetch_add(1, Ordering::Relaxed);
    }

    /// A watch ended, or did not begin, because its revision is forgotten or was never reached (410).
    pub(crate) fn expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether certificates are due to be renewed and could not be.
    pub(crate) fn set_certificates_end(&self, end: bool) {
        self.certificates.store(end, Ordering::Relaxed);
    }

    /// Certificates are near their end, and the last try to renew them failed.
    pub(crate) fn certificates_end(&self) -> bool {
        self.certificates.load(Ordering::Relaxed)
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, kind, help, value) in [
            (
                "ferrovirt_apiserver_too_many_requests_total",
                "counter",
                "Requests that were refused with 429.",
                self.too_many.load(Ordering::Relaxed),
            ),
            (
                "ferrovirt_apiserver_expired_watches_total",
                "counter",
                "Watches that were sent back to list again.",
                self.expired.load(Ordering::Relaxed),
            ),
            (
                "ferrovirt_apiserver_certificates_not_renewed",
                "gauge",
                "Certificates are near their end and could not be renewed.",
                self.certificates_end().into(),
            ),
        ] {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        text
    }
}
