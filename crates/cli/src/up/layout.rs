//! Directories below DATA_DIR, each with its owner:
//!
//! | path | owner | what |
//! |---|---|---|
//! | `api/` | the API server's user | store and keys: the only place that it can write to |
//! | `agent/` | root | pods, network, unpacked images |
//! | `plug/` | root | directories of places for machines, and who has which |
//! | `run/` | root, the API server's group may pass | the agent's socket |
//! | `images/` | root | images of this node |
//! | `admin.kubeconfig` | root | |
//! | `lock` | root | held by the supervisor |
//! | `api.lock` | root | held by the API server, which may outlive its supervisor for a moment |

use super::{Options, control};
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, flock},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long an earlier `ferrovirt up` that was just killed may take to be gone.
const GONE: Duration = Duration::from_secs(3);
const API_LOCK: &str = "api.lock";

/// Files and directories, and the programs beside this one.
pub(super) struct Layout {
    pub(super) data: PathBuf,
    pub(super) api: PathBuf,
    pub(super) run: PathBuf,
    pub(super) agent: PathBuf,
    pub(super) plug: PathBuf,
    pub(super) images: PathBuf,
    pub(super) programs: PathBuf,
    pub(super) node_name: String,
    /// Held until this process is gone.
    _lock: OwnedFd,
}

impl Layout {
    pub(super) fn make(options: &Options) -> Result<Self> {
        let own = std::env::current_exe()?;
        let programs = match &options.program_dir {
            Some(dir) => dir.clone(),
            None => own.parent().context("this program has no directory")?.to_owned(),
        };
        for program in ["virt-handler", "virt-launcher"] {
            if !programs.join(program).is_file() {
                bail!("{program} is not in {}: name its directory with --program-dir", programs.display());
            }
        }
        directory(&options.data_dir, 0o700)?;
        // Containers bind-mount what is below: names must not depend on the working directory.
        let data = options.data_dir.canonicalize()?;
        let lock = lock(&data, "lock", GONE)?;
        // No API server is left that works there.
        drop(self::lock(&data, API_LOCK, GONE)?);
        let images = options.image_dir.clone().unwrap_or_else(|| data.join("images"));
        let [api, run, agent, plug] = ["api", "run", "agent", "plug"].map(|name| data.join(name));
        for dir in [&api, &run, &agent, &plug, &images] {
            directory(dir, 0o700)?;
        }
        fs::set_permissions(&run, fs::Permissions::from_mode(0o710))?;
        lchown(&run, Some(0), Some(options.api_user))?;
        for name in ["store.redb", "pki"] {
            adopt(&data.join(name), &api.join(name), options.api_user)?;
        }
        own_all(&api, options.api_user)?;
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy().to_lowercase();
        Ok(Self {
            images: images.canonicalize()?,
            data,
            api,
            run,
            agent,
            plug,
            programs,
            node_name: options.node_name.clone().unwrap_or(host),
            _lock: lock,
        })
    }

    /// The lock for another API server: open for it alone, since who has it can give it back.
    pub(super) fn api_lock(&self) -> Result<OwnedFd> {
        lock(&self.data, API_LOCK, Duration::ZERO)
    }

    pub(super) fn kubeconfig(&self, file: control::File) -> PathBuf {
        match file {
            control::File::Admin => self.data.join("admin.kubeconfig"),
            control::File::Handler => self.agent.join("handler.kubeconfig"),
            control::File::Node => self.agent.join("node.kubeconfig"),
        }
    }
}

fn directory(path: &Path, mode: u32) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("cannot make {}; choose another place with --data-dir", path.display()))
}

/// Takes a lock in the data directory; nothing can be written to what it answers.
fn lock(data: &Path, name: &str, limit: Duration) -> Result<OwnedFd> {
    let path = data.join(name);
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let deadline = Instant::now() + limit;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::AGAIN) => ensure!(
                Instant::now() < deadline,
                "another `ferrovirt up` works on {}: stop it, or name another directory with --data-dir",
                data.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("locking {}", path.display())),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Moves what an earlier version kept as root to the API server's directory.
fn adopt(old: &Path, new: &Path, user: u32) -> Result<()> {
    if fs::symlink_metadata(old).is_err() {
        return Ok(());
    }
    ensure!(
        fs::symlink_metadata(new).is_err(),
        "{} and {} are both there: move away the one that is not wanted",
        old.display(),
        new.display()
    );
    // Before it is moved to where others could change it meanwhile.
    give(old, user)?;
    fs::rename(old, new).with_context(|| format!("cannot move {} to {}", old.display(), new.display()))
}

/// Gives the directory to the user, with all that is in it, unless it has it already. Its owner comes last: a start
/// that was interrupted is completed by the next one.
fn own_all(api: &Path, user: u32) -> Result<()> {
    let data = fs::symlink_metadata(api)?;
    ensure!(data.is_dir(), "{} is no directory: move it away", api.display());
    if data.uid() != user {
        give(api, user)?;
    }
    Ok(())
}

/// Gives a file or a directory with all that is in it to a user. Anyone who had it before may not be trusted, and may
/// still run: links are not followed, each name is looked up once, and a file that has a second name somewhere is
/// refused, since that may be another's.
fn give(path: &Path, user: u32) -> Result<()> {
    give_at(rustix::fs::CWD, path.as_os_str(), user)
        .with_context(|| format!("cannot give {} to user {user}", path.display()))
}

fn give_at(parent: impl AsFd, name: &OsStr, user: u32) -> Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::openat(&parent, name, flags | OFlags::PATH, Mode::empty())?;
    let data = rustix::fs::fstat(&open)?;
    let kind = rustix::fs::FileType::from_raw_mode(data.st_mode);
    if kind.is_dir() {
        let list = rustix::fs::openat(&open, c".", flags | OFlags::DIRECTORY, Mode::empty())?;
        for entry in rustix::fs::Dir::new(list)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if ![".", ".."].iter().any(|own| name == *own) {
                give_at(&open, &name, user)?;
            }
        }
    } else {
        let plain = kind.is_file() && data.st_nlink == 1;
        ensure!(plain, "{} is no plain file with one name: move it away", name.display());
    }
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    Ok(rustix::fs::chownat(&open, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}

/// Opens a directory to hand it to a child.
pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    Ok(File::open(path).with_context(|| format!("cannot open {}", path.display()))?.into())
}

/// Writes a file that holds a credential: whole or not at all, readable by root alone. One that is so already is left.
pub(super) fn secret(path: &Path, text: &str) -> Result<()> {
    if is_secret(path, text) {
        return Ok(());
    }
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let written = write(&fresh, text).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write(fresh: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn is_secret(path: &Path, text: &str) -> bool {
    let own = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(|data| {
        data.is_file()
            && (data.uid(), data.mode() & 0o7777) == (own, 0o600)
            && data.len() == text.len() as u64
            && fs::read(path).is_ok_and(|bytes| bytes == text.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_server_gives_back_its_own_lock_and_not_the_supervisors() {
        let data = tempfile::tempdir().unwrap();
        let take = |name| lock(data.path(), name, Duration::ZERO);
        let _own = take("lock").unwrap();
        let passed = take(API_LOCK).unwrap();
        assert!(take("lock").is_err() && take(API_LOCK).is_err(), "another one works on the directory");
        flock(&passed, FlockOperation::Unlock).unwrap();
        assert!(take("lock").is_err() && take(API_LOCK).is_ok());
        assert!(rustix::io::write(&passed, b"x").is_err(), "it can be written to");
    }

    #[test]
    fn a_secret_that_is_there_is_not_written_again_unless_others_may_read_it() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("a.token");
        let inode = || fs::metadata(&path).unwrap().ino();
        secret(&path, "one").unwrap();
        let first = inode();
        secret(&path, "one").unwrap();
        assert_eq!(inode(), first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        secret(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        secret(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    }

    fn owner(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().uid()
    }

    #[test]
    fn what_an_earlier_version_kept_as_root_goes_to_the_api_user() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let data = tempfile::tempdir().unwrap();
        let api = data.path().join("api");
        fs::create_dir(&api).unwrap();
        fs::create_dir(data.path().join("pki")).unwrap();
        fs::write(data.path().join("pki/ca.key"), "key").unwrap();
        adopt(&data.path().join("pki"), &api.join("pki"), 76_443).unwrap();
        own_all(&api, 76_443).unwrap();
        assert_eq!([owner(&api), owner(&api.join("pki")), owner(&api.join("pki/ca.key"))], [76_443; 3]);
        assert!(!data.path().join("pki").exists());
        // Another user from now on.
        own_all(&api, 76_444).unwrap();
        assert_eq!([owner(&api), owner(&api.join("pki/ca.key"))], [76_444; 2]);
    }

    #[test]
    fn a_name_of_somebody_elses_file_is_not_given_away() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let data = tempfile::tempdir().unwrap();
        let (api, other) = (data.path().join("api"), data.path().join("shadow"));
        fs::create_dir(&api).unwrap();
        fs::write(&other, "secret").unwrap();
        fs::hard_link(&other, api.join("link")).unwrap();
        let refusal = format!("{:#}", own_all(&api, 76_443).unwrap_err());
        assert!(refusal.contains("one name"), "{refusal}");
        fs::remove_file(api.join("link")).unwrap();
        std::os::unix::fs::symlink(&other, api.join("link")).unwrap();
        assert!(own_all(&api, 76_443).is_err());
        assert_eq!(owner(&other), 0);
    }
}
