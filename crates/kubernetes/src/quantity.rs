//! Exact arithmetic on Kubernetes quantities: never a float, never a panic.
//!
//! The grammar is that of `resource.ParseQuantity`: a decimal number and a binary suffix (`Ki` to `Ei`), a decimal
//! suffix (`n` to `E`) or an exponent. Digits beyond a billionth are rounded away from zero, as Kubernetes does.

use std::{cmp::Ordering, fmt};

/// Billionths in one.
const NANO: i128 = 1_000_000_000;
/// The largest power of ten that is tried; every larger number is out of range.
const MAX_EXPONENT: i32 = 40;

/// Why a text is not a usable quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantityError {
    /// Not of the grammar. The text is the one that Kubernetes uses, since clients know it.
    Format,
    /// Larger than 64 bits can say.
    TooLarge,
    /// Negative where only an amount makes sense.
    Negative,
}

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => {
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            }
            Self::TooLarge => "the amount is too large: use less than 16Ei",
            Self::Negative => "must be greater than or equal to 0",
        })
    }
}

impl std::error::Error for QuantityError {}

/// How a quantity was written, and so how it is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Binary,
    Decimal,
    Exponent,
}

/// An exact number of billionths.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    nano: i128,
    style: Style,
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Amount {}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, style: Style::Decimal };

    /// Reads a quantity such as `1500m`, `1.5Gi`, `1e3` or `-5`.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Format);
        }
        let (style, scale) = scale(suffix)?;
        let magnitude = match scale {
            Scale::Ten(exponent) => decimal(whole, fraction, exponent)?,
            Scale::Two(shift) => binary(whole, fraction, shift)?,
        };
        Ok(Self { nano: if negative { -magnitude } else { magnitude }, style })
    }

    /// A whole number of bytes, written with binary suffixes.
    pub fn from_bytes(bytes: u64) -> Self {
        Self { nano: i128::from(bytes) * NANO, style: Style::Binary }
    }

    /// The whole number, rounded away from zero, as `Quantity.Value()` does.
    pub fn whole(self) -> i128 {
        divide_away(self.nano, NANO)
    }

    /// Thousandths, rounded away from zero, as `Quantity.MilliValue()` does.
    pub fn thousandths(self) -> i128 {
        divide_away(self.nano, NANO / 1000)
    }

    /// As a number of bytes (or of anything whole).
    pub fn bytes(self) -> Result<u64, QuantityError> {
        unsigned(self.whole())
    }

    /// As thousandths, such as thousandths of a processor.
    pub fn millis(self) -> Result<u64, QuantityError> {
        unsigned(self.thousandths())
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }
}

impl fmt::Display for Amount {
    /// The canonical form of Kubernetes: no fraction, and the largest suffix that allows that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.style == Style::Binary && !small {
            let mut mantissa = self.whole();
            let mut suffix = "";
            for next in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
                if mantissa % 1024 != 0 {
                    break;
                }
                mantissa /= 1024;
                suffix = next;
            }
            return write!(f, "{mantissa}{suffix}");
        }
        let mut mantissa = self.nano;
        let mut exponent = -9;
        while mantissa % 1000 == 0 && exponent < 18 {
            mantissa /= 1000;
            exponent += 3;
        }
        if self.style == Style::Exponent {
            return if exponent == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        write!(f, "{mantissa}{suffix}")
    }
}

enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale(suffix: &str) -> Result<(Style, Scale), QuantityError> {
    let decimal = |exponent| Ok((Style::Decimal, Scale::Ten(exponent)));
    let binary = |shift| Ok((Style::Binary, Scale::Two(shift)));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Format)?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(QuantityError::Format);
            }
            // An exponent beyond 32 bits is as hopeless as one beyond MAX_EXPONENT.
            let value =
                exponent.parse().unwrap_or(if exponent.starts_with('-') { i32::MIN } else { i32::MAX });
            Ok((Style::Exponent, Scale::Ten(value)))
        }
    }
}

/// Billionths of `whole.fraction` × 10^`exponent`, rounded up.
fn decimal(whole: &str, fraction: &str, exponent: i32) -> Result<i128, QuantityError> {
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().all(|b| b == b'0') {
        return Ok(0);
    }
    // Digits stand for units of 10^-(fraction length); one step further per power of ten.
    let fraction_len = i32::try_from(fraction.len()).map_err(|_| QuantityError::TooLarge)?;
    let shift = exponent.saturating_add(9).saturating_sub(fraction_len);
    let total = i32::try_from(whole.len() + fraction.len()).map_err(|_| QuantityError::TooLarge)?;
    let keep =
        usize::try_from(total.saturating_add(shift.min(0)).max(0)).map_err(|_| QuantityError::TooLarge)?;
    let mut value: i128 = 0;
    let mut lost = false;
    for (index, digit) in digits().enumerate() {
        if index < keep {
            value = value
                .checked_mul(10)
                .and_then(|v| v.checked_add(i128::from(digit - b'0')))
                .ok_or(QuantityError::TooLarge)?;
        } else {
            lost |= digit != b'0';
        }
    }
    if shift > MAX_EXPONENT {
        return Err(QuantityError::TooLarge);
    }
    for _ in 0..shift.max(0) {
        value = value.checked_mul(10).ok_or(QuantityError::TooLarge)?;
    }
    value.checked_add(i128::from(lost)).ok_or(QuantityError::TooLarge)
}

/// Billionths of `whole.fraction` × 2^`shift`, rounded up.
fn binary(whole: &str, fraction: &str, shift: u32) -> Result<i128, QuantityError> {
    let unit = 1_i128 << shift;
    let whole = decimal(whole, "", 0)?.checked_mul(unit).ok_or(QuantityError::TooLarge)?;
    // Eighteen digits are kept; further ones can only round up by a billionth.
    let mut part: i128 = 0;
    let mut divisor: i128 = 1;
    let mut lost = false;
    for (index, digit) in fraction.bytes().enumerate() {
        if index < 18 {
            part = part * 10 + i128::from(digit - b'0');
            divisor *= 10;
        } else {
            lost |= digit != b'0';
        }
    }
    // part < 10^18, unit <= 2^60: the product with NANO would not fit, so the unit is applied in two steps.
    let scaled = part.checked_mul(unit).ok_or(QuantityError::TooLarge)?;
    let (quotient, remainder) = (scaled / divisor, scaled % divisor);
    let rest = divide_away(remainder * NANO, divisor);
    quotient
        .checked_mul(NANO)
        .and_then(|v| v.checked_add(rest + i128::from(lost)))
        .and_then(|v| v.checked_add(whole))
        .ok_or(QuantityError::TooLarge)
}

/// Division that rounds away from zero.
fn divide_away(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    if value % divisor == 0 { quotient } else { quotient + value.signum() }
}

fn unsigned(value: i128) -> Result<u64, QuantityError> {
    if value < 0 {
        return Err(QuantityError::Negative);
    }
    u64::try_from(value).map_err(|_| QuantityError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        for (text, whole, canonical) in [
            ("64M", 64_000_000, "64M"),
            ("1Gi", 1 << 30, "1Gi"),
            ("1024Mi", 1 << 30, "1Gi"),
            ("1.5Gi", 3 << 29, "1536Mi"),
            ("0.5", 1, "500m"),
            ("1500m", 2, "1500m"),
            ("1000", 1000, "1k"),
            (".5Ki", 512, "512"),
            ("5.", 5, "5"),
            ("1e3", 1000, "1e3"),
            ("2E", 2_000_000_000_000_000_000, "2E"),
            ("1E2", 100, "100"),
            ("-5", -5, "-5"),
            ("+7Ki", 7168, "7Ki"),
            ("0", 0, "0"),
            ("0e999999999999", 0, "0"),
            ("1e-30", 1, "1e-9"),
            ("100u", 1, "100u"),
        ] {
            let amount = Amount::parse(text).unwrap();
            assert_eq!((amount.whole(), amount.to_string().as_str()), (whole, canonical), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in ["", ".", "-", "Mi", "1.2.3", "1 Gi", "1gi", "1K", "0x10", "1e", "1e+", "e5", "½", "1Kim"]
        {
            assert_eq!(Amount::parse(text), Err(QuantityError::Format), "{text}");
        }
        for text in
            ["1e40", "99999999999999999999999999999999999999999999", "1e99999999999", "9999999999999999999Ei"]
        {
            assert_eq!(Amount::parse(text), Err(QuantityError::TooLarge), "{text}");
        }
        let bytes = |text: &str| Amount::parse(text).and_then(Amount::bytes);
        assert_eq!(bytes("16Ei"), Err(QuantityError::TooLarge));
        assert_eq!(bytes("-1"), Err(QuantityError::Negative));
        assert_eq!(bytes("18446744073709551615"), Ok(u64::MAX));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
            if let Ok(amount) = Amount::parse(&text) {
                let _ = (amount.bytes(), amount.millis());
                prop_assert_eq!(Amount::parse(&amount.to_string()).map(Amount::whole), Ok(amount.whole()));
            }
        }

        #[test]
        fn any_text(text in ".*") {
            let _ = Amount::parse(&text);
        }

        #[test]
        fn bytes_survive(value in any::<u64>()) {
            let written = Amount::from_bytes(value).to_string();
            prop_assert_eq!(Amount::parse(&written).and_then(Amount::bytes), Ok(value));
        }
    }
}
