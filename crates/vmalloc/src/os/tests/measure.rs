//! The figures that the documents of this folder quote. Timed, hence ignored by default:
//! `cargo test --release -p vmalloc measure -- --ignored --nocapture`

use crate::os::commit::{Grain, commit};
use crate::os::map::Mapping;
use crate::os::memory::Headroom;
use crate::os::tests::{MIB, pool};
use crate::os::view::ExclusiveView;
use crate::os::{PAGE_BYTES, Span, discover, seal};
use std::hint::black_box;
use std::time::Instant;

/// The median of `n` runs, in µs.
fn median(n: usize, mut run: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..n).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[n / 2]
}

fn timed(act: impl FnOnce()) -> f64 {
    let start = Instant::now();
    act();
    start.elapsed().as_nanos() as f64 / 1000.0
}

/// ns of one of `n` calls in a row.
fn each(n: u32, mut act: impl FnMut()) -> f64 {
    1000.0 * timed(|| (0..n).for_each(|_| act())) / f64::from(n)
}

/// Goal: what a border of trust costs: the copy into a file of its own, sealed, mapped and read by
/// the receiver; the figures in `docs/trust.md`.
#[test]
#[ignore = "measures"]
fn measure_sealed_copies() {
    for kib in [4, 64, 1024, 16 * 1024] {
        let bytes = vec![1_u8; kib << 10];
        let open = || {
            let (_, stitch, len) = seal::open(seal::seal(&bytes).unwrap()).unwrap();
            black_box(
                stitch.bytes(len).iter().step_by(4096).map(|&byte| u64::from(byte)).sum::<u64>(),
            );
        };
        println!("sealed copy of {kib} KiB: {:.0} µs", median(41, || timed(open)));
    }
}

/// Goal: which call puts frames in place most cheaply, by size: the table in
/// `crate::os::commit`. Method: commit, touch every page, punch; medians.
#[test]
#[ignore = "measures"]
fn measure_ways_to_commit() {
    let pool = pool("measure", 256 * MIB);
    let headroom = Headroom::machine(None);
    let huge_run = Span::new(128 * MIB, 128 * MIB);
    pool.advise_huge(huge_run).unwrap();
    type Way<'a> = (&'a str, u64, Box<dyn Fn(&Mapping, Span) + 'a>);
    let ways: [Way; 4] = [
        ("fallocate", 2 * MIB, Box::new(|pool, run| pool.file().allocate(run).unwrap())),
        ("populate_write", 2 * MIB, Box::new(|pool, run| pool.populate_write(run).unwrap())),
        (
            "commit small",
            2 * MIB,
            Box::new(|pool, run| {
                commit(pool, run, Grain::Small, &headroom).unwrap();
            }),
        ),
        (
            "commit huge",
            huge_run.start,
            Box::new(|pool, run| {
                commit(pool, run, Grain::Huge, &headroom).unwrap();
            }),
        ),
    ];
    println!("huge way of a memfd here: {:?}", pool.huge_way());
    for (name, start, way) in ways {
        for len in [PAGE_BYTES, 64 << 10, MIB, 2 * MIB, 16 * MIB] {
            let run = Span::new(start, len);
            let (mut touches, mut punches) = (Vec::new(), Vec::new());
            let committed = median(41, || {
                let time = timed(|| way(&pool, run));
                let mut view = ExclusiveView::new(&*pool, run).unwrap();
                touches.push(timed(|| view.iter_mut().step_by(4096).for_each(|byte| *byte = 1)));
                drop(view);
                punches.push(timed(|| assert_eq!(pool.punch(&[run]), Ok(1))));
                time
            });
            let (mut touches, mut punches) = (touches.into_iter(), punches.into_iter());
            let touched = median(41, || touches.next().unwrap());
            let punched = median(41, || punches.next().unwrap());
            println!(
                "{name:>14} {:>6} KiB: commit {committed:>8.1} touch {touched:>8.1} \
                 punch {punched:>8.1} sum {:>8.1} µs",
                len >> 10,
                committed + touched + punched
            );
        }
    }
}

/// Goal: what views, looks and locks cost, as the docs of each say. Method: many in a row.
#[test]
#[ignore = "measures"]
fn measure_views_looks_and_locks() {
    let pool = pool("measure", 1 << 30);
    for pages in [1, 16, 64, 256, 512, 512 * 100] {
        // A block of its own for each, so that none is claimed by pages before.
        let first = 512 * 256 + 512 * u64::from(pages >= 512);
        let ns = each(200_000, || {
            pool.claims.take(black_box(first), black_box(pages)).unwrap();
            pool.claims.put(first, pages);
        });
        let run = Span::new(first * PAGE_BYTES, pages * PAGE_BYTES);
        let view = each(200_000, || drop(black_box(ExclusiveView::new(&*pool, run).unwrap())));
        println!("{pages:>6} pages: claim {ns:.0} ns, exclusive view {view:.0} ns");
    }

    let headroom = Headroom::machine(None);
    println!("look {:.0} ns", each(300, || drop(black_box(headroom.look()))));
    let mut view = ExclusiveView::new(&*pool, Span::new(64 * MIB, MIB)).unwrap();
    view.fill(1);
    println!("fill of a warm page {:.0} ns", each(1000, || view.fill(0)) / 256.0);
    let shared = view.share();
    let mut bytes = vec![1; MIB as usize];
    println!("copy_in of 1 MiB {:.0} ns", each(200, || shared.copy_in(0, &bytes).unwrap()));
    println!("copy_out of 1 MiB {:.0} ns", each(200, || shared.copy_out(0, &mut bytes).unwrap()));

    let other = pool.file().reopen().unwrap();
    assert_eq!(pool.file().try_lock(5, 1), Ok(true));
    println!(
        "probe of a lock {:.0} ns",
        each(10_000, || assert!(other.probe_byte(5).unwrap().is_some()))
    );
    println!("discover {:.0} ns", each(5, || drop(black_box(discover::pools(|_, _| false)))));
}
