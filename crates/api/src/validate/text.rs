//! Names of ports, addresses, paths and patterns.

/// An IANA service name: at most 15 characters with at least one letter.
pub(crate) fn is_port_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Domain, bus, device and function, such as `0000:81:01.0`.
pub(crate) fn is_pci_address(text: &str) -> bool {
    let hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(slot), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Some((device, function)) = slot.split_once('.') else { return false };
    hex(domain, 4) && hex(bus, 2) && hex(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// Why a text is not an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MacError {
    Malformed,
    TooLong,
}

/// Reads a MAC address in the forms of Go's `net.ParseMAC`: pairs with `:` or `-`, or groups of four with `.`.
pub(crate) fn mac(text: &str) -> Result<[u8; 6], MacError> {
    let (separator, group) = match text.find([':', '-', '.']).map(|at| text.as_bytes().get(at)) {
        Some(Some(b'.')) => ('.', 4),
        Some(Some(b'-')) => ('-', 2),
        _ => (':', 2),
    };
    let mut bytes = Vec::new();
    for part in text.split(separator) {
        if part.len() != group || !part.bytes().all(|b| b.is_ascii_hexdigit()) || bytes.len() > 20 {
            return Err(MacError::Malformed);
        }
        let number = u16::from_str_radix(part, 16).map_err(|_| MacError::Malformed)?;
        let [high, low] = number.to_be_bytes();
        if group == 4 {
            bytes.push(high);
        }
        bytes.push(low);
    }
    match bytes.len() {
        6 => <[u8; 6]>::try_from(bytes).map_err(|_| MacError::Malformed),
        8 | 20 => Err(MacError::TooLong),
        _ => Err(MacError::Malformed),
    }
}

/// Whether a path is absolute and has no `.`, `..` or empty parts; one slash at the end is let through, as upstream
/// does.
pub(crate) fn is_clean_path(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

/// Shell patterns with `*` and `?`, as far as lists of machine types use them.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    fn go(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                go(rest, text) || text.split_first().is_some_and(|(_, tail)| go(pattern, tail))
            }
            (Some((b'?', rest)), Some((_, tail))) => go(rest, tail),
            (Some((a, rest)), Some((b, tail))) if a == b => go(rest, tail),
            _ => false,
        }
    }
    // The recursion is as deep as the text is long.
    text.len() <= 256 && go(pattern.as_bytes(), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert!(is_port_name("http") && !is_port_name("80") && !is_port_name("a--b") && !is_port_name(""));
        assert!(
            is_pci_address("0000:81:01.0") && !is_pci_address("0000:81:01.8") && !is_pci_address("81:01.0")
        );
        assert_eq!(mac("de:ad:00:00:be:af"), Ok([0xde, 0xad, 0, 0, 0xbe, 0xaf]));
        assert_eq!(mac("dead.0000.beaf"), Ok([0xde, 0xad, 0, 0, 0xbe, 0xaf]));
        assert_eq!(mac("de-ad-00-00-be-af-be-af"), Err(MacError::TooLong));
        for text in ["", "de:ad:00:00:be", "de:ad:00:00:be:a", "é", "..", "de-ad:00:00:be:af"] {
            assert_eq!(mac(text), Err(MacError::Malformed), "{text}");
        }
        assert!(is_clean_path("/boot/vmlinuz") && is_clean_path("/boot/"));
        for path in ["boot", "/boot/../x", "//boot", "/./x", "", "/a//b"] {
            assert!(!is_clean_path(path), "{path}");
        }
        assert!(matches("pc-q35*", "pc-q35-8.2") && !matches("q35", "pc-q35") && matches("q?5*", "q35"));
    }
}
