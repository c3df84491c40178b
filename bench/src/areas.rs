//! Address space: take and give ranges, look addresses up.
//!
//! Every contender hands out runs of pages of one window, and may be called from several threads
//! (the others under a lock, if they have none of their own). Ours is the whole engine over a
//! machine on which nothing else costs anything: records, generations, lazy list and all.

pub mod contenders;

use crate::rng::Rng;
use crate::runner::{Contender, Runner, ns_each, ns_each_on};
use contenders::{Space, all, ours, tree};
use std::hint::black_box;

/// The cases of this group, for messages.
pub const NAMES: [&str; 5] =
    ["areas/pair", "areas/churn", "areas/tight", "areas/find", "areas/threads"];

/// What sizes are asked for, in pages.
#[derive(Clone, Copy)]
pub enum Sizes {
    /// Each doubling as likely as the next.
    LogUniform(u64, u64),
    /// Any as likely as any.
    Uniform(u64, u64),
}

impl Sizes {
    fn draw(self, rng: &mut Rng) -> u64 {
        match self {
            Sizes::LogUniform(low, high) => rng.log_uniform(low, high),
            Sizes::Uniform(low, high) => low + rng.below(high - low + 1),
        }
    }

    fn mean(self) -> u64 {
        match self {
            Sizes::LogUniform(low, high) => {
                let (low, high) = (low as f64, (high + 1) as f64);
                ((high - low) / (high / low).ln()) as u64 + 1
            }
            Sizes::Uniform(low, high) => (low + high) / 2 + 1,
        }
    }
}

/// A space with so many areas in it.
struct Field {
    space: Box<dyn Space>,
    areas: Vec<(u64, u64)>,
    failures: u64,
    rng: Rng,
    sizes: Sizes,
}

impl Field {
    fn new(space: Box<dyn Space>, live: usize, sizes: Sizes, seed: u64) -> Field {
        let rng = Rng(seed);
        let mut field = Field { space, areas: Vec::with_capacity(live), failures: 0, rng, sizes };
        while field.areas.len() < live && field.failures < live as u64 {
            let len = sizes.draw(&mut field.rng);
            match field.space.take(len) {
                Some(start) => field.areas.push((start, len)),
                None => field.failures += 1,
            }
        }
        field.failures = 0;
        field
    }

    /// Gives a random area back and takes a new one, `count` times.
    fn churn(&mut self, count: usize) {
        for _ in 0..count {
            let victim = self.rng.below(self.areas.len() as u64) as usize;
            let (start, len) = self.areas[victim];
            self.space.give(start, len);
            let len = self.sizes.draw(&mut self.rng);
            match self.space.take(len) {
                Some(start) => self.areas[victim] = (start, len),
                None => {
                    self.failures += 1;
                    self.areas.swap_remove(victim);
                }
            }
        }
    }

    fn find(&mut self, count: usize) {
        for _ in 0..count {
            let (start, len) = self.areas[self.rng.below(self.areas.len() as u64) as usize];
            let inside = start + self.rng.below(len);
            assert_eq!(black_box(self.space.find(inside)), Some(start));
        }
    }
}

/// Runs the group.
pub fn run(runner: &mut Runner) {
    pair(runner);
    for live in [1_000, 15_000, 100_000, 1_000_000] {
        if runner.quick && live > 100_000 {
            continue;
        }
        churn(runner, live);
        find(runner, live);
    }
    for live in [15_000, 100_000] {
        if !runner.quick || live == 15_000 {
            tight(runner, live);
        }
    }
    threads(runner);
}

/// One area, given back and taken again: the floor.
fn pair(runner: &mut Runner) {
    for pages in [1, 10, 100] {
        let name = format!("areas/pair/live=1/pages={pages}");
        if !runner.wants(&name) {
            continue;
        }
        let count = 2_000;
        let contenders = all(1 << 16, 1).into_iter().map(|(name, space)| {
            Contender::new(name, move || {
                ns_each(count, || {
                    for _ in 0..count {
                        let start = space.take(pages).expect("an empty window");
                        space.give(black_box(start), pages);
                    }
                })
            })
        });
        runner.compare(&name, "ns a pair", &[("tree", 4.0)], contenders.collect());
    }
}

/// Random areas of random sizes, one given and one taken each time, in a window that is half empty.
fn churn(runner: &mut Runner, live: usize) {
    let goals: &[_] = match live {
        15_000 => &[("tree", 8.0)],
        1_000_000 => &[("tree", 15.0)],
        _ => &[],
    };
    // The more areas, the smaller, so that the tables fit the memory of any machine.
    let sizes = if live > 100_000 { Sizes::LogUniform(1, 16) } else { Sizes::Uniform(1, 100) };
    let name = format!("areas/churn/live={live}");
    if !runner.wants(&name) {
        return;
    }
    let window = (live as u64 * sizes.mean() * 2).next_multiple_of(1 << 16);
    churn_in(runner, &name, goals, window, live, sizes);
}

/// The same in a window that is nine tenths full, after every area was replaced ten times.
fn tight(runner: &mut Runner, live: usize) {
    let name = format!("areas/tight/live={live}");
    if !runner.wants(&name) {
        return;
    }
    let sizes = Sizes::LogUniform(1, 2047);
    let window = (live as u64 * sizes.mean() * 10 / 9).next_multiple_of(1 << 16);
    churn_in(runner, &name, &[], window, live, sizes);
}

fn churn_in(
    runner: &mut Runner,
    name: &str,
    goals: &[(&'static str, f64)],
    window: u64,
    live: usize,
    sizes: Sizes,
) {
    let (count, seed, is_tight) = (2_000, runner.seed, name.starts_with("areas/tight"));
    let fields: Vec<_> = all(window, live)
        .into_iter()
        // In a tight window vmem loses most of it, and walks what is left for every request.
        .filter(|(name, _)| !(is_tight && *name == "vmem"))
        .map(|(name, space)| {
            let mut field = Field::new(space, live, sizes, seed);
            if is_tight {
                field.churn(live * 10);
            }
            (name, std::cell::RefCell::new(field))
        })
        .collect();
    let contenders = fields.iter().map(|(name, field)| {
        Contender::new(*name, move || ns_each(count, || field.borrow_mut().churn(count)))
    });
    let contenders = contenders.collect();
    let case = runner.compare(name, "ns a pair", goals, contenders);
    for (row, (_, field)) in case.rows.iter_mut().zip(&fields) {
        let field = field.borrow();
        let mut notes = Vec::new();
        if field.failures > 0 {
            notes.push(format!("{} refused", field.failures));
        }
        if let Some(largest) = field.space.largest() {
            let used: u64 = field.areas.iter().map(|(_, len)| len + 1).sum();
            let share = largest as f64 / (window - used) as f64;
            notes.push(format!("largest hole {share:.3} of what is free"));
        }
        row.note = notes.join(", ");
        println!("  {:<28} {}", row.name, row.note);
    }
}

/// An address inside a random area: which is it?
fn find(runner: &mut Runner, live: usize) {
    let name = format!("areas/find/live={live}");
    if !runner.wants(&name) {
        return;
    }
    let goals: &[_] = match live {
        15_000 => &[("tree", 15.0)],
        1_000_000 => &[("tree", 100.0)],
        _ => &[],
    };
    let sizes = if live > 100_000 { Sizes::LogUniform(1, 16) } else { Sizes::Uniform(1, 100) };
    let window = (live as u64 * sizes.mean() * 2).next_multiple_of(1 << 16);
    let (count, seed) = (2_000, runner.seed);
    let contenders =
        all(window, live).into_iter().filter(|(_, space)| space.finds()).map(|(name, space)| {
            let mut field = Field::new(space, live, sizes, seed);
            // Neighbours in address are no longer neighbours in time.
            field.churn(live.min(200_000));
            Contender::new(name, move || ns_each(count, || field.find(count)))
        });
    runner.compare(&name, "ns a look-up", goals, contenders.collect());
}

/// Threads that take and give at once: ns of wall time for each of all their pairs.
fn threads(runner: &mut Runner) {
    for threads in [1, 2] {
        let name = format!("areas/threads/threads={threads}");
        if !runner.wants(&name) {
            continue;
        }
        let (count, seed) = (2_000, runner.seed);
        let goals: &[_] = if threads == 2 { &[("tree", 10.0)] } else { &[] };
        let spaces = [ours(1 << 20), tree(1 << 20)];
        let contenders = spaces.iter().map(|(name, space)| {
            Contender::new(*name, move || {
                ns_each_on(threads, count, |thread| {
                    vmalloc_sim::scale::be_cpu(thread);
                    let mut rng = Rng(seed + thread as u64);
                    let mut live = Vec::new();
                    for _ in 0..count {
                        if live.len() == 64 {
                            let (start, len) = live.swap_remove(rng.below(64) as usize);
                            space.give(start, len);
                        }
                        let len = 1 + rng.below(100);
                        live.push((space.take(len).expect("a window with room"), len));
                    }
                    live.iter().for_each(|&(start, len)| space.give(start, len));
                })
            })
        });
        runner.compare(&name, "ns a pair", goals, contenders.collect());
    }
}
