//! Death at every instruction, exhaustively.
//!
//! A real process carries out a verb, one instruction at a time, and whenever the pool's words or
//! frames have changed, that is a moment at which a SIGKILL could have come. From each of them the
//! pool is recovered, on a copy, by a member that lives and by one that takes over the dead one's
//! slot; and then everything is looked at. Recovery is a verb, too: it is stepped through from
//! each of these moments, and its own moments of death are recovered from. It is long, so that is
//! done in strides from one write to the next (`trap.rs`), several at a time.
//!
//! ```text
//!   verb ─step─step─┬─step─┬─ … ─▶ done
//!                 photo  photo
//!                   ├─▶ recover on a copy ─▶ invariants, frames, owners, charge; wind up: empty
//!                   └─▶ recovery ─step─┬─ … ─▶ done          (the recoverer dies, too)
//!                                    photo ─▶ recover on a copy ─▶ …
//! ```

mod check;
pub mod image;
mod step;
mod trap;
pub mod verbs;

use crate::peer::{Peer, command};
use crate::support::{MIB, PAGE, Scratch};
use check::Expected;
use image::{Image, Layout, keep_alive, let_die};
use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use step::{Film, Stepped};
use verbs::{By, VERBS, Verb, options};
use vmalloc::core::Area;
use vmalloc::{Request, Token};

/// The one who dies in the verb, and the one who dies over its recovery.
const VICTIM: usize = 2;
const THIRD: usize = 3;

/// Of which pools.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Linear,
    Framed,
}

/// What one verb showed.
#[derive(Default)]
struct Tally {
    steps: u64,
    points: usize,
    recoveries: usize,
    recovery_steps: u64,
    recovery_points: usize,
    wrong: Vec<String>,
}

/// How far a step goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stride {
    Instruction,
    /// To the next write or system call.
    Writes,
}

impl Tally {
    fn add_recovery(&mut self, of_one: Tally) {
        self.recoveries += of_one.recoveries;
        self.recovery_steps += of_one.recovery_steps;
        self.recovery_points += of_one.recovery_points;
        self.wrong.extend(of_one.wrong);
    }
}

/// How many recoveries are stepped through at a time.
fn steppers() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// Steps through a verb, and recovers from each moment; from each `sample`-th one it steps
/// through the recovery, too.
fn survive(number: usize, sample: usize, kind: Kind) -> Tally {
    let verb = &VERBS[number];
    let path = Scratch::new("crash");
    let (film, base, layout, apart) = film_of(verb, number, &path, kind);
    let mut tally = Tally { steps: film.steps, ..Tally::default() };
    let mut seen = HashSet::new();
    let images: Vec<Image> =
        film.images.into_iter().filter(|image| seen.insert(image.key(&layout))).collect();
    tally.points = images.len();
    let expected = Expected { layout: &layout, alive: &[1, THIRD], apart };
    tally.wrong = images.iter().filter_map(|image| expected.check(image).err()).collect();

    let expected = Expected { layout: &layout, alive: &[1], apart };
    let sampled: Vec<&Image> = images.iter().skip(sample - 1).step_by(sample).collect();
    let (next, tally_of_all, seen) = (AtomicUsize::new(0), Mutex::new(tally), Mutex::default());
    // A process is stepped through by the thread that made it.
    std::thread::scope(|scope| {
        for _ in 0..steppers().min(sampled.len()) {
            scope.spawn(|| {
                // Relaxed: it gives out work, no more.
                while let Some(image) = sampled.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let film = film_of_recovery(&base, image, &layout, Stride::Writes);
                    let of_one = survive_recovery(image, film, &expected, &seen);
                    tally_of_all.lock().unwrap().add_recovery(of_one);
                }
            });
        }
    });
    tally_of_all.into_inner().unwrap()
}

/// Recovers from each moment of a recovery from `image` that is not `seen` yet.
fn survive_recovery(
    image: &Image,
    film: Film,
    expected: &Expected<'_>,
    seen: &Mutex<HashSet<u64>>,
) -> Tally {
    let mut tally = Tally { recoveries: 1, recovery_steps: film.steps, ..Tally::default() };
    for mut again in film.images {
        if seen.lock().unwrap().insert(again.key(expected.layout)) {
            tally.recovery_points += 1;
            again.when = format!("{}\n then {}", image.when, again.when);
            tally.wrong.extend(expected.check(&again).err());
        }
    }
    tally
}

/// The verb's film; the pool before it; its layout; and the bystander's own area.
fn film_of(verb: &Verb, number: usize, path: &Scratch, kind: Kind) -> (Film, Image, Layout, Area) {
    let bystander = options().members(4).window_bytes(64 * MIB);
    let bystander = if kind == Kind::Framed { bystander.framed() } else { bystander };
    let bystander = bystander.create_at(&path.0, 12 * MIB).unwrap();
    let (file, _) = crate::support::file_of(&bystander);
    let alloc = |pages: u64| bystander.alloc(&Request::bytes(pages * PAGE)).unwrap();
    let apart = alloc(3);
    let apart_area = bystander.areas()[0];
    let (taken, dying) = (alloc(5).share().unwrap(), alloc(5).share().unwrap());
    let offered = alloc(20).freeze().unwrap();
    let tokens = format!("{} {} {}", offered.token(), taken.token(), dying.token());
    let argument = |number: usize| format!("{} {number} {tokens}", path.0.display());

    // The slots are given out in order: the victim's is the second.
    let placeholder = options().open(&path.0).unwrap();
    let third = options().open(&path.0).unwrap();
    assert_eq!((placeholder.member_number(), third.member_number()), (VICTIM, THIRD));
    drop(placeholder);
    if verb.by == By::Heir {
        let mut ancestor = start("stepped", &argument(0));
        ancestor.reply();
        ancestor.kill();
    }
    let mut victim = start("stepped", &argument(number));
    let given = victim.reply().unwrap();
    let given = given.strip_prefix("ready ").map(|token| token.parse::<Token>().unwrap());
    let _given = given.map(|token| bystander.attach_shared(&token).unwrap());
    dying.free().unwrap();
    drop((alloc(5), alloc(450)));
    let before = victim.ask("go");
    let (thread, base) = before.split_once(' ').unwrap();
    let stepped = Stepped::wait_for(thread.parse().unwrap(), base.parse().unwrap());

    let layout = Layout::of(&bystander, &file);
    let before = Image::of(&bystander, &file, &layout);
    let film = stepped.film(&file, &layout, before.clone());
    drop(stepped);
    victim.kill();
    drop((apart, taken, offered, third));
    (film, before, layout, apart_area)
}

/// A film of the recovery from `image`, by a member that lived before and after it.
fn film_of_recovery(base: &Image, image: &Image, layout: &Layout, stride: Stride) -> Film {
    let file = base.copy(layout);
    let others = keep_alive(&file, &[1, VICTIM]);
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let mut recoverer = start("recoverer", &path);
    let reply = recoverer.reply().unwrap();
    let words: Vec<&str> = reply.split(' ').collect();
    assert_eq!(words[0].parse::<usize>().unwrap(), THIRD);
    let stepped = Stepped::wait_for(words[1].parse().unwrap(), words[2].parse().unwrap());
    // What it knows of the pool is what it knew when the verb began.
    image.write_over(&file, layout);
    let_die(&others, VICTIM);
    let film = match stride {
        Stride::Instruction => stepped.film(&file, layout, image.clone()),
        Stride::Writes => {
            stepped.film_writes(&file, layout, image.clone(), words[3].parse().unwrap())
        }
    };
    drop(stepped);
    recoverer.kill();
    film
}

fn start(role: &str, argument: &str) -> Peer {
    let mut command = command(role);
    command.env("VMALLOC_TEST_ARGUMENT", argument);
    Peer::spawn(command)
}

/// All verbs, or those that `VMALLOC_CRASH_VERB` names; prints what was found. From one in
/// `sample` moments the recovery is stepped through.
fn survive_all(sample: usize, kind: Kind, but: &[&str]) {
    let start = Instant::now();
    let only = std::env::var("VMALLOC_CRASH_VERB").unwrap_or_default();
    let mut total = Tally::default();
    println!("verb: instructions, points of death; recoveries: stops, points of death");
    let wanted = |name: &str| name.contains(&only) && !but.contains(&name);
    for number in (0..VERBS.len()).filter(|number| wanted(VERBS[*number].name)) {
        let tally = survive(number, sample, kind);
        let Tally { steps, points, recoveries, recovery_steps, recovery_points, wrong } = tally;
        let name = VERBS[number].name;
        println!(
            "{name}: {steps}, {points}; {recoveries}: {recovery_steps}, {recovery_points}; wrong: {}",
            wrong.len()
        );
        total.steps += steps;
        total.recovery_steps += recovery_steps;
        total.points += points;
        total.recoveries += recoveries;
        total.recovery_points += recovery_points;
        total.wrong.extend(wrong.into_iter().map(|why| format!("{name}: {why}")));
    }
    println!(
        "{} instructions, {} points of death in verbs; {} recoveries of them, {} stops, {} points \
         of death; all recovered from, in two ways each, in {:.1?}; wrong: {}",
        total.steps,
        total.points,
        total.recoveries,
        total.recovery_steps,
        total.recovery_points,
        start.elapsed(),
        total.wrong.len()
    );
    let first: Vec<&String> = total.wrong.iter().take(8).collect();
    assert!(first.is_empty(), "{} points; the first: {first:#?}", total.wrong.len());
}

/// Goal: a member killed at any instruction of any verb leaves nothing that recovery does not mend:
/// the invariants hold, no frame is leaked, none has two owners, the charge is exact.
/// Method: the module's. Of recoveries one is stepped through, that of whoever joins in the dead
/// member's slot: it is a verb like the others.
#[test]
fn a_kill_at_any_instruction_of_a_verb_leaves_the_pool_whole() {
    survive_all(usize::MAX, Kind::Linear, &[]);
}

/// Goal: striding from write to write misses no moment.
/// Method: recoveries from the middle of three verbs, at every instruction and in strides: the same
/// moments in the same order.
#[test]
fn a_stride_to_the_next_write_misses_no_moment_of_death() {
    compare_strides(Kind::Linear);
}

/// Goal and method as above, of framed pools: their words do not end where the window begins.
#[test]
fn a_stride_to_the_next_write_misses_no_moment_of_death_in_a_framed_pool() {
    compare_strides(Kind::Framed);
}

fn compare_strides(kind: Kind) {
    for name in ["vmalloc, a new chunk", "free, no reuse", "commit parts of a reservation"] {
        let number = VERBS.iter().position(|verb| verb.name == name).unwrap();
        let path = Scratch::new("stride");
        let (film, base, layout, _) = film_of(&VERBS[number], number, &path, kind);
        let image = &film.images[film.images.len() / 2];
        let moments = |stride| {
            let film = film_of_recovery(&base, image, &layout, stride);
            let mut keys: Vec<u64> = film.images.iter().map(|image| image.key(&layout)).collect();
            keys.dedup();
            (film.steps, keys)
        };
        let (instructions, all) = moments(Stride::Instruction);
        let (stops, seen) = moments(Stride::Writes);
        println!("{name}: {instructions} instructions, {stops} stops, {} moments", all.len());
        assert!(all.len() > 2, "a recovery that does nothing");
        assert_eq!(seen, all);
    }
}

/// Goal: and so does a kill of the recoverer, at any instruction of its recovery.
/// Method: the recovery is stepped through from every moment of every verb.
#[test]
#[ignore = "minutes: cargo test -p vmalloc --test linux its_recovery_leaves -- --ignored --nocapture"]
fn a_kill_at_any_instruction_of_its_recovery_leaves_the_pool_whole() {
    survive_all(1, Kind::Linear, &[]);
}

/// Verbs of so many frames that to step through them takes minutes each.
const LONG: &[&str] = &[
    "vmalloc, granules of its own",
    "vmalloc, huge pages",
    "vmalloc, after a purge",
    "resize, longer",
    "grow a shared area",
    "commit parts of a reservation",
    "purge",
    "join",
    "join, in a dead member's slot",
];

/// Goal: the same of a framed pool: a member killed at any instruction of a verb leaves no frame that
/// is lost, and none that two pages have; at the end every frame can be had.
/// Method: as above; a frame's owner, the wishes and the bits are words of the pool like others.
#[test]
fn a_kill_at_any_instruction_of_a_verb_loses_no_frame_of_a_framed_pool() {
    survive_all(usize::MAX, Kind::Framed, LONG);
}

/// Goal and method as above, for every verb.
#[test]
#[ignore = "minutes: cargo test -p vmalloc --test linux any_verb_loses_no_frame -- --ignored"]
fn a_kill_at_any_instruction_of_any_verb_loses_no_frame_of_a_framed_pool() {
    survive_all(usize::MAX, Kind::Framed, &[]);
}

/// Goal: and so does a kill of the recoverer, at any instruction of its recovery.
/// Method: the recovery is stepped through from one in ten moments of the shorter verbs.
#[test]
#[ignore = "minutes: cargo test -p vmalloc --test linux recovery_loses_no_frame -- --ignored"]
fn a_kill_at_any_instruction_of_its_recovery_loses_no_frame_of_a_framed_pool() {
    survive_all(10, Kind::Framed, LONG);
}
