//! What the model predicts of an allocation, and what it checks between steps.

use super::{Block, Contents, Done, Must, Role, Run, Shown};
use crate::subject::{Handle, Want};
use std::collections::BTreeMap;
use vmalloc_core::{AllocError, Area, BackError, Kind, PageRange, Pages, Pfn, VirtAddr, Vpn};

impl<'s> Run<'s> {
    pub(super) fn must_alloc(&self, member: usize, want: &Want) -> Must {
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
    pub(super) fn is_roomy(&self, align: Pages) -> bool {
        self.setup.window.0 >= 64 * self.setup.frames.0 && align.0 * 16 <= self.setup.window.0
    }

    /// Whether `pages` frames and the records of an area of `area` pages can be had for certain.
    pub(super) fn fits(&self, member: usize, pages: Pages, area: Pages) -> bool {
        let records = self.records().0 + self.subject.overhead(area).0;
        let used = self.living().0 + self.parked_elsewhere(member).0;
        self.may_wait && used + pages.0 + records <= self.setup.frames.0
    }

    /// Frames that a purge of this member's window cannot free: parked in another.
    pub(super) fn parked_elsewhere(&self, member: usize) -> Pages {
        if self.abilities.shares_window {
            return Pages(0);
        }
        let others = (0..self.setup.members).filter(|&other| other != member);
        let parked = others.flat_map(|other| self.subject.areas(other));
        let held = |pages: Pages| pages.0 + self.subject.overhead(pages).0;
        Pages(parked.filter(|a| !is_in_use(a.kind)).map(|a| held(a.pages.len)).sum())
    }

    /// Whether a refusal of what should have been served has a reason.
    pub(super) fn excuses(&self, fired_before: u64) -> bool {
        !self.may_wait || self.subject.faults_fired() > fired_before
    }

    pub(super) fn judge(
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
    pub(super) fn living(&self) -> Pages {
        let blocks = self.blocks.values().map(|block| block.pages.0).sum::<u64>();
        Pages(blocks + self.waiting.len() as u64)
    }

    /// Frames that their records may need at most. Parked areas need none: they are purged.
    pub(super) fn records(&self) -> Pages {
        Pages(self.blocks.values().map(|block| self.subject.overhead(block.pages).0).sum())
    }

    // What is shown.

    pub(super) fn show(
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
    pub(super) fn place(
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
    pub(super) fn hide(&mut self, at: usize) {
        let block = self.shown.remove(at).block;
        if !self.shown.iter().any(|s| s.block == block) {
            self.blocks.remove(&block);
        }
    }

    /// Gives the `nth` of those shown in this role to `then`.
    pub(super) fn with_nth(
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

    pub(super) fn compare(&mut self, shown: Shown, from: u64, len: u64) -> Result<(), String> {
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
    pub(super) fn clip(&self, shown: &Shown, from: u64, len: u64) -> (u64, u64) {
        let bytes = self.blocks[&shown.block].contents.len() as u64;
        let from = from % bytes;
        (from, len.min(bytes - from))
    }

    pub(super) fn verify(&mut self) -> Result<(), String> {
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
    pub(super) fn verify_listing(&self, member: usize) -> Result<(), String> {
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
    pub(super) fn verify_frames(&self) -> Result<(), String> {
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
    pub(super) fn finish(&mut self) -> Result<(), String> {
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
