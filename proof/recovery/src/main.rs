//! The recovery of dead members, as a model that is explored whole: `cargo xtask stateright`.
//!
//! ```text
//!   one slot: its state word, its frames, a presence cell a member      three members, two kills
//!   each step of a member is one load, one store or one CAS of the engine's; between any two of
//!   them any other member steps, or any is killed, a recoverer too
//! ```
//!
//! [`Step`] names the function whose access each step is. What the model leaves out: granules, hints and
//! counters, which recovery rebuilds from the words above; the ordering of memory, which is loom's.
//! Beside the protocol as it is there are three that are wrong, [`Variant`]: the checker must refute each.

mod member;
mod word;

use member::{Action, Step};
use stateright::{Checker as _, Model, Property};
use std::process::ExitCode;
use std::time::Instant;
use word::{Kind, Word};

/// How many members there are.
const MEMBERS: usize = 3;
/// Tenants after this one are not begun.
const GENERATIONS: u8 = 3;

/// How the protocol goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    /// As the engine does.
    AsItIs,
    /// A cell says that a member is attached, and not to which tenant.
    CellIsABit,
    /// Who attaches does not look at the state again after it has set its cell.
    NoSecondLook,
    /// What a dead member was building or purging is said to be free, without a flush.
    FreedUnflushed,
}

/// Everything that members share, and where each of them is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    /// The record's state word.
    word: Word,
    /// Whether the slot has frames.
    backed: bool,
    /// Presence: which tenant each member is attached to; 0: none.
    cells: [u8; MEMBERS],
    members: [Step; MEMBERS],
    /// Who holds the lock on a member's byte, to recover it.
    recoverer: [Option<u8>; MEMBERS],
    kills: u8,
    /// Whether a recoverer died over its work.
    twice: bool,
}

struct Protocol {
    variant: Variant,
    kills_max: u8,
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            word: Word { kind: Kind::Free, owner: None, generation: 0 },
            backed: false,
            cells: [0; MEMBERS],
            members: [Step::Idle; MEMBERS],
            recoverer: [None; MEMBERS],
            kills: 0,
            twice: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for who in 0..MEMBERS {
            world.choices(who, actions);
            if world.members[who] != Step::Dead && world.kills < self.kills_max {
                actions.push(Action::Kill(who));
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(world.after(action, self.variant))
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        vec![
            Property::always("an owner has its area, and frames", |_, world: &World| {
                world.members.iter().enumerate().all(|(who, step)| match *step {
                    Step::Owner { generation } => {
                        world.word == Word::new(Kind::Live, Some(who), generation) && world.backed
                    }
                    _ => true,
                })
            }),
            Property::always("who is attached sees its tenant, and frames", |_, world: &World| {
                world.members.iter().all(|step| match *step {
                    Step::Attached { generation } => {
                        let stays = matches!(world.word.kind, Kind::Shared | Kind::Dying);
                        stays && world.word.generation == generation && world.backed
                    }
                    _ => true,
                })
            }),
            Property::always("what is free has no frames", |_, world: &World| {
                world.word.kind != Kind::Free || !world.backed
            }),
            Property::always("when all is quiet nothing is lost", |_, world: &World| {
                // A published area that nobody is attached to is no loss: whoever has its token frees it.
                let is_quiet = world.members.iter().all(|step| *step == Step::Idle);
                let attached = world.cells.contains(&world.word.generation);
                !is_quiet
                    || match world.word.kind {
                        Kind::Free => true,
                        Kind::Parked => world.backed,
                        Kind::Shared => world.backed && !attached,
                        Kind::Building | Kind::Live | Kind::Dying | Kind::Purging => false,
                    }
            }),
            Property::sometimes("a recoverer dies, and all is recovered", |_, world: &World| {
                world.twice && world.members.iter().all(|step| *step == Step::Idle)
            }),
        ]
    }
}

/// Explores one variant with up to so many kills. Whether it went as it must.
fn explore(variant: Variant, kills_max: u8) -> bool {
    let start = Instant::now();
    let checker = Protocol { variant, kills_max }.checker().spawn_bfs().join();
    let found = checker.discoveries();
    let refuted: Vec<_> =
        found.iter().filter(|(name, _)| !name.starts_with("a recoverer")).collect();
    let said = match refuted.first() {
        None => "holds".to_owned(),
        Some((name, path)) => {
            let steps: Vec<_> = (*path).clone().into_actions();
            for step in &steps {
                println!("    {step:?}");
            }
            format!("refuted in {} steps: {name}", steps.len())
        }
    };
    let (states, seconds) = (checker.unique_state_count(), start.elapsed().as_secs_f64());
    println!("stateright: protocol | kills | states | seconds | result");
    println!("stateright: {variant:?} | {kills_max} | {states} | {seconds:.1} | {said}");
    let is_whole = kills_max < 2 || found.contains_key("a recoverer dies, and all is recovered");
    match variant {
        Variant::AsItIs => refuted.is_empty() && is_whole,
        _ => !refuted.is_empty(),
    }
}

fn main() -> ExitCode {
    let protocols = [0, 1, 2].map(|kills| (Variant::AsItIs, kills));
    let wrong = [Variant::CellIsABit, Variant::NoSecondLook, Variant::FreedUnflushed];
    let all = protocols.into_iter().chain(wrong.map(|variant| (variant, 2)));
    // Each runs, whatever the others said.
    let wrong = all.filter(|(variant, kills)| !explore(*variant, *kills)).count();
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
