//! Files that a pod's processes hold and that have no name any more, such as temporary files: no walk finds them.
//!
//! What a process has open or mapped is seen here. What it has sent to itself over a socket and not received is not, nor
//! what the first process holds, which may keep its memory to itself.

use super::usage::Usage;
use std::{
    collections::BTreeSet, fs, io, os::unix::fs::MetadataExt, path::Path, thread::sleep, time::Duration,
};

/// Most descriptors of one process: containers may open as many, and all of them are looked at.
pub const MOST_OPEN: u64 = 65_536;
/// Most mappings of one process that are looked at: the kernel's own limit, `vm.max_map_count`.
const MOST_MAPPED: usize = 65_536;
/// How often for one pod, and with which pause, a process is looked at again that cannot be looked into: from fork to exec
/// it is as the first process is. Many such processes take no longer than one: other pods wait for the answer.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// The processes of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Processes<'a> {
    /// All of them.
    pub all: &'a [u32],
    /// The one that may keep its memory to itself: the first of the container.
    pub first: u32,
    /// Their user.
    pub user: u32,
    /// Their group.
    pub group: u32,
}

/// Adds up the nameless files on the file system of `place` that these processes hold, as their user looks at them
/// through `/proc`. Processes that end meanwhile hold nothing; one that cannot be looked into was made to hide something,
/// and holds [`u64::MAX`].
///
/// # Errors
/// What the file system of `place`, or the change of the user, says.
pub fn unlinked(processes: Processes<'_>, place: &Path) -> io::Result<Usage> {
    let device = fs::metadata(place)?.dev();
    ferrovirt_sys::identity::as_user(processes.user, processes.group, || {
        let mut found = Found { device, user: processes.user, seen: BTreeSet::new(), sum: Usage::default() };
        let mut looks = LOOKS;
        for process in processes.all {
            if !found.look(*process)
                && *process != processes.first
                && hides(*process, processes.user, &mut looks)
            {
                found.sum.bytes = u64::MAX;
                break;
            }
        }
        found.sum
    })
}

struct Found {
    device: u64,
    user: u32,
    seen: BTreeSet<u64>,
    sum: Usage,
}

impl Found {
    /// False when the process cannot be looked into.
    fn look(&mut self, process: u32) -> bool {
        let open = format!("/proc/{process}/fd");
        match fs::read_dir(&open) {
            Ok(entries) => self.add(entries, usize::try_from(MOST_OPEN).unwrap_or(usize::MAX), None),
            Err(error) => return error.kind() != io::ErrorKind::PermissionDenied,
        }
        // Reading where they lead takes CAP_SYS_ADMIN of the first user namespace, which a nested root lacks. Libraries
        // that were replaced are mapped and nameless, too: they are not the pod's.
        if let Ok(entries) = fs::read_dir(format!("/proc/{process}/map_files")) {
            self.add(entries, MOST_MAPPED, Some(self.user));
        }
        true
    }

    fn add(&mut self, entries: fs::ReadDir, most: usize, owner: Option<u32>) {
        for entry in entries.flatten().take(most) {
            let Ok(data) = fs::metadata(entry.path()) else { continue };
            if data.is_file()
                && data.nlink() == 0
                && data.dev() == self.device
                && owner.is_none_or(|owner| owner == data.uid())
                && self.seen.insert(data.ino())
            {
                self.sum += Usage { bytes: data.blocks().saturating_mul(512), inodes: 1 };
            }
        }
    }
}

/// Whether a process of this user keeps others of it from looking, and goes on to. Threads of the kernel that work for a
/// process are root's. Uses up `looks`.
fn hides(process: u32, user: u32, looks: &mut u32) -> bool {
    while *looks > 0 {
        *looks -= 1;
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let of = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
        if of.and_then(|uid| uid.parse().ok()) != Some(user) {
            return false;
        }
        let closed = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        if !fs::read_dir(format!("/proc/{process}/fd")).is_err_and(closed) {
            return false;
        }
        sleep(PAUSE);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrovirt_sys::{
        process::{Setup, spawn},
        rights,
        shared::Shared,
    };
    use rustix::process::{getgid, getuid};
    use std::{
        io::{Read, Write},
        process::{Command, Stdio},
    };

    fn held(directory: &Path) -> Usage {
        let own = [std::process::id()];
        let (user, group) = (getuid().as_raw(), getgid().as_raw());
        unlinked(Processes { all: &own, first: 0, user, group }, directory).unwrap()
    }

    #[test]
    fn a_file_without_a_name_counts_once_and_one_with_a_name_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let mut named = fs::File::create(directory.path().join("named")).unwrap();
        named.write_all(&vec![1; 1 << 20]).unwrap();
        let before = held(directory.path());
        let mut nameless = tempfile::tempfile_in(directory.path()).unwrap();
        let _again = nameless.try_clone().unwrap();
        nameless.write_all(&vec![1; 3 << 20]).unwrap();
        // Other tests of this process make such files, too.
        assert!(held(directory.path()).bytes >= 3 << 20, "{before:?} {:?}", held(directory.path()));
    }

    #[test]
    fn a_file_that_is_mapped_and_closed_counts_and_so_does_one_behind_many_others() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = tempfile::tempfile_in(directory.path()).unwrap();
        file.write_all(&vec![1; 64 << 20]).unwrap();
        let mapped = Shared::map(&file, 4096).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all(&vec![1; 64 << 20]).unwrap();
        drop(file);
        assert!(held(directory.path()).bytes >= 64 << 20, "{:?}", held(directory.path()));
        drop(mapped);

        let _limit = ferrovirt_sys::process::raise_open_files();
        let many: Vec<_> = (0..5000).map_while(|_| fs::File::open("/dev/null").ok()).collect();
        let mut last = tempfile::tempfile_in(directory.path()).unwrap();
        last.write_all(&vec![1; 65 << 20]).unwrap();
        assert!(
            many.len() == 5000 && held(directory.path()).bytes >= 65 << 20,
            "{:?}",
            held(directory.path())
        );
    }

    /// Not a test of its own: what the next one starts as another user.
    #[test]
    fn child_that_hides() {
        if std::env::var_os("HIDE").is_some() {
            rights::hide_memory().unwrap();
            println!("hidden");
            let _end = std::io::stdin().read(&mut [0]);
        }
    }

    #[test]
    fn a_process_that_cannot_be_looked_into_holds_without_end_unless_it_is_the_first() {
        if !getuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("/proc/self/exe");
        command.args(["disk::unlinked::tests::child_that_hides", "--exact", "--nocapture"]).env("HIDE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(command, Setup { user: Some(76_107), ..Setup::default() }).unwrap();
        let mut said = String::new();
        let mut out = child.stdout.take().unwrap();
        while !said.contains("hidden") {
            let mut piece = [0; 256];
            let count = out.read(&mut piece).unwrap();
            assert!(count > 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        let id = child.id();
        let look = |first| {
            let all = [id];
            unlinked(Processes { all: &all, first, user: 76_107, group: 76_107 }, directory.path()).unwrap()
        };
        let found = (look(0).bytes, look(id).bytes);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(found, (u64::MAX, 0));
        assert_eq!(look(0), Usage::default(), "who has ended holds nothing");
    }
}
