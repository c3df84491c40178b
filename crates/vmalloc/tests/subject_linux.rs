//! The machine `linux` as the suite's [`Subject`]: each member an opening of one pool.
//!
//! ```text
//!   suite ─▶ LinuxSubject ─┬▶ pools[0] = Pool::create ─┐ mappings of one memfd,
//!                          └▶ pools[n] = Pool::open  ──┴ each at an address of its own
//! ```
//!
//! The suite's verbs become what a program writes: `alloc` gives a [`Buf`], `share` turns it into
//! a [`Frozen`] or [`Shared`], `free` drops the one or calls `free` on the others, `detach` drops.
//! Bytes are read and written through the handle, so through that member's mapping.

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use vmalloc::{Buf, Frozen, Pool, Shared, Token};
use vmalloc_core::{
    AllocError, Area, AttachError, Extent, FreeError, Pages, Pfn, Publish, PurgeError, Purged,
    ResizeError, ShareError, Stats, VirtAddr, Vpn,
};
use vmalloc_sim::{Abilities, Handle, Host, Refused, Setup, Subject, TokenKey, Want};

/// What a pool can do. Each `false` says why.
pub const ABILITIES: Abilities = Abilities {
    // Areas are freed by the handle that owns them: there is no call that takes an address, so
    // none to give a wrong one.
    frees_by_address: false,
    // The kernel chooses the frames, and may change its mind.
    vmaps: false,
    // `Pool` has no such verb.
    resizes: false,
    // The kernel's refusals are tested call by call, with `vmalloc::testing`: they are system
    // calls, not the steps of a simulated machine.
    injects_faults: false,
    // A second attach is one more handle to the same addresses, not a second place.
    attaches_repeatedly: false,
    shares_window: true,
    // `share` takes a `Buf` and consumes it; `Frozen` and `Shared` have none.
    refuses_second_share: false,
    // The owner gets a `Frozen`, too: bytes behind `&[u8]` change for nobody.
    owner_writes_frozen: false,
    // Subject to the kernel: see `LinuxSubject::abilities`.
    guards_fault: true,
    // The whole window is mapped once and stays mapped. A use after free does not compile.
    freed_faults: false,
    // `Pool::purge` is all there is to call.
    purges_in_steps: false,
    // The base of a member's mapping is a multiple of a huge page, and of no more.
    align_max: Pages(1024),
    user_align: Pages(1),
};

/// What a framed pool can do: what is not used is mapped nowhere.
pub const FRAMED: Abilities = Abilities { freed_faults: true, ..ABILITIES };

/// Makes [`LinuxSubject`]s.
pub struct LinuxHost {
    /// Of framed pools.
    pub framed: bool,
}

/// A pool under test.
pub struct LinuxSubject {
    // Before the pools, so that nobody leaves with a handle out.
    /// By [`Handle::key`]; `None` when it was given back.
    held: Vec<Option<Held>>,
    /// By [`TokenKey`].
    tokens: Vec<(Token, Publish)>,
    setup: Setup,
    /// By member.
    pools: Vec<Pool>,
    /// This process's memory, for a look that cannot fault.
    memory: File,
}

/// A handle, and whether it came from `alloc`: then the area is its to free.
struct Held {
    view: View,
    is_owner: bool,
}

enum View {
    Buf(Buf),
    Frozen(Frozen),
    Shared(Shared),
}

impl Host for LinuxHost {
    fn with(&self, setup: Setup, test: &mut dyn FnMut(&mut dyn Subject)) {
        let mut subject = LinuxSubject::of(setup, self.framed);
        test(&mut subject);
        subject.give_all_back();
        subject.purge().expect("a purge");
        subject.verify().expect("nothing is out");
        assert_eq!(subject.stats(0).used, Pages(0), "given back, and still in use");
    }

    fn name(&self) -> &str {
        if self.framed { "linux, framed" } else { "linux" }
    }
}

impl LinuxSubject {
    /// A fresh pool with as many members as `setup` says.
    pub fn new(setup: Setup) -> LinuxSubject {
        LinuxSubject::of(setup, false)
    }

    /// The same, of a framed pool.
    pub fn framed(setup: Setup) -> LinuxSubject {
        LinuxSubject::of(setup, true)
    }

    fn of(setup: Setup, framed: bool) -> LinuxSubject {
        let options =
            Pool::options().members(setup.members).lazy_bytes(setup.lazy_pages_max.bytes());
        let options = if framed { options.framed() } else { options };
        let first = options.create(setup.frames.bytes()).expect("a pool");
        let path = first.share_path();
        let mut pools = vec![first];
        pools.extend((1..setup.members).map(|_| options.open(&path).expect("a member")));
        // The window is as long as the pool makes it, which is longer than any rule asks for.
        let window = pools[0].info().stats.window;
        assert!(window >= setup.window, "a window of {window} only");
        let setup = Setup { window, ..setup };
        let memory = File::open("/proc/self/mem").expect("our own memory");
        LinuxSubject { held: Vec::new(), tokens: Vec::new(), setup, pools, memory }
    }

    /// Frees and detaches whatever the suite still holds.
    fn give_all_back(&mut self) {
        for held in self.held.drain(..).flatten() {
            if held.is_owner {
                held.view.free().expect("a live area");
            }
        }
    }

    fn view(&mut self, handle: Handle) -> &mut View {
        &mut self.held[handle.key].as_mut().expect("a handle is good until it is given back").view
    }

    fn take(&mut self, handle: Handle) -> Held {
        self.held[handle.key].take().expect("a handle is given back once")
    }

    /// Takes the handle in, and looks up its area in the listing.
    fn hold(&mut self, member: usize, view: View, is_owner: bool) -> Handle {
        let (addr, bytes) = (view.addr(), view.len() as u64);
        let area = self.areas(member).into_iter().find(|area| area.addr() == addr);
        let pages = area.expect("what was handed out is listed where it lies").pages.len;
        self.held.push(Some(Held { view, is_owner }));
        Handle { member, key: self.held.len() - 1, addr, bytes, pages }
    }

    /// What the kernel counts, against what the pool says.
    fn verify_frames(&self, is_empty: bool) -> Result<(), String> {
        let info = self.pools[0].info();
        let (resident, committed) = (info.resident_bytes, info.committed_bytes);
        if info.framed {
            // All of it is there, always; who has which frame `Pool::verify` has looked at.
            return match (is_empty, committed) {
                (true, 1..) => Err(format!("{committed} bytes committed for no area")),
                _ => Ok(()),
            };
        }
        if resident < info.tables_bytes + committed {
            return Err(format!("{committed} bytes committed, {resident} resident with tables"));
        }
        for pool in &self.pools {
            let vmas = pool.vmas().map_err(|e| e.to_string())?;
            if vmas > 3 {
                return Err(format!("{vmas} mappings of member {}", pool.member_number()));
            }
        }
        if !is_empty {
            return Ok(());
        }
        if committed != 0 {
            return Err(format!("{committed} bytes committed for no area"));
        }
        // Pages of tables that were needed once stay. But the window must hold nothing: to punch
        // all of it out must change nothing.
        let file = rustix::fs::fstat(&self.pools[0]).map_err(|e| e.to_string())?.st_size as u64;
        let window = info.stats.window.bytes();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.pools[0], flags, file - window, window)
            .map_err(|e| e.to_string())?;
        match resident - self.pools[0].info().resident_bytes {
            0 => Ok(()),
            left => Err(format!("{left} bytes were resident for no area")),
        }
    }
}

impl View {
    fn addr(&self) -> VirtAddr {
        VirtAddr(match self {
            View::Buf(buf) => buf.as_ptr().addr(),
            View::Frozen(frozen) => frozen.as_ptr().addr(),
            View::Shared(shared) => shared.words().as_ptr().addr(),
        } as u64)
    }

    fn len(&self) -> usize {
        match self {
            View::Buf(buf) => buf.len(),
            View::Frozen(frozen) => frozen.len(),
            View::Shared(shared) => shared.len(),
        }
    }

    fn free(self) -> Result<(), vmalloc::FreeError> {
        match self {
            View::Buf(buf) => {
                drop(buf);
                Ok(())
            }
            View::Frozen(frozen) => frozen.free(),
            View::Shared(shared) => shared.free(),
        }
    }
}

impl Subject for LinuxSubject {
    fn abilities(&self) -> Abilities {
        let info = self.pools[0].info();
        let abilities = if info.framed { FRAMED } else { ABILITIES };
        Abilities { guards_fault: info.guards, ..abilities }
    }

    fn setup(&self) -> Setup {
        self.setup
    }

    fn alloc(&mut self, member: usize, want: &Want) -> Result<Handle, AllocError> {
        match self.pools[member].alloc(&want.request()) {
            Ok(buf) => Ok(self.hold(member, View::Buf(buf), true)),
            Err(vmalloc::AllocError::Engine(e)) => Err(e),
            Err(e) => panic!("{want:?}: {e}"),
        }
    }

    /// Never over the limit: a free purges by itself.
    fn free(&mut self, handle: Handle) -> Result<bool, FreeError> {
        let held = self.take(handle);
        assert!(held.is_owner, "{handle:?} is a guest's");
        match held.view.free() {
            Ok(()) => Ok(false),
            Err(vmalloc::FreeError::Engine(e)) => Err(e),
            Err(e) => panic!("{handle:?}: {e}"),
        }
    }

    fn free_at(&mut self, _member: usize, addr: VirtAddr) -> Result<bool, FreeError> {
        unreachable!("no such verb: {addr}")
    }

    fn resize(&mut self, handle: Handle, _: u64, _: bool) -> Result<Handle, ResizeError> {
        unreachable!("no such verb: {handle:?}")
    }

    fn write(&mut self, handle: Handle, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        let refused = Refused { addr: VirtAddr(handle.addr.0 + at) };
        let (at, end) = (at as usize, at as usize + bytes.len());
        match self.view(handle) {
            View::Buf(buf) => buf.get_mut(at..end).ok_or(refused)?.copy_from_slice(bytes),
            View::Frozen(_) => return Err(refused), // bytes behind `&[u8]`
            View::Shared(shared) => shared.write_at(at, bytes).map_err(|_| refused)?,
        }
        Ok(())
    }

    fn read(&mut self, handle: Handle, at: u64, out: &mut [u8]) -> Result<(), Refused> {
        let refused = Refused { addr: VirtAddr(handle.addr.0 + at) };
        let (at, end) = (at as usize, at as usize + out.len());
        match self.view(handle) {
            View::Buf(buf) => out.copy_from_slice(buf.get(at..end).ok_or(refused)?),
            View::Frozen(frozen) => out.copy_from_slice(frozen.get(at..end).ok_or(refused)?),
            View::Shared(shared) => shared.read_at(at, out).map_err(|_| refused)?,
        }
        Ok(())
    }

    /// By the kernel's hand: where we would fault it says EIO.
    fn is_readable(&mut self, member: usize, addr: VirtAddr) -> bool {
        if self.pools[member].info().framed {
            // That file is for debuggers, who may look through what is protected. This call may not.
            let there = [RemoteIoVec { base: addr.0 as usize, len: 1 }];
            let mut byte = [0];
            let mut here = [IoSliceMut::new(&mut byte)];
            return process_vm_readv(Pid::this(), &mut here, &there) == Ok(1);
        }
        self.memory.read_exact_at(&mut [0], addr.0).is_ok()
    }

    fn share(&mut self, handle: Handle, how: Publish) -> Result<TokenKey, ShareError> {
        let Held { view: View::Buf(buf), is_owner } = self.take(handle) else {
            unreachable!("published already, so no Buf: {handle:?}")
        };
        let published = match how {
            Publish::Frozen => buf.freeze().map(|frozen| (frozen.token(), View::Frozen(frozen))),
            Publish::Shared => buf.share().map(|shared| (shared.token(), View::Shared(shared))),
        };
        let (view, result) = match published {
            Ok((token, view)) => {
                self.tokens.push((token, how));
                (view, Ok(TokenKey(self.tokens.len() - 1)))
            }
            Err(vmalloc::Unpublished { buf, error }) => match error {
                vmalloc::ShareError::Engine(e) => (View::Buf(buf), Err(e)),
                e => panic!("{handle:?}: {e}"),
            },
        };
        assert_eq!(view.addr(), handle.addr, "moved by publishing it");
        self.held[handle.key] = Some(Held { view, is_owner });
        result
    }

    fn attach(&mut self, member: usize, token: TokenKey) -> Result<Handle, AttachError> {
        let (token, how) = self.tokens[token.0];
        let pool = &self.pools[member];
        let attached = match how {
            Publish::Frozen => pool.attach(&token).map(View::Frozen),
            Publish::Shared => pool.attach_shared(&token).map(View::Shared),
        };
        match attached {
            Ok(view) => Ok(self.hold(member, view, false)),
            Err(vmalloc::AttachError::Engine(e)) => Err(e),
            Err(e) => panic!("{token}: {e}"),
        }
    }

    fn detach(&mut self, handle: Handle) -> Result<bool, FreeError> {
        let held = self.take(handle);
        assert!(!held.is_owner, "{handle:?} is the owner's");
        drop(held);
        Ok(false)
    }

    fn take_frames(&mut self, count: usize) -> Option<Vec<Pfn>> {
        unreachable!("no such verb: {count} frames")
    }

    fn give_frames(&mut self, frames: &[Pfn]) {
        assert!(frames.is_empty(), "none were taken");
    }

    fn vmap(&mut self, _member: usize, frames: &[Extent]) -> Result<Handle, AllocError> {
        unreachable!("no such verb: {frames:?}")
    }

    fn vunmap(&mut self, handle: Handle) -> Result<bool, FreeError> {
        unreachable!("no such verb: {handle:?}")
    }

    fn purge_step(&mut self, member: usize) -> Result<Purged, PurgeError> {
        self.pools[member].purge()
    }

    /// At the addresses that this member sees.
    fn areas(&self, member: usize) -> Vec<Area> {
        let base = VirtAddr(self.pools[member].window_base() as u64).vpn().0;
        let mut areas = self.pools[member].areas();
        areas.iter_mut().for_each(|area| area.pages.start.0 += base);
        areas
    }

    fn stats(&self, member: usize) -> Stats {
        self.pools[member].info().stats
    }

    /// The kernel may move a page to another frame at any time: there is no lasting answer.
    fn frame_at(&self, _member: usize, _page: Vpn) -> Option<Pfn> {
        None
    }

    fn verify(&mut self) -> Result<(), String> {
        let mut is_empty = true;
        for pool in &self.pools {
            let verified = pool.verify().map_err(|e| e.to_string())?;
            is_empty = verified.areas == 0 && verified.parked == 0;
        }
        self.verify_frames(is_empty)
    }
}
