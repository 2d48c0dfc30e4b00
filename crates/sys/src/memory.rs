//! Mappings that are made to see whether they may be: of files, and of huge pages without a file.

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::{ffi::c_void, io, os::fd::BorrowedFd};

/// What is mapped.
#[derive(Clone, Copy, Debug)]
pub enum Backing<'a> {
    /// A file, shared.
    File(BorrowedFd<'a>),
    /// Huge pages without a file, private.
    HugePages,
}

/// Maps `size` bytes for reading and writing, writes to the first of them, and lets go. A file has to be that long.
///
/// # Errors
/// What mmap(2) says.
pub fn map_and_write(backing: Backing<'_>, size: usize) -> io::Result<()> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let none = std::ptr::null_mut();
    #[allow(unsafe_code)]
    // SAFETY: fresh mappings at addresses that the kernel chooses overlap nothing of ours. mmap populates private huge
    // pages or fails, so the write below cannot lack a page; a file's page is there since the file is long enough.
    let start: *mut c_void = unsafe {
        match backing {
            Backing::File(fd) => mmap(none, size, access, MapFlags::SHARED | MapFlags::POPULATE, fd, 0)?,
            Backing::HugePages => mmap_anonymous(
                none,
                size,
                access,
                MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::POPULATE,
            )?,
        }
    };
    #[allow(unsafe_code)]
    // SAFETY: the mapping is `size` bytes, readable, writable and ours alone; nothing refers to it afterwards.
    unsafe {
        if size > 0 {
            start.cast::<u8>().write_volatile(1);
        }
        munmap(start, size)?;
    }
    Ok(())
}

/// Has the allocator keep two arenas instead of eight for each processor: what one thread frees is used by another.
///
/// To be called before threads are started.
pub fn few_arenas() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: changes a number of the allocator under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives memory that was freed back to the system, also from between what is still used. Takes some milliseconds for each
/// gigabyte; allocations of other threads wait meanwhile.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: works on freed chunks alone, under the locks of their arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}
