//! The stage of real pools: the members of the run, all in this process.

use super::{Look, Played, Setting, Stage, request};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;
use vmalloc::trace::{Event, Op};
use vmalloc::{Buf, Frozen, Onlooker, Pool, Shared, Token};

/// An area, as the run knows it.
type Key = (u32, u32, u64);

/// What a member holds of an area.
enum Handle {
    Buf(Buf),
    Frozen(Frozen),
    Shared(Shared),
}

/// A published area.
#[derive(Clone, Copy)]
struct Published {
    token: Token,
    frozen: bool,
}

/// The pools of a run.
pub struct Pools<'a> {
    setting: &'a Setting,
    /// Keeps a pool while it has no member, as a path would.
    kept: HashMap<u32, OwnedFd>,
    members: HashMap<(u32, u8), Pool>,
    held: HashMap<(Key, u8), Vec<Handle>>,
    published: HashMap<Key, Published>,
    /// By the area's record: one tenant at a time is given away.
    given: HashMap<(u32, u32), Token>,
}

impl<'a> Pools<'a> {
    /// No pool yet: each is made when its first member joins.
    pub fn new(setting: &'a Setting) -> Pools<'a> {
        Pools {
            setting,
            kept: HashMap::new(),
            members: HashMap::new(),
            held: HashMap::new(),
            published: HashMap::new(),
            given: HashMap::new(),
        }
    }

    fn join(&mut self, event: &Event) -> Option<Played> {
        let mut options = Pool::options().name("replay").members(event.page.clamp(1, 64) as usize);
        if let Some(bytes) = self.setting.lazy_bytes {
            options = options.lazy_bytes(bytes);
        }
        let start = Instant::now();
        let joined = match self.kept.get(&event.pool) {
            None => options.create(event.bytes).ok(),
            Some(kept) => options.open(&path(kept)).ok(),
        };
        let took = start.elapsed();
        let refused = joined.is_none();
        if let Some(pool) = joined {
            if let Entry::Vacant(place) = self.kept.entry(event.pool) {
                place.insert(pool.as_fd().try_clone_to_owned().ok()?);
            }
            self.members.insert((event.pool, event.member), pool);
        }
        Some(Played { took, refused })
    }

    fn leave(&mut self, event: &Event) -> Option<Played> {
        // Whatever it still held goes, as it does with a process.
        self.held.retain(|((pool, ..), member), _| (*pool, *member) != (event.pool, event.member));
        let pool = self.members.remove(&(event.pool, event.member))?;
        timed(|| {
            drop(pool);
            true
        })
    }

    fn alloc(&mut self, event: &Event, key: Key) -> Option<Played> {
        let pool = self.members.get(&(event.pool, event.member))?;
        let request = request(event, self.setting);
        let start = Instant::now();
        let buf = pool.alloc(&request);
        let took = start.elapsed();
        let refused = buf.is_err();
        if let (Ok(buf), Op::Alloc) = (buf, event.op) {
            self.held.entry((key, event.member)).or_default().push(Handle::Buf(buf));
        }
        Some(Played { took, refused })
    }

    fn give(&mut self, event: &Event, key: Key) -> Option<Played> {
        let buf = self.take_buf(event, key)?;
        let start = Instant::now();
        let given = buf.give();
        let took = start.elapsed();
        let refused = given.is_err();
        self.given.extend(given.ok().map(|token| ((event.pool, event.area), token)));
        Some(Played { took, refused })
    }

    fn take(&mut self, event: &Event, key: Key) -> Option<Played> {
        let pool = self.members.get(&(event.pool, event.member))?;
        let token = self.given.remove(&(event.pool, event.area))?;
        let start = Instant::now();
        let taken = pool.take(&token);
        let took = start.elapsed();
        let refused = taken.is_err();
        self.held.entry((key, event.member)).or_default().extend(taken.ok().map(Handle::Buf));
        Some(Played { took, refused })
    }

    /// A buffer that the member holds.
    fn take_buf(&mut self, event: &Event, key: Key) -> Option<Buf> {
        let handles = self.held.get_mut(&(key, event.member))?;
        let at = handles.iter().position(|handle| matches!(handle, Handle::Buf(_)))?;
        match handles.swap_remove(at) {
            Handle::Buf(buf) => Some(buf),
            Handle::Frozen(_) | Handle::Shared(_) => None,
        }
    }

    fn free(&mut self, event: &Event, key: Key) -> Option<Played> {
        if let Some(token) = self.given.remove(&(event.pool, event.area)) {
            let pool = self.members.get(&(event.pool, event.member))?;
            return timed(|| pool.free(&token).is_ok());
        }
        if let Some(published) = self.published.remove(&key) {
            let pool = self.members.get(&(event.pool, event.member))?;
            return timed(|| pool.free(&published.token).is_ok());
        }
        let handle = self.held.remove(&(key, event.member))?;
        timed(|| {
            drop(handle);
            true
        })
    }

    fn publish(&mut self, event: &Event, key: Key) -> Option<Played> {
        let buf = self.take_buf(event, key)?;
        let start = Instant::now();
        let done = match event.op {
            Op::Freeze => buf.freeze().map(Handle::Frozen),
            _ => buf.share().map(Handle::Shared),
        };
        let took = start.elapsed();
        let refused = done.is_err();
        if let Ok(handle) = done {
            let (token, frozen) = match &handle {
                Handle::Frozen(frozen) => (frozen.token(), true),
                Handle::Shared(shared) => (shared.token(), false),
                Handle::Buf(_) => return None,
            };
            self.published.insert(key, Published { token, frozen });
            self.held.entry((key, event.member)).or_default().push(handle);
        }
        Some(Played { took, refused })
    }

    fn attach(&mut self, event: &Event, key: Key) -> Option<Played> {
        let pool = self.members.get(&(event.pool, event.member))?;
        let Published { token, frozen } = *self.published.get(&key)?;
        let start = Instant::now();
        let done = match frozen {
            true => pool.attach(&token).map(Handle::Frozen),
            false => pool.attach_shared(&token).map(Handle::Shared),
        };
        let took = start.elapsed();
        let refused = done.is_err();
        self.held.entry((key, event.member)).or_default().extend(done.ok());
        Some(Played { took, refused })
    }

    fn detach(&mut self, event: &Event, key: Key) -> Option<Played> {
        let handle = self.held.get_mut(&(key, event.member))?.pop()?;
        timed(|| {
            drop(handle);
            true
        })
    }

    fn resize(&mut self, event: &Event, key: Key) -> Option<Played> {
        let bytes = usize::try_from(event.bytes).ok()?;
        let handles = self.held.get_mut(&(key, event.member))?;
        match handles.first_mut()? {
            Handle::Buf(buf) => timed(|| buf.resize(bytes).is_ok()),
            Handle::Shared(shared) => timed(|| shared.grow(bytes).is_ok()),
            Handle::Frozen(_) => None,
        }
    }
}

impl Stage for Pools<'_> {
    fn play(&mut self, event: &Event) -> Option<Played> {
        let key = (event.pool, event.area, event.generation);
        match event.op {
            Op::Join => self.join(event),
            Op::Leave => self.leave(event),
            Op::Alloc | Op::Refused => self.alloc(event, key),
            Op::Free => self.free(event, key),
            Op::Freeze | Op::Share => self.publish(event, key),
            Op::Attach => self.attach(event, key),
            Op::Detach => self.detach(event, key),
            Op::Resize => self.resize(event, key),
            Op::Give => self.give(event, key),
            Op::Take => self.take(event, key),
            Op::Purge => {
                let pool = self.members.get(&(event.pool, event.member))?;
                timed(|| pool.purge().is_ok())
            }
        }
    }

    fn look(&self) -> Look {
        let mut sum = Look::default();
        for kept in self.kept.values() {
            let Ok(pool) = Onlooker::open(path(kept)) else { continue };
            let info = pool.info();
            let (all, one) = (&mut sum.stats, info.stats);
            all.window.0 += one.window.0;
            all.used.0 += one.used.0;
            all.parked.0 += one.parked.0;
            all.holes.0 += one.holes.0;
            all.largest_hole = all.largest_hole.max(one.largest_hole);
            all.allocs += one.allocs;
            all.revives += one.revives;
            all.purged += one.purged;
            all.flushes += one.flushes;
            sum.resident_bytes += info.resident_bytes;
        }
        sum
    }
}

fn timed(verb: impl FnOnce() -> bool) -> Option<Played> {
    let start = Instant::now();
    let went_well = verb();
    Some(Played { took: start.elapsed(), refused: !went_well })
}

fn path(kept: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", kept.as_raw_fd()).into()
}
