//! What the model of many CPUs has to know of this machine, and what it has to foretell: `measure`.
//! `cargo xtask model` builds and runs it, and counts the instructions of `measure --count NAME
//! TURNS` under valgrind.
//!
//! ```text
//!   constants   an atomic change of a word that is here, a fence, a turn of a wait, a line from the
//!               other CPU, a line from the cache that all share
//!   work        the turns of `scale::Workload` by one thread, and by two at once
//! ```
//!
//! Other work on this machine stops a thread in the midst of what is timed. So each sample is short,
//! two threads count only where they ran side by side, and the median of the samples is told.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};
use vmalloc_core::{Geometry, Pages};
use vmalloc_sim::Random;
use vmalloc_sim::scale::{AREAS, Site, WINDOW, Words, Worker, Workload, be_cpu};

/// Samples of a figure, if there is time for them.
const SAMPLES: usize = 2_000;
/// Fewer are no figure.
const SAMPLES_MIN: usize = 50;
/// How long a figure may take.
const TIME: Duration = Duration::from_secs(15);
/// Steps of a sample of a constant.
const STEPS: u32 = 1_000;
/// Turns of a sample of work: some tens of microseconds.
const TURNS: u32 = 200;
/// Of the longer of two stretches, what both must have in common.
const TOGETHER: f64 = 0.8;
/// Lines of the memory in which lines are fetched: 64 MiB, as the records of so many areas.
const LINES: usize = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.is_empty() {
        return if count(&args) { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load {}", load.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("0"));
    println!("cache {}", cache_bytes());
    constants();
    for workload in Workload::ALL {
        // Nothing stands for a shootdown here.
        if workload != Workload::Purge {
            for threads in [1, 2] {
                work(workload, threads);
            }
        }
    }
    ExitCode::SUCCESS
}

/// Does the turns of `--count NAME TURNS` and nothing else, on a window of 4 GiB.
fn count(args: &[String]) -> bool {
    let [flag, name, turns] = args else { return false };
    let workload = Workload::ALL.into_iter().find(|workload| workload.name() == name);
    let (Some(workload), Ok(turns)) = (workload, turns.parse::<u64>()) else { return false };
    let geometry = Geometry::for_window(Pages(1 << 20));
    let words = Words::new(geometry.words());
    let site = Site::new(workload, &words, geometry, 1, AREAS / 100, || ());
    let mut worker = Worker::new(&site, 0, 1);
    (0..turns).for_each(|_| worker.turn(&site));
    flag == "--count"
}

/// Bytes of a CPU's own second cache; where nobody says, what is usual.
fn cache_bytes() -> usize {
    let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size");
    let kib = size.ok().and_then(|size| size.trim().strip_suffix('K')?.parse::<usize>().ok());
    kib.unwrap_or(2048) * 1024
}

fn constants() {
    let word = AtomicU64::new(0);
    let step = || _ = black_box(&word).fetch_add(1, Ordering::AcqRel);
    tell("change", alone(STEPS, step));
    // Something between them: two fences in a row are one.
    let step = || _ = (fence(Ordering::SeqCst), black_box(&word).load(Ordering::Relaxed));
    tell("fence", alone(STEPS, step));
    tell("spin", alone(STEPS, std::hint::spin_loop));
    // One round through all lines, in no order.
    let mut order: Vec<usize> = (1..LINES).collect();
    Random::new(1).shuffle(&mut order);
    let mut lines = vec![[0_usize; 8]; LINES];
    let mut at = 0;
    for next in order {
        lines[at][0] = next;
        at = next;
    }
    let mut at = 0;
    tell("fetch", alone(STEPS, || at = lines[black_box(at)][0]));
    let line = Line(AtomicU64::new(0));
    tell("transfer", together(2, STEPS, |thread| hand_over(&line.0, thread as u64)));
}

/// On a line of its own, and on none of a pair with another.
#[repr(align(256))]
struct Line(AtomicU64);

/// Waits until the word is this thread's, and gives it to the other one: half of a turn of both.
fn hand_over(word: &AtomicU64, thread: u64) -> impl FnMut() {
    let pass = move || {
        while word
            .compare_exchange(thread, 1 - thread, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {}
    };
    let mut halves = false;
    move || {
        // A step is one way, and a pass is every other one.
        halves = !halves;
        if halves {
            pass();
        }
    }
}

fn work(workload: Workload, threads: usize) {
    let words = Words::new(WINDOW.words());
    let site = Site::new(workload, &words, WINDOW, threads, AREAS, || ());
    let site = &site;
    let figure = together(threads, TURNS, move |thread| {
        let mut worker = Worker::new(site, thread, 1);
        move || worker.turn(site)
    });
    tell(&format!("{}/{threads}", workload.name()), figure);
}

/// Nanoseconds a step, if there were samples enough.
fn tell(name: &str, mut samples: Vec<f64>) {
    if samples.len() < SAMPLES_MIN {
        println!("# {name}: {} samples, too few", samples.len());
        return;
    }
    samples.sort_by(f64::total_cmp);
    let at = |part: usize| samples[samples.len() * part / 4];
    println!("{name} {:.2} {:.2} {:.2} {}", at(2), at(1), at(3), samples.len());
}

fn alone(steps: u32, mut step: impl FnMut()) -> Vec<f64> {
    let end = Instant::now() + TIME;
    let mut samples = Vec::new();
    while samples.len() < SAMPLES && Instant::now() < end {
        let start = Instant::now();
        (0..steps).for_each(|_| step());
        samples.push(start.elapsed().as_nanos() as f64 / f64::from(steps));
    }
    samples
}

/// So many threads at once, which begin each sample together; those samples in which they were.
fn together<S: FnMut()>(
    threads: usize,
    steps: u32,
    prepare: impl Fn(usize) -> S + Sync,
) -> Vec<f64> {
    let (arrived, rounds) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let end = Instant::now() + TIME;
    let run = |thread: usize| {
        be_cpu(thread);
        let mut step = prepare(thread);
        let mut stretches = Vec::new();
        while stretches.len() < rounds.load(Ordering::Acquire) {
            arrived.fetch_add(1, Ordering::AcqRel);
            let all = threads * (stretches.len() + 1);
            while arrived.load(Ordering::Acquire) < all {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            (0..steps).for_each(|_| step());
            stretches.push((start, Instant::now()));
            // The first one ends it, for a round that none has begun.
            if thread == 0 && (stretches.len() >= 4 * SAMPLES || Instant::now() > end) {
                let _ = rounds.compare_exchange(
                    usize::MAX,
                    stretches.len() + 1,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                );
            }
        }
        stretches
    };
    let run = &run;
    let all: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|i| scope.spawn(move || run(i))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that ends")).collect()
    });
    let rounds = all.iter().map(Vec::len).min().unwrap_or(0);
    (0..rounds).filter_map(|round| side_by_side(&all, round, steps)).collect()
}

/// Nanoseconds a step in a round, if all ran side by side.
fn side_by_side(all: &[Vec<(Instant, Instant)>], round: usize, steps: u32) -> Option<f64> {
    let stretches = || all.iter().map(|stretches| stretches[round]);
    let (start, end) = (stretches().map(|s| s.0).max()?, stretches().map(|s| s.1).min()?);
    let longest = stretches().map(|(start, end)| end - start).max()?;
    let common = end.saturating_duration_since(start);
    let sum: Duration = stretches().map(|(start, end)| end - start).sum();
    (common.as_secs_f64() >= TOGETHER * longest.as_secs_f64())
        .then(|| sum.as_nanos() as f64 / (f64::from(steps) * all.len() as f64))
}
