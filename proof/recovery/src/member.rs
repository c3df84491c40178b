//! What a member does, one access at a time.

use crate::word::{Kind, Word};
use crate::{GENERATIONS, MEMBERS, Variant, World};

/// Where a member is: what it does next, and what it has seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// It holds nothing, and may begin anything.
    Idle,
    /// Killed, and not recovered yet.
    Dead,
    // vmalloc: `Record::claim` has won.
    /// `back::back`.
    Back { generation: u8 },
    /// `publish::make_live`.
    Publish { generation: u8 },
    /// The area is its alone.
    Owner { generation: u8 },
    // share: `Presence::enter` has set the cell.
    /// The CAS LIVE to SHARED of `share::share`.
    Share { generation: u8 },
    // attach: the first look has seen SHARED.
    /// `Presence::enter`.
    Enter { generation: u8 },
    /// The second look of `share::attach_in_place`.
    LookAgain { generation: u8 },
    /// It uses the area.
    Attached { generation: u8 },
    /// `Presence::leave`.
    Leave { generation: u8 },
    /// The look at the state in `share::reap`.
    Reap { then: Then },
    /// `Presence::count`, which is about to look at cell `at`.
    Count { generation: u8, at: u8, then: Then },
    /// The CAS DYING to PARKED of `lazy::park`.
    Park { generation: u8, then: Then },
    // purge: `purge::withdraw` has won, or recovery has taken over.
    /// `PendingFlush::flush`: then the frames are home.
    Flush { generation: u8, then: Then },
    /// The CAS PURGING to FREE of `purge::settle`.
    Settle { generation: u8, then: Then },
    /// The look at the state in `recover::recover_area`.
    Recover { dead: u8 },
    /// What it does about what it saw.
    TakeOver { dead: u8, seen: Word },
    /// `Presence::erase`.
    Erase { dead: u8, seen: Word },
    /// The CAS that makes a published area nobody's.
    Disown { dead: u8, seen: Word },
    /// It lets go of the dead member's byte, whose number is anybody's then.
    Unlock { dead: u8 },
}

/// What follows a walk that several verbs share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Then {
    Idle,
    Unlock { dead: u8 },
}

/// What happens next in the world.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// `Engine::vmalloc`: a slot that is free, or a parked area.
    Alloc(usize),
    /// `Engine::attach`, by the token of any tenant there was.
    Attach(usize, u8),
    /// `Engine::purge_step`.
    Purge(usize),
    /// `Engine::free` of a published area, by its token.
    FreeShared(usize),
    /// `Engine::free` of its own area.
    FreeOwn(usize),
    /// `Engine::share`.
    Publish(usize),
    /// `Engine::detach`.
    Detach(usize),
    /// `Engine::recover` of a member whose byte could be locked.
    Recover(usize, usize),
    /// The next access of what it is about.
    Step(usize),
    /// SIGKILL; the kernel lets go of its locks.
    Kill(usize),
}

impl World {
    /// What `who` may do now.
    pub fn choices(&self, who: usize, actions: &mut Vec<Action>) {
        let more = self.word.generation < GENERATIONS;
        match self.members[who] {
            Step::Dead => {}
            Step::Idle => {
                match self.word.kind {
                    Kind::Free if more => actions.push(Action::Alloc(who)),
                    Kind::Parked => {
                        actions.push(Action::Purge(who));
                        actions.extend(more.then_some(Action::Alloc(who)));
                    }
                    Kind::Shared => actions.push(Action::FreeShared(who)),
                    _ => {}
                }
                if self.word.kind == Kind::Shared {
                    actions.push(Action::Attach(who, self.word.generation));
                }
                let may = |dead: &usize| {
                    self.members[*dead] == Step::Dead && self.recoverer[*dead].is_none()
                };
                actions.extend((0..MEMBERS).filter(may).map(|dead| Action::Recover(who, dead)));
            }
            Step::Owner { .. } => actions.extend([Action::FreeOwn(who), Action::Publish(who)]),
            Step::Attached { .. } => {
                actions.extend([Action::FreeShared(who), Action::Detach(who)]);
            }
            _ => actions.push(Action::Step(who)),
        }
    }

    /// The world after `action`.
    pub fn after(&self, action: Action, variant: Variant) -> World {
        let mut world = self.clone();
        match action {
            Action::Alloc(who) => world.members[who] = world.alloc(who),
            Action::Attach(who, generation) => world.members[who] = Step::Enter { generation },
            Action::Purge(who) => {
                let generation = world.word.generation;
                world.word = world.word.to(Kind::Purging, Some(who));
                world.members[who] = Step::Flush { generation, then: Then::Idle };
            }
            Action::FreeShared(who) => {
                // A look at the state word, and a CAS that fails unless it is still published.
                if world.word.kind == Kind::Shared {
                    world.word.kind = Kind::Dying;
                }
                world.members[who] = match world.members[who] {
                    Step::Attached { generation } => Step::Leave { generation },
                    _ => Step::Reap { then: Then::Idle },
                };
            }
            Action::FreeOwn(who) => {
                world.word.kind = Kind::Parked;
                world.members[who] = Step::Idle;
            }
            Action::Publish(who) => {
                let generation = world.word.generation;
                world.cells[who] = generation;
                world.members[who] = Step::Share { generation };
            }
            Action::Detach(who) => {
                if let Step::Attached { generation } = world.members[who] {
                    world.members[who] = Step::Leave { generation };
                }
            }
            Action::Recover(who, dead) => {
                world.recoverer[dead] = Some(who as u8);
                world.members[who] = Step::Recover { dead: dead as u8 };
            }
            Action::Step(who) => world.members[who] = world.step(who, variant),
            Action::Kill(who) => {
                world.kills += 1;
                world.members[who] = Step::Dead;
                for lock in &mut world.recoverer {
                    if *lock == Some(who as u8) {
                        *lock = None;
                        world.twice = true;
                    }
                }
            }
        }
        world
    }

    /// `Record::claim`, or the one step of `lazy::revive_one`.
    fn alloc(&mut self, who: usize) -> Step {
        let generation = self.word.generation + 1;
        if self.word.kind == Kind::Parked {
            self.word = Word::new(Kind::Live, Some(who), generation);
            return Step::Owner { generation };
        }
        self.word = Word::new(Kind::Building, Some(who), generation);
        Step::Back { generation }
    }

    /// A CAS of the state word. Whether it won.
    fn cas(&mut self, from: Word, to: Word) -> bool {
        let wins = self.word == from;
        if wins {
            self.word = to;
        }
        wins
    }

    /// One access of `who`, and where it is then.
    fn step(&mut self, who: usize, variant: Variant) -> Step {
        let owner = Some(who);
        match self.members[who] {
            Step::Back { generation } => {
                self.backed = true;
                Step::Publish { generation }
            }
            Step::Publish { generation } => {
                self.word = Word::new(Kind::Live, owner, generation);
                Step::Owner { generation }
            }
            Step::Share { generation } => {
                self.word = Word::new(Kind::Shared, owner, generation);
                Step::Attached { generation }
            }
            Step::Enter { generation } => {
                self.cells[who] = generation;
                Step::LookAgain { generation }
            }
            Step::LookAgain { generation } => {
                let stays = self.word.is(Kind::Shared, generation);
                if stays || variant == Variant::NoSecondLook {
                    Step::Attached { generation }
                } else {
                    Step::Leave { generation }
                }
            }
            Step::Leave { generation } => {
                if self.cells[who] == generation {
                    self.cells[who] = 0;
                }
                Step::Reap { then: Then::Idle }
            }
            Step::Reap { then } => match self.word {
                Word { kind: Kind::Dying, generation, .. } => {
                    Step::Count { generation, at: 0, then }
                }
                _ => then.step(),
            },
            Step::Count { generation, at, then } => {
                let cell = self.cells[at as usize];
                let holds = match variant {
                    Variant::CellIsABit => cell != 0,
                    _ => cell == generation,
                };
                match usize::from(at) + 1 {
                    _ if holds => then.step(),
                    MEMBERS => Step::Park { generation, then },
                    next => Step::Count { generation, at: next as u8, then },
                }
            }
            Step::Park { generation, then } => {
                if self.word.is(Kind::Dying, generation) {
                    self.word = self.word.to(Kind::Parked, None);
                }
                then.step()
            }
            Step::Flush { generation, then } => {
                self.backed = false;
                Step::Settle { generation, then }
            }
            Step::Settle { generation, then } => {
                let free = Word::new(Kind::Free, None, generation);
                self.cas(Word::new(Kind::Purging, owner, generation), free);
                then.step()
            }
            Step::Recover { dead } => Step::TakeOver { dead, seen: self.word },
            Step::TakeOver { dead, seen } => self.take_over(who, dead, seen, variant),
            Step::Erase { dead, seen } => {
                self.cells[usize::from(dead)] = 0;
                Step::Disown { dead, seen }
            }
            Step::Disown { dead, seen } => {
                if seen.kind == Kind::Shared && seen.owner == Some(dead) {
                    self.cas(seen, seen.to(Kind::Shared, None));
                }
                Step::Reap { then: Then::Unlock { dead } }
            }
            Step::Unlock { dead } => {
                self.recoverer[usize::from(dead)] = None;
                // Another process joins under the same number.
                self.members[usize::from(dead)] = Step::Idle;
                Step::Idle
            }
            step @ (Step::Idle | Step::Dead | Step::Owner { .. } | Step::Attached { .. }) => step,
        }
    }

    /// The arms of `recover::recover_area`.
    fn take_over(&mut self, who: usize, dead: u8, seen: Word, variant: Variant) -> Step {
        let then = Then::Unlock { dead };
        let generation = seen.generation;
        match seen.kind {
            Kind::Building | Kind::Purging if seen.owner == Some(dead) => {
                if variant == Variant::FreedUnflushed {
                    self.cas(seen, seen.to(Kind::Free, None));
                    return then.step();
                }
                match self.cas(seen, seen.to(Kind::Purging, Some(who))) {
                    true => Step::Flush { generation, then },
                    false => then.step(),
                }
            }
            Kind::Live | Kind::Parked if seen.owner == Some(dead) => {
                self.cas(seen, seen.to(Kind::Parked, None));
                then.step()
            }
            Kind::Shared | Kind::Dying => Step::Erase { dead, seen },
            _ => then.step(),
        }
    }
}

impl Then {
    fn step(self) -> Step {
        match self {
            Then::Idle => Step::Idle,
            Then::Unlock { dead } => Step::Unlock { dead },
        }
    }
}
