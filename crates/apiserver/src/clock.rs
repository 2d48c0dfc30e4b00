//! Time as the API writes it.

use k8s_openapi::jiff::Timestamp;

/// Now, in whole seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    current().as_second()
}

/// `2026-01-31T12:00:00Z`, the form of `metav1.Time`. Seconds outside of what can be written become 1970.
#[must_use]
pub fn text(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Reads `metav1.Time` and `metav1.MicroTime`; whole seconds since 1970.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|t| t.as_second())
}

/// Now, as `metav1.Time`.
#[must_use]
pub fn stamp() -> String {
    text(now())
}

/// Now with microseconds, as `metav1.MicroTime`.
#[must_use]
pub fn micro_stamp() -> String {
    format!("{:.6}", current())
}

fn current() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let nanoseconds = i32::try_from(since.subsec_nanos()).unwrap_or_default();
    Timestamp::new(seconds, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_and_write() {
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(parse("1970-01-01T00:01:00Z"), Some(60));
        assert_eq!(parse("1970-01-01T00:01:00.123456Z"), Some(60));
        assert_eq!(parse("yesterday"), None);
        assert_eq!(micro_stamp().len(), "1970-01-01T00:01:00.123456Z".len());
    }
}
