//! What happens in a pool, told to whoever listens: a recorder, `tracing`, or nobody.
//!
//! ```text
//!   alloc, free, freeze, attach … ─note▶ ┬ VMALLOC_RECORD names a file: one write a event
//!                                        ├ feature `tracing`: an event of the target `vmalloc`
//!                                        └ else one load of a flag that is false
//! ```
//!
//! An event is told after what it tells of has happened, by the member that did it. Telling never
//! fails an operation: a file that cannot be written any more is not written.
//!
//! Neighbours: [`crate::trace`] is the format. Nothing here reads a pool.

use crate::member::Member;
use crate::trace::{BYTES_MAX, EVENT_BYTES, Event, Op, VARIABLE, began_ns, flags};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use vmalloc_core::{Area, AreaId, Freed, Publish, Request};

/// Whether anybody records: all that an operation looks at when nobody does.
static RECORDS: AtomicBool = AtomicBool::new(false);
static RECORDER: OnceLock<Option<Recorder>> = OnceLock::new();

struct Recorder {
    file: File,
    began_ns: u64,
}

/// What an event is about.
#[derive(Clone, Copy, Default)]
pub(crate) struct About {
    pub(crate) area: u32,
    pub(crate) generation: u64,
    pub(crate) flags: u16,
    pub(crate) bytes: u64,
    pub(crate) page: u64,
}

impl About {
    /// An area that is known by its handle alone.
    pub(crate) fn handle(id: AreaId, generation: u64) -> About {
        About { area: id.0, generation, ..About::default() }
    }

    /// An area, and what was asked for.
    pub(crate) fn area(area: &Area, request: &Request) -> About {
        let align = request.alignment_bytes().checked_ilog2().unwrap_or(0) as u16;
        let bit = |is_set: bool, flag: u16| if is_set { flag } else { 0 };
        let has = |flag: u64| area.flags & flag != 0;
        let flags = bit(request.is_zeroed(), flags::ZEROED)
            | bit(has(vmalloc_core::flags::HUGE), flags::HUGE)
            | bit(area.guard.0 == 0, flags::NO_GUARD)
            | bit(has(vmalloc_core::flags::NO_REUSE), flags::NO_REUSE)
            | align << flags::ALIGN_SHIFT;
        let (bytes, page) = (area.bytes, area.pages.start.0);
        About { flags, bytes, page, ..About::handle(area.id, area.generation) }
    }
}

impl Member {
    /// Tells that this member did something.
    #[inline]
    pub(crate) fn note(&self, op: Op, about: impl Fn() -> About) {
        #[cfg(feature = "tracing")]
        if tracing::enabled!(target: "vmalloc", tracing::Level::DEBUG) {
            tell(&self.event(op, &about));
        }
        // Relaxed: who joins a pool has read the variable before, in `listen`.
        if RECORDS.load(Ordering::Relaxed) {
            record(self.event(op, &about));
        }
    }

    /// Cold, and so nothing of it is done where nobody is told.
    #[cold]
    fn event(&self, op: Op, about: &impl Fn() -> About) -> Event {
        let About { area, generation, flags, bytes, page } = about();
        let (member, pool) = (self.me.number() as u8, self.ground.shape.pool_number());
        Event { at_ns: 0, op, member, pool, area, generation, flags, bytes, page }
    }
}

impl Member {
    /// Tells that an allocation was refused.
    pub(crate) fn note_refused(&self, request: &Request) {
        let bytes = request.len_bytes().min(BYTES_MAX);
        self.note(Op::Refused, || About { bytes, ..About::default() });
    }

    /// Tells that an area was freed by its token, if it was.
    #[inline]
    pub(crate) fn note_free<E>(&self, id: AreaId, generation: u64, done: &Result<Freed, E>) {
        if done.is_ok() {
            self.note(Op::Free, || About::handle(id, generation));
        }
    }

    /// Tells that a buffer was published.
    #[inline]
    pub(crate) fn note_publish(&self, id: AreaId, generation: u64, how: Publish) {
        let op = if how == Publish::Frozen { Op::Freeze } else { Op::Share };
        self.note(op, || About::handle(id, generation));
    }

    /// The pool itself: its capacity, and how many members there can be.
    pub(crate) fn about_pool(&self) -> About {
        let shape = &self.ground.shape;
        let (bytes, page) = (shape.capacity.bytes(), shape.geometry.members as u64);
        About { bytes, page, ..About::default() }
    }
}

/// Looks, once a process, whether somebody wants to be told.
pub(crate) fn listen() {
    RECORDER.get_or_init(|| {
        let recorder = Recorder::open();
        RECORDS.store(recorder.is_some(), Ordering::Relaxed);
        recorder
    });
}

#[cfg(feature = "tracing")]
fn tell(event: &Event) {
    tracing::event!(
        target: "vmalloc",
        tracing::Level::DEBUG,
        op = event.op.name(),
        pool = format_args!("{:08x}", event.pool),
        member = event.member,
        area = event.area,
        generation = event.generation,
        bytes = event.bytes,
    );
}

#[cold]
fn record(event: Event) {
    if let Some(Some(Recorder { file, began_ns })) = RECORDER.get() {
        let at_ns = unix_ns().saturating_sub(*began_ns);
        // One call, so that events of several processes do not mix.
        let _ = (&*file).write_all(&Event { at_ns, ..event }.to_bytes());
    }
}

impl Recorder {
    /// Opens the file that the environment names, if it begins as a trace.
    fn open() -> Option<Recorder> {
        let path = std::env::var_os(VARIABLE)?;
        // Never creates: only what `vmalloc record` has made is written to.
        let mut file = OpenOptions::new().read(true).append(true).open(path).ok()?;
        let mut header = [0; EVENT_BYTES];
        file.read_exact(&mut header).ok()?;
        Some(Recorder { file, began_ns: began_ns(&header).ok()? })
    }
}

/// Nanoseconds since 1970: one clock for all processes of a run.
fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
