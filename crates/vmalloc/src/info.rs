//! What a pool is and holds, for people and tools: a look that changes nothing.

use crate::error::OpenError;
use crate::header::Shape;
use crate::linear::Ground;
use crate::options::Options;
use crate::os::discover;
use crate::os::pagemap;
use crate::os::stitch;
use crate::pool::is_alive;
use crate::quota::held_by;
use crate::token::Token;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use vmalloc_core::{Area, Kind, Owner, PAGE_SIZE, Pages, Stats};

/// A pool, seen from outside: mapped, and not joined. Takes no slot, and writes nothing.
#[derive(Debug)]
pub struct Onlooker {
    pub(crate) ground: Ground,
}

/// Totals of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// The number that its tokens bear.
    pub id: u32,
    /// Seconds since 1970 when it was made.
    pub made_unix_s: u64,
    /// Bytes it may hold.
    pub capacity_bytes: u64,
    /// Bytes of areas, parked ones too.
    pub committed_bytes: u64,
    /// Bytes of real memory that the system holds for it, tables included.
    pub resident_bytes: u64,
    /// Bytes of tables that were committed when it was made.
    pub tables_bytes: u64,
    /// Bytes it may hold now; the capacity, if nobody has set less.
    pub limit_bytes: u64,
    /// VMAs that stitched views of this process take, and the runs of frames that it uses of framed
    /// pools.
    pub stitched_vmas: usize,
    /// The most that they may take.
    pub stitched_vmas_max: usize,
    /// Whether guard pages fault here: this kernel has `MADV_GUARD_INSTALL`.
    pub guards: bool,
    /// Whether it is a fixed piece of memory whose frames the pool hands out itself.
    pub framed: bool,
    /// The engine's totals.
    pub stats: Stats,
}

/// A member slot that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    /// Its number.
    pub number: usize,
    /// The process that joined, in its own pid namespace.
    pub pid: u32,
    /// Whether it lives; `None` if the kernel would not say.
    pub alive: Option<bool>,
    /// Bytes of the areas that are its own: what counts against its quota.
    pub used_bytes: u64,
    /// Bytes it may hold, if there is a quota.
    pub quota_bytes: Option<u64>,
}

/// A pool that somebody on this machine has open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundPool {
    /// Its path, or the name it was given if it has none. Somebody else chose it: escape it before
    /// you print it.
    pub name: String,
    /// A path that opens it: `/proc/PID/fd/N`.
    pub path: PathBuf,
    /// The processes that have it open.
    pub pids: Vec<u32>,
    /// The user it belongs to.
    pub uid: u32,
    /// Bytes of real memory.
    pub resident_bytes: u64,
}

/// Every pool of this machine that this user may see, by way of `/proc/*/fd`: no daemon, no
/// registry. About 10 µs for each open descriptor of the machine.
#[must_use]
pub fn list() -> Vec<FoundPool> {
    // A tmpfs file may be anything: it is a pool if its header says so.
    let is_pool = |fd: &Path, _: &Path| Onlooker::open(fd).is_ok();
    let found = |pool: discover::Found| {
        let pids = pool.pids();
        let path = pool.open.first()?.path();
        let (name, uid, resident_bytes) = (pool.name, pool.uid, pool.resident_bytes);
        Some(FoundPool { name, path, pids, uid, resident_bytes })
    };
    discover::pools(is_pool).into_iter().filter_map(found).collect()
}

impl Onlooker {
    /// Maps the pool at a path (or `/proc/PID/fd/N`) for a look.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Onlooker, OpenError> {
        let ground = Options::default().any_owner().ground_at(path.as_ref())?;
        Ok(Onlooker { ground })
    }

    /// Its totals.
    #[must_use]
    pub fn info(&self) -> Info {
        Info::of(&self.ground)
    }

    /// Every area, parked ones too, in address order.
    #[must_use]
    pub fn areas(&self) -> Vec<Area> {
        self.ground.engine(Owner::FIRST, Pages(0)).areas().collect()
    }

    /// The members whose slots are taken.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        MemberInfo::all(&self.ground)
    }

    /// The token of a published area.
    #[must_use]
    pub fn token_of(&self, area: &Area) -> Option<Token> {
        token_of(&self.ground, area)
    }
}

impl Info {
    pub(crate) fn of(ground: &Ground) -> Info {
        let header = ground.header();
        let charged = header.charged().load(Ordering::Relaxed);
        Info {
            id: ground.shape.pool_number(),
            made_unix_s: header.made_unix_s(),
            capacity_bytes: ground.shape.capacity.bytes(),
            committed_bytes: charged.saturating_mul(PAGE_SIZE as u64),
            resident_bytes: ground.mapping.file().resident_bytes().unwrap_or(0),
            tables_bytes: ground.shape.flat_bytes(),
            limit_bytes: ground.limit().bytes(),
            stitched_vmas: stitch::vmas_taken(),
            stitched_vmas_max: stitch::vmas_max(),
            guards: ground.guards.supported() || ground.shape.is_framed,
            framed: ground.shape.is_framed,
            stats: ground.engine(Owner::FIRST, Pages(0)).stats(),
        }
    }
}

impl MemberInfo {
    pub(crate) fn all(ground: &Ground) -> Vec<MemberInfo> {
        let areas: Vec<Area> = ground.engine(Owner::FIRST, Pages(0)).areas().collect();
        (1..=ground.shape.geometry.members)
            .filter_map(Owner::new)
            .filter(|&owner| ground.header().member(owner).is_active())
            .map(|owner| MemberInfo {
                number: owner.number(),
                pid: ground.header().member(owner).pid(),
                alive: is_alive(ground, owner).ok(),
                used_bytes: held_by(areas.iter().copied(), owner).bytes(),
                quota_bytes: ground.header().quota_of(owner).map(Pages::bytes),
            })
            .collect()
    }
}

pub(crate) fn token_of(ground: &Ground, area: &Area) -> Option<Token> {
    matches!(area.kind, Kind::Frozen | Kind::Shared | Kind::Given).then(|| Token {
        pool: ground.shape.pool_number(),
        area: area.id,
        generation: area.generation,
        pages: area.pages.len,
    })
}

impl Shape {
    /// The part of the pool's number that its tokens repeat.
    pub(crate) fn pool_number(&self) -> u32 {
        (self.id >> 32) as u32
    }
}

/// The physical frames behind `memory`, one a page, as far as this process may know them: as
/// root, and where the page is present. `Ok(None)`: not root. Linux: `/proc/self/pagemap`.
///
/// Takes a [`Buf`](crate::Buf)'s bytes, and a [`Shared`](crate::Shared)'s words.
///
/// # Errors
///
/// What reading it said.
pub fn frames_behind<T>(memory: &[T]) -> std::io::Result<Option<Vec<Option<u64>>>> {
    let range = memory.as_ptr_range();
    Ok(pagemap::frames(range.start.addr()..range.end.addr())?)
}

/// How many virtual memory areas this process has, of the `vm.max_map_count` that it may.
///
/// # Errors
///
/// What reading `/proc/self/maps` said.
pub fn vmas() -> std::io::Result<usize> {
    Ok(pagemap::vmas()?)
}
