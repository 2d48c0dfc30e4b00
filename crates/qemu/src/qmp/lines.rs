//! Lines out of a stream.

/// Gathers bytes until a line is whole.
#[derive(Debug)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that are known to hold no line end.
    searched: usize,
    limit: usize,
}

/// A line is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {0} bytes")]
pub struct TooLong(pub usize);

impl Lines {
    /// Lines of at most `limit` bytes, line ends not counted.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), searched: 0, limit }
    }

    /// Takes what was read. At most the limit and one piece are held at a time.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line, without its end (`\n` or `\r\n`); `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`TooLong`], for ever after: the stream cannot be understood any more.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let fresh = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(end) = fresh.iter().position(|b| *b == b'\n').map(|at| at + self.searched) else {
            self.searched = self.bytes.len();
            return if self.bytes.len() > self.limit { Err(TooLong(self.limit)) } else { Ok(None) };
        };
        if end > self.limit {
            return Err(TooLong(self.limit));
        }
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        self.searched = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }

    /// What came after the last line end.
    pub fn rest(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_same_lines() {
        let text = b"one\r\n\ntwo\nthree";
        for size in 1..=text.len() {
            let mut lines = Lines::new(5);
            let mut got = Vec::new();
            for piece in text.chunks(size) {
                lines.push(piece);
                while let Some(line) = lines.next_line().unwrap() {
                    got.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(got, ["one", "", "two"]);
            assert_eq!(lines.rest(), b"three");
        }
    }

    #[test]
    fn a_long_line_is_an_error_with_and_without_its_end() {
        let mut lines = Lines::new(4);
        lines.push(b"12345");
        assert_eq!(lines.next_line(), Err(TooLong(4)));
        lines.push(b"\nok\n");
        assert_eq!(lines.next_line(), Err(TooLong(4)));
    }
}
