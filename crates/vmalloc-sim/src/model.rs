//! A model without cleverness, and the runner that holds a machine against it.
//!
//! The model knows what was asked and answered: which areas are shown where, which bytes were
//! written, which tokens are good. From that it says what the next answer must be. It knows no
//! slot, no class, no lazy list; all that it knows of purging is that afterwards nothing is held
//! that nobody uses.
//!
//! ```text
//!   Op ─▶ Run ─┬─▶ Subject ─answer─┐
//!              └─▶ prediction ─────┴─ equal? ─no▶ Divergence: the operations, as a test
//! ```
//!
//! An allocation has three predictions. *Must fail*: the request is wrong, or the frames in use
//! leave too few. *Must succeed*: enough are left even if the machine keeps the clumsiest
//! records. In between, either. A fault that fired during a call excuses its failure, never a
//! wrong success; what a call that failed left behind shows in the next check.

mod check;

use crate::ops::Op;
use crate::random::Random;
pub use crate::random::pattern;
use crate::subject::{Abilities, Handle, Setup, Subject, TokenKey, Want};
use std::collections::BTreeMap;
use std::fmt;
use vmalloc_core::{
    AllocError, AttachError, Extent, FreeError, PAGE_SIZE, Pages, Pfn, Publish, PurgeError,
    ResizeError, ShareError, VirtAddr,
};

/// Bytes of a block: `None` where the model does not know what they are.
type Contents = Vec<Option<u8>>;

/// A machine did not do what the model says it must. `Display` prints a test to paste.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// What machine was asked for.
    pub setup: Setup,
    /// The operations up to the one that showed it.
    pub ops: Vec<Op>,
    /// What it did, and what it should have done.
    pub what: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.what)?;
        writeln!(f, "/// Goal: {}.", self.what.lines().next().unwrap_or_default())?;
        writeln!(f, "#[test]\nfn regress() {{")?;
        writeln!(f, "    use vmalloc_core::{{Pages, Publish::*}};")?;
        writeln!(f, "    use vmalloc_sim::{{Op::*, Setup, Step::*, Want, replay}};")?;
        writeln!(f, "    replay(&HOST, {:?}, &[", self.setup)?;
        for op in &self.ops {
            writeln!(f, "        {op:?},")?;
        }
        writeln!(f, "    ]);\n}}")
    }
}

impl std::error::Error for Divergence {}

/// What a run did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Operations that were carried out.
    pub done: usize,
    /// Operations that found nothing to work on.
    pub left_out: usize,
    /// Of those done, how many the machine refused, rightly.
    pub refused: usize,
}

/// Holds a fresh subject against the model, operation by operation. At the end everything is
/// freed and purged, and every frame must be free again.
///
/// # Errors
///
/// [`Divergence`], at the first difference.
pub fn run(subject: &mut dyn Subject, ops: &[Op]) -> Result<Tally, Box<Divergence>> {
    let setup = subject.setup();
    let mut run = Run::new(subject);
    let mut tally = Tally::default();
    let diverged =
        |upto: usize, what: String| Box::new(Divergence { setup, ops: ops[..upto].to_vec(), what });
    for (at, op) in ops.iter().enumerate() {
        match run.step(op).map_err(|what| diverged(at + 1, format!("{op:?}: {what}")))? {
            Done::Yes => tally.done += 1,
            Done::Refused => (tally.done, tally.refused) = (tally.done + 1, tally.refused + 1),
            Done::LeftOut => tally.left_out += 1,
        }
    }
    run.finish().map_err(|what| diverged(ops.len(), format!("at the end: {what}")))?;
    Ok(tally)
}

/// Runs `ops` on a fresh subject of `host`: what a printed divergence calls.
///
/// # Panics
///
/// With the divergence, if there is one.
pub fn replay(host: &dyn crate::Host, setup: Setup, ops: &[Op]) {
    host.with(setup, &mut |subject| {
        if let Err(divergence) = run(subject, ops) {
            panic!("{} diverges from the model: {divergence}", host.name());
        }
    });
}

/// Whether an operation happened.
enum Done {
    Yes,
    Refused,
    LeftOut,
}

/// What an allocation must do.
enum Must {
    Succeed,
    Fail(&'static str, fn(&AllocError) -> bool),
    Either,
}

/// Memory, apart from where it is shown.
struct Block {
    contents: Contents,
    pages: Pages,
    guard: u64,
    /// Which frames, where `vmap` was given them.
    frames: Option<Vec<Pfn>>,
    /// How it was published.
    published: Option<Publish>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Owned,
    Attached,
    Vmapped,
}

/// A block where a member sees it.
#[derive(Clone, Copy)]
struct Shown {
    handle: Handle,
    role: Role,
    block: usize,
    guard: u64,
}

struct Run<'s> {
    subject: &'s mut dyn Subject,
    abilities: Abilities,
    setup: Setup,
    frames_free: Pages,
    blocks: BTreeMap<usize, Block>,
    next_block: usize,
    shown: Vec<Shown>,
    /// Every token there was, and its block while the owner has not freed it.
    tokens: Vec<(TokenKey, usize, bool)>,
    /// Frames of vunmapped areas that wait for a purge.
    waiting: Vec<Pfn>,
    may_wait: bool,
}

impl<'s> Run<'s> {
    fn new(subject: &'s mut dyn Subject) -> Run<'s> {
        Run {
            abilities: subject.abilities(),
            setup: subject.setup(),
            frames_free: subject.stats(0).frames_free,
            subject,
            blocks: BTreeMap::new(),
            next_block: 0,
            shown: Vec::new(),
            tokens: Vec::new(),
            waiting: Vec::new(),
            may_wait: true,
        }
    }

    fn step(&mut self, op: &Op) -> Result<Done, String> {
        match *op {
            Op::Alloc { member, want } => self.alloc(member, &want),
            Op::Free { nth } => self.with_nth(nth, Some(Role::Owned), Run::free),
            Op::FreeInside { nth, offset } => {
                self.with_nth(nth, Some(Role::Owned), |run, at| run.free_inside(at, offset))
            }
            Op::FreeTwice { nth } => self.with_nth(nth, Some(Role::Owned), Run::free_twice),
            Op::Write { nth, at, len, seed } => {
                self.with_nth(nth, None, |run, shown| run.write(shown, at, len, seed))
            }
            Op::Read { nth, at, len } => {
                self.with_nth(nth, None, |run, shown| run.read(shown, at, len))
            }
            Op::Resize { nth, bytes, zeroed } => {
                self.with_nth(nth, Some(Role::Owned), |run, at| run.resize(at, bytes, zeroed))
            }
            Op::Share { nth, how } => {
                self.with_nth(nth, Some(Role::Owned), |run, at| run.share(at, how))
            }
            Op::Attach { member, nth } => self.attach(member, nth),
            Op::Detach { nth } => self.with_nth(nth, Some(Role::Attached), Run::detach),
            Op::Vmap { member, frames, shuffle } => self.vmap(member, frames, shuffle),
            Op::Vunmap { nth } => self.with_nth(nth, Some(Role::Vmapped), Run::vunmap),
            Op::PurgeStep { member } => self.purge_step(member),
            Op::Purge => self.purge(),
            Op::Verify => self.verify().map(|()| Done::Yes),
            Op::FailNext { step, n } => {
                self.subject.fail_nth(step, n);
                Ok(Done::Yes)
            }
            Op::MayWait { may } => {
                self.may_wait = may;
                self.subject.set_may_wait(may);
                Ok(Done::Yes)
            }
        }
    }

    // The verbs.

    fn alloc(&mut self, member: usize, want: &Want) -> Result<Done, String> {
        let must = self.must_alloc(member, want);
        let fired = self.subject.faults_fired();
        let answer = self.subject.alloc(member, want);
        let Some(handle) = self.judge(answer, must, fired)? else { return Ok(Done::Refused) };
        if handle.bytes < want.bytes || handle.pages < want.len() {
            return Err(format!("{handle:?} is too short"));
        }
        if !handle.addr.0.is_multiple_of(want.align.max(PAGE_SIZE as u64)) {
            return Err(format!("{} is no multiple of {}", handle.addr, want.align));
        }
        let fill = if want.zeroed { Some(0) } else { None };
        let contents = vec![fill; want.bytes as usize];
        self.show(handle, Role::Owned, contents, None, u64::from(want.guard))?;
        Ok(Done::Yes)
    }

    fn free(&mut self, at: usize) -> Result<Done, String> {
        let Shown { handle, block, .. } = self.shown[at];
        self.subject.free(handle).map_err(|e| format!("{} is a live area: {e}", handle.addr))?;
        self.tokens.iter_mut().filter(|t| t.1 == block).for_each(|t| t.2 = false);
        self.hide(at);
        Ok(Done::Yes)
    }

    fn free_inside(&mut self, at: usize, offset: u64) -> Result<Done, String> {
        let Shown { handle, guard, .. } = self.shown[at];
        let pages = handle.pages.bytes();
        let offset = 1 + offset % (pages + guard * PAGE_SIZE as u64 - 1);
        let addr = VirtAddr(handle.addr.0 + offset);
        let expected = |e: &FreeError| match e {
            FreeError::Interior { base, .. } => *base == handle.addr && offset < pages,
            FreeError::NoArea { .. } => offset >= pages,
            _ => false,
        };
        match self.subject.free_at(handle.member, addr) {
            Err(e) if expected(&e) => Ok(Done::Refused),
            other => Err(format!("{addr}, {offset} bytes into {}: {other:?}", handle.addr)),
        }
    }

    fn free_twice(&mut self, at: usize) -> Result<Done, String> {
        let handle = self.shown[at].handle;
        self.free(at)?;
        if self.abilities.shares_window && self.shown.iter().any(|s| s.handle.addr == handle.addr) {
            return Ok(Done::LeftOut);
        }
        match self.subject.free_at(handle.member, handle.addr) {
            Err(FreeError::Twice { .. } | FreeError::NoArea { .. }) => Ok(Done::Refused),
            other => Err(format!("{} a second time: {other:?}", handle.addr)),
        }
    }

    fn write(&mut self, at: usize, from: u64, len: u64, seed: u8) -> Result<Done, String> {
        let shown = self.shown[at];
        let (from, len) = self.clip(&shown, from, len);
        let bytes: Vec<u8> = (from..from + len).map(|i| pattern(seed, i)).collect();
        let frozen = self.blocks[&shown.block].published == Some(Publish::Frozen);
        let written = self.subject.write(shown.handle, from, &bytes);
        let is_guest = shown.role == Role::Attached;
        match (written, frozen && (is_guest || !self.abilities.owner_writes_frozen)) {
            (Err(_), true) => return Ok(Done::Refused),
            (Ok(()), true) => return Err("a frozen area was written".into()),
            (Err(e), false) => return Err(format!("a live area: {e}")),
            (Ok(()), false) => {}
        }
        let block = self.blocks.get_mut(&shown.block).expect("shown");
        for (i, byte) in (from..).zip(bytes) {
            block.contents[i as usize] = Some(byte);
        }
        Ok(Done::Yes)
    }

    fn read(&mut self, at: usize, from: u64, len: u64) -> Result<Done, String> {
        let (from, len) = self.clip(&self.shown[at], from, len);
        self.compare(self.shown[at], from, len).map(|()| Done::Yes)
    }

    fn resize(&mut self, at: usize, bytes: u64, zeroed: bool) -> Result<Done, String> {
        let Shown { handle, block, guard, .. } = self.shown[at];
        let (old, new) = (handle.pages, Pages::for_bytes(bytes));
        let published = self.blocks[&block].published.is_some();
        let fired = self.subject.faults_fired();
        let error = match self.subject.resize(handle, bytes, zeroed) {
            Ok(_) if bytes == 0 || published || !self.may_wait => {
                return Err(format!("to {bytes}; published: {published}"));
            }
            Ok(resized) if resized.addr != handle.addr || resized.bytes < bytes => {
                return Err(format!("{} bytes at {}", resized.bytes, resized.addr));
            }
            Ok(resized) => {
                let block = self.blocks.get_mut(&block).expect("shown");
                // What lies behind the old bytes in their last page is anyone's guess.
                block.contents.resize(bytes.min(old.bytes()) as usize, None);
                block.contents.resize(bytes as usize, if zeroed { Some(0) } else { None });
                block.pages = resized.pages;
                let Shown { role, block, .. } = self.shown.remove(at);
                return self.place(resized, role, block, guard).map(|()| Done::Yes);
            }
            Err(e) => e,
        };
        let more = Pages(new.0.saturating_sub(old.0));
        let has_reason = match error {
            ResizeError::ZeroSize => bytes == 0,
            ResizeError::MayNotWait => !self.may_wait,
            ResizeError::Stale { .. } => published,
            ResizeError::NoRoom { .. } => new > old,
            ResizeError::Back(_) => {
                let fits = self.fits(handle.member, more, new);
                new > old && (!fits || self.excuses(fired))
            }
            ResizeError::Map(_) => self.excuses(fired),
            _ => false,
        };
        if has_reason { Ok(Done::Refused) } else { Err(format!("{old} to {new}: {error}")) }
    }

    fn share(&mut self, at: usize, how: Publish) -> Result<Done, String> {
        let Shown { handle, block, .. } = self.shown[at];
        let published = self.blocks[&block].published.is_some();
        if published && !self.abilities.refuses_second_share {
            return Ok(Done::LeftOut);
        }
        match self.subject.share(handle, how) {
            Ok(token) if !published => {
                self.tokens.push((token, block, true));
                self.blocks.get_mut(&block).expect("shown").published = Some(how);
                Ok(Done::Yes)
            }
            Err(ShareError::Stale { .. }) if published => Ok(Done::Refused),
            other => Err(format!("published before: {published}; {other:?}")),
        }
    }

    fn attach(&mut self, member: usize, nth: usize) -> Result<Done, String> {
        if self.tokens.is_empty() {
            return Ok(Done::LeftOut);
        }
        let (token, block, good) = self.tokens[nth % self.tokens.len()];
        let sees = |s: &Shown| s.block == block && s.handle.member == member;
        if !self.abilities.attaches_repeatedly && self.shown.iter().any(sees) {
            return Ok(Done::LeftOut);
        }
        let fired = self.subject.faults_fired();
        match self.subject.attach(member, token) {
            Ok(handle) if good => {
                let pages = self.blocks[&block].pages;
                if handle.pages < pages {
                    return Err(format!("{} of {pages} attached", handle.pages));
                }
                // Where it lies, or as a mapping of its own, which has a guard.
                let in_place = self.abilities.shares_window;
                let guard = if in_place { self.blocks[&block].guard } else { 1 };
                self.place(handle, Role::Attached, block, guard)?;
                Ok(Done::Yes)
            }
            Ok(handle) => Err(format!("a stale token gave {}", handle.addr)),
            Err(AttachError::Stale { .. } | AttachError::Malformed) if !good => Ok(Done::Refused),
            Err(AttachError::Alloc(_)) if self.excuses(fired) => Ok(Done::Refused),
            Err(AttachError::Alloc(AllocError::NoHole { .. })) if !self.is_roomy(Pages(1)) => {
                Ok(Done::Refused)
            }
            Err(e) => Err(format!("the token is {}: {e}", if good { "good" } else { "stale" })),
        }
    }

    fn detach(&mut self, at: usize) -> Result<Done, String> {
        let handle = self.shown[at].handle;
        self.subject.detach(handle).map_err(|e| format!("{} is attached: {e}", handle.addr))?;
        self.hide(at);
        Ok(Done::Yes)
    }

    fn vmap(&mut self, member: usize, count: usize, shuffle: u64) -> Result<Done, String> {
        let Some(mut frames) = self.subject.take_frames(count) else { return Ok(Done::LeftOut) };
        Random::new(shuffle).shuffle(&mut frames);
        let pages = Pages(count as u64);
        let must = if count == 0 {
            Must::Fail("zero size", |e| matches!(e, AllocError::ZeroSize))
        } else if self.is_roomy(Pages(1)) && self.fits(member, pages, pages) {
            Must::Succeed
        } else {
            Must::Either
        };
        let runs: Vec<Extent> =
            frames.iter().map(|&start| Extent { start, len: Pages(1) }).collect();
        let fired = self.subject.faults_fired();
        let answer = self.subject.vmap(member, &runs);
        let failed = answer.is_err();
        let Some(handle) = self.judge(answer, must, fired)? else {
            // A map that failed where nobody may wait is parked with them.
            assert!(failed);
            if self.may_wait {
                self.subject.give_frames(&frames);
            } else {
                self.waiting.extend(frames);
            }
            return Ok(Done::Refused);
        };
        if handle.pages != pages {
            return Err(format!("{} of {pages} shown", handle.pages));
        }
        let contents = vec![None; pages.bytes() as usize];
        self.show(handle, Role::Vmapped, contents, Some(frames), 1)?;
        Ok(Done::Yes)
    }

    fn vunmap(&mut self, at: usize) -> Result<Done, String> {
        let Shown { handle, block, .. } = self.shown[at];
        self.subject.vunmap(handle).map_err(|e| format!("{} is mapped: {e}", handle.addr))?;
        self.waiting.extend(self.blocks[&block].frames.iter().flatten());
        self.hide(at);
        Ok(Done::Yes)
    }

    fn purge_step(&mut self, member: usize) -> Result<Done, String> {
        match self.subject.purge_step(member) {
            Ok(_) if self.may_wait => Ok(Done::Yes),
            Err(PurgeError::MayNotWait) if !self.may_wait => Ok(Done::Refused),
            other => Err(format!("may wait: {}; {other:?}", self.may_wait)),
        }
    }

    fn purge(&mut self) -> Result<Done, String> {
        match self.subject.purge() {
            Ok(()) if self.may_wait => {}
            Err(PurgeError::MayNotWait) if !self.may_wait => return Ok(Done::Refused),
            other => return Err(format!("may wait: {}; {other:?}", self.may_wait)),
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.subject.give_frames(&waiting);
        let free = self.subject.stats(0).frames_free;
        let used = Pages(self.frames_free.0.saturating_sub(free.0));
        let most = Pages(self.living().0 + self.records().0);
        if used < self.living() || used > most {
            let living = self.living();
            return Err(format!("{used} in use after a purge, {living} to {most} have a user"));
        }
        let parked = (0..self.setup.members).find(|&m| self.subject.stats(m).parked_areas > 0);
        match parked {
            Some(member) => Err(format!("areas of member {member} are parked after a purge")),
            None => Ok(Done::Yes),
        }
    }

    // What must be.
}
