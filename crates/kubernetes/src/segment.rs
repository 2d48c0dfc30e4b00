//! Names as parts of request paths.

use std::borrow::Cow;

/// A name as one segment of a request's path. A name of Kubernetes stays as it is; anything else (`../x`, `a/b`, `a?b`) is
/// encoded, so that a name that somebody wrote into an object never leads to another resource. The server then says that
/// there is no such object.
pub fn segment(name: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    if name.bytes().all(plain) && !matches!(name, "." | "..") {
        return Cow::Borrowed(name);
    }
    let dots = matches!(name, "." | "..");
    let encoded = name
        .bytes()
        .map(|byte| if plain(byte) && !dots { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    Cow::Owned(encoded.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_whatever_is_in_it() {
        assert!(matches!(segment("a-name.of:kubernetes"), Cow::Borrowed(_)));
        for (name, encoded) in [
            ("../beta/s", "..%2Fbeta%2Fs"),
            ("..", "%2E%2E"),
            (".", "%2E"),
            ("s?x=y#z", "s%3Fx%3Dy%23z"),
            ("%2e%2e", "%252e%252e"),
            ("\u{e4}\n", "%C3%A4%0A"),
        ] {
            assert_eq!(segment(name), encoded);
        }
    }
}
