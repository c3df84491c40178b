//! Cache lines, and what it costs a CPU to have one.
//!
//! ```text
//!   load    mine or shared with me: nothing      dirty elsewhere: fetched from there, shared then
//!           nobody's, or clean elsewhere: from the cache that all share
//!   change  mine alone: `change`                 else: taken from whoever wrote it, or from all
//!                                                who read it, then `change`; mine alone then
//!   a line on its way is nobody else's: who comes meanwhile waits until it has arrived
//! ```
//!
//! Invariants: a dirty line has one holder; a holder keeps a line until somebody changes it, or his
//! cache, which is as large as `cache_lines`, needs its place. A store does not wait for its line: the
//! CPU's stores are made one after the other behind its back, and its next locked step or fence waits
//! until they are.

use std::collections::HashMap;
use vmalloc_core::sync::Ordering;
use vmalloc_core::sync::stepped::Touch;

/// Picoseconds, of simulated time.
pub type Ps = u64;

/// What things cost. A page says where each was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// An instruction, on the average.
    pub instruction: Ps,
    /// An atomic change of a word, or a sequentially consistent store, on a line that is here.
    pub change: Ps,
    /// A fence.
    pub fence: Ps,
    /// A turn of a loop that waits.
    pub spin: Ps,
    /// A line from another CPU of the same socket.
    pub near: Ps,
    /// A line from a CPU of another socket.
    pub far: Ps,
    /// A line that no CPU has changed, from the cache that all share.
    pub fetch: Ps,
    /// A shootdown of nobody else.
    pub shootdown: Ps,
    /// A shootdown, for each other CPU.
    pub shootdown_each: Ps,
    /// What the other CPU loses.
    pub interrupted: Ps,
    /// CPUs of a socket.
    pub socket: usize,
    /// Bytes that are fetched together: 64, or 128 where lines come in pairs.
    pub line_bytes: usize,
    /// Lines of a CPU's own cache, a multiple of [`WAYS`].
    pub cache_lines: usize,
}

/// Places in a CPU's cache that a line may be in.
pub const WAYS: usize = 8;

/// What an access cost.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Charge {
    /// When it is done.
    pub end: Ps,
    /// How long the line was busy with others.
    pub waited: Ps,
    /// How long the line was on its way.
    pub moved: Ps,
}

/// What happened to a line.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Line {
    /// Who has it.
    holders: u128,
    /// Who has changed it, and has it alone.
    dirty: Option<u8>,
    /// From when on it can go elsewhere.
    free_at: Ps,
    /// All waits for it, and all its ways.
    pub(super) lost: Ps,
    /// How often it came from another CPU.
    pub(super) moves: u64,
}

/// All lines, and who has which.
pub struct Lines {
    costs: Costs,
    lines: HashMap<usize, Line>,
    /// A CPU's cache: line numbers plus 1, [`WAYS`] a set, used last first.
    caches: Vec<Vec<u32>>,
    /// When a CPU's stores are made.
    stored: Vec<Ps>,
}

impl Lines {
    /// No line is anybody's.
    ///
    /// # Panics
    ///
    /// If there are more than 128 CPUs, or a cache has no place.
    #[must_use]
    pub fn new(costs: Costs, cpus: usize) -> Lines {
        assert!(cpus <= 128 && costs.cache_lines >= WAYS, "{cpus} CPUs, {costs:?}");
        let sets = costs.cache_lines / WAYS;
        let caches = vec![vec![0; sets * WAYS]; cpus];
        Lines { costs, lines: HashMap::new(), caches, stored: vec![0; cpus] }
    }

    /// CPU `cpu` touches a word of line `at`, at `now`.
    pub fn touch(
        &mut self,
        cpu: usize,
        at: usize,
        touch: Touch,
        order: Ordering,
        now: Ps,
    ) -> Charge {
        let costs = self.costs;
        let locked = touch == Touch::Change || touch == Touch::Store && order == Ordering::SeqCst;
        // The CPU's own stores come first, before a locked step, a fence, and another store.
        let stored = self.stored[cpu].saturating_sub(now);
        let drained = if locked || touch == Touch::Fence { stored } else { 0 };
        match touch {
            Touch::Fence => {
                return Charge { end: now + drained + costs.fence, waited: drained, moved: 0 };
            }
            Touch::Spin => return Charge { end: now + costs.spin, ..Charge::default() },
            Touch::Load | Touch::Store | Touch::Change => {}
        }
        if let Some(evicted) = self.use_place(cpu, at) {
            let line = self.lines.entry(evicted).or_default();
            line.holders &= !(1 << cpu);
            // Written back.
            line.dirty = line.dirty.filter(|owner| usize::from(*owner) != cpu);
        }
        let line = self.lines.entry(at).or_default();
        let me = 1_u128 << cpu;
        let owner = line.dirty.map(usize::from).filter(|owner| *owner != cpu);
        let here = if locked { costs.change } else { 0 };
        let is_read = touch == Touch::Load;
        if is_read && line.holders & me != 0 {
            return Charge { end: now, ..Charge::default() };
        }
        if line.holders == me {
            let end = now + drained + here;
            line.dirty = Some(cpu as u8);
            // It may be on its way here still, for a store.
            line.free_at = line.free_at.max(end);
            return Charge { end, waited: drained, moved: 0 };
        }
        // Who must hand it over, or forget it.
        let others = match owner {
            Some(owner) => 1 << owner,
            None if is_read => 0,
            None => line.holders & !me,
        };
        let moved = if others != 0 { costs.way(cpu, others) } else { costs.fetch };
        let start = (now + if is_read { 0 } else { stored }).max(line.free_at);
        let charge = Charge { end: start + moved + here, waited: start - now, moved };
        line.lost += charge.waited + charge.moved;
        line.moves += u64::from(others != 0);
        if is_read {
            line.holders |= me;
            line.dirty = None;
            // A clean copy is everybody's at once.
            line.free_at = if owner.is_some() { charge.end } else { line.free_at };
            return charge;
        }
        line.holders = me;
        line.dirty = Some(cpu as u8);
        line.free_at = charge.end;
        if locked {
            return charge;
        }
        self.stored[cpu] = charge.end;
        Charge { end: now, ..Charge::default() }
    }

    /// What is counted of each line begins anew.
    pub(super) fn forget_counts(&mut self) {
        self.lines.values_mut().for_each(|line| (line.lost, line.moves) = (0, 0));
    }

    /// Each line, and what was lost for it.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, Line)> {
        self.lines.iter().map(|(at, line)| (*at, *line))
    }

    /// Puts the line first in its set of the CPU's cache. The line that had to go.
    fn use_place(&mut self, cpu: usize, at: usize) -> Option<usize> {
        let sets = self.costs.cache_lines / WAYS;
        // Spread, as physical addresses are: tables begin at round numbers.
        let set = ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % sets;
        let set = &mut self.caches[cpu][set * WAYS..][..WAYS];
        let number = u32::try_from(at + 1).expect("a window of a few TiB");
        match set.iter().position(|place| *place == number) {
            Some(place) => {
                set[..=place].rotate_right(1);
                None
            }
            None => {
                set.rotate_right(1);
                let evicted = std::mem::replace(&mut set[0], number);
                (evicted as usize).checked_sub(1)
            }
        }
    }
}

impl Costs {
    /// From the farthest of `others` to `cpu`.
    fn way(&self, cpu: usize, others: u128) -> Ps {
        let first = cpu / self.socket * self.socket;
        let socket = u128::MAX >> (128 - self.socket.min(128)) << first;
        if others & !socket == 0 { self.near } else { self.far }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs {
        instruction: 100,
        change: 5_000,
        fence: 7_000,
        spin: 30_000,
        near: 50_000,
        far: 110_000,
        fetch: 20_000,
        shootdown: 0,
        shootdown_each: 0,
        interrupted: 0,
        socket: 2,
        line_bytes: 64,
        cache_lines: 16,
    };

    fn lines() -> Lines {
        Lines::new(COSTS, 4)
    }

    fn change(lines: &mut Lines, cpu: usize, at: usize, now: Ps) -> Charge {
        lines.touch(cpu, at, Touch::Change, Ordering::AcqRel, now)
    }

    fn load(lines: &mut Lines, cpu: usize, at: usize, now: Ps) -> Charge {
        lines.touch(cpu, at, Touch::Load, Ordering::Acquire, now)
    }

    /// Goal: two CPUs that change one line in turns pay a way and a step each time: `near` in a
    /// socket, `far` between two.
    #[test]
    fn a_line_that_two_change_in_turns_costs_a_way_each_time() {
        for (other, way) in [(1, COSTS.near), (2, COSTS.far)] {
            let mut lines = lines();
            let mut now = change(&mut lines, 0, 9, 0).end;
            assert_eq!(now, COSTS.fetch + COSTS.change);
            for turn in 1..100 {
                let charge = change(&mut lines, [0, other][turn % 2], 9, now);
                let end = now + way + COSTS.change;
                assert_eq!(charge, Charge { end, waited: 0, moved: way });
                now = end;
            }
        }
    }

    /// Goal: a line that one CPU has to itself costs its steps and nothing more, whatever others
    /// do with theirs.
    #[test]
    fn a_private_line_costs_nothing_more() {
        let mut lines = lines();
        for cpu in 0..4 {
            change(&mut lines, cpu, cpu, 0);
        }
        for turn in 1..100 {
            for cpu in 0..4 {
                let now = turn * 1_000_000;
                let end = now + COSTS.change;
                assert_eq!(change(&mut lines, cpu, cpu, now), Charge { end, ..Charge::default() });
                let end = now;
                assert_eq!(load(&mut lines, cpu, cpu, now), Charge { end, ..Charge::default() });
            }
        }
    }

    /// Goal: who comes while a line is on its way waits until it has arrived: so many CPUs at once
    /// have it one after the other.
    #[test]
    fn a_busy_line_is_waited_for() {
        let mut lines = lines();
        let first = change(&mut lines, 0, 3, 0);
        let second = change(&mut lines, 1, 3, 1_000);
        assert_eq!(second.waited, first.end - 1_000);
        assert_eq!(second.end, first.end + COSTS.near + COSTS.change);
        let third = load(&mut lines, 0, 3, 2_000);
        assert_eq!((third.waited, third.moved), (second.end - 2_000, COSTS.near));
    }

    /// Goal: readers share a line for nothing, and whoever changes it takes it from all of them,
    /// the farthest included.
    #[test]
    fn readers_share_a_line_until_it_is_changed() {
        let mut lines = lines();
        for cpu in 0..4 {
            assert_eq!(load(&mut lines, cpu, 5, 0).moved, COSTS.fetch);
            assert_eq!(load(&mut lines, cpu, 5, 1).end, 1);
        }
        assert_eq!(change(&mut lines, 0, 5, 10).moved, COSTS.far);
        assert_eq!(load(&mut lines, 1, 5, 1_000_000).moved, COSTS.near);
        assert_eq!(load(&mut lines, 0, 5, 2_000_000).moved, 0, "it keeps a clean copy");
    }

    /// Goal: a cache that is full forgets what was used longest ago; the line is fetched again.
    #[test]
    fn a_full_cache_forgets_what_was_used_longest_ago() {
        let mut lines = lines();
        change(&mut lines, 0, 0, 0);
        for at in 1..200 {
            load(&mut lines, 0, at, 0);
        }
        let later = 10_000_000;
        assert_eq!(load(&mut lines, 0, 199, later).moved, 0);
        assert_eq!(load(&mut lines, 0, 0, later).moved, COSTS.fetch);
        // Written back: nobody is asked for it.
        assert_eq!(change(&mut lines, 1, 1, later).moved, COSTS.fetch);
    }

    /// Goal: a sequentially consistent store costs a locked step, another store does not; fences
    /// and spins cost what they cost and touch no line.
    #[test]
    fn each_kind_of_access_has_its_cost() {
        let mut lines = lines();
        let start = change(&mut lines, 0, 1, 0).end;
        let cost =
            |lines: &mut Lines, touch, order| lines.touch(0, 1, touch, order, start).end - start;
        assert_eq!(cost(&mut lines, Touch::Store, Ordering::SeqCst), COSTS.change);
        assert_eq!(cost(&mut lines, Touch::Store, Ordering::Release), 0);
        assert_eq!(cost(&mut lines, Touch::Fence, Ordering::SeqCst), COSTS.fence);
        assert_eq!(cost(&mut lines, Touch::Spin, Ordering::Relaxed), COSTS.spin);
    }

    /// Goal: a store waits for no line, and the next locked step, wherever it is, waits for the store.
    #[test]
    fn a_locked_step_waits_for_the_stores_before_it() {
        let mut lines = lines();
        change(&mut lines, 0, 1, 0);
        change(&mut lines, 1, 2, 0);
        let now = 1_000_000;
        let store = lines.touch(1, 1, Touch::Store, Ordering::Relaxed, now);
        assert_eq!(store, Charge { end: now, ..Charge::default() });
        assert_eq!(load(&mut lines, 1, 1, now).end, now, "it reads what it stored");
        let step = change(&mut lines, 1, 2, now);
        assert_eq!(step.end, now + COSTS.near + COSTS.change);
        // The other one waits for the line as if it had been a change.
        assert_eq!(load(&mut lines, 0, 1, now).waited, COSTS.near);
    }
}
