//! Every call to the operating system fails, one at a time, in every verb.
//!
//! ```text
//!   count the calls of a verb ─▶ for each of them, for each errno: fail it, once
//!   then: an error, or it coped ─ the pool is whole ─ the verb works ─ nothing is left over
//! ```
//!
//! The pool's account is exact: a member that takes the machine to have so many bytes gets back
//! what a failed call had taken, or a later call would find it short.

use crate::support::{MIB, Scratch, assert_empty};
use vmalloc::core::NodeId;
use vmalloc::testing::Plan;
use vmalloc::{Frozen, Pool, Request, Sealed, Shared, Token};

/// A call is interrupted, refused, or finds no memory, no room, no descriptor.
const ERRNOS: [i32; 5] = [libc::ENOMEM, libc::EINTR, libc::EPERM, libc::ENOSPC, libc::EINVAL];

/// Runs `verb` on a pool that `prepare` made ready, with each call of it failing in turn.
/// `verb` says whether it succeeded, and has let go of everything when it returns.
fn each_call_fails<P>(what: &str, prepare: impl Fn(&Pool) -> P, verb: impl Fn(&Pool, P) -> bool) {
    let pool = Pool::options().memory_bytes(64 * MIB).create(16 * MIB).unwrap();
    // The first time brings the tables' own pages in.
    let ready = prepare(&pool);
    assert!(verb(&pool, ready), "{what}: without a failure");
    assert_empty(&pool);
    // Counted anew each time: what failed before may have lain elsewhere, and where it lay there are
    // guard markers to take out from then on.
    let calls = || {
        let ready = prepare(&pool);
        let armed = Plan::count().arm();
        assert!(verb(&pool, ready), "{what}: while calls are counted");
        let names = armed.names();
        drop(armed);
        assert_empty(&pool);
        names
    };
    let (mut failed, mut n) = (0, 0);
    while n < calls().len() {
        for errno in ERRNOS {
            let name = calls()[n];
            let context = || format!("{what}: call {}, {name}, fails with {errno}", n + 1);
            let ready = prepare(&pool);
            let armed = Plan::nth(n as u64 + 1, errno).arm();
            let succeeded = verb(&pool, ready);
            assert_eq!(armed.fired(), Some(name), "{}: not the same calls", context());
            drop(armed);
            failed += u32::from(!succeeded);
            pool.verify().unwrap_or_else(|e| panic!("{}: {e}", context()));
            let ready = prepare(&pool);
            assert!(verb(&pool, ready), "{}: the next call fails, too", context());
            assert_empty(&pool);
        }
        n += 1;
    }
    // What was taken from the account came back: all of it can be had.
    let all = pool.alloc(&Request::bytes(16 * MIB)).unwrap();
    drop(all);
    assert_empty(&pool);
    println!("{what}: {n} calls, {failed} of {} failures were errors", n * ERRNOS.len());
}

fn nothing(_: &Pool) {}

#[test]
fn each_call_of_a_fresh_vmalloc_fails_and_leaves_nothing() {
    for bytes in [1, 5000, 100_000, MIB, 3 * MIB + 5] {
        each_call_fails(&format!("vmalloc of {bytes}"), nothing, |pool, ()| {
            pool.alloc(&Request::bytes(bytes)).is_ok()
        });
    }
}

/// Goal: records of a granule that nobody used before are committed by the call, and a failure of
/// that leaves nothing, either.
/// Method: a new pool for every failing call.
#[test]
fn each_call_of_the_first_vmalloc_of_a_pool_fails_and_leaves_nothing() {
    let make = || Pool::options().memory_bytes(32 * MIB).create(8 * MIB).unwrap();
    let verb = |pool: &Pool| pool.vmalloc(100_000).map(|buf| buf.share().is_ok());
    let pool = make();
    let armed = Plan::count().arm();
    verb(&pool).unwrap();
    let calls = armed.calls();
    drop(armed);
    for n in 1..=calls {
        for errno in ERRNOS {
            let pool = make();
            let armed = Plan::nth(n, errno).arm();
            let _ = verb(&pool);
            drop(armed);
            pool.verify().unwrap();
            for area in pool.areas() {
                pool.token_of(&area).into_iter().for_each(|token| pool.free(&token).unwrap());
            }
            assert_empty(&pool);
            verb(&pool).unwrap();
        }
    }
}

#[test]
fn each_call_of_a_revived_vmalloc_fails_and_leaves_nothing() {
    each_call_fails(
        "vmalloc of a parked area",
        |pool| drop(pool.vmalloc(200_000).unwrap()),
        |pool, ()| pool.vmalloc(200_000).is_ok(),
    );
    // Its guard is not there yet: another member had the place.
    each_call_fails(
        "vmalloc of an area that another member parked",
        |pool| {
            let other = Pool::open(pool.share_path()).unwrap();
            drop(other.vmalloc(200_000).unwrap());
        },
        |pool, ()| pool.vmalloc(200_000).is_ok(),
    );
}

#[test]
fn each_call_of_a_vmalloc_on_a_node_fails_and_leaves_nothing() {
    if !std::path::Path::new("/sys/devices/system/node/node0").exists() {
        println!("not run: this kernel says nothing of nodes");
        return;
    }
    for request in [Request::bytes(200_000), Request::bytes(3 << 20).huge()] {
        let only = request.this_node(NodeId(0));
        each_call_fails("vmalloc on a node", |_| (), |pool, ()| pool.alloc(&only).is_ok());
        // The file says still where these pages came from.
        each_call_fails(
            "vmalloc where a node's was",
            |pool| {
                drop(pool.alloc(&only).unwrap());
                pool.purge().unwrap();
            },
            |pool, ()| pool.alloc(&request).is_ok(),
        );
    }
}

/// Goal: what is parked with another size stays parked and whole if it cannot be made to fit.
/// Method: half the pool is parked, which makes it the time to fit; longer, shorter, zeroed, another
/// member's, whose guards are not ours.
#[test]
fn each_call_of_a_vmalloc_that_makes_an_area_fit_fails_and_leaves_nothing() {
    const PARKED: usize = 9 << 20;
    for (what, bytes) in [("longer", PARKED + 300_000), ("shorter", PARKED - 300_000)] {
        let ours = |pool: &Pool| drop(pool.vmalloc(PARKED).unwrap());
        let theirs = |pool: &Pool| {
            let other = Pool::open(pool.share_path()).unwrap();
            drop(other.vmalloc(PARKED).unwrap());
        };
        let fits = move |pool: &Pool, zeroed| {
            let request = Request::bytes(bytes as u64).huge();
            let buf = pool.alloc(&if zeroed { request.zeroed() } else { request });
            assert!(buf.is_err() || pool.areas().len() == 1);
            buf.is_ok_and(|buf| !zeroed || buf.iter().all(|&byte| byte == 0))
        };
        let what = format!("vmalloc of a parked area made {what}");
        // Without a failure it is made to fit; with one, it may be purged for a fresh one.
        let prepare: [&dyn Fn(&Pool); 2] = [&ours, &theirs];
        for (prepare, zeroed) in [(prepare[0], false), (prepare[0], true), (prepare[1], false)] {
            let pool = Pool::create(16 * MIB).unwrap();
            prepare(&pool);
            assert!(fits(&pool, zeroed), "{what}");
            assert_eq!(pool.info().stats.revives, 1, "{what}: taken afresh");
        }
        each_call_fails(&what, ours, |pool, ()| fits(pool, false));
        each_call_fails(&format!("{what}, zeroed"), ours, |pool, ()| fits(pool, true));
        each_call_fails(&format!("{what}, another's"), theirs, |pool, ()| fits(pool, false));
    }
}

#[test]
fn each_call_of_vzalloc_fails_and_leaves_nothing() {
    let is_zero = |pool: &Pool, ()| match pool.vzalloc(300_000) {
        Ok(buf) => {
            assert!(buf.iter().all(|&byte| byte == 0));
            true
        }
        Err(_) => false,
    };
    each_call_fails("vzalloc", nothing, is_zero);
    each_call_fails(
        "vzalloc of a parked area",
        |pool| pool.vmalloc(300_000).unwrap().fill(1),
        is_zero,
    );
}

#[test]
fn each_call_of_a_huge_vmalloc_fails_and_leaves_nothing() {
    each_call_fails("a huge vmalloc", nothing, |pool, ()| {
        pool.alloc(&Request::bytes(5 * MIB).huge()).is_ok()
    });
}

/// Goal: an allocation that must purge first survives the failure of the purge.
/// Method: the pool is full of what is parked, in another size.
#[test]
fn each_call_of_a_vmalloc_that_purges_fails_and_leaves_nothing() {
    each_call_fails(
        "vmalloc that purges",
        |pool| drop((0..15).map(|_| pool.vmalloc(MIB as usize).unwrap()).collect::<Vec<_>>()),
        |pool, ()| pool.alloc(&Request::bytes(12 * MIB)).is_ok(),
    );
}

#[test]
fn each_call_of_freeze_and_share_fails_and_gives_the_buffer_back() {
    each_call_fails(
        "freeze",
        |pool| pool.vmalloc(70_000).unwrap(),
        |_, buf| match buf.freeze() {
            Ok(frozen) => frozen.free().is_ok(),
            Err(e) => {
                let mut buf = e.buf;
                buf.fill(1);
                false
            }
        },
    );
    each_call_fails(
        "share",
        |pool| pool.vmalloc(70_000).unwrap(),
        |_, buf| match buf.share() {
            Ok(shared) => shared.free().is_ok(),
            Err(e) => e.buf.is_empty(),
        },
    );
}

/// Goal: a resize that fails leaves the buffer, or the shared area, as it was: its length, its
/// bytes, and its guard page.
/// Method: longer and shorter, within a slot and with granules of its own.
#[test]
fn each_call_of_a_resize_fails_and_changes_nothing() {
    for (from, to) in [(135_000, 155_000), (155_000, 3000), (3 << 20, 5 << 20), (5 << 20, 3 << 20)]
    {
        let prepare = |pool: &Pool| {
            let mut buf = pool.vmalloc(from).unwrap();
            buf.fill(1);
            buf
        };
        each_call_fails(&format!("resize of {from} to {to}"), prepare, |_, mut buf| {
            let done = buf.resize(to).is_ok();
            assert_eq!(buf.len(), if done { to } else { from });
            assert!(buf[..from.min(to)].iter().all(|&byte| byte == 1));
            assert!(buf[from.min(buf.len())..].iter().all(|&byte| byte == 0));
            done
        });
        if to > from {
            each_call_fails(
                &format!("growing a shared area of {from} to {to}"),
                |pool| prepare(pool).share().unwrap(),
                |_, mut shared| {
                    let done = shared.grow(to).is_ok();
                    let len = if done { to } else { from };
                    assert_eq!((shared.len(), shared.refresh().unwrap()), (len, len));
                    let mut bytes = vec![7; shared.len()];
                    shared.read_at(0, &mut bytes).unwrap();
                    assert!(bytes[..from].iter().all(|&byte| byte == 1));
                    assert!(bytes[from..].iter().all(|&byte| byte == 0));
                    shared.free().unwrap();
                    done
                },
            );
        }
    }
}

/// Goal: a gift that cannot be taken stays a gift; what cannot be shown a second time is not
/// attached twice.
#[test]
fn each_call_of_take_stitch_and_snapshot_fails_and_leaves_nothing() {
    each_call_fails(
        "take",
        |pool| {
            let other = Pool::open(pool.share_path()).unwrap();
            other.vmalloc(90_000).unwrap().give().unwrap()
        },
        |pool, token| match pool.take(&token) {
            Ok(mut buf) => {
                buf.fill(1);
                true
            }
            Err(_) => {
                drop(pool.take(&token).unwrap());
                false
            }
        },
    );
    let frozen = |pool: &Pool| {
        let [first, second] = [8192, 69_632].map(|bytes| pool.vmalloc(bytes).unwrap());
        (first.freeze().unwrap(), second.freeze().unwrap())
    };
    each_call_fails("stitch, ring and snapshot", frozen, |pool, (first, second)| {
        let shown = [pool.stitch(&[&first, &second, &first]).is_ok(), first.ring().is_ok()];
        let snapshot = second.snapshot().map(|mut snapshot| snapshot.fill(1));
        first.free().unwrap();
        second.free().unwrap();
        shown == [true, true] && snapshot.is_ok()
    });
    each_call_fails(
        "a sealed copy",
        |pool| pool.vmalloc(70_000).unwrap(),
        |_, buf| Sealed::copy_of(&buf).is_ok_and(|sealed| *sealed == *buf),
    );
}

/// An area that another member has published; it goes with the token's free.
fn published(pool: &Pool, frozen: bool) -> Token {
    let other = Pool::open(pool.share_path()).unwrap();
    let buf = other.vmalloc(90_000).unwrap();
    if frozen { buf.freeze().unwrap().token() } else { buf.share().unwrap().token() }
}

/// Goal: a failed attach attaches nothing; detach, drop and free cope with all that can fail.
/// Method: an area of another member; attached to, detached, freed.
#[test]
fn each_call_of_attach_detach_and_free_fails_and_leaves_nothing() {
    each_call_fails(
        "attach, free and drop",
        |pool| published(pool, true),
        |pool, token| {
            let attached = pool.attach(&token).map(Frozen::free);
            if attached.is_err() {
                pool.free(&token).unwrap();
            }
            matches!(attached, Ok(Ok(())))
        },
    );
    each_call_fails(
        "attach shared, drop and free",
        |pool| published(pool, false),
        |pool, token| {
            let attached = pool.attach_shared(&token).map(drop::<Shared>);
            pool.free(&token).unwrap();
            attached.is_ok()
        },
    );
}

/// Goal: dropping and purging cope: what the system refuses to take back stays parked, and the
/// next purge takes it.
/// Method: a member whose every free is over its limit, so that the drop purges; an area that is
/// never parked; a purge by hand.
#[test]
fn each_call_of_a_free_that_purges_fails_and_leaves_nothing() {
    each_call_fails(
        "the drop of an area that is not to be reused",
        |pool| pool.alloc(&Request::bytes(60_000).no_reuse()).unwrap(),
        |_, buf| {
            drop(buf);
            true
        },
    );
    each_call_fails(
        "purge",
        |pool| drop((pool.vmalloc(60_000).unwrap(), pool.vmalloc(2_000_000).unwrap())),
        |pool, ()| pool.purge().is_ok(),
    );
    let pool = Pool::options().lazy_bytes(0).create(8 * MIB).unwrap();
    let buf = pool.vmalloc(60_000).unwrap();
    let armed = Plan::nth(1, libc::EIO).only("punch").arm();
    drop(buf);
    assert_eq!(armed.fired(), Some("punch"));
    drop(armed);
    assert_eq!(pool.verify().unwrap().parked, 1);
    assert_empty(&pool);
}

/// How many descriptors this process has that show the file `path` names, or any memfd of `name`.
fn descriptors(name: &str) -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    targets.filter(|target| target.to_string_lossy().contains(name)).count()
}

fn maps(name: &str) -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().matches(name).count()
}

/// Goal: a pool that is not made leaves no descriptor, no mapping and no file.
/// Method: each call of `create` and of `create_at` fails in turn.
#[test]
fn each_call_of_create_fails_and_leaves_nothing() {
    let name = format!("fails-{}", std::process::id());
    let path = Scratch::new("create-fails");
    for (what, name) in [("create", &*name), ("create_at", path.0.to_str().unwrap())] {
        let make = || match what {
            "create" => Pool::options().name(name).create(MIB).ok(),
            _ => Pool::create_at(&path.0, MIB).ok(),
        };
        drop(make().unwrap());
        let _ = std::fs::remove_file(&path.0);
        let armed = Plan::count().arm();
        drop(make().unwrap());
        let names = armed.names();
        drop(armed);
        let _ = std::fs::remove_file(&path.0);
        for (n, call) in (1_u64..).zip(&names) {
            for errno in ERRNOS {
                let armed = Plan::nth(n, errno).arm();
                let made = make();
                let fired = armed.fired();
                drop(armed);
                if let Some(pool) = made {
                    // It coped, or only the way out was disturbed.
                    drop(pool.vmalloc(5000).unwrap());
                    assert_empty(&pool);
                    drop(pool);
                    let _ = std::fs::remove_file(&path.0);
                }
                assert_eq!(descriptors(name), 0, "{what}: {n} {call} {fired:?}: a descriptor");
                assert_eq!(maps(name), 0, "{what}: {n} {call} {fired:?}: a mapping");
                assert!(!path.0.exists(), "{what}: {n} {call} {fired:?}: a file");
            }
        }
        println!("{what}: {} calls", names.len());
    }
}

/// Goal: a pool that is not opened leaves no descriptor, no mapping and no member.
/// Method: each call of `open` fails in turn.
#[test]
fn each_call_of_open_fails_and_leaves_nothing() {
    let path = Scratch::new("open-fails");
    let pool = Pool::create_at(&path.0, MIB).unwrap();
    let name = path.0.to_str().unwrap().to_owned();
    let (fds, mappings) = (descriptors(&name), maps(&name));
    let armed = Plan::count().arm();
    drop(Pool::open(&path.0).unwrap());
    let names = armed.names();
    drop(armed);
    for (n, call) in (1_u64..).zip(&names) {
        for errno in ERRNOS {
            let armed = Plan::nth(n, errno).arm();
            let opened = Pool::open(&path.0);
            drop(armed);
            if let Ok(other) = opened {
                drop(other.vmalloc(5000).unwrap());
                drop(other);
            }
            assert_eq!(descriptors(&name), fds, "open: {n} {call}: a descriptor");
            assert_eq!(maps(&name), mappings, "open: {n} {call}: a mapping");
            assert_eq!(pool.members().len(), 1, "open: {n} {call}: a member");
            assert_eq!(Pool::open(&path.0).unwrap().member_number(), 2, "open: {n} {call}: a slot");
        }
    }
    println!("open: {} calls", names.len());
    assert_empty(&pool);
}
