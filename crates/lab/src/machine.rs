//! QEMU in emulation with two serial ports, until it ends: the kernel writes its log to the first, the program inside its
//! results to the second. What a guest writes is kept in files, and bounded.

use ferrovirt_sys::process::{Setup, spawn};
use rustix::process::Signal;
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// The kernel's log, in the machine's directory.
const CONSOLE: &str = "kernel.log";
/// What the program in the guest said.
const RESULTS: &str = "results";
/// What QEMU itself said.
const OWN: &str = "qemu.log";

/// Longest log or results in bytes: the longest of ours are a tenth of that.
const MAX_OUTPUT: u64 = 32 << 20;

/// How often it is looked whether QEMU has ended and how much the guest has written.
const INTERVAL: Duration = Duration::from_millis(20);

/// Debian's kernel starts another security module unless it is named this one. Without the backlog, records are lost.
const KERNEL: &str = "console=ttyS0 security=selinux audit=1 audit_backlog_limit=8192 panic=-1 loglevel=7";

/// As many last lines of each port are part of an error.
const LAST_LINES: usize = 20;
/// Longest of these lines, in characters.
const LAST_WIDTH: usize = 400;

/// A machine that runs once.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Linux.
    pub kernel: &'a Path,
    /// The end of the kernel's command line.
    pub append: &'a str,
    /// Processors.
    pub processors: u32,
    /// Memory in MiB.
    pub mib: u32,
    /// Words of QEMU beyond these. Files in them are named from `directory`, in which QEMU runs.
    pub arguments: Vec<OsString>,
    /// Where what it writes goes.
    pub directory: &'a Path,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a machine left that ended by itself.
#[derive(Debug)]
pub struct Seen {
    /// What the program in the guest said.
    pub results: Vec<u8>,
    /// The kernel's log.
    pub console: String,
}

impl Seen {
    /// The end of the kernel's log, in words.
    pub fn last_lines(&self) -> String {
        last_lines("console", &self.console)
    }
}

/// Why a machine left nothing of use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU cannot be started.
    #[error("cannot run {QEMU}: install the package qemu-system-x86")]
    Start(#[source] io::Error),
    /// A file of its directory cannot be read or written.
    #[error("the guest's files")]
    File(#[from] io::Error),
    /// QEMU failed, in its own words.
    #[error("{QEMU} failed ({0}): {1}")]
    Failed(ExitStatus, String),
    /// It was ended after this time; the last lines that it wrote.
    #[error("the guest did not end within {0:?}; {1}")]
    TimedOut(Duration, String),
    /// It was ended because it wrote too much to this port; the last lines there.
    #[error("the guest wrote more than {MAX_OUTPUT} bytes to its {0}; {1}")]
    TooMuch(&'static str, String),
}

/// QEMU's process, which does not outlive this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots the machine and waits for its end.
    ///
    /// # Errors
    /// QEMU cannot be started or fails; the guest does not end in time or writes too much. Then QEMU has ended, too.
    pub fn run(&self) -> Result<Seen, Error> {
        self.run_with(QEMU)
    }

    fn run_with(&self, program: &str) -> Result<Seen, Error> {
        for name in [CONSOLE, RESULTS] {
            // Another machine's would be taken for this one's until QEMU opens them.
            File::create(self.directory.join(name))?;
        }
        let mut command = Command::new(program);
        command
            .args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", &self.processors.to_string(), "-m", &self.mib.to_string()])
            .args(["-serial", &format!("file:{CONSOLE}"), "-serial", &format!("file:{RESULTS}")])
            .arg("-kernel")
            .arg(fs::canonicalize(self.kernel)?)
            .args(["-append", &format!("{KERNEL} {}", self.append)])
            .args(&self.arguments)
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.directory.join(OWN))?);
        let setup = Setup { parent_death: Some(Signal::KILL), ..Setup::default() };
        let mut qemu = Running(spawn(command, setup).map_err(Error::Start)?);
        let start = Instant::now();
        let status = loop {
            if let Some(status) = qemu.0.try_wait()? {
                break status;
            }
            self.within_bounds()?;
            if start.elapsed() > self.timeout {
                drop(qemu);
                return Err(Error::TimedOut(self.timeout, self.last_words()));
            }
            std::thread::sleep(INTERVAL);
        };
        self.within_bounds()?;
        if !status.success() {
            return Err(Error::Failed(status, self.text(OWN)?.trim_end().to_owned()));
        }
        Ok(Seen { results: self.bytes(RESULTS)?, console: self.text(CONSOLE)? })
    }

    fn within_bounds(&self) -> Result<(), Error> {
        for (name, port) in [(CONSOLE, "console"), (RESULTS, "results")] {
            if fs::metadata(self.directory.join(name))?.len() > MAX_OUTPUT {
                return Err(Error::TooMuch(port, last_lines(port, &self.text(name)?)));
            }
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let of = |name, port| last_lines(port, &self.text(name).unwrap_or_default());
        format!("{}\n{}", of(CONSOLE, "console"), of(RESULTS, "results"))
    }

    fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.directory.join(name))?.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&self, name: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes(name)?).into_owned())
    }
}

fn last_lines(port: &str, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return format!("the guest wrote nothing to its {port}");
    }
    let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
    let last: Vec<String> = last.iter().map(|line| line.chars().take(LAST_WIDTH).collect()).collect();
    format!("the last lines of the guest's {port}:\n  {}", last.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, path::PathBuf};

    /// A program in QEMU's place, which does this in the machine's directory.
    fn run(directory: &Path, script: &str, timeout: Duration) -> Result<Seen, Error> {
        let program: PathBuf = directory.join("qemu");
        // Written by a process that has ended before: nobody has it open for writing when it is executed.
        let copy = format!("cat > {0} && chmod 700 {0}", program.display());
        let mut shell = Command::new("sh").args(["-c", &copy]).stdin(Stdio::piped()).spawn().unwrap();
        io::Write::write_all(&mut shell.stdin.take().unwrap(), format!("#!/bin/sh\n{script}\n").as_bytes())
            .unwrap();
        assert!(shell.wait().unwrap().success());
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o700);
        let machine = Machine {
            kernel: Path::new("/dev/null"),
            append: "quiet",
            processors: 1,
            mib: 64,
            arguments: vec!["-device".into(), "none".into()],
            directory,
            timeout,
        };
        machine.run_with(&program.to_string_lossy())
    }

    const LONG: Duration = Duration::from_secs(300);

    #[test]
    fn what_was_written_is_kept_and_nothing_of_a_machine_before() {
        let directory = tempfile::tempdir().unwrap();
        for name in [CONSOLE, RESULTS] {
            fs::write(directory.path().join(name), "old\n").unwrap();
        }
        let seen = run(directory.path(), "printf 'a\\377\\n' >> results; echo \"$*\" >> kernel.log", LONG);
        let seen = seen.unwrap();
        assert_eq!(seen.results, b"a\xff\n");
        assert!(seen.console.starts_with("-no-user-config "), "{}", seen.console);
        assert!(seen.console.contains(" -smp 1 -m 64 ") && seen.console.ends_with(" quiet -device none\n"));
        assert!(seen.last_lines().starts_with("the last lines of the guest's console:\n  -no-user-config"));
    }

    #[test]
    fn a_failure_is_reported_in_qemus_words() {
        let directory = tempfile::tempdir().unwrap();
        let error = run(directory.path(), "echo 'no such device' >&2; exit 3", LONG).unwrap_err().to_string();
        assert!(error.starts_with("qemu-system-x86_64 failed (exit status: 3): no such device"), "{error}");
        let machine = Machine {
            kernel: Path::new("/dev/null"),
            append: "",
            processors: 1,
            mib: 64,
            arguments: Vec::new(),
            directory: directory.path(),
            timeout: LONG,
        };
        let error = machine.run_with("/no/such/qemu").unwrap_err();
        assert!(matches!(&error, Error::Start(_)) && error.to_string().contains("install"), "{error}");
    }

    fn is_gone(directory: &Path) -> bool {
        let process = fs::read_to_string(directory.join("pid")).unwrap();
        !Path::new("/proc").join(process.trim()).exists()
    }

    #[test]
    fn a_guest_without_an_end_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let script = "echo $$ > pid; echo last > kernel.log; exec sleep 1000";
        let error = run(directory.path(), script, Duration::from_secs(2)).unwrap_err().to_string();
        assert!(error.starts_with("the guest did not end within 2s; the last lines"), "{error}");
        assert!(error.contains("console:\n  last\n") && error.ends_with("nothing to its results"), "{error}");
        assert!(is_gone(directory.path()));
    }

    /// Neither the disk nor the memory of this machine is filled, and the error is short.
    #[test]
    fn endless_output_is_ended() {
        for (name, port) in [(CONSOLE, "console"), (RESULTS, "results")] {
            let directory = tempfile::tempdir().unwrap();
            let script =
                format!("echo $$ > pid; head -c {} /dev/zero > {name}; exec sleep 1000", MAX_OUTPUT + 1);
            let error = run(directory.path(), &script, LONG).unwrap_err();
            assert!(matches!(&error, Error::TooMuch(found, _) if *found == port), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("more than 33554432 bytes") && text.len() < 1000, "{}", text.len());
            assert!(is_gone(directory.path()));
        }
        // It ended before it was looked at.
        let directory = tempfile::tempdir().unwrap();
        let script = format!("head -c {} /dev/zero > results", MAX_OUTPUT + 1);
        assert!(matches!(run(directory.path(), &script, LONG), Err(Error::TooMuch("results", _))));
    }
}
