//! What the node agent counts of trouble with machines, in the text format of Prometheus.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    misconduct: AtomicU64,
    closed: AtomicU64,
    evictions: AtomicU64,
}

impl Metrics {
    /// A launcher sent what makes no sense, or hung up and came back.
    pub fn misconduct(&self) {
        self.misconduct.fetch_add(1, Ordering::Relaxed);
    }

    /// Nobody listens to a launcher for a while.
    pub fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// A pod was evicted.
    pub fn eviction(&self) {
        self.evictions.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, help, value) in [
            (
                "ferrovirt_launcher_misconduct_total",
                "Messages of launchers that make no sense, and connections that they closed and opened again.",
                &self.misconduct,
            ),
            (
                "ferrovirt_launcher_links_closed_total",
                "How often nobody listened to a launcher for a while.",
                &self.closed,
            ),
            ("ferrovirt_evictions_total", "Pods that were evicted for disk space.", &self.evictions),
        ] {
            let value = value.load(Ordering::Relaxed);
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.misconduct();
        metrics.misconduct();
        metrics.eviction();
        let text = metrics.text();
        for line in [
            "ferrovirt_launcher_misconduct_total 2",
            "ferrovirt_launcher_links_closed_total 0",
            "ferrovirt_evictions_total 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{text}");
        }
    }
}
