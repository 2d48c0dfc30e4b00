//! Memory that two processes share through a file, with a word to wait on. Once it is mapped, no security module is asked
//! about its use any more: a confined process reports through it whatever its rights are.

use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    thread::futex,
};
use std::{
    fs::File,
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
    time::Duration,
};

/// Bytes in front of the text: the state and the text's length.
const HEAD: usize = 8;

/// A page or more of a file. Both sides map the same file; it has to be at least as long as the mapping.
#[derive(Debug)]
pub struct Shared {
    start: NonNull<u8>,
    size: usize,
}

#[allow(unsafe_code)]
// SAFETY: the mapping belongs to no thread, and every access to it is atomic.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps the first `size` bytes of a file that is open for reading and writing; makes it that long. Nobody may make the
    /// file shorter while it is mapped.
    ///
    /// # Errors
    /// `InvalidInput` for less than 4096 bytes; what ftruncate(2) and mmap(2) say.
    pub fn map(file: &File, size: usize) -> io::Result<Self> {
        if size < 4096 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "shared memory is 4096 bytes or more"));
        }
        file.set_len(size as u64)?;
        #[allow(unsafe_code)]
        // SAFETY: a fresh mapping at an address that the kernel chooses overlaps nothing of ours.
        let start = unsafe {
            mmap(std::ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, size })
    }

    fn word(&self, number: usize) -> &AtomicU32 {
        #[allow(unsafe_code)]
        // SAFETY: words 0 and 1 lie in the mapping, which is page-aligned and lives as long as `self`; the other process
        // uses atomics too.
        unsafe {
            self.start.cast::<AtomicU32>().add(number.min(1)).as_ref()
        }
    }

    fn bytes(&self) -> &[AtomicU8] {
        #[allow(unsafe_code)]
        // SAFETY: the mapping holds `size` bytes, more than HEAD, and lives as long as `self`; atomics allow that the other
        // process writes at the same time.
        unsafe {
            std::slice::from_raw_parts(self.start.add(HEAD).cast::<AtomicU8>().as_ptr(), self.size - HEAD)
        }
    }

    /// The state; 0 in a new file.
    pub fn state(&self) -> u32 {
        self.word(0).load(Ordering::Acquire)
    }

    /// Sets the state and wakes who waits for it.
    pub fn set_state(&self, state: u32) {
        self.word(0).store(state, Ordering::Release);
        // Nobody may be waiting.
        let _ = futex::wake(self.word(0), futex::Flags::empty(), u32::MAX);
    }

    /// Waits until the state is at least `state`, at most for `limit`; whether it is.
    pub fn wait(&self, state: u32, limit: Duration) -> bool {
        let now = self.state();
        if now < state {
            let limit = futex::Timespec {
                tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(limit.subsec_nanos()),
            };
            // Woken, interrupted, timed out or changed meanwhile: the state says it.
            let _ = futex::wait(self.word(0), futex::Flags::empty(), now, Some(&limit));
        }
        self.state() >= state
    }

    /// Appends to the text.
    ///
    /// # Errors
    /// `StorageFull` when it does not fit; then nothing was written.
    pub fn append(&self, text: &str) -> io::Result<()> {
        let used = self.used();
        let place = self.bytes().get(used..).and_then(|free| free.get(..text.len()));
        let place = place.ok_or(io::ErrorKind::StorageFull)?;
        for (to, from) in place.iter().zip(text.bytes()) {
            to.store(from, Ordering::Relaxed);
        }
        let length = u32::try_from(used + text.len()).map_err(|_| io::ErrorKind::StorageFull)?;
        self.word(1).store(length, Ordering::Release);
        Ok(())
    }

    /// The text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> =
            self.bytes().iter().take(self.used()).map(|byte| byte.load(Ordering::Relaxed)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn used(&self) -> usize {
        // The other process could have written anything.
        usize::try_from(self.word(1).load(Ordering::Acquire)).map_or(0, |used| used.min(self.size - HEAD))
    }
}

impl Drop for Shared {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone in this process, and no reference into it outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_a_file_are_one_memory() {
        let file = tempfile::tempfile().unwrap();
        let (one, other) = (Shared::map(&file, 4096).unwrap(), Shared::map(&file, 4096).unwrap());
        assert!(!other.wait(1, Duration::ZERO));
        let waiting = std::thread::spawn(move || {
            while !other.wait(2, Duration::from_secs(10)) {}
            other.text()
        });
        one.append("grüße ").unwrap();
        one.append("from here").unwrap();
        one.set_state(2);
        assert_eq!(waiting.join().unwrap(), "grüße from here");
        assert!(one.append(&"x".repeat(4096)).is_err());
        assert_eq!(one.text(), "grüße from here");
        assert!(Shared::map(&file, 100).is_err());
    }
}
