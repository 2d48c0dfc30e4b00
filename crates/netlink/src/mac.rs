//! Hardware addresses.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Six bytes; as text `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

/// Text that is no hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hardware address is six bytes such as 02:00:00:00:00:01")]
pub struct Invalid;

impl MacAddress {
    /// Whether one interface can have it.
    pub fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, last] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{last:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or(Invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| Invalid)?;
        }
        if parts.next().is_some() { Err(Invalid) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_strictly() {
        assert_eq!("02:00:00:00:00:ff".parse(), Ok(MacAddress([2, 0, 0, 0, 0, 255])));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "zz:00:00:00:00:01",
            "+2:00:00:00:00:01",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(Invalid), "{text}");
        }
    }

    #[test]
    fn groups_and_nothing_are_no_address_of_an_interface() {
        for (text, unicast) in [
            ("02:00:00:00:00:01", true),
            ("01:80:c2:00:00:00", false),
            ("ff:ff:ff:ff:ff:ff", false),
            ("00:00:00:00:00:00", false),
        ] {
            assert_eq!(text.parse::<MacAddress>().unwrap().is_unicast(), unicast, "{text}");
        }
    }
}
