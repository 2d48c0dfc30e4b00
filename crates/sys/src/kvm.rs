//! Is KVM there, and does it run instructions? The device node alone says little: on some nested machines it opens
//! and makes machines whose first instruction never ends.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid},
};
use std::{io, time::Duration};

/// What [`probe`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// A virtual processor ran instructions.
    Usable,
    /// No `/dev/kvm`, or no right to it.
    Absent,
    /// A step was refused or ended in an unexpected way.
    Broken,
    /// The deadline passed.
    Hangs,
}

/// Milliseconds after which a virtual processor counts as hanging: one that works answers within some.
pub const TIMEOUT: u32 = 150;

/// Runs a few instructions in 64-bit mode in a virtual processor, in a child process that is killed at the deadline.
///
/// # Errors
/// What fork(2) and waitpid(2) say.
pub fn probe(deadline: Duration) -> io::Result<Kvm> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(Kvm::Absent);
    }
    #[allow(unsafe_code)]
    // SAFETY: the child makes system calls on its own stack only and leaves with _exit: no allocation, no locks, no
    // destructors, so that the state of other threads at the time of the fork does not matter.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = child::run();
        #[allow(unsafe_code)]
        // SAFETY: ends the process at once.
        unsafe {
            libc::_exit(code)
        }
    }
    let Some(pid) = Pid::from_raw(pid) else { return Err(io::Error::last_os_error()) };
    if pid.as_raw_nonzero().get() < 0 {
        return Err(io::Error::last_os_error());
    }
    let ended = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(ended) => ended,
        Err(error) => {
            // It must not run for ever when nobody looks.
            kill_process(pid, Signal::KILL)?;
            waitpid(Some(pid), WaitOptions::empty())?;
            return Err(error.into());
        }
    };
    let wait = |limit: Duration| -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        Ok(poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&limit))? > 0)
    };
    if !wait(deadline)? {
        kill_process(pid, Signal::KILL)?;
        // A processor that hangs inside the kernel may outlive the signal for a while; do not wait for it.
        if wait(Duration::from_secs(1))? {
            waitpid(Some(pid), WaitOptions::NOHANG)?;
        }
        return Ok(Kvm::Hangs);
    }
    let status = waitpid(Some(pid), WaitOptions::NOHANG)?.and_then(|(_, status)| status.exit_status());
    Ok(match status {
        Some(0) => Kvm::Usable,
        Some(1) => Kvm::Absent,
        _ => Kvm::Broken,
    })
}

#[allow(unsafe_code)]
mod child {
    //! Numbers and layouts from `linux/kvm.h` (x86_64).

    const KVM_GET_API_VERSION: libc::Ioctl = 0xae00;
    const KVM_CREATE_VM: libc::Ioctl = 0xae01;
    const KVM_GET_VCPU_MMAP_SIZE: libc::Ioctl = 0xae04;
    const KVM_CREATE_VCPU: libc::Ioctl = 0xae41;
    const KVM_SET_USER_MEMORY_REGION: libc::Ioctl = 0x4020_ae46;
    const KVM_RUN: libc::Ioctl = 0xae80;
    const KVM_SET_REGS: libc::Ioctl = 0x4090_ae82;
    const KVM_GET_SREGS: libc::Ioctl = 0x8138_ae83;
    const KVM_SET_SREGS: libc::Ioctl = 0x4138_ae84;
    const KVM_EXIT_HLT: u32 = 5;

    /// mov ecx, 1 << 24; loop: dec ecx; jnz loop; hlt. Long enough to be interrupted by the host's timer, which is
    /// where half-working nesting shows.
    const CODE: [u8; 10] = [0xb9, 0x00, 0x00, 0x00, 0x01, 0xff, 0xc9, 0x75, 0xfc, 0xf4];
    const PAGE: usize = 4096;
    const PAGES: usize = 4;
    const CODE_ADDRESS: u64 = 0x3000;

    /// `struct kvm_userspace_memory_region`
    #[repr(C)]
    struct Region {
        slot: u32,
        flags: u32,
        guest: u64,
        size: u64,
        host: u64,
    }

    /// `struct kvm_regs`: 16 general registers, rip, rflags
    #[repr(C)]
    struct Registers {
        general: [u64; 16],
        rip: u64,
        rflags: u64,
    }

    /// `struct kvm_segment`
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Segment {
        base: u64,
        limit: u32,
        selector: u16,
        kind: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
        padding: u8,
    }

    /// `struct kvm_sregs`
    #[repr(C)]
    struct Special {
        cs: Segment,
        /// ds, es, fs, gs, ss
        data: [Segment; 5],
        tr_ldt: [Segment; 2],
        tables: [u64; 4],
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        interrupts: [u64; 4],
    }

    const fn flat(selector: u16, kind: u8, long: u8) -> Segment {
        Segment {
            base: 0,
            limit: u32::MAX,
            selector,
            kind,
            present: 1,
            dpl: 0,
            db: 1 - long,
            s: 1,
            l: long,
            g: 1,
            avl: 0,
            unusable: 0,
            padding: 0,
        }
    }

    /// Runs the code in 64-bit mode, as every guest that we care about does: on some machines real mode works and
    /// this does not.
    pub(super) fn run() -> i32 {
        const { assert!(size_of::<Special>() == 312 && size_of::<Registers>() == 144) };
        // SAFETY: every pointer is to a live local or to a mapping of the size that is named with it, with the
        // layout that the request number stands for; mappings live until the process ends.
        unsafe {
            let kvm = libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if kvm < 0 {
                return 1;
            }
            if libc::ioctl(kvm, KVM_GET_API_VERSION, 0) != 12 {
                return 2;
            }
            let vm = libc::ioctl(kvm, KVM_CREATE_VM, 0);
            let length = libc::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
            let ram = map(PAGES * PAGE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
            let (Some(ram), Ok(length)) = (ram, usize::try_from(length)) else { return 3 };
            if vm < 0 || length < 12 {
                return 3;
            }
            // Page tables at 0, 0x1000 and 0x2000 map the first 2 MiB onto themselves: present, writable, large.
            ram.cast::<u64>().write(0x1000 | 3);
            ram.add(PAGE).cast::<u64>().write(0x2000 | 3);
            ram.add(2 * PAGE).cast::<u64>().write(0x83);
            std::ptr::copy_nonoverlapping(CODE.as_ptr(), ram.add(3 * PAGE), CODE.len());
            let region =
                Region { slot: 0, flags: 0, guest: 0, size: (PAGES * PAGE) as u64, host: ram as u64 };
            if libc::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &raw const region) < 0 {
                return 4;
            }
            let vcpu = libc::ioctl(vm, KVM_CREATE_VCPU, 0);
            if vcpu < 0 {
                return 5;
            }
            let Some(shared) = map(length, libc::MAP_SHARED, vcpu) else { return 6 };
            let mut special: Special = std::mem::zeroed();
            if libc::ioctl(vcpu, KVM_GET_SREGS, &raw mut special) < 0 {
                return 7;
            }
            special.cs = flat(8, 11, 1);
            special.data = [flat(16, 3, 0); 5];
            // Protection and paging; physical address extension; long mode enabled and active.
            special.cr0 = 0x8000_0001;
            special.cr3 = 0;
            special.cr4 = 0x20;
            special.efer = 0x500;
            let registers = Registers { general: [0; 16], rip: CODE_ADDRESS, rflags: 2 };
            if libc::ioctl(vcpu, KVM_SET_SREGS, &raw const special) < 0
                || libc::ioctl(vcpu, KVM_SET_REGS, &raw const registers) < 0
                || libc::ioctl(vcpu, KVM_RUN, 0) < 0
            {
                return 8;
            }
            // `exit_reason` of `struct kvm_run`, at offset 8.
            if shared.add(8).cast::<u32>().read_volatile() == KVM_EXIT_HLT { 0 } else { 9 }
        }
    }

    unsafe fn map(length: usize, flags: i32, fd: i32) -> Option<*mut u8> {
        // SAFETY: a new mapping at a place of the kernel's choice.
        let place = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0)
        };
        (place != libc::MAP_FAILED).then_some(place.cast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_ends_and_leaves_no_child() {
        let found = probe(Duration::from_millis(500)).unwrap();
        if !std::path::Path::new("/dev/kvm").exists() {
            assert_eq!(found, Kvm::Absent);
        }
        println!("KVM on this machine: {found:?}");
    }
}
