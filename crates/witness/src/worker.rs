//! A process in one domain: first it makes ready what its operations start from, while everything is still permitted;
//! then, on a sign, it does them.

use crate::operations::{self, Act, Place};
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

/// The arguments are the worker's number, its neighbour's or `-`, and the operations.
pub(crate) fn run(mut words: impl Iterator<Item = String>) -> io::Result<()> {
    let mut number = || words.next().and_then(|word| word.parse().ok());
    let own = number().ok_or(io::ErrorKind::InvalidInput)?;
    let place = Place::new(own, number());
    let shared = shared(own)?;
    call_it(&format!("p{own}"))?;
    let kept = operations::furnish(&place)?;
    let mut acts: Vec<io::Result<Act>> = Vec::new();
    for operation in words {
        acts.push(operations::prepare(&operation, &place));
    }
    shared.set_state(READY);
    while !shared.wait(GO, TIMEOUT) {}
    for (number, act) in acts.into_iter().enumerate() {
        call_it(&format!("w{own}.{number}"))?;
        let seen = match act {
            Err(error) => format!("unprepared\t{}", code(&error)),
            Ok(act) => {
                act().map_or_else(|error| format!("refused\t{}", code(&error)), |()| "done\t-".to_owned())
            }
        };
        shared.append(&format!("{number}\t{seen}\n"))?;
    }
    call_it(&format!("e{own}"))?;
    shared.set_state(DONE);
    // Others may still reach for what is here.
    while !shared.wait(u32::MAX, TIMEOUT) {}
    drop(kept);
    Ok(())
}

/// The number of the kernel's error, or a text on one line for any other.
fn code(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string().replace(['\t', '\n'], " "), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host reads one line for each operation, its words separated by tabs.
    #[test]
    fn an_error_is_a_number_or_one_word_of_a_line() {
        assert_eq!(code(&io::Error::from_raw_os_error(13)), "13");
        assert_eq!(code(&io::Error::other("no\tdevice\nhere")), "no device here");
    }

    #[test]
    fn a_worker_needs_its_number() {
        let run = |words: &[&str]| run(words.iter().map(|word| (*word).to_owned()));
        for words in [&[][..], &["-"], &["one", "-"], &["-1", "-"]] {
            assert_eq!(run(words).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{words:?}");
        }
    }
}
