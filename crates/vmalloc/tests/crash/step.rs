//! The stepper: one instruction of another process at a time, and a photo whenever the pool changed.
//!
//! A system call is one step of the processor, but not for a killer: what it adds to the file or
//! takes away may be there in part. So a call that changes the file's frames gives two photos, one
//! with half of it done.

use super::image::{Image, Layout, blocks};
use crate::support::{PAGE, wait_until};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;

/// What stepping through a verb saw.
pub struct Film {
    /// The moments at which a kill could have come, the one before the first step included.
    pub images: Vec<Image>,
    pub steps: u64,
}

/// In the process that is to be stepped through: stops until the stepper goes on.
pub fn stand_still() {
    nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
}

/// In the process that is to be stepped through: lets its parent do that, and stops.
pub fn let_parent_step() {
    ptrace::traceme().unwrap();
    stand_still();
}

pub(super) type Registers = nix::libc::user_regs_struct;

/// A thread of a child that has stopped for us.
pub struct Stepped {
    pub(super) thread: Pid,
    pub(super) window_base: u64,
}

impl Stepped {
    /// Waits until `thread` stops in [`let_parent_step`]. Its pool's window begins at `window_base`.
    pub fn wait_for(thread: i32, window_base: u64) -> Stepped {
        let stepped = Stepped { thread: Pid::from_raw(thread), window_base };
        // A thread is nobody's child until it is traced.
        wait_until("the process to be stepped through", || {
            match waitpid(stepped.thread, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Stopped(_, Signal::SIGSTOP)) => true,
                Err(Errno::ECHILD) => false,
                other => panic!("it did not stop: {other:?}"),
            }
        });
        stepped
    }

    /// Steps until it stands still again; a photo of each change.
    pub fn film(&self, file: &File, layout: &Layout, first: Image) -> Film {
        let mut camera = Camera::new(self, file, layout, first);
        loop {
            let before = self.regs();
            match self.step() {
                Signal::SIGTRAP => {}
                Signal::SIGSTOP => return camera.film,
                other => panic!("stopped by {other:?} after {}", camera.now.when),
            }
            camera.film.steps += 1;
            camera.look_at_frames(Some(&before));
            camera.look_at_words();
        }
    }

    pub(super) fn regs(&self) -> Registers {
        ptrace::getregs(self.thread).unwrap()
    }

    /// One instruction.
    pub(super) fn step(&self) -> Signal {
        ptrace::step(self.thread, None).unwrap();
        match self.wait() {
            WaitStatus::Stopped(_, signal) => signal,
            other => panic!("the process that is stepped through ended: {other:?}"),
        }
    }

    pub(super) fn wait(&self) -> WaitStatus {
        waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap()
    }
}

/// Takes the photos.
pub(super) struct Camera<'a> {
    of: &'a Stepped,
    file: &'a File,
    layout: &'a Layout,
    pub(super) now: Image,
    words: Vec<u8>,
    held: u64,
    pub(super) film: Film,
}

impl<'a> Camera<'a> {
    pub(super) fn new(of: &'a Stepped, file: &'a File, layout: &'a Layout, now: Image) -> Self {
        let (words, held) = (now.words().to_vec(), blocks(file));
        assert_eq!(held, now.blocks());
        let film = Film { images: vec![now.clone()], steps: 0 };
        Camera { of, file, layout, now, words, held, film }
    }

    /// After a step from the registers `before`, or after many that were no system call: what
    /// frames came or went.
    pub(super) fn look_at_frames(&mut self, before: Option<&Registers>) {
        let held = blocks(self.file);
        if held == self.held {
            return;
        }
        self.held = held;
        self.account(before);
        let now = &mut self.now;
        assert_eq!(held, now.blocks(), "frames came or went by something else than {}", now.when);
        self.words = now.words().to_vec();
        now.when = format!("step {}: {}", self.film.steps, now.when);
        self.film.images.push(now.clone());
    }

    /// After a step: what words changed.
    pub(super) fn look_at_words(&mut self) {
        self.now.read_into(self.file, &mut self.words);
        if self.words != self.now.words() {
            let before = self.now.words().to_vec();
            self.now.set_words(&self.words);
            let changed = self.now.differences(&before, self.layout).join(", ");
            self.now.when = format!("step {}: {changed}", self.film.steps);
            self.film.images.push(self.now.clone());
        }
    }

    /// The step was one that changed what the file holds: brings `now` up to date, and adds the
    /// moment at which half of it was done.
    fn account(&mut self, before: Option<&Registers>) {
        let (layout, now) = (self.layout, &mut self.now);
        let is_call = |before: &&Registers| {
            let code = ptrace::read(self.of.thread, before.rip as ptrace::AddressType).unwrap();
            code & 0xffff == 0x050f
        };
        let call = before.filter(is_call).map(|before| (before.rax as i64, before));
        let (start, len, adds) = match call {
            Some((nix::libc::SYS_fallocate, before)) => {
                let punch = before.rsi as i32 & nix::libc::FALLOC_FL_PUNCH_HOLE != 0;
                now.when =
                    format!("fallocate {:#x} {:#x} {:#x}", before.rsi, before.rdx, before.r10);
                (before.rdx / PAGE, before.r10 / PAGE, !punch)
            }
            Some((nix::libc::SYS_madvise, before)) => {
                now.when = format!("madvise {:#x} {:#x} {}", before.rdi, before.rsi, before.rdx);
                let offset = before.rdi.wrapping_sub(self.of.window_base);
                (layout.word_pages + offset / PAGE, before.rsi / PAGE, true)
            }
            _ => {
                now.when = "touched words that had no frame".into();
                (0, 0, true)
            }
        };
        let pages = start..start + len;
        let changed: Vec<u64> = pages
            .clone()
            .filter_map(|page| page.checked_sub(layout.word_pages))
            .filter(|page| now.has_frame(*page) != adds)
            .collect();
        if changed.len() > 1 {
            let mut half = now.clone();
            let some = &changed[..changed.len() / 2];
            some.iter().for_each(|page| half.set_window(*page, adds));
            half.when = format!("half of {}", now.when);
            self.film.images.push(half);
        }
        changed.iter().for_each(|page| now.set_window(*page, adds));
        let words = pages.filter(|page| *page < layout.word_pages);
        now.grow_words(self.file, layout, words);
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // It has done what it was to do: it dies here and now. If it is dead, so much the better.
        let _ = ptrace::detach(self.thread, Signal::SIGKILL);
    }
}
