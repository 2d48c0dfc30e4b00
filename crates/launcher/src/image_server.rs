//! The files of an image where a cluster has no image volumes: in a container of that image this program alone runs, and gives
//! out read-only descriptors of regular files in it.
//!
//! An image need not hold a shell or anything else to be run: the program is a copy that a container before has made. Nobody
//! but the pod's own containers sees the socket; but people may run programs of their own in them, so that nothing that comes
//! from there is believed. Directories are not given out: a descriptor of one leads to all that its container sees.

use crate::{images, start::own_path};
use ferrovirt_qemu::text;
use ferrovirt_sys::{
    seqpacket::{Connection, Listener, Message},
    signal::SignalFd,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags},
    io::Errno,
    process::Signal,
};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::Path,
    time::{Duration, Instant},
};

/// Most bytes of a request, which is a path, and of an answer.
const MOST: usize = 4096;
/// How long a server may take to listen: it is started before the launcher.
const LISTENING: Duration = Duration::from_secs(5);
/// Between two tries to connect, in nanoseconds.
const AGAIN: i64 = 20_000_000;
/// How long either side may take to say something.
const SAYS: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// What is asked for: the first byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Wanted {
    /// A file whose path leads through no link.
    File = b'f',
    /// A file whose path may lead through links inside the image.
    Linked = b'l',
    /// The name of the only regular file in a directory.
    Only = b'o',
}

/// Copies this program to where containers of images start it.
pub(crate) fn copy(to: &Path) -> io::Result<()> {
    let mut from = File::open("/proc/self/exe")?;
    // A container that is started again finds the copy of the first time.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o500).open(to)?;
    io::copy(&mut from, &mut file)?;
    file.flush()?;
    // The mask of the container may have taken bits away, and the other containers' user need not be this one's.
    file.set_permissions(fs::Permissions::from_mode(0o555))
}

/// Gives out files of the file system below `root` until a signal ends it.
pub(crate) fn serve(socket: &Path, root: &Path) -> io::Result<()> {
    // The first process of a container gets no signal that it has not asked for.
    let signals = SignalFd::new(&[Signal::TERM, Signal::INT])?;
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = Listener::bind(socket)?;
    loop {
        let mut both = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [ended, asked] = both.map(|fd| !fd.revents().is_empty());
        if ended {
            return Ok(());
        }
        if asked {
            // One launcher asks, a few times. What goes wrong with one request is nothing for the next.
            drop(listener.accept().and_then(|connection| answer(&connection, &root)));
        }
    }
}

/// Answers `0` with a descriptor, `=` with a name, or why not: an error's number, or `!` with words.
fn answer(connection: &Connection, root: &OwnedFd) -> io::Result<()> {
    wait(connection)?;
    let Some(request) = connection.recv(MOST)? else { return Ok(()) };
    // What is mounted into the container is not the image's.
    let inside = ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let beneath = inside | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    // A FIFO of the image must not hold it up.
    let file = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |path: &[u8], flags, resolve| rustix::fs::openat2(root, path, flags, Mode::empty(), resolve);
    let opened = match request.bytes.split_first() {
        Some((b'f', path)) => open(path, file, beneath),
        Some((b'l', path)) => open(path, file, inside | ResolveFlags::IN_ROOT),
        Some((b'o', path)) => {
            let found =
                open(path, file | OFlags::DIRECTORY, beneath).map_err(|_| images::NO_DIRECTORY.to_owned());
            let said = match found.and_then(|directory| images::only_name(&directory)) {
                Ok(name) => format!("={name}"),
                Err(words) => format!("!{words}"),
            };
            return connection.send(said.as_bytes(), &[]);
        }
        _ => Err(Errno::INVAL),
    };
    let regular =
        |file: &OwnedFd| rustix::fs::fstat(file).map(|data| FileType::from_raw_mode(data.st_mode).is_file());
    match opened.and_then(|file| if regular(&file)? { Ok(file) } else { Err(Errno::INVAL) }) {
        Ok(file) => connection.send(b"0", &[file.as_fd()]),
        Err(error) => connection.send(error.raw_os_error().to_string().as_bytes(), &[]),
    }
}

/// A read-only descriptor of a file of the image that is served at a socket: a regular one in a file system that nobody writes
/// to where it comes from, and no other descriptor.
pub(crate) fn file(socket: &Path, wanted: Wanted, path: &str) -> io::Result<OwnedFd> {
    let answer = request(socket, wanted, path)?;
    let Ok([file]) = <[OwnedFd; 1]>::try_from(answer.fds) else {
        let code = std::str::from_utf8(&answer.bytes).ok().and_then(|text| text.parse().ok());
        return Err(code.map_or(io::ErrorKind::InvalidData.into(), io::Error::from_raw_os_error));
    };
    let flags = rustix::fs::fcntl_getfl(&file)?;
    let reads = !flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::PATH);
    let regular = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file();
    // What is looked at here QEMU reads later, and a file that is still written could be another one by then.
    let fixed = rustix::fs::fstatvfs(&file)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    if reads && regular && fixed { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The name of the only regular file in a directory of the image; what is wrong otherwise.
pub(crate) fn only_name(socket: &Path, directory: &str) -> Result<String, String> {
    let answer =
        request(socket, Wanted::Only, directory).map_err(|error| format!("it is not given out: {error}"))?;
    match answer.bytes.split_first() {
        Some((b'=', name)) => {
            let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains('/'));
            name.map(str::to_owned).ok_or_else(|| "what is given out there has no name".to_owned())
        }
        Some((b'!', words)) => Err(text::plain(&String::from_utf8_lossy(words), text::REFUSAL)),
        _ => Err("it is not given out".to_owned()),
    }
}

fn request(socket: &Path, wanted: Wanted, path: &str) -> io::Result<Message> {
    let connection = connect(socket)?;
    let mut request = vec![wanted as u8];
    request.extend(path.trim_start_matches('/').as_bytes());
    connection.send(&request, &[])?;
    wait(&connection)?;
    Ok(connection.recv(MOST)?.ok_or(io::ErrorKind::UnexpectedEof)?)
}

/// Until there is something to read.
fn wait(connection: &Connection) -> io::Result<()> {
    match poll(&mut [PollFd::new(connection, PollFlags::IN)], Some(&SAYS))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Connects to the socket itself: who writes its directory could lead to another one by a link.
fn connect(socket: &Path) -> io::Result<Connection> {
    let end = Instant::now() + LISTENING;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let opened = rustix::fs::open(socket, flags, Mode::empty()).map_err(io::Error::from);
        let connected = opened.and_then(|place| {
            if !FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode).is_socket() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Connection::connect(own_path(place.as_raw_fd()).as_ref())
        });
        match connected {
            // It has not bound its socket yet, or not listened, or is busy with another request.
            Err(error)
                if Instant::now() < end
                    && matches!(
                        error.kind(),
                        io::ErrorKind::NotFound
                            | io::ErrorKind::ConnectionRefused
                            | io::ErrorKind::WouldBlock
                    ) =>
            {
                poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: AGAIN }))?;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::{fd::BorrowedFd, unix::fs::symlink},
        thread,
    };

    #[test]
    fn files_of_the_image_are_given_out_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("disk")).unwrap();
        fs::create_dir_all(root.join("two")).unwrap();
        fs::write(root.join("disk/image"), "bytes").unwrap();
        for name in ["two/a", "two/b"] {
            fs::write(root.join(name), "").unwrap();
        }
        symlink("/disk/image", root.join("link")).unwrap();
        symlink("/../../../etc/passwd", root.join("out")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        let socket = directory.path().join("socket");
        let listener = Listener::bind(&socket).unwrap();
        let root = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..12 {
                    answer(&listener.accept().unwrap(), &root).unwrap();
                }
            });
            let read = |path, wanted| {
                let mut fds = request(&socket, wanted, path).unwrap().fds;
                fds.pop().map(|file| io::read_to_string(File::from(file)).unwrap())
            };
            assert_eq!(read("/disk/image", Wanted::File).as_deref(), Some("bytes"));
            assert_eq!(read("link", Wanted::Linked).as_deref(), Some("bytes"), "from the image's own root");
            for (path, wanted) in [
                ("link", Wanted::File),
                ("out", Wanted::Linked),
                ("../socket", Wanted::File),
                ("none", Wanted::Linked),
                ("fifo", Wanted::File),
                // With it, anything else of the container could be opened.
                ("disk", Wanted::File),
                ("disk", Wanted::Linked),
            ] {
                assert_eq!(read(path, wanted), None, "{path}");
            }
            let only = |path| only_name(&socket, path);
            assert_eq!(only("disk").as_deref(), Ok("image"));
            assert!(only("two").unwrap_err().contains("2 files"));
            assert!(only("none").unwrap_err().contains("no such directory"));
        });
    }

    #[test]
    fn what_is_sent_in_its_place_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = Listener::bind(&socket).unwrap();
        let path = directory.path().join("file");
        let write =
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let device = File::open("/dev/null").unwrap();
        let named = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        let (good, whole) = (File::open(&path).unwrap(), File::open(directory.path()).unwrap());
        let cases: Vec<(&[u8], Vec<BorrowedFd<'_>>)> = vec![
            (b"0", vec![write.as_fd()]),
            (b"0", vec![device.as_fd()]),
            (b"0", vec![named.as_fd()]),
            (b"0", vec![whole.as_fd()]),
            // Somebody can still write it.
            (b"0", vec![good.as_fd()]),
            (b"0", vec![good.as_fd(), good.as_fd()]),
            (b"0", vec![]),
            (b"nonsense", vec![]),
        ];
        let names: [&[u8]; 4] = [b"=", b"=../x", b"=\xff", b"?"];
        thread::scope(|scope| {
            scope.spawn(|| {
                for (bytes, fds) in &cases {
                    let connection = listener.accept().unwrap();
                    connection.recv(MOST).unwrap();
                    connection.send(bytes, fds).unwrap();
                }
                for bytes in names.iter().chain([&b"!\x1b[2J".as_slice()]) {
                    let connection = listener.accept().unwrap();
                    connection.recv(MOST).unwrap();
                    connection.send(bytes, &[]).unwrap();
                }
            });
            for (case, _) in cases.iter().enumerate() {
                assert!(file(&socket, Wanted::File, "x").is_err(), "{case}");
            }
            for name in names {
                assert!(only_name(&socket, "x").is_err(), "{name:?}");
            }
            assert!(!only_name(&socket, "x").unwrap_err().contains('\x1b'));
        });
        // A link to a socket is none.
        let link = directory.path().join("link");
        symlink(&socket, &link).unwrap();
        assert_eq!(file(&link, Wanted::File, "x").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
