//! What the end of a guest is called.

use ferrovirt_qemu::protocol::Ending;

/// How a machine's life on its node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest shut down.
    Succeeded,
    /// It ended in another way: `status.reason` of the machine.
    Failed(&'static str),
}

/// By what the launcher said last, if it could say anything.
pub fn outcome(ending: Option<Ending>) -> Outcome {
    match ending {
        Some(Ending::Shutdown) => Outcome::Succeeded,
        Some(Ending::Destroyed) => Outcome::Failed("GuestDestroyed"),
        Some(Ending::Panicked) => Outcome::Failed("GuestPanicked"),
        Some(Ending::Failed) => Outcome::Failed("QEMUFailed"),
        None => Outcome::Failed("LauncherDied"),
    }
}

/// The launcher's exit code. Where nobody saw it, it is the one that a launcher with these last words has.
pub fn exit_code(code: Option<i32>, ending: Option<Ending>) -> Option<i32> {
    code.or_else(|| ending.map(|ending| i32::from(ending != Ending::Shutdown)))
}

/// Whether an end can be a lack of huge pages. QEMU takes all of them before the guest runs (`prealloc=on`), and fails
/// where one is missing: a guest that ran had its pages, and what QEMU wrote about it is for people.
pub fn may_lack_pages(ending: Option<Ending>, ran: bool) -> bool {
    ending == Some(Ending::Failed) && !ran
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Option<Ending>; 5] =
        [None, Some(Ending::Shutdown), Some(Ending::Destroyed), Some(Ending::Panicked), Some(Ending::Failed)];

    #[test]
    fn every_end_has_a_name_and_only_a_shutdown_is_a_success() {
        let rows = ALL.map(|ending| (outcome(ending), exit_code(None, ending)));
        assert_eq!(
            rows,
            [
                (Outcome::Failed("LauncherDied"), None),
                (Outcome::Succeeded, Some(0)),
                (Outcome::Failed("GuestDestroyed"), Some(1)),
                (Outcome::Failed("GuestPanicked"), Some(1)),
                (Outcome::Failed("QEMUFailed"), Some(1)),
            ]
        );
        assert!(ALL.into_iter().all(|ending| exit_code(Some(137), ending) == Some(137)));
    }

    #[test]
    fn pages_are_missing_only_where_qemu_failed_before_the_guest_ran() {
        let lacks: Vec<_> = ALL.into_iter().filter(|ending| may_lack_pages(*ending, false)).collect();
        assert_eq!(lacks, [Some(Ending::Failed)]);
        assert!(!ALL.into_iter().any(|ending| may_lack_pages(ending, true)));
    }
}
