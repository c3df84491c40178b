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

/// A thread of a child that has stopped for us.
pub struct Stepped {
    thread: Pid,
    window_base: u64,
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
        let mut now = first;
        let mut words = now.words().to_vec();
        let mut held = blocks(file);
        assert_eq!(held, now.blocks());
        let mut film = Film { images: vec![now.clone()], steps: 0 };
        loop {
            let before = ptrace::getregs(self.thread).unwrap();
            ptrace::step(self.thread, None).unwrap();
            match self.wait() {
                Signal::SIGTRAP => {}
                Signal::SIGSTOP => return film,
                other => panic!("{}: stopped by {other:?} after {}", film.steps, now.when),
            }
            film.steps += 1;
            if blocks(file) != held {
                held = blocks(file);
                self.account(&before, file, layout, &mut now, &mut film.images);
                assert_eq!(
                    held,
                    now.blocks(),
                    "frames came or went by something else than {}",
                    now.when
                );
                words = now.words().to_vec();
                now.when = format!("step {}: {}", film.steps, now.when);
                film.images.push(now.clone());
            }
            now.read_into(file, &mut words);
            if words != now.words() {
                let before = now.words().to_vec();
                now.set_words(&words);
                let changed = now.differences(&before, layout).join(", ");
                now.when = format!("step {}: {changed}", film.steps);
                film.images.push(now.clone());
            }
        }
    }

    /// The step was one that changed what the file holds: brings `now` up to date, and adds the
    /// moment at which half of it was done.
    fn account(
        &self,
        before: &nix::libc::user_regs_struct,
        file: &File,
        layout: &Layout,
        now: &mut Image,
        images: &mut Vec<Image>,
    ) {
        let code = ptrace::read(self.thread, before.rip as ptrace::AddressType).unwrap();
        let is_call = code & 0xffff == 0x050f;
        let (start, len, adds) = match before.rax as i64 {
            nix::libc::SYS_fallocate if is_call => {
                let punch = before.rsi as i32 & nix::libc::FALLOC_FL_PUNCH_HOLE != 0;
                now.when =
                    format!("fallocate {:#x} {:#x} {:#x}", before.rsi, before.rdx, before.r10);
                (before.rdx / PAGE, before.r10 / PAGE, !punch)
            }
            nix::libc::SYS_madvise if is_call => {
                now.when = format!("madvise {:#x} {:#x} {}", before.rdi, before.rsi, before.rdx);
                let offset = before.rdi.wrapping_sub(self.window_base);
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
            images.push(half);
        }
        changed.iter().for_each(|page| now.set_window(*page, adds));
        let words = pages.filter(|page| *page < layout.word_pages);
        now.grow_words(file, layout, words);
    }

    fn wait(&self) -> Signal {
        match waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Stopped(_, signal) => signal,
            other => panic!("the process that is stepped through ended: {other:?}"),
        }
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        // It has done what it was to do: it dies here and now. If it is dead, so much the better.
        let _ = ptrace::detach(self.thread, Signal::SIGKILL);
    }
}
