//! How fast a launcher is read. A guest that broke out of QEMU has the launcher's descriptors: what it sends must cost the
//! node no more than a well-behaved launcher does. Pure: the time is an argument.

use std::time::Duration;
use tokio::time::Instant;

/// Bytes that a link takes at once, and further ones in each second; a launcher sends some ten short messages in its life.
const BYTES: f64 = 256.0 * 1024.0;
/// Messages that a link takes at once, and further ones in each second.
const MESSAGES: f64 = 100.0;

/// Bytes and messages of one link: what is over the limit waits in the socket, and its sender with it.
#[derive(Debug)]
pub struct Meter {
    at: Instant,
    bytes: f64,
    messages: f64,
}

impl Meter {
    /// With everything that may come at once still ahead.
    pub fn new(now: Instant) -> Self {
        Self { at: now, bytes: BYTES, messages: MESSAGES }
    }

    /// Takes note of a message of this many bytes; the time before which no other one is to be read.
    pub fn took(&mut self, bytes: usize, now: Instant) -> Instant {
        let passed = now.duration_since(self.at).as_secs_f64();
        self.at = now;
        // A message is far below what a float holds exactly.
        let bytes = u32::try_from(bytes).map_or(BYTES, f64::from);
        self.bytes = (self.bytes + passed * BYTES).min(BYTES) - bytes;
        self.messages = (self.messages + passed * MESSAGES).min(MESSAGES) - 1.0;
        let wait = (-self.bytes / BYTES).max(-self.messages / MESSAGES).max(0.0);
        now + Duration::from_secs_f64(wait.min(60.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_takes_a_bounded_number_of_bytes_and_messages_a_second() {
        let start = Instant::now();
        for size in [10, 128 * 1024] {
            let mut meter = Meter::new(start);
            let mut now = start;
            let mut count = 0_u32;
            while now < start + Duration::from_secs(10) {
                count += 1;
                now = meter.took(size, now).max(now + Duration::from_micros(10));
            }
            let bytes = f64::from(count) * size as f64;
            assert!(f64::from(count) <= 11.5 * MESSAGES && bytes <= 11.5 * BYTES, "{count} of {size}");
        }
        // What a launcher sends in its life never waits.
        let mut meter = Meter::new(start);
        assert!((0..50).all(|_| meter.took(500, start) == start));
    }
}
