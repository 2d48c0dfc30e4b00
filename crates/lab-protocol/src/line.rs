//! The lines that a guest writes to its second serial port, each a JSON value, and their reader. The program in a guest is
//! ours; what comes out of a guest that broke may be anything.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest line in bytes: one may hold the whole log of a machine.
pub const MAX_LINE: usize = 4 << 20;

/// As much of a line is shown when it is not understood, in characters.
const EXCERPT: usize = 200;

/// A line; `T` is what this guest reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line<T> {
    /// Something that was seen.
    Report(T),
    /// Text to be shown to a person.
    Note(String),
    /// The guest cannot go on, and why; the last line.
    Failed(String),
    /// All was done; the last line.
    Done,
}

impl<T: Serialize> Line<T> {
    /// The line as it is written, with its end.
    ///
    /// # Errors
    /// A value that JSON cannot express.
    pub fn text(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

/// Why a guest's lines say less than they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The guest gave up, in its own words.
    #[error("the guest could not go on: {0}")]
    Failed(String),
    /// It ended in the middle.
    #[error("the guest ended before everything was tried")]
    Unfinished,
    /// A line, by its number from 1, that is too long.
    #[error("line {0} of the guest's results is longer than {MAX_LINE} bytes")]
    TooLong(usize),
    /// A line, by its number from 1, that means nothing: why, and its beginning.
    #[error(
        "line {0} of the guest's results is not understood ({1}): {2:?}; if it comes from a program of another version, \
         build that again"
    )]
    Line(usize, String, String),
    /// A line, by its number from 1, behind the one that ends the results.
    #[error("the guest's results go on behind their end, in line {0}")]
    BehindEnd(usize),
}

/// What a guest said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<T> {
    /// Its reports, in order; when it did not end well, those up to there.
    pub reports: Vec<T>,
    /// Its notes.
    pub notes: Vec<String>,
    /// Whether it has done everything.
    pub end: Result<(), Error>,
}

/// Reads the lines of a guest, up to the first that is wrong. Takes memory of the order of `bytes`, whose length the caller
/// has bounded.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Said<T> {
    let mut said = Said { reports: Vec::new(), notes: Vec::new(), end: Err(Error::Unfinished) };
    let mut ended = false;
    // What follows the last end of a line was still being written.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').and_then(|end| bytes.get(..end));
    for (place, line) in whole.into_iter().flat_map(|whole| whole.split(|byte| *byte == b'\n')).enumerate() {
        let number = place + 1;
        if ended {
            said.end = Err(Error::BehindEnd(number));
            break;
        }
        if line.len() > MAX_LINE {
            said.end = Err(Error::TooLong(number));
            break;
        }
        // A terminal sends a carriage return with it; for JSON that is white space.
        match serde_json::from_slice(line) {
            Ok(Line::Report(report)) => said.reports.push(report),
            Ok(Line::Note(note)) => said.notes.push(note),
            Ok(Line::Failed(why)) => {
                said.end = Err(Error::Failed(why));
                break;
            }
            Ok(Line::Done) => (ended, said.end) = (true, Ok(())),
            Err(error) => {
                let excerpt = String::from_utf8_lossy(line).chars().take(EXCERPT).collect();
                said.end = Err(Error::Line(number, error.to_string(), excerpt));
                break;
            }
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Said<u32> {
        super::read(bytes)
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let lines =
            [Line::Report(7), Line::Note("two\nlines \u{1b}".to_owned()), Line::Report(8), Line::Done];
        let text: String = lines.iter().map(|line| line.text().unwrap()).collect();
        assert_eq!(text.lines().count(), 4);
        let whole = Said { reports: vec![7, 8], notes: vec!["two\nlines \u{1b}".to_owned()], end: Ok(()) };
        assert_eq!(read(text.as_bytes()), whole);
        // As a terminal passes it on.
        assert_eq!(read(text.replace('\n', "\r\n").as_bytes()), whole);
    }

    #[test]
    fn a_guest_that_ends_in_the_middle_has_not_finished() {
        for text in ["", "\"done\"", "{\"report\":1}\n", "{\"report\":1}\n{\"rep", "{\"report\":1}\n\"done\""]
        {
            assert_eq!(read(text.as_bytes()).end, Err(Error::Unfinished), "{text:?}");
        }
        let said = read(b"{\"report\":1}\n{\"failed\":\"no policy\"}\n{\"report\":2}\n");
        assert_eq!((said.reports, said.end), (vec![1], Err(Error::Failed("no policy".to_owned()))));
    }

    #[test]
    fn what_is_not_understood_is_said_with_its_line() {
        for line in [
            &b""[..],
            b"done",
            b"\x00\xff\xfe",
            b"{\"report\":\"text\"}",
            b"{\"report\":-1}",
            b"{\"report\":1}{\"report\":2}",
            b"{\"unknown\":1}",
            b"\"report\"",
            b"Kernel panic - not syncing",
        ] {
            let said = read(&[b"{\"report\":1}\n", line, b"\n\"done\"\n"].concat());
            assert!(matches!(said.end, Err(Error::Line(2, ..))), "{line:?}: {:?}", said.end);
            assert_eq!(said.reports, [1]);
        }
        assert_eq!(read(b"\"done\"\n{\"report\":1}\n").end, Err(Error::BehindEnd(2)));
        // Deep values end in an error, not in the end of the stack.
        let deep = format!("{}\n", "[".repeat(100_000));
        assert!(matches!(read(deep.as_bytes()).end, Err(Error::Line(1, ..))));
    }

    #[test]
    fn errors_stay_short_however_long_a_line_is() {
        let huge = "x".repeat(MAX_LINE + 1) + "\n\"done\"\n";
        assert_eq!(read(huge.as_bytes()).end, Err(Error::TooLong(1)));
        let error = read(huge.get(1..).unwrap().as_bytes()).end.unwrap_err();
        assert!(matches!(error, Error::Line(1, ..)) && error.to_string().len() < 600, "{error}");
        let lossy = read(&[vec![0xff; 100_000], vec![b'\n']].concat()).end.unwrap_err();
        assert!(lossy.to_string().len() < 1200, "{lossy}");
    }
}
