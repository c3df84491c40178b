//! What the suite asks of a machine under test, and nothing of how it does it.
//!
//! ```text
//!   conformance rules ─┐                    ┌ SimSubject: SimKernel, two CPUs a space
//!   random operations ─┴─▶ dyn Subject ◀────┤
//!                            ▲              └ crate vmalloc: one Pool a member
//!                            └ model: predicts each answer
//! ```
//!
//! A *member* is whoever has a view of its own: an address space on the simulated machine, a
//! process's `Pool` on Linux (several in one process will do). Errors are the engine's own, so
//! that a rule can say which one. Where a machine cannot do a thing, its [`Abilities`] say so,
//! and the suite leaves it out.
//!
//! A [`Host`] makes fresh subjects: each rule and each random run gets its own.

use crate::Step;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use vmalloc_core::{
    AllocError, Area, AttachError, Extent, FreeError, PAGE_SIZE, Pages, Pfn, Publish, PurgeError,
    Purged, Request, ResizeError, ShareError, Stats, VirtAddr, Vpn,
};

/// How large a subject a test wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// The pool: no more frames than these.
    pub frames: Pages,
    /// The window, at least.
    pub window: Pages,
    /// How many members, at least.
    pub members: usize,
    /// More pages parked than this is over the limit.
    pub lazy_pages_max: Pages,
}

impl Setup {
    /// 512 frames, a window of 128 MiB, two members, and a lazy limit of 256 pages.
    pub const DEFAULT: Setup = Setup {
        frames: Pages(512),
        window: Pages(32 << 10),
        members: 2,
        lazy_pages_max: Pages(256),
    };
}

impl Default for Setup {
    fn default() -> Setup {
        Setup::DEFAULT
    }
}

/// What a machine can do of that which not every machine can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    /// `free_at` works: areas can be freed by address.
    pub frees_by_address: bool,
    /// `vmap` works: frames can be chosen.
    pub vmaps: bool,
    /// `resize` works.
    pub resizes: bool,
    /// `fail_nth` works.
    pub injects_faults: bool,
    /// A member may attach to an area that it shows already, and gets it a second time.
    pub attaches_repeatedly: bool,
    /// All members work on one window: an area that one frees, another may be given.
    pub shares_window: bool,
    /// Sharing what is published already, or is a guest's, is the engine's to refuse. Where the
    /// types leave no such call to make: no.
    pub refuses_second_share: bool,
    /// The owner may still write what it published [`Publish::Frozen`].
    pub owner_writes_frozen: bool,
    /// A guard page faults.
    pub guards_fault: bool,
    /// What was freed and purged faults; else it reads as zeros, which nobody may come to see.
    pub freed_faults: bool,
    /// `purge_step` is one batch; else it purges everything.
    pub purges_in_steps: bool,
    /// The largest alignment of addresses.
    pub align_max: Pages,
    /// The alignment of what may be shown to a user. Linux: `SHMLBA`.
    pub user_align: Pages,
}

/// A request, as plain data that prints as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Want {
    /// How many bytes.
    pub bytes: u64,
    /// At a multiple of so many bytes.
    pub align: u64,
    /// Filled with zeros.
    pub zeroed: bool,
    /// With a guard page behind.
    pub guard: bool,
    /// With huge pages where they fit.
    pub huge: bool,
    /// May be parked for reuse when it is freed.
    pub reuse: bool,
    /// May be shown to a user.
    pub user: bool,
}

impl Want {
    /// `bytes` bytes, page-aligned, contents undefined, with a guard page, reusable.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Want {
        let align = PAGE_SIZE as u64;
        Want { bytes, align, zeroed: false, guard: true, huge: false, reuse: true, user: false }
    }

    /// `pages` whole pages.
    #[must_use]
    pub const fn pages(pages: u64) -> Want {
        Want::bytes(pages * PAGE_SIZE as u64)
    }

    /// The same, filled with zeros.
    #[must_use]
    pub const fn zeroed(self) -> Want {
        Want { zeroed: true, ..self }
    }

    /// The same, at a multiple of `align` bytes.
    #[must_use]
    pub const fn align(self, align: u64) -> Want {
        Want { align, ..self }
    }

    /// The same, without a guard page.
    #[must_use]
    pub const fn no_guard(self) -> Want {
        Want { guard: false, ..self }
    }

    /// The same, with huge pages.
    #[must_use]
    pub const fn huge(self) -> Want {
        Want { huge: true, ..self }
    }

    /// The same, never parked.
    #[must_use]
    pub const fn no_reuse(self) -> Want {
        Want { reuse: false, ..self }
    }

    /// The same, to be shown to a user.
    #[must_use]
    pub const fn user(self) -> Want {
        Want { user: true, zeroed: true, ..self }
    }

    /// The pages it needs, guard left out.
    #[must_use]
    pub const fn len(&self) -> Pages {
        Pages::for_bytes(self.bytes)
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What the engine is asked.
    #[must_use]
    pub const fn request(&self) -> Request {
        let mut request = Request::bytes(self.bytes).align_bytes(self.align);
        if self.zeroed {
            request = request.zeroed();
        }
        if !self.guard {
            request = request.no_guard();
        }
        if self.huge {
            request = request.huge();
        }
        if !self.reuse {
            request = request.no_reuse();
        }
        if self.user {
            request = request.user();
        }
        request
    }
}

/// An area that a member can see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    /// Who sees it.
    pub member: usize,
    /// The subject's own name for it; never used twice.
    pub key: usize,
    /// Where this member sees it.
    pub addr: VirtAddr,
    /// The bytes that may be used: those asked for, or more.
    pub bytes: u64,
    /// Its pages, guard left out. More than the bytes need where a larger area was revived.
    pub pages: Pages,
}

/// What was shared, as the subject's own name for it: an index into the tokens it has handed
/// out. The real one stays with the subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenKey(pub usize);

/// The access faulted, or the machine has no way to make it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The address of the access.
    pub addr: VirtAddr,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no such access at {}", self.addr)
    }
}

impl core::error::Error for Refused {}

/// A machine under test. Object-safe, so that a rule is a plain function.
///
/// Handles are the suite's to keep straight: it passes each to `free` or `detach` once. To see
/// the engine refuse a second free there is [`Subject::free_at`].
pub trait Subject {
    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// What it really has; not less than was asked for, but for `frames`, which is exact.
    fn setup(&self) -> Setup;

    /// Frames that the machine may need besides, at worst, to keep the records of an area of
    /// `pages`.
    fn overhead(&self, pages: Pages) -> Pages {
        let _ = pages;
        Pages(0)
    }

    /// Allocates for `member`.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn alloc(&mut self, member: usize, want: &Want) -> Result<Handle, AllocError>;

    /// Frees what `alloc` gave, published or not. `true`: over the lazy limit. Where the owner of
    /// a published area is attached to it, this detaches it, too.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn free(&mut self, handle: Handle) -> Result<bool, FreeError>;

    /// Frees, as `member`, what lies at `addr`, which may be anything. Only with
    /// [`Abilities::frees_by_address`].
    ///
    /// # Errors
    ///
    /// The engine's.
    fn free_at(&mut self, member: usize, addr: VirtAddr) -> Result<bool, FreeError>;

    /// Makes an area that `alloc` gave longer or shorter where it lies, new pages zeroed if asked.
    /// The handle that counts from then on has the same address. Only with
    /// [`Abilities::resizes`].
    ///
    /// # Errors
    ///
    /// The engine's.
    fn resize(&mut self, handle: Handle, bytes: u64, zeroed: bool) -> Result<Handle, ResizeError>;

    /// Writes `bytes` at byte `at` of the area, through its mapping.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the member may not write there.
    fn write(&mut self, handle: Handle, at: u64, bytes: &[u8]) -> Result<(), Refused>;

    /// Reads from byte `at` of the area, through its mapping.
    ///
    /// # Errors
    ///
    /// [`Refused`]: the member may not read there.
    fn read(&mut self, handle: Handle, at: u64, out: &mut [u8]) -> Result<(), Refused>;

    /// Whether a load from `addr` by `member` succeeds. Must not end the test when it does not:
    /// on Linux, let the kernel look (`process_vm_readv`, or `write` to a pipe).
    fn is_readable(&mut self, member: usize, addr: VirtAddr) -> bool;

    /// Publishes an area that `alloc` gave. The handle stays good.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn share(&mut self, handle: Handle, how: Publish) -> Result<TokenKey, ShareError>;

    /// Attaches `member`; what was published [`Publish::Frozen`] can then be read only.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn attach(&mut self, member: usize, token: TokenKey) -> Result<Handle, AttachError>;

    /// Detaches what `attach` gave. `true`: over the lazy limit.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn detach(&mut self, handle: Handle) -> Result<bool, FreeError>;

    /// Takes `count` frames, in pieces of one, that the caller then owns. `None`: there are not
    /// so many. Only with [`Abilities::vmaps`], likewise the three below.
    fn take_frames(&mut self, count: usize) -> Option<Vec<Pfn>>;

    /// Gives them back. They must be mapped nowhere, nor parked.
    fn give_frames(&mut self, frames: &[Pfn]);

    /// Shows `frames` to `member` as one area, in this order.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn vmap(&mut self, member: usize, frames: &[Extent]) -> Result<Handle, AllocError>;

    /// Unmaps what `vmap` gave. `true`: over the lazy limit.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn vunmap(&mut self, handle: Handle) -> Result<bool, FreeError>;

    /// One step of a purge of `member`'s window.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn purge_step(&mut self, member: usize) -> Result<Purged, PurgeError>;

    /// Purges everything, of all members.
    ///
    /// # Errors
    ///
    /// The engine's.
    fn purge(&mut self) -> Result<(), PurgeError> {
        for member in 0..self.setup().members {
            while self.purge_step(member)?.areas > 0 {}
        }
        Ok(())
    }

    /// The areas of `member`'s window, as the engine lists them.
    fn areas(&self, member: usize) -> Vec<Area>;

    /// The totals of `member`'s window.
    fn stats(&self, member: usize) -> Stats;

    /// The frame behind a page of `member`'s window; `None` where the machine cannot say.
    fn frame_at(&self, member: usize, page: Vpn) -> Option<Pfn>;

    /// The engines' `verify`, and all that the machine can count besides: frames in use are those
    /// of living backings, their records, and what `take_frames` gave.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    fn verify(&mut self) -> Result<(), String>;

    /// Makes the `n`-th step of this kind from now on fail, once; `n` counts from 1. Only with
    /// [`Abilities::injects_faults`].
    fn fail_nth(&mut self, step: Step, n: u64) {
        let _ = (step, n);
    }

    /// Disarms what `fail_nth` armed and has not fired.
    fn fail_none(&mut self) {}

    /// Whether code on this machine may wait for other CPUs from now on. Only with
    /// [`Abilities::injects_faults`].
    fn set_may_wait(&mut self, may: bool) {
        let _ = may;
    }

    /// How many faults were fired so far.
    fn faults_fired(&self) -> u64 {
        0
    }
}

/// Something that makes subjects: a machine's entry to the suite.
pub trait Host {
    /// Makes a fresh subject and gives it to `test`, once.
    fn with(&self, setup: Setup, test: &mut dyn FnMut(&mut dyn Subject));

    /// The machine's name, for messages.
    fn name(&self) -> &str;
}
