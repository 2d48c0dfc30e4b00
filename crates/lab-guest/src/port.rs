//! The second serial port, on which the host reads.

use ferrovirt_lab_protocol::Line;
use serde::Serialize;
use std::{
    fs::File,
    io::{self, Write as _},
};

const PORT: &str = "/dev/ttyS1";

/// The way to the host. Several processes may each have one: a line is written at once.
#[derive(Debug)]
pub struct Port(File);

impl Port {
    /// Opens it.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open() -> io::Result<Self> {
        File::options().write(true).open(PORT).map(Self)
    }

    /// Says one line.
    ///
    /// # Errors
    /// A value that JSON cannot express; what write(2) says.
    pub fn say<T: Serialize>(&mut self, line: &Line<T>) -> io::Result<()> {
        self.0.write_all(line.text()?.as_bytes())
    }

    /// Reports something that was seen.
    ///
    /// # Errors
    /// As [`Port::say`].
    pub fn report(&mut self, seen: impl Serialize) -> io::Result<()> {
        self.say(&Line::Report(seen))
    }

    /// Shows text to a person.
    ///
    /// # Errors
    /// As [`Port::say`].
    pub fn note(&mut self, text: String) -> io::Result<()> {
        self.say::<()>(&Line::Note(text))
    }

    /// Waits until everything has left, and closes it.
    pub(crate) fn close(self) {
        // Closing waits too, if not as long.
        let _ = rustix::termios::tcdrain(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrovirt_lab_protocol::{Said, read};

    #[test]
    fn the_host_reads_what_is_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut port = Port(file.reopen().unwrap());
        port.report([1, 2]).unwrap();
        port.note("two\nlines".to_owned()).unwrap();
        port.report([3, 4]).unwrap();
        port.say::<()>(&Line::Done).unwrap();
        port.close();
        let said: Said<[u32; 2]> = read(&std::fs::read(file.path()).unwrap());
        let notes = vec!["two\nlines".to_owned()];
        assert_eq!(said, Said { reports: vec![[1, 2], [3, 4]], notes, end: Ok(()) });
    }
}
