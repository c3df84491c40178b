//! The engine: each verb of vmalloc as its walk through the stages.
//!
//! ```text
//!  Request ─plan▶ Plan ─reserve▶ Reserved ─back▶ Backed ─map▶ Mapped ─publish▶ Area      alloc
//!                   └── the same shape is parked: revive ─────────────────────▶ Area
//!  Area ─park▶ lazy list ─purge▶ PendingFlush ─flush▶ Flushed ─settle▶ holes, frames     free
//!  Area ─share▶ Token ┄┄▶ attach ▶ Area … detach, free in any order                      share
//! ```
//!
//! Each stage is one file, takes the type before it and yields the type after it, and knows no
//! neighbour; here they are put together, and nowhere else. The one step back (no room → purge →
//! again) is `Engine::with_purge`, in `engine/care.rs`. A stage's value that is dropped undoes
//! itself, so `?` is all the error handling a walk needs. What only looks is in `engine/look.rs`,
//! what grows shared areas in `engine/grow.rs`, what gives areas away in `engine/give.rs`.

mod care;
mod decay;
mod give;
mod grow;
mod look;
mod map;
mod protect;
mod realloc;
mod remap;
mod reserve;
mod warm;

use crate::back::{adopt, back, borrow};
use crate::class::GRANULE_PAGES;
use crate::context::{Context, Tally};
use crate::error::{AllocError, AttachError, EngineError, FreeError, ResizeError, ShareError};
use crate::layout::{Geometry, Stat, Tables};
use crate::machine::{BackError, Backing, Machine};
use crate::map::map;
use crate::paged::{Hardware, Paged};
use crate::platform::{Frames, MapError};
use crate::prot::Prot;
use crate::publish::{Area, AreaId, publish};
use crate::purge::purge_live;
use crate::record::{Kind, Record, State, flags};
use crate::recover::{self, Recovered, recover};
use crate::refit::refit;
use crate::request::{Limits, Plan, Request};
use crate::reserve::reserve;
use crate::resize::resize;
use crate::share::{self, Publish, Token, attach_in_place, free_published};
use crate::shrink::Shrinker;
use crate::tag::Owner;
use crate::units::{Extent, Pages, VirtAddr, Vpn};
use crate::{lazy, registry};

/// vmalloc for one window, as one member uses it. All methods take `&self`: threads share it.
///
/// Over words that several processes map, each process has an engine of its own; they work on the
/// same areas.
pub struct Engine<'a, M> {
    context: Context<'a, M>,
    // Constant after `new`.
    lazy_pages_max: Pages,
    lazy_pages_low: Pages,
    shrinkers: &'a [&'a (dyn Shrinker + Sync)],
}

/// What may differ between engines over the same window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The window's first page: a multiple of 128.
    pub window_start: Vpn,
    /// Which member this engine works for.
    pub owner: Owner,
    /// How many pages may be parked before [`Freed::over_limit`] asks for a purge. Linux:
    /// `lazy_max_pages`, 32 MiB times log2 of the CPUs.
    pub lazy_pages_max: Pages,
}

/// What a free asks of its caller, who may wait where the free may not.
#[must_use = "a caller that may wait should purge when over the limit"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freed {
    /// More pages are parked than the limit allows: call [`Engine::relieve`] when convenient.
    pub over_limit: bool,
}

impl<'a, M: Machine> Engine<'a, M> {
    /// An engine over `tables`, which it takes as they are: a window in use goes on in use.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: what of the configuration does not fit.
    #[inline(always)] // made anew for each call, where a pool's words are mapped
    pub fn new(tables: Tables<'a>, machine: M, config: Config) -> Result<Self, EngineError> {
        let members = tables.geometry().members;
        if config.owner.number() > members {
            return Err(EngineError::Member { owner: config.owner, members });
        }
        if M::IN_PLACE && !tables.geometry().in_place {
            return Err(EngineError::NotInPlace);
        }
        if !config.window_start.0.is_multiple_of(GRANULE_PAGES) {
            return Err(EngineError::WindowStart { start: config.window_start });
        }
        let (me, start) = (config.owner, config.window_start);
        let lazy_pages_max = config.lazy_pages_max;
        let lazy_slack = lazy_slack(lazy_pages_max);
        let context = Context { tables, me, machine, start, lazy_slack };
        // Over page tables a shootdown interrupts every CPU, so it takes all that is parked.
        let lazy_pages_low = Pages(if M::IN_PLACE { lazy_pages_max.0 / 2 } else { 0 });
        Ok(Engine { context, lazy_pages_max, lazy_pages_low, shrinkers: &[] })
    }

    /// Allocates memory that is contiguous in the window, out of frames that need not be.
    ///
    /// Revives a parked area of the same shape if there is one; in place, once much is parked, makes
    /// one of about the same size fit; else takes a slot, frames for it, and maps them. Purges and
    /// tries again if there is no room and waiting is allowed.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was taken.
    #[inline]
    pub fn vmalloc(&self, request: &Request) -> Result<Area, AllocError> {
        let plan = self.plan(request)?;
        match lazy::revive_last(&self.context, &plan) {
            Some(area) => Ok(area), // counted there
            None => self.vmalloc_planned(&plan),
        }
    }

    #[inline(never)]
    fn vmalloc_planned(&self, plan: &Plan) -> Result<Area, AllocError> {
        // Over page tables the low mark may be 0: what other lanes parked is left to them up to the
        // high one.
        let plenty = if M::IN_PLACE { self.lazy_pages_low } else { self.lazy_pages_max };
        if let Some(area) = lazy::revive(&self.context, plan, plenty) {
            return Ok(area); // counted there
        }
        if let Some(area) = refit(&self.context, plan, self.lazy_pages_low) {
            return Ok(area); // likewise
        }
        self.counted(self.with_purge(plan, || {
            let reserved = reserve(&self.context, plan)?;
            let backed = back(reserved).map_err(AllocError::Back)?;
            let mapped = map(backed).map_err(AllocError::Map)?;
            Ok(publish(mapped))
        }))
    }

    /// The same, filled with zeros.
    ///
    /// # Errors
    ///
    /// As [`Engine::vmalloc`].
    pub fn vzalloc(&self, request: &Request) -> Result<Area, AllocError> {
        self.vmalloc(&request.zeroed())
    }

    /// Shows frames that the caller owns as one contiguous area, in the order given. The frames
    /// stay the caller's, and must live until the area has been purged: until then it shows them, and
    /// if the same frames are to be shown again with the same rights it is taken back into use.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was mapped. `Back(Unsupported)` where the machine has no frames to
    /// choose.
    pub fn vmap(&self, frames: &[Extent], prot: Prot) -> Result<Area, AllocError> {
        if let Some(area) = self.vmap_warm(frames, prot) {
            return Ok(area); // counted there
        }
        let pages = frames.iter().fold(0_u64, |sum, run| sum.saturating_add(run.len.0));
        let bytes = pages.saturating_mul(crate::PAGE_SIZE as u64);
        let plan = self.plan(&mapping(bytes, prot, flags::VMAP))?;
        let area = self.counted(self.with_purge(&plan, || {
            let reserved = reserve(&self.context, &plan)?;
            let backed = adopt(reserved, frames).map_err(AllocError::Back)?;
            let mapped = map(backed).map_err(AllocError::Map)?;
            Ok(publish(mapped))
        }))?;
        self.remember(frames.first(), &area);
        Ok(area)
    }

    /// Frees the area whose first byte is `addr`. Never waits, never allocates, legal with
    /// interrupts off: the area is parked, its frames and pages come back with a purge.
    ///
    /// # Errors
    ///
    /// [`FreeError`]: what is wrong with the address; nothing was freed.
    #[inline]
    pub fn vfree(&self, addr: VirtAddr) -> Result<Freed, FreeError> {
        self.free_at(addr, false)
    }

    /// Takes away what [`Engine::vmap`] or [`Engine::attach`] mapped. As `vfree`, it only parks: the
    /// pages show the frames until a purge, and any CPU that kept the address reaches them. Whoever
    /// gives the frames to somebody who must not be reached by it calls
    /// [`Engine::vm_unmap_aliases`] before, or [`Engine::vunmap_at_once`] instead.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing was unmapped.
    pub fn vunmap(&self, addr: VirtAddr) -> Result<Freed, FreeError> {
        self.free_at(addr, true)
    }

    /// Frees by handle: the tenant `generation` of area `id`, this member's own or published.
    ///
    /// # Errors
    ///
    /// [`FreeError::Stale`], [`FreeError::NotMine`]; nothing was freed.
    #[inline]
    pub fn free(&self, id: AreaId, generation: u64) -> Result<Freed, FreeError> {
        match self.free_warm(id, generation) {
            Some(freed) => Ok(freed),
            None => self.free_known(id, generation),
        }
    }

    #[inline(never)]
    fn free_known(&self, id: AreaId, generation: u64) -> Result<Freed, FreeError> {
        let stale = FreeError::Stale { generation };
        let record = share::record_of(&self.context, id).ok_or(stale)?;
        let state = record.state().filter(|s| s.generation == generation).ok_or(stale)?;
        self.free_record(record, state)
    }

    /// Frees the area of a record that was in `state`.
    fn free_record(&self, record: Record<'_>, state: State) -> Result<Freed, FreeError> {
        match state.kind {
            Kind::Live if state.owner != Some(self.context.me) => {
                Err(FreeError::NotMine { owner: state.owner })
            }
            // Its protection is put back at once, and that waits.
            Kind::Live
                if record.flags() & flags::RESET_PERMS != 0 && !self.context.machine.may_wait() =>
            {
                Err(FreeError::MayNotWait)
            }
            // Where waiting is forbidden the next purge takes it, and nobody revives it meanwhile.
            Kind::Live if record.flags() & flags::NO_REUSE != 0 && self.purges(record, state) => {
                self.context.count(Stat::Frees, 1);
                Ok(self.limit())
            }
            Kind::Live | Kind::Given if lazy::park(&self.context, record, state) => {
                self.context.count(Stat::Frees, 1);
                Ok(self.limit())
            }
            Kind::Frozen | Kind::Shared => {
                free_published(&self.context, record, state).map(|()| self.limit())
            }
            _ => Err(FreeError::Stale { generation: state.generation }),
        }
    }

    /// Gives an area that is this member's alone another size, where it lies: a longer one takes
    /// frames, and pages behind it if nobody has them; a shorter one gives frames back. New pages
    /// are zeros if `zeroed`. Linux: `vrealloc`, which never grows an area.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]; the area is as it was. `NoRoom`: it would have to move.
    pub fn resize(
        &self,
        id: AreaId,
        generation: u64,
        bytes: u64,
        zeroed: bool,
    ) -> Result<Area, ResizeError> {
        self.resize_known(id, generation, None, bytes, zeroed)
    }

    /// As [`Engine::resize`], for an owner that knows how many pages it holds: a record that says
    /// otherwise is not believed. Pages that a hostile member made up have no frames.
    ///
    /// # Errors
    ///
    /// [`ResizeError`]; the area is as it was.
    pub fn resize_known(
        &self,
        id: AreaId,
        generation: u64,
        known: Option<Pages>,
        bytes: u64,
        zeroed: bool,
    ) -> Result<Area, ResizeError> {
        loop {
            match resize(&self.context, id, generation, known, bytes, zeroed) {
                Err(ResizeError::Back(e))
                    if AllocError::Back(e).purge_may_help()
                        && self.made_room(Pages::for_bytes(bytes)) => {}
                done => return done,
            }
        }
    }

    /// Publishes an area that is this member's alone, and attaches this member to it.
    ///
    /// # Errors
    ///
    /// [`ShareError`]; the area is as it was.
    pub fn share(&self, id: AreaId, generation: u64, how: Publish) -> Result<Token, ShareError> {
        share::share(&self.context, id, generation, how)
    }

    /// Attaches to what the token names: where it lies, if this machine's members share it there;
    /// else its backing is mapped at pages of this window.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing is attached.
    pub fn attach(&self, token: &Token, prot: Prot) -> Result<Area, AttachError> {
        if M::IN_PLACE {
            return attach_in_place(&self.context, token);
        }
        let request = mapping(token.pages.bytes(), prot, flags::BORROWED);
        let plan = self.plan(&request).map_err(AttachError::Alloc)?;
        let area = self.with_purge(&plan, || {
            let reserved = reserve(&self.context, &plan)?;
            let backing = Backing(token.backing);
            let pages = self.context.machine.borrow(backing, token.generation);
            let pages = pages.map_err(AllocError::Back)?;
            let backed = borrow(reserved, backing);
            if pages != token.pages {
                return Err(AllocError::Back(BackError::Gone));
            }
            let mapped = map(backed).map_err(AllocError::Map)?;
            Ok(publish(mapped))
        });
        self.context.count(Stat::Attaches, u64::from(area.is_ok()));
        area.map_err(|e| match e {
            AllocError::Back(BackError::Gone) => {
                AttachError::Stale { generation: token.generation }
            }
            e => AttachError::Alloc(e),
        })
    }

    /// The published area that a token names, without attaching to it.
    ///
    /// # Errors
    ///
    /// [`AttachError::Stale`], [`AttachError::Malformed`].
    pub fn look(&self, token: &Token) -> Result<Area, AttachError> {
        share::look(&self.context, token)
    }

    /// Detaches this member from an area it attached to in place. The last one to leave an area
    /// that was freed parks it. Idempotent; never waits.
    pub fn detach(&self, id: AreaId, generation: u64) -> Freed {
        share::detach(&self.context, id, generation);
        self.limit()
    }

    /// Finishes or undoes what the dead member `dead` was doing, and detaches it everywhere. The
    /// caller makes sure that it is dead and that nobody else recovers it.
    pub fn recover(&self, dead: Owner) -> Recovered {
        recover(&self.context, dead)
    }

    /// Has the machine count anew what it has given out, if no area is between two states.
    pub fn recount(&self) {
        recover::recount(&self.context);
    }

    /// Says that what this member freed is nobody's: before its number goes to somebody else, who
    /// must not see what it left.
    pub fn leave(&self) {
        lazy::disown_all(&self.context, self.context.me);
    }

    /// The machine under this engine.
    pub fn machine(&self) -> &M {
        &self.context.machine
    }

    /// The shape of the window.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        self.context.tables.geometry()
    }

    #[inline]
    fn plan(&self, request: &Request) -> Result<Plan, AllocError> {
        let machine = &self.context.machine;
        let limits = Limits {
            capacity: machine.capacity(),
            align_max: M::ALIGN_MAX,
            user_align: machine.user_align(),
            start: self.context.start,
        };
        request.plan(&self.geometry(), &limits)
    }

    #[inline]
    fn free_at(&self, addr: VirtAddr, vmapped: bool) -> Result<Freed, FreeError> {
        match self.free_warm_at(addr, vmapped) {
            Some(freed) => Ok(freed),
            None => self.free_found(addr, vmapped),
        }
    }

    #[inline(never)]
    fn free_found(&self, addr: VirtAddr, vmapped: bool) -> Result<Freed, FreeError> {
        let (record, state, shape) = registry::base_of(&self.context, addr)?;
        if (shape.flags & flags::FOREIGN != 0) != vmapped {
            return Err(FreeError::WrongVerb);
        }
        self.free_record(record, state)
    }

    /// Whether an area is being purged or has been, and need not be parked.
    fn purges(&self, record: Record<'_>, live: State) -> bool {
        self.context.machine.may_wait() && purge_live(&self.context, record, live)
    }

    #[inline]
    fn limit(&self) -> Freed {
        self.limit_in(&self.context.tally())
    }

    #[inline]
    fn limit_in(&self, tally: &Tally<'_>) -> Freed {
        Freed { over_limit: self.context.lazy_pages_about(tally) > self.lazy_pages_max }
    }

    fn counted(&self, area: Result<Area, AllocError>) -> Result<Area, AllocError> {
        self.context.count(if area.is_ok() { Stat::Fresh } else { Stat::Failures }, 1);
        area
    }
}

impl<F: Frames, H: Hardware> Engine<'_, Paged<'_, F, H>> {
    /// Prepares the window in the page tables; once, before the first allocation.
    ///
    /// # Errors
    ///
    /// [`MapError::NoTable`].
    pub fn prepare(&self) -> Result<(), MapError> {
        self.context.machine.prepare(self.context.window())
    }
}

/// How far a lane's count of parked pages may be from what the others see: little enough that
/// all lanes of a busy member together are a quarter of the limit, and enough for one large area: who
/// parks and revives it again and again would write everybody's count each time.
#[inline]
fn lazy_slack(lazy_pages_max: Pages) -> Pages {
    Pages(lazy_pages_max.0 / 32)
}

pub use protect::ProtectError;
pub use remap::{Remap, RemapError, Vma, vma_flags};
pub use reserve::{Fill, FillError};

/// A request to show frames that exist.
fn mapping(bytes: u64, prot: Prot, flags: u64) -> Request {
    Request::bytes(bytes).with_flags(flags | prot.to_flags())
}
