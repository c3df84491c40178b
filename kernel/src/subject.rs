//! This kernel as the conformance suite sees it.
//!
//! A member is a window with an engine of its own; all of them over one set of frames and
//! backings. Accesses are real ones, and the two CPUs take turns: each of them has a TLB to forget
//! with.

use crate::arch;
use crate::machine::{self, KernelEngine, Parts, mmu};
use crate::smp;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use vmalloc_core::backing::Backings;
use vmalloc_core::frames::Buddy;
use vmalloc_core::platform::{FRAME_WORDS, Frames, Mapper};
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{
    AllocError, Area, AttachError, Extent, FreeError, Freed, Geometry, Machine, ORDER_MAX, Order,
    PAGE_SIZE, Pages, Pfn, Prot, Publish, PurgeError, Purged, ResizeError, ShareError, Stats,
    Token, VirtAddr, Vpn,
};
use vmalloc_sim::{Abilities, Handle, Host, Refused, Setup, Subject, TokenKey, Want};

/// Backings that a rule may use.
const BACKINGS: usize = 20_000;

/// Makes the subjects.
pub struct KernelHost;

impl Host for KernelHost {
    fn with(&self, setup: Setup, test: &mut dyn FnMut(&mut dyn Subject)) {
        with_engines(setup, |parts, engines| {
            let setup = Setup { members: engines.len(), ..setup };
            let mut subject = KernelSubject {
                parts,
                engines,
                setup,
                areas: Vec::new(),
                tokens: Vec::new(),
                borrowed: Pages(0),
                turn: 0,
            };
            test(&mut subject);
            for engine in engines {
                engine.purge().expect("a purge where waiting is allowed");
            }
            // What the rule left live stays mapped: the next rule's engine knows nothing of it.
            for (index, _) in engines.iter().enumerate() {
                let window = machine::window_of(index);
                let range = vmalloc_core::PageRange { len: setup.window, ..window };
                let mmu = engines[index].machine().hardware();
                mmu.unmap_run(range);
                vmalloc_core::platform::Tlb::flush_all_cpus(mmu, &[range]);
            }
        });
    }

    fn name(&self) -> &str {
        "kernel"
    }
}

/// Words that are zero.
pub fn words(len: usize) -> Vec<AtomicU64> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

/// Engines over the first windows, fresh, over the first frames of the pool.
pub fn with_engines<R>(setup: Setup, body: impl FnOnce(&Parts<'_>, &[KernelEngine<'_>]) -> R) -> R {
    let geometry = Geometry::for_window(setup.window);
    assert!(setup.frames <= machine::pool().len, "a pool of {}", setup.frames);
    let frame_words = words(Buddy::words_needed(setup.frames));
    let backing_words = words(Backings::words_needed(BACKINGS));
    let table_words: Vec<_> = (0..setup.members).map(|_| words(geometry.words())).collect();
    let first = machine::pool().start;
    let buddy = Buddy::format(&frame_words, first, setup.frames).expect("a pool of frames");
    let parts = Parts { buddy: &buddy, backings: Backings::format(&backing_words, BACKINGS) };
    let engines: Vec<_> = table_words
        .iter()
        .enumerate()
        .map(|(i, words)| machine::engine(&parts, words, i, setup.window, setup.lazy_pages_max))
        .collect();
    body(&parts, &engines)
}

struct KernelSubject<'k, 'a> {
    parts: &'k Parts<'a>,
    engines: &'k [KernelEngine<'a>],
    setup: Setup,
    /// By [`Handle::key`].
    areas: Vec<Area>,
    /// By [`TokenKey`].
    tokens: Vec<(Token, Publish)>,
    borrowed: Pages,
    turn: usize,
}

impl KernelSubject<'_, '_> {
    fn handle(&mut self, member: usize, area: Area) -> Handle {
        self.areas.push(area);
        let (key, addr) = (self.areas.len() - 1, area.addr());
        Handle { member, key, addr, bytes: area.bytes, pages: area.pages.len }
    }

    /// The word around `addr`, by whose turn it is.
    fn probe(&mut self, addr: u64) -> Result<u64, arch::Fault> {
        self.turn += 1;
        let word = addr & !7;
        if self.turn.is_multiple_of(2) { arch::load(word) } else { smp::load_there(word) }
    }
}

/// Cuts `at .. at + len` at the borders of pages.
fn each_page(at: u64, len: usize, mut visit: impl FnMut(u64, core::ops::Range<usize>) -> bool) {
    let mut done = 0;
    while done < len {
        let addr = at + done as u64;
        let part = (PAGE_SIZE - addr as usize % PAGE_SIZE).min(len - done);
        if !visit(addr, done..done + part) {
            return;
        }
        done += part;
    }
}

impl Subject for KernelSubject<'_, '_> {
    fn abilities(&self) -> Abilities {
        Abilities {
            frees_by_address: true,
            vmaps: true,
            resizes: true,
            injects_faults: false,
            attaches_repeatedly: true,
            shares_window: false,
            refuses_second_share: true,
            owner_writes_frozen: true,
            guards_fault: true,
            freed_faults: true,
            purges_in_steps: true,
            user_align: Pages(1),
            align_max: ORDER_MAX.pages(),
        }
    }

    fn setup(&self) -> Setup {
        self.setup
    }

    fn overhead(&self, pages: Pages) -> Pages {
        Pages(pages.0.saturating_sub(2).div_ceil(FRAME_WORDS as u64 - 2))
    }

    fn alloc(&mut self, member: usize, want: &Want) -> Result<Handle, AllocError> {
        let area = self.engines[member].vmalloc(&want.request())?;
        Ok(self.handle(member, area))
    }

    fn free(&mut self, handle: Handle) -> Result<bool, FreeError> {
        let area = self.areas[handle.key];
        over_limit(self.engines[handle.member].free(area.id, area.generation))
    }

    fn free_at(&mut self, member: usize, addr: VirtAddr) -> Result<bool, FreeError> {
        over_limit(self.engines[member].vfree(addr))
    }

    fn resize(&mut self, handle: Handle, bytes: u64, zeroed: bool) -> Result<Handle, ResizeError> {
        let area = self.areas[handle.key];
        let area = self.engines[handle.member].resize(area.id, area.generation, bytes, zeroed)?;
        Ok(self.handle(handle.member, area))
    }

    fn write(&mut self, handle: Handle, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        let mut result = Ok(());
        each_page(handle.addr.0 + at, bytes.len(), |addr, part| {
            // A load, and a store of what was loaded, by whose turn it is.
            let stored = self.probe(addr).and_then(|word| match self.turn % 2 {
                0 => arch::store(addr & !7, word),
                _ => smp::store_there(addr & !7, word),
            });
            match stored {
                Ok(()) => arch::copy_to(addr, &bytes[part]),
                Err(_) => result = Err(Refused { addr: VirtAddr(addr) }),
            }
            result.is_ok()
        });
        result
    }

    fn read(&mut self, handle: Handle, at: u64, out: &mut [u8]) -> Result<(), Refused> {
        let mut result = Ok(());
        each_page(handle.addr.0 + at, out.len(), |addr, part| {
            match self.probe(addr) {
                Ok(_) => arch::copy_from(addr, &mut out[part]),
                Err(_) => result = Err(Refused { addr: VirtAddr(addr) }),
            }
            result.is_ok()
        });
        result
    }

    fn is_readable(&mut self, _member: usize, addr: VirtAddr) -> bool {
        self.probe(addr.0).is_ok()
    }

    fn share(&mut self, handle: Handle, how: Publish) -> Result<TokenKey, ShareError> {
        let area = self.areas[handle.key];
        let token = self.engines[handle.member].share(area.id, area.generation, how)?;
        self.tokens.push((token, how));
        Ok(TokenKey(self.tokens.len() - 1))
    }

    fn attach(&mut self, member: usize, token: TokenKey) -> Result<Handle, AttachError> {
        let (token, how) = self.tokens[token.0];
        let prot = if how == Publish::Frozen { Prot::READ } else { Prot::READ_WRITE };
        let area = self.engines[member].attach(&token, prot)?;
        Ok(self.handle(member, area))
    }

    fn detach(&mut self, handle: Handle) -> Result<bool, FreeError> {
        self.vunmap(handle)
    }

    fn take_frames(&mut self, count: usize) -> Option<Vec<Pfn>> {
        let take = |_| self.parts.buddy.take(Order(0)).ok();
        let taken: Vec<Pfn> = (0..count).map_while(take).collect();
        self.borrowed.0 += taken.len() as u64;
        if taken.len() < count {
            self.give_frames(&taken);
            return None;
        }
        Some(taken)
    }

    fn give_frames(&mut self, frames: &[Pfn]) {
        for &start in frames {
            self.parts.buddy.give(Extent { start, len: Pages(1) });
        }
        self.borrowed.0 -= frames.len() as u64;
    }

    fn vmap(&mut self, member: usize, frames: &[Extent]) -> Result<Handle, AllocError> {
        let area = self.engines[member].vmap(frames, Prot::READ_WRITE)?;
        Ok(self.handle(member, area))
    }

    fn vunmap(&mut self, handle: Handle) -> Result<bool, FreeError> {
        over_limit(self.engines[handle.member].vunmap(handle.addr))
    }

    fn purge_step(&mut self, member: usize) -> Result<Purged, PurgeError> {
        self.engines[member].purge_step()
    }

    fn areas(&self, member: usize) -> Vec<Area> {
        self.engines[member].areas().collect()
    }

    fn stats(&self, member: usize) -> Stats {
        self.engines[member].stats()
    }

    fn frame_at(&self, member: usize, page: Vpn) -> Option<Pfn> {
        let (tables, _) = mmu().translate(page)?;
        let (engine, _) = self.engines[member].machine().translate(page)?;
        assert_eq!(tables, engine, "{page}: the engine's machine and the tables disagree");
        Some(tables)
    }

    fn verify(&mut self) -> Result<(), String> {
        for engine in self.engines {
            engine.verify().map_err(|e| e.to_string())?;
        }
        self.parts.buddy.verify().map_err(|e| e.to_string())?;
        let records = self.parts.backings.metadata_frames(&machine::Mem::new());
        let owned = self.parts.backings.owned_frames().0 + records.0 + self.borrowed.0;
        let in_use = self.parts.buddy.total().0 - self.parts.buddy.free().0;
        if owned != in_use {
            return Err(alloc::format!("{in_use} frames in use, {owned} have an owner"));
        }
        Ok(())
    }
}

fn over_limit(freed: Result<Freed, FreeError>) -> Result<bool, FreeError> {
    freed.map(|freed| freed.over_limit)
}
