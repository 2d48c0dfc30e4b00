//! The end of a container's first process.

use super::record::Exit;
use crate::{clock, redacted::Redacted};
use ferrovirt_node::stamp;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};
use tokio::io::unix::AsyncFd;

/// The last line of a log, of which the launcher may have written any amount of anything.
pub(super) fn last_line(log: &Path) -> io::Result<String> {
    Ok(last_lines(log, MESSAGE, 1)?.trim_end_matches('\n').to_owned())
}

/// The end of a log without its time stamps: at most so many bytes and lines.
pub(super) fn last_lines(log: &Path, bytes: usize, lines: usize) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes as u64)))?;
    let mut end = Vec::new();
    file.take(bytes as u64).read_to_end(&mut end)?;
    let all: Vec<&[u8]> = end.split_inclusive(|byte| *byte == b'\n').collect();
    let last = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
    Ok(last.iter().map(|line| String::from_utf8_lossy(stamp::split(line).1)).collect())
}

/// A container's first process.
#[derive(Debug)]
pub(super) struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// Takes hold of a process. Its number must still be its own: not reaped, or known to the runtime as running.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self(crate::poll::watch(pidfd_open(pid, PidfdFlags::empty())?)?))
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        // It may be gone already.
        let _gone = pidfd_send_signal(self.0.get_ref(), Signal::TERM);
    }

    /// Ends it at once, and with it everything in its process namespace.
    pub(super) fn kill(&self) {
        // It may be gone already.
        let _gone = pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }

    /// Waits for its end and leaves the exit code to [`Self::ended`].
    pub(super) async fn over(&self) {
        let _over = self.0.readable().await;
    }

    /// Waits for its end: the exit code, or `None` when an earlier agent started it and nobody can say.
    pub(super) async fn ended(&self) -> Option<i32> {
        if self.0.readable().await.is_err() {
            return None;
        }
        let status =
            waitid(WaitId::PidFd(self.0.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let status = status.ok()??;
        if let Some(code) = status.exit_status() {
            return Some(code);
        }
        status.terminating_signal().map(|signal| 128 + signal)
    }
}

/// Most bytes of a line that are looked at for last words.
const MESSAGE: usize = 4096;

/// An exit from its code.
pub(super) fn exit(code: Option<i32>, message: Redacted) -> Exit {
    // 137 is what a kubelet says of a container whose end it did not see.
    Exit { code: code.unwrap_or(137), message, finished: clock::now(), evicted: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_found_in_what_is_no_text_and_are_short() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        assert!(last_line(&log).is_err());
        for (bytes, line) in [
            (vec![], String::new()),
            (b"one\ntwo\n".to_vec(), "two".to_owned()),
            (b"1790000000.000000000 one\n1790000001.000000000 two\n".to_vec(), "two".to_owned()),
            (b"\xff\xfe\nend".to_vec(), "end".to_owned()),
            (vec![b'x'; 1 << 20], "x".repeat(MESSAGE)),
        ] {
            std::fs::write(&log, bytes).unwrap();
            assert_eq!(last_line(&log).unwrap(), line);
        }
        std::fs::write(&log, "0\n1790000000.000000000 1\n2\n3").unwrap();
        assert_eq!(last_lines(&log, MESSAGE, 3).unwrap(), "1\n2\n3");
        assert_eq!(last_lines(&log, 3, 3).unwrap(), "2\n3");
    }
}
