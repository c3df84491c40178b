//! The machine in place as a subject of the suite: all members in one window.

use super::{Pool, PoolEngine};
use crate::{Abilities, Handle, Host, Refused, Setup, Subject, TokenKey, Want};
use std::ops::Range;
use vmalloc_core::{
    AllocError, Area, AttachError, Extent, FreeError, Freed, Geometry, PAGE_SIZE, Pages, Pfn, Prot,
    Publish, PurgeError, Purged, ResizeError, ShareError, Stats, Token, VirtAddr, Vpn,
};

const PAGE: u64 = PAGE_SIZE as u64;

/// Makes pools in place.
pub struct InPlaceHost;

impl Host for InPlaceHost {
    fn with(&self, setup: Setup, test: &mut dyn FnMut(&mut dyn Subject)) {
        let granules = setup.window.0.div_ceil(128) as usize;
        let geometry =
            Geometry { granules, small_granules: granules, members: setup.members, in_place: true };
        let pool = Pool::sized(geometry, setup.frames, setup.lazy_pages_max);
        let (areas, tokens) = (Vec::new(), Vec::new());
        test(&mut InPlaceSubject { pool: &pool, setup, areas, tokens });
    }

    fn name(&self) -> &str {
        "in place"
    }
}

struct InPlaceSubject<'p> {
    pool: &'p Pool,
    setup: Setup,
    /// By key: the area, and whether this member may write it.
    areas: Vec<(Area, bool)>,
    tokens: Vec<(Token, Publish)>,
}

impl<'p> InPlaceSubject<'p> {
    fn engine(&self, member: usize) -> PoolEngine<'p> {
        self.pool.engine(member + 1)
    }

    fn handle(&mut self, member: usize, area: Area, writable: bool) -> Handle {
        self.areas.push((area, writable));
        let key = self.areas.len() - 1;
        Handle { member, key, addr: area.addr(), bytes: area.bytes, pages: area.pages.len }
    }

    /// Gives `each` every part of these bytes that lies in one page.
    fn pieces(
        &self,
        addr: VirtAddr,
        len: usize,
        mut each: impl FnMut(&mut [u8], Range<usize>),
    ) -> Result<(), Refused> {
        let mut ground = self.pool.ground.borrow_mut();
        let mut done = 0;
        while done < len {
            let at = addr.0 + done as u64;
            let offset = (at % PAGE) as usize;
            let part = (PAGE_SIZE - offset).min(len - done);
            let refused = Refused { addr: VirtAddr(at) };
            let page = ground.backed.get_mut(&(at / PAGE)).ok_or(refused)?;
            each(&mut page[offset..offset + part], done..done + part);
            done += part;
        }
        Ok(())
    }
}

impl Subject for InPlaceSubject<'_> {
    fn abilities(&self) -> Abilities {
        Abilities {
            frees_by_address: true,
            vmaps: false,
            resizes: true,
            injects_faults: false,
            attaches_repeatedly: false,
            shares_window: true,
            refuses_second_share: true,
            owner_writes_frozen: true,
            guards_fault: true,
            freed_faults: true,
            purges_in_steps: true,
            align_max: Pages(512),
            user_align: Pages(1),
        }
    }

    fn setup(&self) -> Setup {
        self.setup
    }

    fn alloc(&mut self, member: usize, want: &Want) -> Result<Handle, AllocError> {
        let area = self.engine(member).vmalloc(&want.request())?;
        Ok(self.handle(member, area, true))
    }

    fn free(&mut self, handle: Handle) -> Result<bool, FreeError> {
        let (area, _) = self.areas[handle.key];
        let engine = self.engine(handle.member);
        let freed = engine.free(area.id, area.generation)?;
        if self.tokens.iter().any(|(t, _)| (t.area, t.generation) == (area.id, area.generation)) {
            return Ok(engine.detach(area.id, area.generation).over_limit);
        }
        Ok(freed.over_limit)
    }

    fn free_at(&mut self, member: usize, addr: VirtAddr) -> Result<bool, FreeError> {
        self.engine(member).vfree(addr).map(|Freed { over_limit }| over_limit)
    }

    fn resize(&mut self, handle: Handle, bytes: u64, zeroed: bool) -> Result<Handle, ResizeError> {
        let (area, _) = self.areas[handle.key];
        let area = self.engine(handle.member).resize(area.id, area.generation, bytes, zeroed)?;
        Ok(self.handle(handle.member, area, true))
    }

    fn write(&mut self, handle: Handle, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        let addr = VirtAddr(handle.addr.0 + at);
        if !self.areas[handle.key].1 {
            return Err(Refused { addr });
        }
        self.pieces(addr, bytes.len(), |page, part| page.copy_from_slice(&bytes[part]))
    }

    fn read(&mut self, handle: Handle, at: u64, out: &mut [u8]) -> Result<(), Refused> {
        let addr = VirtAddr(handle.addr.0 + at);
        self.pieces(addr, out.len(), |page, part| out[part].copy_from_slice(page))
    }

    fn is_readable(&mut self, _member: usize, addr: VirtAddr) -> bool {
        self.pieces(addr, 1, |_, _| ()).is_ok()
    }

    fn share(&mut self, handle: Handle, how: Publish) -> Result<TokenKey, ShareError> {
        let (area, _) = self.areas[handle.key];
        let token = self.engine(handle.member).share(area.id, area.generation, how)?;
        self.tokens.push((token, how));
        Ok(TokenKey(self.tokens.len() - 1))
    }

    fn attach(&mut self, member: usize, token: TokenKey) -> Result<Handle, AttachError> {
        let (token, how) = self.tokens[token.0];
        let area = self.engine(member).attach(&token, Prot::READ_WRITE)?;
        Ok(self.handle(member, area, how == Publish::Shared))
    }

    fn detach(&mut self, handle: Handle) -> Result<bool, FreeError> {
        let (area, _) = self.areas[handle.key];
        Ok(self.engine(handle.member).detach(area.id, area.generation).over_limit)
    }

    fn take_frames(&mut self, _count: usize) -> Option<Vec<Pfn>> {
        None
    }

    fn give_frames(&mut self, _frames: &[Pfn]) {}

    fn vmap(&mut self, member: usize, frames: &[Extent]) -> Result<Handle, AllocError> {
        let area = self.engine(member).vmap(frames, Prot::READ_WRITE)?;
        Ok(self.handle(member, area, true))
    }

    fn vunmap(&mut self, handle: Handle) -> Result<bool, FreeError> {
        self.engine(handle.member).vunmap(handle.addr).map(|freed| freed.over_limit)
    }

    fn purge_step(&mut self, member: usize) -> Result<Purged, PurgeError> {
        self.engine(member).purge_step()
    }

    fn areas(&self, member: usize) -> Vec<Area> {
        self.engine(member).areas().collect()
    }

    fn stats(&self, member: usize) -> Stats {
        self.engine(member).stats()
    }

    fn frame_at(&self, _member: usize, _page: Vpn) -> Option<Pfn> {
        None
    }

    fn verify(&mut self) -> Result<(), String> {
        self.engine(0).verify().map_err(|e| e.to_string())?;
        let held: u64 = self.areas(0).iter().map(|area| area.pages.len.0).sum();
        let ground = self.pool.ground();
        if ground.charged != held || ground.backed.len() as u64 != held {
            let (charged, backed) = (ground.charged, ground.backed.len());
            return Err(format!("{held} pages held, {charged} charged, {backed} backed"));
        }
        Ok(())
    }
}
