//! A process in one domain: first it makes ready what its operations start from, while everything is still permitted;
//! then, on a sign, it does them.

use crate::operations::{self, Act, Place};
use ferrovirt_lab_protocol::proof::{Observed, Worker};
use ferrovirt_sys::shared::Shared;
use std::{ffi::CString, fs::File, io, time::Duration};

/// Bytes of the memory that a worker shares with the first process.
pub(crate) const SHARED: usize = 64 << 10;
/// State of a worker: everything is ready.
pub(crate) const READY: u32 = 1;
/// It may begin.
pub(crate) const GO: u32 = 2;
/// It has done everything.
pub(crate) const DONE: u32 = 3;

/// Longest single wait for a sign; it is waited again and again.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Maps the memory that is shared with a worker.
pub(crate) fn shared(number: u32) -> io::Result<Shared> {
    let path = format!("/w/{number}/shared");
    Shared::map(&File::options().read(true).write(true).create(true).truncate(false).open(path)?, SHARED)
}

/// The records of the kernel carry the thread's name: it says which operation of which worker is under way.
fn call_it(name: &str) -> io::Result<()> {
    Ok(rustix::thread::set_name(&CString::new(name)?)?)
}

/// Does what this worker, in JSON, has to do; what each operation gave is a line of the shared memory.
pub(crate) fn run(worker: &str) -> io::Result<()> {
    let worker: Worker = serde_json::from_str(worker)?;
    let own = worker.number;
    let place = Place::new(own, worker.neighbour);
    let shared = shared(own)?;
    call_it(&format!("p{own}"))?;
    let kept = operations::furnish(&place)?;
    let mut acts: Vec<io::Result<Act>> = Vec::new();
    for operation in worker.operations {
        acts.push(operations::prepare(operation, &place));
    }
    perform(own, acts, &shared)?;
    // Others may still reach for what is here.
    while !shared.wait(u32::MAX, TIMEOUT) {}
    drop(kept);
    Ok(())
}

/// Waits for the sign, then does one thing after another under a name of its own, and reports what each gave.
fn perform(own: u32, acts: Vec<io::Result<Act>>, shared: &Shared) -> io::Result<()> {
    shared.set_state(READY);
    while !shared.wait(GO, TIMEOUT) {}
    for (number, act) in acts.into_iter().enumerate() {
        call_it(&format!("w{own}.{number}"))?;
        let observed = match act {
            Err(error) => Observed::Broken(format!("unprepared: {error}")),
            Ok(act) => act().map_or_else(|error| refused(&error), |()| Observed::Done),
        };
        shared.append(&(serde_json::to_string(&observed)? + "\n"))?;
    }
    call_it(&format!("e{own}"))?;
    shared.set_state(DONE);
    Ok(())
}

/// The number of the kernel's error; whatever else went wrong was no decision of it.
fn refused(error: &io::Error) -> Observed {
    match error.raw_os_error() {
        Some(number) => Observed::Refused(number),
        None => Observed::Broken(format!("refused: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    };

    /// Only an error of the kernel can agree with what the host expects.
    #[test]
    fn an_error_of_the_kernel_is_its_number() {
        assert_eq!(refused(&io::Error::from_raw_os_error(13)), Observed::Refused(13));
        let text = Observed::Broken("refused: no device here".to_owned());
        assert_eq!(refused(&io::Error::other("no device here")), text);
    }

    #[test]
    fn what_is_no_worker_is_refused() {
        let worker = r#"{"number":1,"context":"c","files":"f","neighbour":null,"operations":[]}"#;
        assert!(serde_json::from_str::<Worker>(worker).is_ok());
        let changed = [
            ("1", "\"one\""),
            ("1", "-1"),
            ("[]", "[\"no-such-operation\"]"),
            ("\"files\":\"f\",", ""),
            ("null", "null,\"further\":1"),
        ];
        for (from, to) in changed {
            let text = worker.replace(from, to);
            assert_ne!(text, worker);
            assert!(run(&text).is_err(), "{text}");
        }
        assert!(run("").is_err());
    }

    /// The first process's side of the memory that a worker has.
    fn both_sides() -> (Shared, Shared) {
        let file = tempfile::tempfile().unwrap();
        (Shared::map(&file, SHARED).unwrap(), Shared::map(&file, SHARED).unwrap())
    }

    /// Gives the sign as soon as the worker is ready; hands the first process's side back.
    fn sign(first: Shared) -> std::thread::JoinHandle<Shared> {
        std::thread::spawn(move || {
            while !first.wait(READY, TIMEOUT) {}
            first.set_state(GO);
            first
        })
    }

    fn lines(shared: &Shared) -> Vec<Observed> {
        shared.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Nothing is tried before the kernel enforces, that is before the sign; then each thing gives one line, in order, also one that
    /// could not be made ready, and none keeps the next from being tried.
    #[test]
    fn a_worker_waits_for_the_sign_and_reports_each_operation() {
        let (first, worker) = both_sides();
        let tried = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&tried);
        let working = std::thread::spawn(move || {
            let act = |gives: io::Result<()>| -> io::Result<Act> {
                let counter = Arc::clone(&counter);
                Ok(Box::new(move || {
                    counter.fetch_add(1, Ordering::SeqCst);
                    gives
                }))
            };
            let acts = vec![
                act(Ok(())),
                Err(io::Error::other("no device")),
                act(Err(io::Error::from_raw_os_error(13))),
                act(Err(io::Error::other("no virtual functions"))),
                act(Ok(())),
            ];
            perform(7, acts, &worker)
        });
        while !first.wait(READY, TIMEOUT) {}
        assert_eq!((tried.load(Ordering::SeqCst), first.state(), first.text()), (0, READY, String::new()));
        first.set_state(GO);
        while !first.wait(DONE, TIMEOUT) {}
        working.join().unwrap().unwrap();
        assert_eq!(tried.load(Ordering::SeqCst), 4);
        assert_eq!(
            lines(&first),
            [
                Observed::Done,
                Observed::Broken("unprepared: no device".to_owned()),
                Observed::Refused(13),
                Observed::Broken("refused: no virtual functions".to_owned()),
                Observed::Done,
            ]
        );
    }

    /// The host finds the kernel's records of an operation by the thread's name, `wWORKER.OPERATION`: each has its own while it is
    /// tried, whole within the kernel's 15 bytes, and what comes after the last one has another.
    #[test]
    fn each_operation_has_a_name_of_its_own() {
        let (first, worker) = both_sides();
        let names = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&names);
        let working = std::thread::spawn(move || {
            let acts = (0..45).map(|_| -> io::Result<Act> {
                let seen = Arc::clone(&seen);
                Ok(Box::new(move || {
                    let name = std::fs::read_to_string("/proc/thread-self/comm")?;
                    seen.lock().unwrap().push(name.trim_end().to_owned());
                    Ok(())
                }))
            });
            perform(12345, acts.collect(), &worker)?;
            std::fs::read_to_string("/proc/thread-self/comm")
        });
        let first = sign(first).join().unwrap();
        let after = working.join().unwrap().unwrap();
        let names = names.lock().unwrap();
        let wanted: Vec<String> = (0..45).map(|number| format!("w12345.{number}")).collect();
        assert_eq!(*names, wanted);
        assert_eq!(after.trim_end(), "e12345");
        assert_eq!(lines(&first), vec![Observed::Done; 45]);
    }

    /// What every operation gives, at its longest, fits the memory; a report that does not fit is an error, and no silence.
    #[test]
    fn reports_fit_and_are_never_cut() {
        let (first, worker) = both_sides();
        let signed = sign(first);
        let long = || Err(io::Error::other("x".repeat(1000)));
        perform(1, (0..60).map(|_| long()).collect(), &worker).unwrap();
        let first = signed.join().unwrap();
        assert_eq!(lines(&first).len(), 60);
        let (first, worker) = both_sides();
        let signed = sign(first);
        let endless = perform(1, (0..100).map(|_| long()).collect(), &worker).unwrap_err();
        let first = signed.join().unwrap();
        assert_eq!(endless.kind(), io::ErrorKind::StorageFull);
        assert!(first.state() < DONE && lines(&first).len() < 100);
    }
}
