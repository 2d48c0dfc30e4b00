//! The conversation with a launcher.

use super::meter::Meter;
use ferrovirt_node::selinux;
use ferrovirt_qemu::{
    protocol::{Event, MAX_DESCRIPTORS, MAX_MESSAGE, Purpose, Request},
    seed,
};
use ferrovirt_sys::seqpacket::{Connection, Listener};
use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};

/// Name of the socket in its directory.
const NAME: &str = "launcher-sock";

/// Makes the listening socket of a launcher in `directory`: for root and the launcher's user only, with this SELinux label.
///
/// # Errors
/// What socket(2), bind(2) and chown(2) say.
pub fn listen(directory: &Path, uid: u32, label: Option<&str>) -> io::Result<Listener> {
    let (_open, short) = short(directory)?;
    let path = short.join(NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = Listener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    chown(&path, Some(uid), None)?;
    if let Some(label) = label {
        selinux::label_path(&path, label)?;
    }
    Ok(listener)
}

/// The address of a Unix socket has at most 107 bytes, whatever the data directory is called: reach it through a
/// descriptor of its directory.
fn short(directory: &Path) -> io::Result<(fs::File, PathBuf)> {
    let open = fs::File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    Ok((open, path))
}

/// How long a launcher may take to make room for a request. One that reads nothing must not hold up its own end.
const ROOM: Duration = Duration::from_secs(2);

/// A connection to a launcher.
#[derive(Debug)]
pub struct Link {
    connection: AsyncFd<Connection>,
    /// What came, and when the next message may be read.
    pace: Mutex<(Meter, Instant)>,
}

impl Link {
    /// Connects to the socket that [`listen`] made in `directory`. Inside a runtime.
    ///
    /// # Errors
    /// `ConnectionRefused` when the launcher is gone.
    pub fn connect(directory: &Path) -> io::Result<Self> {
        let (_open, short) = short(directory)?;
        let connection = Connection::connect(&short.join(NAME))?;
        connection.set_nonblocking(true)?;
        let now = Instant::now();
        let pace = Mutex::new((Meter::new(now), now));
        Ok(Self { connection: crate::poll::watch(connection)?, pace })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// `BrokenPipe` when the launcher is gone; `TimedOut` when it reads nothing.
    pub async fn send(&self, request: &Request) -> io::Result<()> {
        self.send_with(request, &[]).await
    }

    /// Sends descriptors, as many messages as they need.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn pass(&self, descriptors: &[(Purpose, OwnedFd)]) -> io::Result<()> {
        for part in descriptors.chunks(MAX_DESCRIPTORS) {
            let purposes = part.iter().map(|(purpose, _)| purpose.clone()).collect();
            let fds: Vec<BorrowedFd<'_>> = part.iter().map(|(_, fd)| fd.as_fd()).collect();
            self.send_with(&Request::Descriptors { purposes }, &fds).await?;
        }
        Ok(())
    }

    /// Sends the files of seeds, as many messages as they need.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn give(&self, files: &[seed::File]) -> io::Result<()> {
        for piece in files.iter().flat_map(seed::File::pieces) {
            self.send(&Request::Piece { piece }).await?;
        }
        Ok(())
    }

    async fn send_with(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(request)?;
        let send = async {
            loop {
                let mut ready = self.connection.writable().await?;
                if let Ok(result) = ready.try_io(|connection| connection.get_ref().send(&bytes, fds)) {
                    return result;
                }
            }
        };
        tokio::time::timeout(ROOM, send).await.map_err(io::Error::from)?
    }

    /// The next event, its text cut and escaped; `None` when the launcher closed the connection. One that sends more
    /// than its share is read more slowly. Safe to cancel.
    ///
    /// # Errors
    /// `InvalidData` for what is not an event of the protocol.
    pub async fn receive(&self) -> io::Result<Option<Event>> {
        let from = self.pace.lock().unwrap_or_else(PoisonError::into_inner).1;
        sleep_until(from).await;
        loop {
            let mut ready = self.connection.readable().await?;
            let Ok(result) = ready.try_io(|connection| connection.get_ref().recv(MAX_MESSAGE)) else {
                continue;
            };
            let message = result?;
            let length = message.as_ref().map_or(0, |message| message.bytes.len());
            {
                let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
                pace.1 = pace.0.took(length, Instant::now());
            }
            let Some(message) = message else { return Ok(None) };
            let event: Event = serde_json::from_slice(&message.bytes)?;
            return Ok(Some(event.plain()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_launcher_that_reads_nothing_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = listen(directory.path(), 107, None).unwrap();
        let link = Link::connect(directory.path()).unwrap();
        let mut sent = 0;
        let error = loop {
            match link.send(&Request::Pause).await {
                Ok(()) if sent < 100_000 => sent += 1,
                other => break other.unwrap_err(),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// Has another end to write to, in a task of its own.
    fn flood(listener: Listener, message: Vec<u8>) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let connection = listener.accept().unwrap();
            while connection.send(&message, &[]).is_ok() {}
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_launcher_that_floods_is_read_slowly_and_its_text_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let listener = listen(directory.path(), 107, None).unwrap();
        let message = format!("forged\n{}", "x".repeat(120 << 10));
        let bytes = serde_json::to_vec(&Event::Refused { message, console: None }).unwrap();
        let sender = flood(listener, bytes);
        let link = Link::connect(directory.path()).unwrap();
        let start = Instant::now();
        let mut read = 0_u32;
        while start.elapsed() < Duration::from_secs(10) {
            let event = link.receive().await.unwrap().unwrap();
            let Event::Refused { message, .. } = event else { panic!("{event:?}") };
            assert!(message.starts_with("forged\\nxxx") && message.len() < 300, "{message}");
            read += 1;
        }
        assert!(read <= 25, "{read} messages of 120 KiB in 10 seconds");
        drop(link);
        sender.join().unwrap();
    }

    #[tokio::test]
    async fn what_is_no_event_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let listener = listen(directory.path(), 107, None).unwrap();
        let sender = flood(listener, b"nonsense".to_vec());
        let link = Link::connect(directory.path()).unwrap();
        assert_eq!(link.receive().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(link);
        sender.join().unwrap();
    }
}
