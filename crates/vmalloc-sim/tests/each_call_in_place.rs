//! Every call that the engine makes of a machine in place, and that may fail, walked by one test: as
//! `each_point.rs` does it over page tables, one stage higher, at the methods of `Machine`.
//!
//! ```text
//!   the services ─▶ count ─▶ fail each call ┬ once                    ─▶ is anything left?
//!                                           └ and what undoes it, too ─▶ after a purge?
//!   the sources: machine.map(, .flush(, … ─▶ the same lines, but for those named here
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use vmalloc_core::{Area, Pages, Prot, Publish, Request, Token};
use vmalloc_sim::Site;
use vmalloc_sim::in_place::{Call, GEOMETRY, Ground, Pool, PoolEngine, owner};
use vmalloc_sim::points::{calls_in, missed};

/// How a call of a method of `Machine` that may fail is written.
const CALLS: [&str; 8] = [
    "machine.commit_words(",
    "machine.back(",
    "machine.extend(",
    "machine.map(",
    "machine.map_more(",
    ".flush(&context.machine)",
    ".flush(machine)",
    ".drain(&context.machine)",
];

/// The methods that may fail and never do in place, and what fails them.
const NOT_IN_PLACE: [(&str, &str); 3] = [
    ("adopt", "no frames of the caller's: a backing record in each_point.rs"),
    ("borrow", "areas are attached to where they lie: tests of the engine's tokens"),
    ("split", "no huge leaves: each_point.rs"),
];

/// Calls that no service comes by, and why.
const UNREACHED: [(&str, &str); 3] = [
    ("purge/sweep.rs", "over page tables, whose flush cannot fail"),
    (
        "recover.rs",
        "of one who died while it held a granule: recover.rs, a photo before CommitWords",
    ),
    ("grow.rs", "of one who died while it grew an area: recover.rs"),
];

/// A service: it lets go of all that it has made, and says whether it succeeded.
type Service = fn(&Pool) -> Result<(), String>;

const SERVICES: [(&str, Service); 10] = [
    ("allocate in a chunk", |pool| allocate(pool, 3)),
    ("allocate by itself", |pool| allocate(pool, 700)),
    ("allocate zeros", |pool| {
        let area = told(pool.engine(1).vzalloc(&pages(5)))?;
        free(&pool.engine(1), &area);
        told(pool.engine(1).vzalloc(&pages(5))).map(|area| free(&pool.engine(1), &area))
    }),
    ("take what another parked", |pool| {
        allocate(pool, 400)?;
        // A purge, if there is no other way to have them.
        let area = told(pool.engine(2).vmalloc(&pages(400)))?;
        free(&pool.engine(2), &area);
        Ok(())
    }),
    ("make what is parked fit", |pool| {
        allocate(pool, 600)?;
        allocate(pool, 500)?;
        allocate(pool, 620)
    }),
    ("resize", |pool| {
        let engine = pool.engine(1);
        let area = told(engine.vmalloc(&pages(700)))?;
        let to = |pages: u64| told(engine.resize(area.id, area.generation, pages * 4096, true));
        let done = to(760).and_then(|_| to(20));
        free(&engine, &area);
        done.map(drop)
    }),
    ("share", |pool| {
        let (area, token) = shared(pool)?;
        let (engine, guest) = (pool.engine(1), pool.engine(2));
        let done = told(guest.attach(&token, Prot::READ_WRITE));
        let _ = engine.free(area.id, area.generation).expect("it lives");
        let _ = engine.detach(area.id, area.generation);
        let _ = guest.detach(area.id, area.generation);
        done.map(drop)
    }),
    ("grow what is shared", |pool| {
        let (area, _) = shared(pool)?;
        let engine = pool.engine(1);
        let done = told(engine.grow_shared(area.id, area.generation, 750 * 4096));
        let _ = engine.free(area.id, area.generation).expect("it lives");
        let _ = engine.detach(area.id, area.generation);
        done.map(drop)
    }),
    ("give", |pool| {
        let (engine, taker) = (pool.engine(1), pool.engine(2));
        let area = told(engine.vmalloc(&pages(6)))?;
        let token = engine.give(area.id, area.generation, Some(owner(2))).expect("ours");
        match told(taker.take(&token)) {
            Ok(taken) => free(&taker, &taken),
            Err(why) => {
                assert!(engine.take_back(&token, Some(owner(2))), "neither has it: {why}");
                free(&engine, &area);
                return Err(why);
            }
        }
        Ok(())
    }),
    ("purge", |pool| {
        let engine = pool.engine(1);
        let areas: Vec<_> = (1..9).map(|n| told(engine.vmalloc(&pages(3 * n)))).collect();
        areas.iter().flatten().for_each(|area| free(&engine, area));
        areas.into_iter().collect::<Result<Vec<_>, _>>()?;
        told(engine.purge_step())?;
        allocate(pool, 900)?;
        told(engine.purge()).map(drop)
    }),
];

/// A pool in which what is parked is soon in the way: 1,000 pages.
fn small() -> Pool {
    Pool::sized(GEOMETRY, Pages(1000), Pages(1 << 20))
}

fn told<T, E: std::fmt::Debug>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{e:?}"))
}

fn pages(pages: u64) -> Request {
    Request::bytes(pages * 4096)
}

fn free(engine: &PoolEngine<'_>, area: &Area) {
    let _ = engine.free(area.id, area.generation).expect("it lives");
}

fn allocate(pool: &Pool, len: u64) -> Result<(), String> {
    let area = told(pool.engine(1).vmalloc(&pages(len)))?;
    let ground = pool.ground();
    let is_backed = |page| ground.backed.contains_key(&page);
    assert!((area.pages.start.0..area.pages.end().0).all(is_backed), "{area:?}");
    free(&pool.engine(1), &area);
    Ok(())
}

fn shared(pool: &Pool) -> Result<(Area, Token), String> {
    let area = told(pool.engine(1).vmalloc(&pages(700)))?;
    let token = pool.engine(1).share(area.id, area.generation, Publish::Shared).map_err(|e| {
        free(&pool.engine(1), &area);
        format!("{e:?}")
    })?;
    Ok((area, token))
}

/// Nothing is left: no area, no page that is no hole, nothing backed or charged.
fn settle(pool: &Pool, context: &dyn Fn() -> String) {
    let engine = pool.engine(3);
    engine.verify().unwrap_or_else(|e| panic!("{}: {e}", context()));
    let held: u64 = engine.areas().map(|area| area.pages.len.0).sum();
    assert_eq!(pool.ground().charged, held, "{}: charged", context());
    engine.purge().unwrap_or_else(|e| panic!("{}: {e}", context()));
    engine.verify().unwrap_or_else(|e| panic!("{}, purged: {e}", context()));
    assert_eq!(engine.areas().count(), 0, "{}: areas", context());
    let stats = engine.stats();
    assert_eq!(stats.holes, stats.window, "{}: pages that are no hole", context());
    assert_eq!(pool.ground(), Ground::default(), "{}: the machine", context());
}

/// Goal: whatever call fails, and whatever would undo it fails as well: nothing is left, and the service
/// works afterwards. Method: each call of each service in turn, on a pool of its own; the calls met
/// are those in the sources.
#[test]
fn every_call_of_the_machine_in_place_is_walked_and_leaves_nothing() {
    let (mut sites, mut failed, mut coped) = (BTreeSet::new(), 0, 0);
    for (what, service) in SERVICES {
        let pool = small();
        pool.note_sites();
        let calls = pool.count(|| service(&pool).unwrap_or_else(|e| panic!("{what}: {e}")));
        sites.extend(pool.sites());
        settle(&pool, &|| what.to_owned());
        for (n, call) in calls.iter().enumerate() {
            for then in [None, Some(Call::Flush), Some(Call::Map), Some(Call::MayWait)] {
                let pool = small();
                pool.note_sites();
                match then {
                    None => pool.fail(Some(n)),
                    Some(then) => pool.fail_and_then(n, then),
                }
                let done = service(&pool);
                assert!(pool.has_failed(), "{what}: call {n}, {call:?}, was never made");
                pool.fail(None);
                let context = || format!("{what}: call {n}, {call:?}, then {then:?}: {done:?}");
                settle(&pool, &context);
                service(&pool).unwrap_or_else(|e| panic!("{}, and then {e}", context()));
                settle(&pool, &context);
                sites.extend(pool.sites());
                if done.is_err() { failed += 1 } else { coped += 1 }
            }
        }
        println!("{what}: {} calls", calls.len());
    }
    println!("{} sites, {failed} failures that were errors, {coped} coped with", sites.len());
    look_for_missed(&sites);
}

fn look_for_missed(sites: &BTreeSet<Site>) {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vmalloc-core/src");
    let calls =
        calls_in(&core, "vmalloc-core/src", |line| CALLS.iter().any(|call| line.contains(call)));
    println!("{} calls in the sources", calls.len());
    let missed = missed(&calls, sites);
    let is_named = |call: &&String, name: &str| call.contains(&format!("src/{name}:"));
    let unnamed: Vec<_> = missed
        .iter()
        .filter(|call| !UNREACHED.iter().any(|(name, _)| is_named(call, name)))
        .collect();
    assert!(unnamed.is_empty(), "no service comes by {unnamed:?}");
    for (name, why) in UNREACHED {
        let count = missed.iter().filter(|call| is_named(call, name)).count();
        assert_eq!(count, 1, "{name} ({why}) is no call any more, or a service comes by it");
    }
}

/// Goal: a method that may fail and is added to `Machine` is looked for above. Method: those that
/// return a `Result`, in the source of the trait.
#[test]
fn every_method_of_a_machine_that_may_fail_is_looked_for() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vmalloc-core/src");
    let text = std::fs::read_to_string(core.join("machine.rs")).unwrap();
    let methods = text.split("pub trait Machine {").nth(1).unwrap().split("\n}\n").next().unwrap();
    let mut unnamed = Vec::new();
    let mut count = 0;
    for method in methods.split("    fn ").skip(1) {
        let head = method.split(['{', ';']).next().unwrap();
        let name = head.split('(').next().unwrap();
        if head.contains("-> Result") {
            count += 1;
            let is_called = CALLS.iter().any(|call| call.contains(&format!(".{name}(")));
            if !is_called && !NOT_IN_PLACE.iter().any(|(not, _)| *not == name) {
                unnamed.push(name);
            }
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:?}");
    assert_eq!(count, 9, "methods that may fail");
}
