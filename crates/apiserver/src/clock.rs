//! Time as the API writes it, and whether the system's clock can be trusted.

use k8s_openapi::jiff::Timestamp;
use time::{Duration, OffsetDateTime};
use tokio::time::Instant;

/// Now, in whole seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    current().as_second()
}

/// Now, as `metav1.Time`.
#[must_use]
pub fn stamp() -> String {
    ferrovirt_kubernetes::time::text(now())
}

/// Now with microseconds, as `metav1.MicroTime`.
#[must_use]
pub fn micro_stamp() -> String {
    format!("{:.6}", current())
}

/// A difference of the two clocks that is no jump: clocks are slewed, and a look may come late.
const STEADY: Duration = Duration::seconds(60);

/// Notices when somebody sets the system's clock, by comparing it with one that nobody sets.
#[derive(Debug)]
pub struct Jumps {
    wall: OffsetDateTime,
    steady: Instant,
}

impl Jumps {
    /// From the two clocks at one time.
    #[must_use]
    pub fn new(wall: OffsetDateTime, steady: Instant) -> Self {
        Self { wall, steady }
    }

    /// How far the system's clock jumped since the last look, when it did; negative when back. A machine that slept has
    /// jumped forwards.
    pub fn look(&mut self, wall: OffsetDateTime, steady: Instant) -> Option<Duration> {
        let passed = Duration::try_from(steady.duration_since(self.steady)).unwrap_or(Duration::MAX);
        let jump = (wall - self.wall).saturating_sub(passed);
        (self.wall, self.steady) = (wall, steady);
        (jump.abs() > STEADY).then_some(jump)
    }
}

/// A difference of two times for people: `-3h 0m`.
#[must_use]
pub fn span(duration: Duration) -> String {
    let sign = if duration.is_negative() { '-' } else { '+' };
    let minutes = duration.abs().saturating_add(Duration::seconds(30)).whole_minutes();
    format!("{sign}{}h {}m", minutes / 60, minutes % 60)
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
    fn a_clock_that_is_set_is_noticed_once_and_one_that_is_slewed_is_not() {
        let (wall, steady) = (OffsetDateTime::UNIX_EPOCH + Duration::days(20_000), Instant::now());
        let mut jumps = Jumps::new(wall, steady);
        let mut look = |wall_seconds: i64, steady_seconds: u64| {
            let steady = steady + std::time::Duration::from_secs(steady_seconds);
            jumps.look(wall + Duration::seconds(wall_seconds), steady).map(span)
        };
        assert_eq!(look(10, 10), None);
        assert_eq!(look(25, 20), None, "slewed");
        assert_eq!(look(3 * 3600 + 35, 30).as_deref(), Some("+3h 0m"));
        assert_eq!(look(3 * 3600 + 45, 40), None);
        assert_eq!(look(-600, 50).as_deref(), Some("-3h 11m"));
        assert_eq!(look(-590, 60), None);
    }

    #[test]
    fn both_forms_have_their_length() {
        assert_eq!(stamp().len(), "1970-01-01T00:01:00Z".len());
        assert_eq!(micro_stamp().len(), "1970-01-01T00:01:00.123456Z".len());
    }
}
