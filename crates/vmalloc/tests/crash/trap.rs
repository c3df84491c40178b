//! The quick stepper: stops only where the pool may change, and sees the same moments.
//!
//! A recovery is a hundred thousand instructions, of which a few hundred write to the pool's
//! words. So these are made read-only in the process that is stepped through; what writes to them
//! faults before it has done anything, and that is a stop. Frames come and go by system calls,
//! each of which is a stop, too, and by touching words that had none, which is seen at the next
//! stop: until then nothing else has changed.
//!
//! ```text
//!   run ─▶ fault at a write ─▶ words writable ─▶ one step ─▶ photo ─▶ words read-only ─▶ run
//!      └─▶ system call ─▶ done ─▶ photo ─▶ run
//! ```
//!
//! To change its rights the process is made to call `mprotect` itself: its registers are set to
//! that call, at a system call instruction of its C library, and put back.

use super::image::{Image, Layout};
use super::step::{Camera, Film, Registers, Stepped};
use crate::support::PAGE;
use nix::libc;
use nix::sys::ptrace::{self, AddressType, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use std::fs::File;

/// Bytes of the C library's `syscall` that are searched for the instruction.
const CODE_BYTES: u64 = 64;

/// In the process that is to be stepped through: where its C library calls the system.
pub fn system_call() -> u64 {
    libc::syscall as *const () as u64
}

impl Stepped {
    /// As [`Stepped::film`], stopping at writes and system calls only. `call` is what
    /// [`system_call`] said there.
    pub fn film_writes(&self, file: &File, layout: &Layout, first: Image, call: u64) -> Film {
        ptrace::setoptions(self.thread, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        let call = self.instruction_behind(call);
        let start = self.window_base - layout.window_at();
        let words = start..start + layout.word_pages * PAGE;
        let protect = |rights: i32| self.call_mprotect(call, &words, rights);
        let mut camera = Camera::new(self, file, layout, first);
        assert_eq!(self.step(), Signal::SIGTRAP);
        protect(libc::PROT_READ);
        let mut entered: Option<Registers> = None;
        loop {
            ptrace::syscall(self.thread, None).unwrap();
            let stop = self.wait();
            camera.film.steps += 1;
            match (stop, entered.take()) {
                (WaitStatus::PtraceSyscall(_), None) => {
                    let mut before = self.regs();
                    camera.look_at_frames(None);
                    // As they were before the instruction, which is two bytes long.
                    (before.rax, before.rip) = (before.orig_rax, before.rip - 2);
                    entered = Some(before);
                }
                (WaitStatus::PtraceSyscall(_), Some(before)) => {
                    camera.look_at_frames(Some(&before));
                    camera.look_at_words();
                }
                (WaitStatus::Stopped(_, Signal::SIGSEGV), None) => {
                    camera.look_at_frames(None);
                    protect(libc::PROT_READ | libc::PROT_WRITE);
                    // What faults elsewhere faults again.
                    assert_eq!(self.step(), Signal::SIGTRAP, "after {}", camera.now.when);
                    camera.look_at_frames(None);
                    camera.look_at_words();
                    protect(libc::PROT_READ);
                }
                (WaitStatus::Stopped(_, Signal::SIGSTOP), _) => return camera.film,
                other => panic!("{other:?} after {}", camera.now.when),
            }
        }
    }

    fn instruction_behind(&self, function: u64) -> u64 {
        let read = |at: u64| ptrace::read(self.thread, at as AddressType).unwrap() & 0xffff;
        let is_call = |at: &u64| read(*at) == 0x050f;
        (function..function + CODE_BYTES).find(is_call).expect("a system call instruction")
    }

    /// Has the process call `mprotect`, and leaves its registers as they were.
    fn call_mprotect(&self, call: u64, at: &std::ops::Range<u64>, rights: i32) {
        let before = self.regs();
        let mut regs = before;
        (regs.rip, regs.rax, regs.orig_rax) = (call, libc::SYS_mprotect as u64, u64::MAX);
        (regs.rdi, regs.rsi, regs.rdx) = (at.start, at.end - at.start, rights as u64);
        ptrace::setregs(self.thread, regs).unwrap();
        assert_eq!(self.step(), Signal::SIGTRAP);
        assert_eq!(self.regs().rax, 0, "mprotect");
        ptrace::setregs(self.thread, before).unwrap();
    }
}
