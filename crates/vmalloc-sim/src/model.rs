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

use crate::ops::Op;
use crate::random::Random;
use crate::subject::{Abilities, Handle, Setup, Subject, TokenKey, Want};
use std::collections::BTreeMap;
use std::fmt;
use vmalloc_core::{
    AllocError, Area, AttachError, BackError, Extent, FreeError, Kind, PAGE_SIZE, PageRange, Pages,
    Pfn, Publish, PurgeError, ResizeError, ShareError, VirtAddr, Vpn,
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

/// The byte that pattern `seed` has at byte `at` of an area. Differs from page to page.
#[must_use]
pub fn pattern(seed: u8, at: u64) -> u8 {
    seed.wrapping_add((at % 251) as u8)
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

    fn must_alloc(&self, member: usize, want: &Want) -> Must {
        let pages = want.len();
        let too_big =
            pages > self.setup.frames || pages.0 + u64::from(want.guard) > self.setup.window.0;
        let bad_align = !want.align.is_power_of_two()
            || Pages::for_bytes(want.align) > self.abilities.align_max;
        if want.is_empty() {
            return Must::Fail("zero size", |e| matches!(e, AllocError::ZeroSize));
        }
        if too_big && bad_align {
            return Must::Fail("too big, or badly aligned", |e| {
                matches!(e, AllocError::TooBig { .. } | AllocError::BadAlign { .. })
            });
        }
        if too_big {
            return Must::Fail("too big", |e| matches!(e, AllocError::TooBig { .. }));
        }
        if bad_align {
            return Must::Fail("a bad alignment", |e| matches!(e, AllocError::BadAlign { .. }));
        }
        if self.living().0 + pages.0 > self.setup.frames.0 {
            return Must::Fail("a full pool", |e| {
                matches!(
                    e,
                    AllocError::NoHole { .. }
                        | AllocError::Map(_)
                        | AllocError::Back(
                            BackError::NoFrames { .. }
                                | BackError::NoMetadata
                                | BackError::MachineFull { .. }
                        )
                )
            });
        }
        let align = Pages::for_bytes(want.align);
        let served = self.is_roomy(align) && self.fits(member, pages, pages);
        if served { Must::Succeed } else { Must::Either }
    }

    /// Whether the window has a hole for any area for certain: slots and alignment waste some.
    fn is_roomy(&self, align: Pages) -> bool {
        self.setup.window.0 >= 64 * self.setup.frames.0 && align.0 * 16 <= self.setup.window.0
    }

    /// Whether `pages` frames and the records of an area of `area` pages can be had for certain.
    fn fits(&self, member: usize, pages: Pages, area: Pages) -> bool {
        let records = self.records().0 + self.subject.overhead(area).0;
        let used = self.living().0 + self.parked_elsewhere(member).0;
        self.may_wait && used + pages.0 + records <= self.setup.frames.0
    }

    /// Frames that a purge of this member's window cannot free: parked in another.
    fn parked_elsewhere(&self, member: usize) -> Pages {
        if self.abilities.shares_window {
            return Pages(0);
        }
        let others = (0..self.setup.members).filter(|&other| other != member);
        let parked = others.flat_map(|other| self.subject.areas(other));
        let held = |pages: Pages| pages.0 + self.subject.overhead(pages).0;
        Pages(parked.filter(|a| !is_in_use(a.kind)).map(|a| held(a.pages.len)).sum())
    }

    /// Whether a refusal of what should have been served has a reason.
    fn excuses(&self, fired_before: u64) -> bool {
        !self.may_wait || self.subject.faults_fired() > fired_before
    }

    fn judge(
        &self,
        answer: Result<Handle, AllocError>,
        must: Must,
        fired_before: u64,
    ) -> Result<Option<Handle>, String> {
        match (answer, must) {
            (Ok(handle), Must::Succeed | Must::Either) => Ok(Some(handle)),
            (Ok(handle), Must::Fail(why, _)) => Err(format!("{} in spite of {why}", handle.addr)),
            (Err(e), Must::Fail(_, fits)) if fits(&e) => Ok(None),
            (Err(_), Must::Either) => Ok(None),
            (Err(_), Must::Succeed) if self.excuses(fired_before) => Ok(None),
            (Err(e), Must::Fail(why, _)) => {
                Err(format!("refused for another reason than {why}: {e}"))
            }
            (Err(e), Must::Succeed) => Err(format!("refused for no reason: {e}")),
        }
    }

    /// Frames that somebody uses.
    fn living(&self) -> Pages {
        let blocks = self.blocks.values().map(|block| block.pages.0).sum::<u64>();
        Pages(blocks + self.waiting.len() as u64)
    }

    /// Frames that their records may need at most. Parked areas need none: they are purged.
    fn records(&self) -> Pages {
        Pages(self.blocks.values().map(|block| self.subject.overhead(block.pages).0).sum())
    }

    // What is shown.

    fn show(
        &mut self,
        handle: Handle,
        role: Role,
        contents: Contents,
        frames: Option<Vec<Pfn>>,
        guard: u64,
    ) -> Result<(), String> {
        let (block, pages) = (self.next_block, handle.pages);
        self.next_block += 1;
        self.blocks.insert(block, Block { contents, pages, guard, frames, published: None });
        self.place(handle, role, block, guard)
    }

    /// Notes that a block is shown, after a look at whether something else is there.
    fn place(
        &mut self,
        handle: Handle,
        role: Role,
        block: usize,
        guard: u64,
    ) -> Result<(), String> {
        let shown = Shown { handle, role, block, guard };
        for other in &self.shown {
            if other.handle.member == handle.member && overlap(span(&shown), span(other)) {
                return Err(format!("{} overlaps {}", span(&shown), span(other)));
            }
        }
        self.shown.push(shown);
        Ok(())
    }

    /// Forgets that a block is shown, and the block when it was shown nowhere else.
    fn hide(&mut self, at: usize) {
        let block = self.shown.remove(at).block;
        if !self.shown.iter().any(|s| s.block == block) {
            self.blocks.remove(&block);
        }
    }

    /// Gives the `nth` of those shown in this role to `then`.
    fn with_nth(
        &mut self,
        nth: usize,
        role: Option<Role>,
        then: impl FnOnce(&mut Run<'s>, usize) -> Result<Done, String>,
    ) -> Result<Done, String> {
        let fits = |s: &Shown| role.is_none_or(|role| s.role == role);
        let all: Vec<usize> = (0..self.shown.len()).filter(|&i| fits(&self.shown[i])).collect();
        if all.is_empty() {
            return Ok(Done::LeftOut);
        }
        then(self, all[nth % all.len()])
    }

    // Checks.

    fn compare(&mut self, shown: Shown, from: u64, len: u64) -> Result<(), String> {
        let mut bytes = vec![0; len as usize];
        self.subject.read(shown.handle, from, &mut bytes).map_err(|e| e.to_string())?;
        let known = &self.blocks[&shown.block].contents[from as usize..(from + len) as usize];
        match bytes.iter().zip(known).position(|(byte, known)| known.is_some_and(|k| k != *byte)) {
            Some(i) => Err(format!(
                "byte {} of the area at {} is {:#x}, and should be {:#x}",
                from + i as u64,
                shown.handle.addr,
                bytes[i],
                known[i].expect("known")
            )),
            None => Ok(()),
        }
    }

    /// From any two numbers, a part of the area that is not empty.
    fn clip(&self, shown: &Shown, from: u64, len: u64) -> (u64, u64) {
        let bytes = self.blocks[&shown.block].contents.len() as u64;
        let from = from % bytes;
        (from, len.min(bytes - from))
    }

    fn verify(&mut self) -> Result<(), String> {
        self.subject.verify()?;
        for shown in self.shown.clone() {
            let len = self.blocks[&shown.block].contents.len() as u64;
            self.compare(shown, 0, len)?;
            if shown.guard > 0 && self.abilities.guards_fault {
                let guard = VirtAddr(shown.handle.addr.0 + shown.handle.pages.bytes());
                if self.subject.is_readable(shown.handle.member, guard) {
                    return Err(format!("the guard page at {guard} can be read"));
                }
            }
        }
        (0..self.setup.members).try_for_each(|member| self.verify_listing(member))?;
        self.verify_frames()
    }

    /// The listing is in order, and has what is shown, and nothing else that is in use.
    fn verify_listing(&self, member: usize) -> Result<(), String> {
        let areas = self.subject.areas(member);
        for pair in areas.windows(2) {
            let end = pair[0].pages.end().0 + pair[0].guard.0;
            if end > pair[1].pages.start.0 {
                return Err(format!("listed in disorder: {} and {}", pair[0], pair[1]));
            }
        }
        let in_use: Vec<&Area> = areas.iter().filter(|area| is_in_use(area.kind)).collect();
        for shown in self.shown.iter().filter(|s| s.handle.member == member) {
            let at = |area: &&&Area| area.addr() == shown.handle.addr;
            match in_use.iter().find(at) {
                Some(area) if area.pages.len == shown.handle.pages => {}
                other => return Err(format!("listed as {other:?}, held as {:?}", shown.handle)),
            }
        }
        let held = if self.abilities.shares_window {
            self.blocks.len()
        } else {
            self.shown.iter().filter(|s| s.handle.member == member).count()
        };
        let stats = self.subject.stats(member);
        if in_use.len() != held || stats.areas != held {
            let (listed, counted) = (in_use.len(), stats.areas);
            return Err(format!(
                "member {member}: {listed} listed, {counted} counted, {held} held"
            ));
        }
        let used: u64 = in_use.iter().map(|area| area.pages.len.0).sum();
        let parked: u64 = areas.iter().filter(|a| !is_in_use(a.kind)).map(|a| a.pages.len.0).sum();
        if stats.used.0 != used || stats.parked.0 != parked || stats.frames != self.setup.frames {
            return Err(format!("{used} and {parked} parked pages listed, but counted: {stats:?}"));
        }
        Ok(())
    }

    /// A block's frames are the same wherever it is shown, and no other block's.
    fn verify_frames(&self) -> Result<(), String> {
        let mut owners: BTreeMap<Pfn, (usize, u64)> = BTreeMap::new();
        let mut places: BTreeMap<(usize, u64), Pfn> = BTreeMap::new();
        for shown in &self.shown {
            let start = shown.handle.addr.vpn();
            for i in 0..shown.handle.pages.0 {
                let page = Vpn(start.0 + i);
                let Some(pfn) = self.subject.frame_at(shown.handle.member, page) else { continue };
                let here = (shown.block, i);
                let given = self.blocks[&shown.block].frames.as_ref().map(|f| f[i as usize]);
                if given.is_some_and(|given| given != pfn) {
                    return Err(format!("{page} shows {pfn}, not {given:?} as vmap was told"));
                }
                let (owner, frame) =
                    (*owners.entry(pfn).or_insert(here), *places.entry(here).or_insert(pfn));
                if owner != here || frame != pfn {
                    return Err(format!("{page}: {pfn} is page {here:?}, and {owner:?}, {frame}"));
                }
            }
        }
        Ok(())
    }

    /// Everything goes, and every frame comes back.
    fn finish(&mut self) -> Result<(), String> {
        self.subject.fail_none();
        self.subject.set_may_wait(true);
        self.may_wait = true;
        self.verify()?;
        while let Some(last) = self.shown.len().checked_sub(1) {
            match self.shown[last].role {
                Role::Owned => self.free(last)?,
                Role::Attached => self.detach(last)?,
                Role::Vmapped => self.vunmap(last)?,
            };
        }
        self.verify()?;
        self.purge()?;
        self.verify()?;
        let free = self.subject.stats(0).frames_free;
        if free != self.frames_free {
            return Err(format!("{free} free, at the start it were {}", self.frames_free));
        }
        Ok(())
    }
}

fn is_in_use(kind: Kind) -> bool {
    matches!(kind, Kind::Live | Kind::Frozen | Kind::Shared | Kind::Dying)
}

/// Pages and guard.
fn span(shown: &Shown) -> PageRange {
    let len = Pages(shown.handle.pages.0 + shown.guard);
    PageRange { start: shown.handle.addr.vpn(), len }
}

fn overlap(a: PageRange, b: PageRange) -> bool {
    a.start < b.end() && b.start < a.end()
}
