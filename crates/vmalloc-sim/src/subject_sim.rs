//! The simulated machine as a [`Subject`]: a [`SimKernel`], its CPUs for every load and store.

use crate::kernel::{CPUS_PER_SPACE, KernelConfig, SimKernel};
use crate::subject::{Abilities, Handle, Host, Refused, Setup, Subject, TokenKey, Want};
use crate::{Step, TlbSize};
use vmalloc_core::platform::{FRAME_WORDS, Frames, Mapper, Prot};
use vmalloc_core::{
    AllocError, Area, AttachError, Extent, FreeError, Freed, Machine, ORDER_MAX, Order, Pages, Pfn,
    Publish, PurgeError, Purged, ResizeError, ShareError, Stats, Token, VirtAddr, Vpn,
};

/// Makes [`SimSubject`]s: a member is an address space, member 0 the kernel's half.
#[derive(Clone, Copy, Debug)]
pub struct SimHost {
    /// The TLB of each CPU.
    pub tlb: TlbSize,
}

impl Default for SimHost {
    /// TLBs that forget nothing.
    fn default() -> SimHost {
        SimHost { tlb: TlbSize::Unlimited }
    }
}

impl Host for SimHost {
    fn with(&self, setup: Setup, test: &mut dyn FnMut(&mut dyn Subject)) {
        let config = KernelConfig {
            frames: setup.frames,
            window: setup.window,
            spaces: setup.members,
            lazy_pages_max: setup.lazy_pages_max,
            tlb: self.tlb,
            ..KernelConfig::default()
        };
        SimKernel::run(config, |kernel| test(&mut SimSubject::new(kernel, setup)));
    }

    fn name(&self) -> &str {
        "sim"
    }
}

/// A [`SimKernel`] under test.
pub struct SimSubject<'k, 'a> {
    kernel: &'k SimKernel<'a>,
    setup: Setup,
    /// By [`Handle::key`].
    areas: Vec<Area>,
    /// By [`TokenKey`].
    tokens: Vec<(Token, Publish)>,
    /// Frames that `take_frames` gave.
    borrowed: Pages,
    /// Counts accesses, so that the CPUs of a space take turns.
    turn: usize,
    /// Faults fired before the plan was last armed.
    fired: u64,
}

impl<'k, 'a> SimSubject<'k, 'a> {
    /// The subject that stands for `kernel`, which was made for `setup` and not used yet.
    #[must_use]
    pub fn new(kernel: &'k SimKernel<'a>, setup: Setup) -> SimSubject<'k, 'a> {
        let (areas, tokens) = (Vec::new(), Vec::new());
        SimSubject { kernel, setup, areas, tokens, borrowed: Pages(0), turn: 0, fired: 0 }
    }

    fn handle(&mut self, member: usize, area: Area) -> Handle {
        self.areas.push(area);
        let (key, addr) = (self.areas.len() - 1, area.addr());
        Handle { member, key, addr, bytes: area.bytes, pages: area.pages.len }
    }

    /// The CPUs of a space take turns, so that each of them has translations to lose.
    fn next_cpu(&mut self, member: usize) -> usize {
        self.turn += 1;
        member * CPUS_PER_SPACE + self.turn % CPUS_PER_SPACE
    }
}

impl Subject for SimSubject<'_, '_> {
    fn abilities(&self) -> Abilities {
        Abilities {
            frees_by_address: true,
            vmaps: true,
            resizes: true,
            injects_faults: true,
            attaches_repeatedly: true,
            shares_window: false,
            refuses_second_share: true,
            owner_writes_frozen: true,
            guards_fault: true,
            freed_faults: true,
            purges_in_steps: true,
            align_max: ORDER_MAX.pages(),
            user_align: self.kernel.space(0).user_align(),
        }
    }

    fn setup(&self) -> Setup {
        self.setup
    }

    /// Two extents stand in the backing's record; the rest in frames, all words but two of each.
    fn overhead(&self, pages: Pages) -> Pages {
        Pages(pages.0.saturating_sub(2).div_ceil(FRAME_WORDS as u64 - 2))
    }

    fn alloc(&mut self, member: usize, want: &Want) -> Result<Handle, AllocError> {
        let area = self.kernel.engine(member).vmalloc(&want.request())?;
        Ok(self.handle(member, area))
    }

    fn free(&mut self, handle: Handle) -> Result<bool, FreeError> {
        let area = self.areas[handle.key];
        over_limit(self.kernel.engine(handle.member).free(area.id, area.generation))
    }

    fn free_at(&mut self, member: usize, addr: VirtAddr) -> Result<bool, FreeError> {
        over_limit(self.kernel.engine(member).vfree(addr))
    }

    fn resize(&mut self, handle: Handle, bytes: u64, zeroed: bool) -> Result<Handle, ResizeError> {
        let area = self.areas[handle.key];
        let engine = self.kernel.engine(handle.member);
        let area = engine.resize(area.id, area.generation, bytes, zeroed)?;
        Ok(self.handle(handle.member, area))
    }

    fn write(&mut self, handle: Handle, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        let addr = VirtAddr(handle.addr.0 + at);
        let cpu = self.next_cpu(handle.member);
        self.kernel.cpu(cpu).write(addr, bytes).map_err(|_| Refused { addr })
    }

    fn read(&mut self, handle: Handle, at: u64, out: &mut [u8]) -> Result<(), Refused> {
        let addr = VirtAddr(handle.addr.0 + at);
        let cpu = self.next_cpu(handle.member);
        self.kernel.cpu(cpu).read(addr, out).map_err(|_| Refused { addr })
    }

    fn is_readable(&mut self, member: usize, addr: VirtAddr) -> bool {
        let cpu = self.next_cpu(member);
        self.kernel.cpu(cpu).read(addr, &mut [0]).is_ok()
    }

    fn share(&mut self, handle: Handle, how: Publish) -> Result<TokenKey, ShareError> {
        let area = self.areas[handle.key];
        let token = self.kernel.engine(handle.member).share(area.id, area.generation, how)?;
        self.tokens.push((token, how));
        Ok(TokenKey(self.tokens.len() - 1))
    }

    fn attach(&mut self, member: usize, token: TokenKey) -> Result<Handle, AttachError> {
        let (token, how) = self.tokens[token.0];
        let prot = if how == Publish::Frozen { Prot::READ } else { Prot::READ_WRITE };
        let area = self.kernel.engine(member).attach(&token, prot)?;
        Ok(self.handle(member, area))
    }

    fn detach(&mut self, handle: Handle) -> Result<bool, FreeError> {
        self.vunmap(handle)
    }

    fn take_frames(&mut self, count: usize) -> Option<Vec<Pfn>> {
        let frames = self.kernel.frames();
        let taken: Vec<Pfn> = (0..count).map_while(|_| frames.take(Order(0)).ok()).collect();
        self.borrowed.0 += taken.len() as u64;
        if taken.len() < count {
            self.give_frames(&taken);
            return None;
        }
        Some(taken)
    }

    fn give_frames(&mut self, frames: &[Pfn]) {
        for &start in frames {
            self.kernel.frames().give(Extent { start, len: Pages(1) });
        }
        self.borrowed.0 -= frames.len() as u64;
    }

    fn vmap(&mut self, member: usize, frames: &[Extent]) -> Result<Handle, AllocError> {
        let area = self.kernel.engine(member).vmap(frames, Prot::READ_WRITE)?;
        Ok(self.handle(member, area))
    }

    fn vunmap(&mut self, handle: Handle) -> Result<bool, FreeError> {
        over_limit(self.kernel.engine(handle.member).vunmap(handle.addr))
    }

    fn purge_step(&mut self, member: usize) -> Result<Purged, PurgeError> {
        self.kernel.engine(member).purge_step()
    }

    fn areas(&self, member: usize) -> Vec<Area> {
        self.kernel.engine(member).areas().collect()
    }

    fn stats(&self, member: usize) -> Stats {
        self.kernel.engine(member).stats()
    }

    fn frame_at(&self, member: usize, page: Vpn) -> Option<Pfn> {
        let (tables, _) = self.kernel.space(member).translate(page)?;
        let (engine, _) = self.kernel.engine(member).machine().translate(page)?;
        assert_eq!(tables, engine, "{page}: the engine's machine and its space disagree");
        Some(tables)
    }

    fn verify(&mut self) -> Result<(), String> {
        self.kernel.verify_with(self.borrowed).map_err(|e| e.to_string())
    }

    fn fail_nth(&mut self, step: Step, n: u64) {
        self.fired += self.kernel.hardware().faults().fired(step);
        self.kernel.hardware().faults().fail_nth(step, n);
    }

    fn fail_none(&mut self) {
        self.fired = self.faults_fired();
        self.kernel.hardware().faults().reset();
    }

    fn set_may_wait(&mut self, may: bool) {
        self.kernel.hardware().set_may_wait(may);
    }

    fn faults_fired(&self) -> u64 {
        let plan = self.kernel.hardware().faults();
        self.fired + Step::ALL.iter().map(|&step| plan.fired(step)).sum::<u64>()
    }
}

fn over_limit(freed: Result<Freed, FreeError>) -> Result<bool, FreeError> {
    freed.map(|freed| freed.over_limit)
}
