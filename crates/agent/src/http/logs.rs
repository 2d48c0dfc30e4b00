//! A container's log, as `kubectl logs` asks for it.

use super::{Body, refuse};
use crate::pods::Target;
use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
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
}

impl Options {
    /// Lines carry no time stamps of their own here: `timestamps`, `sinceSeconds` and `sinceTime` change nothing.
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let wrong = || format!("{name}={value} is not a number that makes sense");
            match name {
                "follow" => options.follow = matches!(value, "true" | "1"),
                "tailLines" => options.tail = Some(value.parse().map_err(|_| wrong())?),
                "limitBytes" => options.limit = Some(value.parse().map_err(|_| wrong())?),
                _ => {}
            }
        }
        Ok(options)
    }
}

pub(super) async fn answer(target: &Target, query: Option<&str>) -> Response<Body> {
    let options = match Options::parse(query.unwrap_or_default()) {
        Ok(options) => options,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, &message),
    };
    let open = || -> io::Result<File> {
        let mut file = File::open(target.log())?;
        if let Some(lines) = options.tail {
            let start = tail(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(file)
    };
    let file = match open() {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse(StatusCode::BAD_REQUEST, "container \"compute\" is waiting to start");
        }
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let state = (file, options.limit.unwrap_or(u64::MAX), target.clone());
    let pieces = stream::try_unfold(state, move |(mut file, left, target)| async move {
        loop {
            // Looked at before the read: what came before the end is read after it.
            let over = !options.follow || target.record().is_none_or(|record| record.exit.is_some());
            let mut bytes = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            let length = file.read(&mut bytes)?;
            if length > 0 {
                bytes.truncate(length);
                let left = left.saturating_sub(length as u64);
                return Ok(Some((Frame::data(Bytes::from(bytes)), (file, left, target))));
            }
            if over || left == 0 {
                return Ok(None);
            }
            // The log was over its limit and started anew.
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

/// Where the last `lines` lines begin. Reads backwards and no more than it must: the launcher may have written any
/// amount of anything.
fn tail(file: &mut File, lines: usize) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut found = 0;
    let mut position = end;
    let mut bytes = vec![0; PIECE];
    while lines > 0 && position > 0 {
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
        let options = Options::parse("follow=true&tailLines=5&timestamps=true").unwrap();
        assert_eq!(options, Options { follow: true, tail: Some(5), limit: None });
        assert!(Options::parse("tailLines=x").is_err());
        assert!(Options::parse("limitBytes=-1").is_err());
    }
}
