//! Time as the API writes it.

use k8s_openapi::jiff::Timestamp;

/// `2026-01-31T12:00:00Z`, the form of `metav1.Time`, of seconds since 1970. Seconds outside of what can be written become
/// 1970.
#[must_use]
pub fn text(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Reads `metav1.Time` and `metav1.MicroTime`; whole seconds since 1970.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|time| time.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(i64::MAX), text(0));
        assert_eq!(parse("1970-01-01T00:01:00Z"), Some(60));
        assert_eq!(parse("1970-01-01T00:01:00.123456Z"), Some(60));
        assert_eq!(parse("yesterday"), None);
    }
}
