//! Text that somebody else wrote, on its way into a log, an event or a condition: it is data there. It must not move a
//! terminal's cursor, begin a line of its own, turn the direction of what is around it, or fill what it is written to.

use std::fmt::{self, Display, Write};

/// Most characters of a launcher's refusal that anybody gets to see.
pub const REFUSAL: usize = 200;
/// Most characters of how a guest ended: QEMU's last words name files and options.
pub const LAST_WORDS: usize = 512;

/// Whether a character acts on whatever shows it: control characters, line and paragraph separators, and the
/// invisible ones that change direction or join what belongs apart.
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Shows a text with every acting character in the form of a Rust literal (`\n`, `\u{1b}`). What was escaped already has
/// none, and stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaping(f).write_str(self.0)
    }
}

/// Escapes whatever is written through it.
#[derive(Debug)]
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| acts(*c)) {
            let (plain, from) = rest.split_at(at);
            self.0.write_str(plain)?;
            write!(self.0, "{}", c.escape_default())?;
            rest = from.get(c.len_utf8()..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

/// The escaped text, of at most `most` characters. What is missing at the end is counted.
pub fn plain(text: &str, most: usize) -> String {
    // Each character is at least one after escaping: there is no need to look further.
    let mut out = String::new();
    let mut left = most;
    let mut characters = text.chars();
    while let Some(c) = characters.clone().next() {
        let shown = if acts(c) { c.escape_default().to_string() } else { c.to_string() };
        let length = shown.chars().count();
        if length > left {
            // Counting goes through foreign bytes, of which there is a bounded message.
            return format!("{out}... ({} more characters)", characters.count());
        }
        left -= length;
        out.push_str(&shown);
        characters.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_or_a_journal_is_written_out() {
        let rows = [
            ("plain \u{e4} text", "plain \u{e4} text"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31mred\u{7}\u{7f}\u{9b}2J", "\\u{1b}[31mred\\u{7}\\u{7f}\\u{9b}2J"),
            ("user\u{202e}txt.exe\u{2066}", "user\\u{202e}txt.exe\\u{2066}"),
            ("a\u{2028}b\u{85}c\0", "a\\u{2028}b\\u{85}c\\u{0}"),
        ];
        for (text, shown) in rows {
            assert_eq!(Escaped(text).to_string(), shown);
            assert_eq!(Escaped(shown).to_string(), shown, "once is enough");
            assert_eq!(plain(text, 1000), shown);
        }
    }

    #[test]
    fn long_text_is_cut_and_counted() {
        assert_eq!(plain("abcdef", 6), "abcdef");
        assert_eq!(plain("abcdefg", 6), "abcdef... (1 more characters)");
        assert_eq!(plain("abcde\n\n", 6), "abcde... (2 more characters)");
        assert_eq!(
            plain(&"x".repeat(100_000), 200).chars().count(),
            200 + "... (99800 more characters)".len()
        );
    }
}
