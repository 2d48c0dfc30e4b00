//! Time stamps of log lines, as the programs of containers write them: `1790000000.012345678 text`.

use k8s_openapi::jiff::Timestamp;

/// Digits of the fraction.
const NANOS: usize = 9;

/// The time of a line, and the rest of it. A line without a stamp, such as the last words of a runtime, has none.
pub fn split(line: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let parse = || {
        let blank = line.iter().position(|byte| *byte == b' ')?;
        let stamp = std::str::from_utf8(line.get(..blank)?).ok()?;
        let (seconds, nanos) = stamp.split_once('.')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(seconds) || !digits(nanos) || nanos.len() != NANOS {
            return None;
        }
        let time = Timestamp::new(seconds.parse().ok()?, nanos.parse().ok()?).ok()?;
        Some((time, line.get(blank + 1..)?))
    };
    match parse() {
        Some((time, rest)) => (Some(time), rest),
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_found_and_everything_else_is_text() {
        let (time, rest) = split(b"1790000000.012345678 it says: x");
        assert_eq!(time.unwrap().to_string(), "2026-09-21T14:13:20.012345678Z");
        assert_eq!(rest, b"it says: x");
        assert_eq!(split(b"1.000000000 ").1, b"");
        for line in [
            "",
            "text",
            "1.5 x",
            "1.0123456789 x",
            "x.012345678 y",
            "99999999999999999.000000000 x",
            "1.000000000",
        ] {
            assert_eq!(split(line.as_bytes()), (None, line.as_bytes()), "{line}");
        }
        assert_eq!(split(b"\xff.000000000 x").0, None);
    }
}
