//! How cost grows: with areas, threads, members, and the size of the pool.
//!
//! ```text
//!   areas     a warm pair of the engine beside 1,000 … 1,000,000 live areas
//!   threads   warm pairs of a pool by 1 … 8 threads: wall time for each of all their pairs
//!   members   a warm pair while 1 … 63 processes have joined
//!   pool      a warm pair in pools of 64 MiB … 64 GiB, and making one; only what is used is taken
//! ```

use crate::areas::contenders::{Space, ours, tree};
use crate::peers::Kind;
use crate::report::number;
use crate::rng::Rng;
use crate::runner::{Case, Contender, Runner, ns_each, ns_each_on};
use crate::table::Table;
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use vmalloc::Pool;

/// The cases of this group, for messages.
pub const NAMES: [&str; 4] = ["scale/areas", "scale/threads", "scale/members", "scale/pool"];

/// How large a block of a pool is.
const BYTES: usize = 64 << 10;
const COUNT: usize = 1_000;

/// Runs the group.
pub fn run(runner: &mut Runner) {
    let columns = vec!["cost of a warm pair", "from", "to", "the last over the first"];
    let about = "A curve each, below, and its two ends here.";
    let mut table = Table::new("scale", about.into(), columns);
    for curve in CURVES {
        let at = runner.cases.len();
        (curve.run)(runner);
        curve.ends(&runner.cases[at..], &mut table);
    }
    if !table.rows.is_empty() {
        runner.keep(table);
    }
}

/// A curve: what grows, what measures its points, and what the design has promised of it.
struct Curve {
    grows: &'static str,
    run: fn(&mut Runner),
    promise: Option<Promise>,
}

/// How much more than at the first point a pair may cost.
struct Promise {
    what: &'static str,
    at_most: f64,
    /// At which point: at its index, or at the last one.
    at: Option<usize>,
}

/// What two threads over one are promised; `report/reasons.rs` has why it is missed.
pub const TWO_THREADS: &str = "wall time for each pair, two threads over one";

const CURVES: [Curve; 4] = [
    Curve {
        grows: "areas",
        run: areas,
        promise: Some(Promise {
            what: "a pair's cost from 1,000 areas on",
            at_most: 4.0,
            at: None,
        }),
    },
    Curve {
        grows: "threads",
        run: threads,
        promise: Some(Promise { what: TWO_THREADS, at_most: 1.0, at: Some(1) }),
    },
    Curve { grows: "members", run: members, promise: None },
    Curve { grows: "bytes of the pool", run: pools, promise: None },
];

impl Curve {
    /// Its two ends as a row of `table`, and its promise there.
    fn ends(&self, points: &[Case], table: &mut Table) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let end = |name: &str| name.rsplit_once('=').map_or("", |(_, value)| value).to_owned();
        let ratio = |point: &Case| point.rows[0].median() / first.rows[0].median();
        let grown = format!("{}×", number(ratio(last)));
        table.row(self.grows, [end(&first.name), end(&last.name), grown]);
        let Some(Promise { what, at_most, at }) = &self.promise else { return };
        if let Some(judged) = at.map_or(Some(last), |at| points.get(at)) {
            let ratio = ratio(judged);
            let measured = format!("{}× at {}", number(ratio), end(&judged.name));
            table.promise(what, &format!("{at_most}× at most"), measured, ratio <= *at_most);
        }
    }
}

fn areas(runner: &mut Runner) {
    for live in [1_000, 10_000, 100_000, 1_000_000] {
        let name = format!("scale/areas/live={live}");
        if !runner.wants(&name) {
            continue;
        }
        let window = (live * 20_u64).next_multiple_of(1 << 16);
        let contenders = [ours(window), tree(window)].into_iter().map(|(name, space)| {
            fill(&*space, live, runner.seed);
            Contender::new(name, move || {
                ns_each(COUNT, || {
                    for _ in 0..COUNT {
                        let start = space.take(4).expect("a window that is half empty");
                        space.give(black_box(start), 4);
                    }
                })
            })
        });
        let contenders = contenders.collect();
        runner.compare(&name, "ns a warm pair", &[], contenders);
    }
}

fn fill(space: &dyn Space, live: u64, seed: u64) {
    let mut rng = Rng(seed);
    for _ in 0..live {
        space.take(1 + rng.below(16)).expect("a window with room");
    }
}

fn threads(runner: &mut Runner) {
    for threads in [1, 2, 4, 8] {
        let name = format!("scale/threads/threads={threads}");
        if !runner.wants(&name) {
            continue;
        }
        let pool = Pool::create(1 << 30).expect("a pool: only what is used is taken");
        let ours = Contender::new("ours", || ns_each_on(threads, COUNT, |_| pairs(&pool)));
        let contenders = [
            ours,
            #[cfg(feature = "mimalloc")]
            Contender::new("mimalloc", || {
                let heap = crate::raw::GlobalHeap(&mimalloc::MiMalloc);
                ns_each_on(threads, COUNT, |_| {
                    (0..COUNT).for_each(|_| drop(black_box(heap.take(BYTES))));
                })
            }),
        ];
        let case = runner.compare(&name, "ns of wall time a pair", &[], contenders.into());
        // A machine that does other work shows in the wall, and not in this.
        case.rows[0].note = format!("{} ns of CPU", number(cpu_each(threads, &pool)));
        println!("  {:<28} {}", case.rows[0].name, case.rows[0].note);
    }
}

/// ns of CPU time for each pair of so many threads: waits for a CPU left out, those for a cache
/// line of another thread left in.
fn cpu_each(threads: usize, pool: &Pool) -> f64 {
    const TURNS: usize = 300;
    let cpu_ns = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let start = cpu_ns();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..TURNS).for_each(|_| pairs(pool)));
        }
    });
    (cpu_ns() - start) / (threads * TURNS * COUNT) as f64
}

fn pairs(pool: &Pool) {
    for _ in 0..COUNT {
        black_box(pool.vmalloc(BYTES).expect("a pool with room"))[0] = 1;
    }
}

/// Processes that have joined, until dropped.
struct Crew(Vec<Child>);

impl Crew {
    fn new(pool: &Pool, count: usize) -> Crew {
        let join = |_| {
            let mut command = Kind::Ours.command("idle").expect("ours is always there");
            command.arg(pool.share_path()).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().expect("a child process");
            let mut line = String::new();
            let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
            output.read_line(&mut line).expect("a child that joins");
            child
        };
        Crew((0..count).map(join).collect())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It ends with its input.
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

fn members(runner: &mut Runner) {
    for members in [1, 8, 32, 63] {
        let name = format!("scale/members/members={members}");
        if !runner.wants(&name) {
            continue;
        }
        let pool = Pool::create(1 << 30).expect("a pool: only what is used is taken");
        let _crew = Crew::new(&pool, members - 1);
        let ours = Contender::new("ours", || ns_each(COUNT, || pairs(&pool)));
        runner.compare(&name, "ns a warm pair", &[], vec![ours]);
    }
}

fn pools(runner: &mut Runner) {
    for (bytes, size) in
        [(64_u64 << 20, "64M"), (1 << 30, "1G"), (16 << 30, "16G"), (64 << 30, "64G")]
    {
        let name = format!("scale/pool/size={size}");
        if !runner.wants(&name) {
            continue;
        }
        let pool = Pool::create(bytes).expect("a pool: only what is used is taken");
        let ours = Contender::new("ours", || ns_each(COUNT, || pairs(&pool)));
        let make = Contender::new("making a pool", move || {
            ns_each(1, || drop(black_box(Pool::create(bytes).expect("a pool"))))
        });
        runner.compare(&name, "ns", &[], vec![ours, make]);
    }
}
