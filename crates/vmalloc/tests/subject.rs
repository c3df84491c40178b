//! A pool as a subject of the suite that every machine passes.
//!
//! A member is a [`Pool`] of this process: each has its own mapping, its own guard pages and its
//! own slot, as processes have. Addresses are those of the listing, offsets in the window, since
//! every member sees an area at an address of its own.
//!
//! What the types of this crate rule out is answered here as the engine would answer it: a frozen
//! area is written by nobody, and what is published cannot be published again.

use crate::support::{PAGE, assert_empty, file_of, punch, resident};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use vmalloc::core::{
    AllocError, Area, AttachError, Extent, FreeError, HUGE_PAGES, Pages, Pfn, Publish, PurgeError,
    Purged, ResizeError, ShareError, Stats, VirtAddr, Vpn,
};
use vmalloc::{Buf, Frozen, Pool, Shared, Token};
use vmalloc_sim::{Abilities, Handle, Host, Refused, Setup, Subject, TokenKey, Want};

/// Makes [`PoolSubject`]s.
pub struct PoolHost;

impl Host for PoolHost {
    fn with(&self, setup: Setup, test: &mut dyn FnMut(&mut dyn Subject)) {
        // No limit of the pools' own: over it they would purge at once, and the suite wants to be
        // told instead.
        let first = Pool::create(setup.frames.bytes()).unwrap();
        let path = first.share_path();
        let others = (1..setup.members).map(|_| Pool::open(&path).unwrap());
        let pools: Vec<Pool> = std::iter::once(first.clone()).chain(others).collect();
        let window = first.info().stats.window;
        let mut subject = PoolSubject {
            pools,
            setup: Setup { window, ..setup },
            held: BTreeMap::new(),
            next: 0,
            tokens: Vec::new(),
            published: BTreeSet::new(),
        };
        test(&mut subject);
        subject.held.clear();
        for token in first.areas().iter().filter_map(|area| first.token_of(area)) {
            first.free(&token).unwrap();
        }
        assert_empty(&first);
    }

    fn name(&self) -> &str {
        "linux"
    }
}

/// What a handle stands for.
enum Held {
    Buf(Buf),
    Frozen(Frozen),
    Shared(Shared),
}

/// A pool with several members, all in this process.
pub struct PoolSubject {
    // After what they hold: see `drop` of the fields, in order.
    held: BTreeMap<usize, Held>,
    pools: Vec<Pool>,
    setup: Setup,
    next: usize,
    tokens: Vec<(Token, Publish)>,
    // Handles of those who made an area and published it.
    published: BTreeSet<usize>,
}

impl PoolSubject {
    fn keep(&mut self, member: usize, held: Held) -> Handle {
        let (address, bytes) = match &held {
            Held::Buf(buf) => (buf.as_ptr().addr(), buf.len()),
            Held::Frozen(frozen) => (frozen.as_ptr().addr(), frozen.len()),
            Held::Shared(shared) => (shared.words().as_ptr().addr(), shared.len()),
        };
        let addr = VirtAddr((address - self.pools[member].window_base()) as u64);
        let (key, bytes) = (self.next, bytes as u64);
        self.next += 1;
        self.held.insert(key, held);
        Handle { member, key, addr, bytes, pages: Pages::for_bytes(bytes) }
    }

    fn is_over_limit(&self) -> bool {
        self.pools[0].info().stats.parked > self.setup.lazy_pages_max
    }

    fn refused(handle: Handle, at: u64) -> Refused {
        Refused { addr: VirtAddr(handle.addr.0 + at) }
    }
}

impl Subject for PoolSubject {
    fn abilities(&self) -> Abilities {
        Abilities {
            frees_by_address: false,
            vmaps: false,
            resizes: false,
            injects_faults: false,
            // It can, but it is the same place.
            attaches_repeatedly: false,
            shares_window: true,
            align_max: Pages(HUGE_PAGES),
        }
    }

    fn setup(&self) -> Setup {
        self.setup
    }

    fn alloc(&mut self, member: usize, want: &Want) -> Result<Handle, AllocError> {
        match self.pools[member].alloc(&want.request()) {
            Ok(buf) => Ok(self.keep(member, Held::Buf(buf))),
            Err(vmalloc::AllocError::Engine(e)) => Err(e),
            Err(e) => panic!("{e:?}"),
        }
    }

    fn free(&mut self, handle: Handle) -> Result<bool, FreeError> {
        let freed = match self.held.remove(&handle.key).unwrap() {
            Held::Buf(buf) => {
                drop(buf);
                Ok(())
            }
            Held::Frozen(frozen) => frozen.free(),
            Held::Shared(shared) => shared.free(),
        };
        match freed {
            Ok(()) => Ok(self.is_over_limit()),
            Err(vmalloc::FreeError::Engine(e)) => Err(e),
            Err(e) => panic!("{e:?}"),
        }
    }

    fn free_at(&mut self, _: usize, _: VirtAddr) -> Result<bool, FreeError> {
        unreachable!("abilities")
    }

    fn resize(&mut self, _: Handle, _: u64, _: bool) -> Result<Handle, ResizeError> {
        unreachable!("abilities")
    }

    fn write(&mut self, handle: Handle, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        match self.held.get_mut(&handle.key).unwrap() {
            Held::Buf(buf) => {
                let to = buf.get_mut(at as usize..at as usize + bytes.len());
                to.ok_or(Self::refused(handle, at))?.copy_from_slice(bytes);
                Ok(())
            }
            Held::Shared(shared) => {
                shared.write_at(at as usize, bytes).map_err(|_| Self::refused(handle, at))
            }
            // The model lets whoever froze an area write it; ours has no verb for that, so it goes
            // past the mapping.
            Held::Frozen(_) if self.published.contains(&handle.key) => {
                let (file, window) = file_of(&self.pools[handle.member]);
                file.write_all_at(bytes, window + handle.addr.0 + at).unwrap();
                Ok(())
            }
            Held::Frozen(_) => Err(Self::refused(handle, at)),
        }
    }

    fn read(&mut self, handle: Handle, at: u64, out: &mut [u8]) -> Result<(), Refused> {
        let range = at as usize..at as usize + out.len();
        let from = match &self.held[&handle.key] {
            Held::Buf(buf) => buf.get(range),
            Held::Frozen(frozen) => frozen.get(range),
            Held::Shared(shared) => {
                return shared.read_at(at as usize, out).map_err(|_| Self::refused(handle, at));
            }
        };
        out.copy_from_slice(from.ok_or(Self::refused(handle, at))?);
        Ok(())
    }

    /// Through the kernel, which does not end us where a guard is. A page without a frame counts
    /// as unreadable: a load gives it one, full of zeros, which goes again.
    fn is_readable(&mut self, member: usize, addr: VirtAddr) -> bool {
        let pool = &self.pools[member];
        let before = resident(pool);
        let memory = File::open("/proc/self/mem").unwrap();
        let address = pool.window_base() as u64 + addr.0;
        let read = memory.read_at(&mut [0], address).is_ok();
        if resident(pool) == before {
            return read;
        }
        let (file, window) = file_of(pool);
        punch(&file, window + addr.0 / PAGE * PAGE, PAGE);
        false
    }

    fn share(&mut self, handle: Handle, how: Publish) -> Result<TokenKey, ShareError> {
        let (held, done) = match self.held.remove(&handle.key).unwrap() {
            Held::Buf(buf) => {
                let turned = match how {
                    Publish::Frozen => buf.freeze().map(Held::Frozen),
                    Publish::Shared => buf.share().map(Held::Shared),
                };
                match turned {
                    Ok(held) => (held, Ok(())),
                    Err(e) => (Held::Buf(e.buf), Err(e.error)),
                }
            }
            // No such verb. The engine would say that this is no live area any more.
            held => (held, Err(vmalloc::ShareError::Engine(ShareError::Stale { generation: 0 }))),
        };
        let token = match &held {
            Held::Buf(_) => None,
            Held::Frozen(frozen) => Some(frozen.token()),
            Held::Shared(shared) => Some(shared.token()),
        };
        self.held.insert(handle.key, held);
        match done {
            Ok(()) => {
                self.published.insert(handle.key);
                self.tokens.push((token.expect("published"), how));
                Ok(TokenKey(self.tokens.len() - 1))
            }
            Err(vmalloc::ShareError::Engine(e)) => Err(e),
            Err(e) => panic!("{e:?}"),
        }
    }

    fn attach(&mut self, member: usize, token: TokenKey) -> Result<Handle, AttachError> {
        let (token, how) = self.tokens[token.0];
        let pool = &self.pools[member];
        let attached = match how {
            Publish::Frozen => pool.attach(&token).map(Held::Frozen),
            Publish::Shared => pool.attach_shared(&token).map(Held::Shared),
        };
        match attached {
            Ok(held) => Ok(self.keep(member, held)),
            Err(vmalloc::AttachError::Engine(e)) => Err(e),
            Err(e) => panic!("{e:?}"),
        }
    }

    fn detach(&mut self, handle: Handle) -> Result<bool, FreeError> {
        drop(self.held.remove(&handle.key).unwrap());
        Ok(self.is_over_limit())
    }

    fn take_frames(&mut self, _: usize) -> Option<Vec<Pfn>> {
        unreachable!("abilities")
    }

    fn give_frames(&mut self, frames: &[Pfn]) {
        assert!(frames.is_empty(), "none were taken");
    }

    fn vmap(&mut self, _: usize, _: &[Extent]) -> Result<Handle, AllocError> {
        unreachable!("abilities")
    }

    fn vunmap(&mut self, _: Handle) -> Result<bool, FreeError> {
        unreachable!("abilities")
    }

    fn purge_step(&mut self, member: usize) -> Result<Purged, PurgeError> {
        self.pools[member].purge_step()
    }

    fn areas(&self, member: usize) -> Vec<Area> {
        self.pools[member].areas()
    }

    fn stats(&self, member: usize) -> Stats {
        self.pools[member].info().stats
    }

    fn frame_at(&self, _: usize, _: Vpn) -> Option<Pfn> {
        None
    }

    /// And what the areas have is really there.
    fn verify(&mut self) -> Result<(), String> {
        let pool = &self.pools[0];
        let verified = pool.verify().map_err(|e| e.to_string())?;
        let (found, tables) = (resident(pool), pool.info().tables_bytes);
        if found < tables + verified.pages.bytes() {
            return Err(format!("{} in areas, {found} bytes are there", verified.pages));
        }
        Ok(())
    }
}
