//! Reading of a number block as the namespace annotations carry it: `start/size` or `start-end`.
//!
//! The reading is lenient in the same places as the tools that write and read these annotations: white space before
//! a number is skipped, whatever follows the second number is ignored; and strict in the same places.

/// Why a text is no block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockError {
    ExpectedInteger,
    Mismatch,
    UnexpectedEnd,
    End,
    NewLine,
    Overflow(String),
    OutOfRange(String),
}

impl std::fmt::Display for BlockError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ExpectedInteger => f.write_str("expected integer"),
            Self::Mismatch => f.write_str("input does not match format"),
            Self::UnexpectedEnd => f.write_str("unexpected EOF"),
            Self::End => f.write_str("EOF"),
            Self::NewLine => f.write_str("unexpected newline"),
            Self::Overflow(digits) => write!(f, "unsigned integer overflow on token {digits}"),
            Self::OutOfRange(digits) => {
                write!(
                    f,
                    "strconv.ParseUint: parsing {}: value out of range",
                    crate::report::quote::quoted(digits)
                )
            }
        }
    }
}

/// The two numbers of a block, with the separator that the text uses.
pub(crate) fn pair(text: &str, separator: char) -> Result<(u32, u32), BlockError> {
    let (first, rest) = number(text)?;
    let mut chars = rest.chars();
    match chars.next() {
        None => return Err(BlockError::UnexpectedEnd),
        Some(c) if c == separator => {}
        Some(_) => return Err(BlockError::Mismatch),
    }
    let (second, _) = number(chars.as_str())?;
    Ok((first, second))
}

fn number(text: &str) -> Result<(u32, &str), BlockError> {
    let text = skip_space(text)?;
    if text.is_empty() {
        return Err(BlockError::End);
    }
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(rest).unwrap_or_default();
    if digits.is_empty() {
        return Err(BlockError::ExpectedInteger);
    }
    match digits.parse::<u64>() {
        Err(_) => Err(BlockError::OutOfRange(digits.to_owned())),
        Ok(n) => match u32::try_from(n) {
            Ok(n) => Ok((n, rest)),
            Err(_) => Err(BlockError::Overflow(digits.to_owned())),
        },
    }
}

fn skip_space(text: &str) -> Result<&str, BlockError> {
    let mut rest = text;
    loop {
        let mut chars = rest.chars();
        match chars.next() {
            Some('\n') => return Err(BlockError::NewLine),
            Some(c) if c.is_whitespace() => {}
            _ => return Ok(rest),
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenient_and_strict_where_expected() {
        assert_eq!(pair("1000/10", '/'), Ok((1000, 10)));
        assert_eq!(pair("  0010/ 7x", '/'), Ok((10, 7)));
        assert_eq!(pair("1000 /10", '/'), Err(BlockError::Mismatch));
        assert_eq!(pair("x", '-'), Err(BlockError::ExpectedInteger));
        assert_eq!(pair("+5-6", '-'), Err(BlockError::ExpectedInteger));
        assert_eq!(pair("1000", '-'), Err(BlockError::UnexpectedEnd));
        assert_eq!(pair("1000/", '/'), Err(BlockError::End));
        assert_eq!(pair("", '-'), Err(BlockError::End));
        assert_eq!(pair("1/4294967296", '/'), Err(BlockError::Overflow("4294967296".into())));
        for line in ["\n1/2", "\r\n1/2", "1/\n2"] {
            assert_eq!(pair(line, '/'), Err(BlockError::NewLine));
        }
        assert_eq!(pair("\r1/2", '/'), Ok((1, 2)));
        assert!(matches!(pair("99999999999999999999999/2", '/'), Err(BlockError::OutOfRange(_))));
    }
}
