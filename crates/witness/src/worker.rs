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
    // Others may still reach for what is here.
    while !shared.wait(u32::MAX, TIMEOUT) {}
    drop(kept);
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
}
