//! A container's log, as `kubectl logs` asks for it.

use super::{Body, refuse};
use crate::pods::Target;
use bytes::Bytes;
use ferrovirt_node::stamp;
use futures::stream;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    time::Duration,
};

/// Most bytes of one piece.
const PIECE: usize = 32 << 10;
/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    tail: Option<usize>,
    limit: Option<u64>,
    timestamps: bool,
    since: Option<Timestamp>,
}

impl Options {
    fn parse(query: &str, now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = || format!("{name}={value} is not a value that makes sense");
            match name {
                "follow" => options.follow = matches!(value, "true" | "1"),
                "timestamps" => options.timestamps = matches!(value, "true" | "1"),
                "tailLines" => options.tail = Some(value.parse().map_err(|_| wrong())?),
                "limitBytes" => options.limit = Some(value.parse().map_err(|_| wrong())?),
                "sinceSeconds" => {
                    let seconds: u32 = value.parse().map_err(|_| wrong())?;
                    options.since = now.checked_sub(SignedDuration::from_secs(seconds.into())).ok();
                }
                // The only characters of a time that a URL spells in another way.
                "sinceTime" => {
                    let text = value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+");
                    options.since = Some(text.parse().map_err(|_| wrong())?);
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Turns what is read of a log into what is shown of it, line by line.
struct Shown {
    options: Options,
    /// A line that has not ended yet.
    open: Vec<u8>,
    /// The line that is open was too long to wait for its end, and its beginning was shown.
    within: bool,
    /// Whether lines are shown; one without a time of its own goes with the one before it.
    show: bool,
    /// Bytes that may still be shown.
    left: u64,
}

impl Shown {
    fn new(options: Options) -> Self {
        let left = options.limit.unwrap_or(u64::MAX);
        Self { options, open: Vec::new(), within: false, show: options.since.is_none(), left }
    }

    /// Takes a piece of the log.
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.line(&mut out);
                self.within = false;
            } else if self.open.len() >= PIECE {
                self.line(&mut out);
                self.within = true;
            }
        }
        self.limited(out)
    }

    /// What is left at the end of the log.
    fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.line(&mut out);
        self.limited(out)
    }

    fn limited(&mut self, mut out: Vec<u8>) -> Vec<u8> {
        out.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left = self.left.saturating_sub(out.len() as u64);
        out
    }

    fn line(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.open);
        if self.within {
            if self.show {
                out.extend_from_slice(&line);
            }
            return;
        }
        let (time, text) = stamp::split(&line);
        if let (Some(since), Some(time)) = (self.options.since, time) {
            self.show = time >= since;
        }
        if !self.show {
            return;
        }
        if let Some(time) = time.filter(|_| self.options.timestamps) {
            out.extend_from_slice(format!("{time:.9} ").as_bytes());
        }
        out.extend_from_slice(text);
    }
}

pub(super) async fn answer(target: &Target, query: Option<&str>) -> Response<Body> {
    let options = match Options::parse(query.unwrap_or_default(), Timestamp::now()) {
        Ok(options) => options,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, &message),
    };
    let path = target.log();
    let open = move || -> io::Result<File> {
        let mut file = File::open(path)?;
        if let Some(lines) = options.tail {
            let start = tail(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(file)
    };
    // A log can be large, and the beginning of its last lines far from its end.
    let opened = tokio::task::spawn_blocking(open).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse(StatusCode::BAD_REQUEST, "container \"compute\" is waiting to start");
        }
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let state = (file, Some(Shown::new(options)), target.clone());
    let pieces = stream::try_unfold(state, move |(mut file, shown, target)| async move {
        let Some(mut shown) = shown else { return Ok(None) };
        loop {
            // Looked at before the read: what came before the end is read after it.
            let over = !options.follow || target.record().is_none_or(|record| record.exit.is_some());
            let mut bytes = Vec::new();
            if shown.left > 0 {
                (file, bytes) = piece(file).await?;
            }
            if !bytes.is_empty() {
                let out = shown.push(&bytes);
                if out.is_empty() {
                    continue;
                }
                return Ok(Some((Frame::data(Bytes::from(out)), (file, Some(shown), target))));
            }
            if over || shown.left == 0 {
                let out = shown.finish();
                return Ok(Some((Frame::data(Bytes::from(out)), (file, None, target))));
            }
            // The log was over its limit and started again.
            if file.metadata()?.len() < file.stream_position()? {
                file.seek(SeekFrom::Start(0))?;
                continue;
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    response
}

/// Reads on, away from the workers.
async fn piece(mut file: File) -> io::Result<(File, Vec<u8>)> {
    let read = move || {
        let mut bytes = vec![0; PIECE];
        let length = file.read(&mut bytes)?;
        bytes.truncate(length);
        Ok((file, bytes))
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

/// Most bytes at the end of a log that are searched for the beginning of its last lines: as many as a log has.
const MOST_TAIL: u64 = 16 << 20;

/// Where the last `lines` lines begin, or what is searched of them. Reads backwards and no more than it must: the launcher may have written any
/// amount of anything.
fn tail(file: &mut File, lines: usize) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut found = 0;
    let mut position = end;
    let mut bytes = vec![0; PIECE];
    while lines > 0 && position > 0 && end - position < MOST_TAIL {
        let start = position.saturating_sub(PIECE as u64);
        let piece = usize::try_from(position - start).unwrap_or(PIECE);
        let Some(piece) = bytes.get_mut(..piece) else { break };
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(piece)?;
        for byte in piece.iter().rev() {
            // The newline at the very end ends the last line.
            if *byte == b'\n' && position < end {
                found += 1;
                if found == lines {
                    return Ok(position);
                }
            }
            position -= 1;
        }
    }
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_tail_begins_at_a_line() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(tail(&mut file, 3).unwrap(), 0);
        file.write_all(b"a\nbb\nccc\n").unwrap();
        for (lines, start) in [(0, 9), (1, 5), (2, 2), (3, 0), (9, 0)] {
            assert_eq!(tail(&mut file, lines).unwrap(), start, "{lines}");
        }
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"open").unwrap();
        assert_eq!(tail(&mut file, 1).unwrap(), 9);
        // A log that has outgrown its limit is searched from its end, and no further.
        file.set_len(3 * MOST_TAIL).unwrap();
        assert_eq!(tail(&mut file, 5).unwrap(), 2 * MOST_TAIL);
        file.set_len(0).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let long = "x".repeat(PIECE);
        file.write_all(format!("{long}\n{long}\n{long}\n").as_bytes()).unwrap();
        let line = PIECE as u64 + 1;
        for (lines, start) in [(1, 2 * line), (2, line), (3, 0), (usize::MAX, 0)] {
            assert_eq!(tail(&mut file, lines).unwrap(), start, "{lines}");
        }
    }

    #[test]
    fn options_are_read_and_nonsense_is_refused() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let parse = |query| Options::parse(query, now);
        let options = parse("follow=true&tailLines=5&timestamps=true&sinceSeconds=5").unwrap();
        let since = Some("2026-01-02T03:04:00Z".parse().unwrap());
        assert_eq!(options, Options { follow: true, tail: Some(5), limit: None, timestamps: true, since });
        assert_eq!(parse("sinceTime=2026-01-02T03%3A04%3A00Z").unwrap().since, since);
        for query in ["tailLines=x", "limitBytes=-1", "sinceSeconds=-1", "sinceTime=yesterday"] {
            assert!(parse(query).is_err(), "{query}");
        }
    }

    #[test]
    fn lines_are_shown_from_a_time_on_with_or_without_it() {
        let log = b"early\n100.000000000 a\nof a\n200.500000000 b\nof b\n300.000000000 c";
        let shown = |query: &str, size: usize| {
            let mut shown = Shown::new(Options::parse(query, Timestamp::UNIX_EPOCH).unwrap());
            let mut out: Vec<u8> = log.chunks(size).flat_map(|piece| shown.push(piece)).collect();
            out.extend(shown.finish());
            String::from_utf8(out).unwrap()
        };
        for size in [1, 7, 1000] {
            assert_eq!(shown("", size), "early\na\nof a\nb\nof b\nc");
            let since = "sinceTime=1970-01-01T00:03:00Z";
            assert_eq!(shown(since, size), "b\nof b\nc");
            assert_eq!(
                shown(&format!("{since}&timestamps=true"), size),
                "1970-01-01T00:03:20.500000000Z b\nof b\n1970-01-01T00:05:00.000000000Z c"
            );
            assert_eq!(shown("limitBytes=8", size), "early\na\n");
        }
        let mut shown = Shown::new(Options::default());
        assert_eq!(shown.push(&vec![b'x'; 3 * PIECE]).len(), 3 * PIECE, "a line without an end is not kept");
    }
}
