//! Names for published areas: a small table in the header.
//!
//! ```text
//!   entry:  turn │ area │ generation │ pages │ length │ up to 64 bytes of name      turn odd: set
//!   set:    turn even ─▶ write the rest ─▶ turn + 1           unset: turn + 1
//!   look:   turn odd? ─▶ copy ─▶ turn the same? ─▶ lives its area? ─▶ a name
//! ```
//!
//! Looking takes no lock: an entry counts if its turn is odd and has not changed meanwhile. Writers
//! exclude each other by one word that names the writer. If he is dead (his byte of the file can be
//! locked) the next one takes the word over: what he was writing is an entry whose turn is even, so
//! there is nothing to mend. If he lives and takes long, the others get an error.
//!
//! A name is for one tenant of an area: when that is freed, the name is no name any more, and its
//! entry free. Everything in the table may be rubbish: lengths are checked, tokens looked up.

use crate::linear::Ground;
use crate::pool::is_alive;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};
use vmalloc_core::{AreaId, Owner, Pages, Token};

/// How many names a pool can have.
pub(crate) const NAMES: usize = 256;
/// Words an entry takes.
pub(crate) const NAME_WORDS: usize = 16;
/// The longest name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 64;
/// How long a writer waits for another one that lives.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_micros(50);

const TURN: usize = 0;
const AREA: usize = 1;
const GENERATION: usize = 2;
const PAGES: usize = 3;
const LEN: usize = 4;
const BYTES: usize = 5;

/// An entry that is set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) entry: usize,
    pub(crate) name: Vec<u8>,
    pub(crate) token: Token,
}

/// The right to change the table. Ends on drop.
pub(crate) struct Writer<'a> {
    ground: &'a Ground,
    stamp: u64,
    _one_thread: std::sync::MutexGuard<'a, ()>,
}

/// Another member is writing, and lives.
pub(crate) struct Busy {
    pub(crate) member: usize,
}

/// The entries that are set, whether or not their areas live.
pub(crate) fn all(ground: &Ground) -> impl Iterator<Item = Named> + '_ {
    (0..NAMES).filter_map(|entry| read(ground, entry))
}

fn read(ground: &Ground, entry: usize) -> Option<Named> {
    let words = words(ground, entry);
    let turn = words[TURN].load(Ordering::Acquire);
    if turn.is_multiple_of(2) {
        return None;
    }
    let copy: [u64; NAME_WORDS] = std::array::from_fn(|i| words[i].load(Ordering::Relaxed));
    // Acquire: the copy's loads stay before the second look at the turn.
    fence(Ordering::Acquire);
    if words[TURN].load(Ordering::Relaxed) != turn {
        return None; // being written: it was something else, or will be
    }
    let len = usize::try_from(copy[LEN]).ok().filter(|len| (1..=NAME_BYTES_MAX).contains(len))?;
    let mut name: Vec<u8> = copy[BYTES..].iter().flat_map(|word| word.to_le_bytes()).collect();
    name.truncate(len);
    let area = AreaId(u32::try_from(copy[AREA]).ok()?);
    let (generation, pages) = (copy[GENERATION], Pages(copy[PAGES]));
    Some(Named { entry, name, token: Token { area, generation, pages, backing: 0 } })
}

fn words(ground: &Ground, entry: usize) -> &[AtomicU64] {
    ground.header().name(entry)
}

impl<'a> Writer<'a> {
    /// Waits for its turn, but not for the dead, and for the living not long.
    pub(crate) fn new(ground: &'a Ground, me: Owner) -> Result<Writer<'a>, Busy> {
        let one_thread = ground.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = ground.header().names_lock();
        let stamp = ground.header().member(me).stamp(me);
        let start = Instant::now();
        loop {
            let before = lock.load(Ordering::SeqCst);
            let number = (before & 0xff) as usize;
            let other = Owner::new(number)
                .filter(|&other| number <= ground.shape.geometry.members && other != me);
            // Rubbish, a dead member's, or an earlier tenant's of our slot: nobody's.
            let held = other.is_some_and(|other| is_alive(ground, other).unwrap_or(true));
            let step = || lock.compare_exchange(before, stamp, Ordering::SeqCst, Ordering::Relaxed);
            if !held && step().is_ok() {
                return Ok(Writer { ground, stamp, _one_thread: one_thread });
            }
            if start.elapsed() > PATIENCE {
                return Err(Busy { member: number });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Sets an entry, which is not set.
    pub(crate) fn set(&self, entry: usize, name: &[u8], token: &Token) {
        let words = words(self.ground, entry);
        let set = |i: usize, value: u64| words[i].store(value, Ordering::Relaxed);
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..name.len()].copy_from_slice(name);
        set(AREA, token.area.0.into());
        set(GENERATION, token.generation);
        set(PAGES, token.pages.0);
        set(LEN, name.len() as u64);
        for (i, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            set(BYTES + i, u64::from_le_bytes(*word));
        }
        let turn = words[TURN].load(Ordering::Relaxed);
        // Release: whoever sees the turn sees the rest.
        words[TURN].store(turn.wrapping_add(1) | 1, Ordering::Release);
    }

    /// Unsets an entry.
    pub(crate) fn unset(&self, entry: usize) {
        let words = words(self.ground, entry);
        let turn = words[TURN].load(Ordering::Relaxed);
        words[TURN].store((turn | 1).wrapping_add(1), Ordering::SeqCst);
        // Who sees what is written next sees that the turn has moved.
        fence(Ordering::SeqCst);
    }

    /// An entry that is not set.
    pub(crate) fn free_entry(&self) -> Option<usize> {
        (0..NAMES).find(|&i| words(self.ground, i)[TURN].load(Ordering::Relaxed).is_multiple_of(2))
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        let lock = self.ground.header().names_lock();
        let _ = lock.compare_exchange(self.stamp, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
}
