//! Every point at which a call to the operating system can be made to fail, walked by one test.
//!
//! ```text
//!   the sources: fail::point("…")  ─▶ names ┐
//!   the services, one after the other:      ├─ the same names, but for those that the test names
//!     count ─▶ fail each call, each errno ──┘
//! ```
//!
//! `each_step_fails` looks closely at the verbs; this one makes sure that no point is left out: one
//! that somebody adds is reached, or is named here with the reason; and a reason that holds no more
//! fails, too. A call without a point it cannot see.

use crate::support::{MIB, Scratch, assert_empty, told};
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use vmalloc::core::NodeId;
use vmalloc::testing::Plan;
use vmalloc::{Onlooker, Pool, Reader, Request, Sealed};

const ERRNOS: [i32; 2] = [libc::ENOMEM, libc::EIO];

/// What is reached by no service, and why.
const UNREACHED: [(&str, &str); 3] = [
    ("mprotect_hide", "the second way, where mmap_hide failed"),
    ("populate_read", "os/tests/map.rs"),
    ("smaps", "what the tests of the folder measure by"),
];

/// What is reached where the kernel is so, and not elsewhere.
const BY_KERNEL: [(&str, &str); 5] = [
    ("collapse", "huge pages by hand, where faults in shared memory give none"),
    ("guard_remove", "where there are guard markers"),
    ("mbind", "where the kernel knows NUMA nodes"),
    ("mmap_for_node", "as mbind"),
    ("node_meminfo", "as mbind"),
];

/// A service: what it does, and whether it succeeded. It has let go of everything when it returns.
type Service = fn(&Pool) -> Result<(), String>;

fn frozen(pool: &Pool, bytes: usize) -> Result<vmalloc::Frozen, String> {
    told(told(pool.vmalloc(bytes))?.freeze())
}

const SERVICES: [(&str, Service); 13] = [
    ("make a pool", |_| {
        let small = told(Pool::create(MIB))?;
        told(small.vmalloc(5000)).map(drop)
    }),
    ("make a pool on a path", |_| {
        let path = Scratch::new("each-point");
        let small = told(Pool::create_at(&path.0, MIB))?;
        told(small.vmalloc(5000)).map(drop)
    }),
    ("make and use a framed pool", |_| {
        let framed = told(Pool::options().framed().create(4 * MIB))?;
        drop(told(framed.vmalloc(300_000))?);
        told(framed.purge()).map(drop)
    }),
    ("join", |pool| {
        let other = told(Pool::open(pool.share_path()))?;
        told(other.vmalloc(5000)).map(drop)
    }),
    ("hand a pool over", |pool| {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        told(pool.send(&ours))?;
        let other = told(Pool::receive(&theirs))?;
        told(other.vmalloc(5000)).map(drop)
    }),
    ("allocate", |pool| {
        for bytes in [5000, 300_000, 5 * MIB as usize] {
            drop(told(pool.vzalloc(bytes))?);
        }
        told(pool.purge()).map(drop)
    }),
    ("allocate from a node", |pool| {
        let request = Request::bytes(300_000);
        if !Path::new("/sys/devices/system/node/node0").exists() {
            return Ok(());
        }
        for request in [request.node(NodeId(0)), request.this_node(NodeId(0)), request] {
            drop(told(pool.alloc(&request))?);
        }
        told(pool.purge()).map(drop)
    }),
    ("resize", |pool| {
        let mut buf = told(pool.vmalloc(700_000))?;
        told(buf.resize(5000))?;
        told(buf.resize(690_000))
    }),
    ("share with a reader", |pool| {
        let area = frozen(pool, 5000)?;
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let read = told(pool.send_read_only(&ours)).and_then(|()| {
            let reader = told(Reader::receive(&theirs))?;
            told(reader.read(&area.token())).map(drop)
        });
        told(area.free())?;
        read
    }),
    ("seal a copy", |_| {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let sealed = told(Sealed::copy_of(&[7; 5000]))?;
        told(sealed.send(&ours))?;
        told(Sealed::receive(&theirs)).map(drop)
    }),
    ("wait", |pool| {
        let signal = pool.signal();
        told(signal.wait(signal.seen(), Duration::from_millis(1))).map(drop)
    }),
    ("stitch", |pool| {
        let (one, two) = (frozen(pool, 8192)?, frozen(pool, 8192));
        let shown = two.and_then(|two| {
            let shown = told(pool.stitch(&[&one, &two])).map(drop);
            let ring = told(two.ring()).map(drop).and_then(|()| told(two.snapshot()).map(drop));
            told(two.free())?;
            shown.and(ring)
        });
        told(one.free())?;
        shown
    }),
    ("reserve, and look", |pool| {
        let mut reservation = told(pool.reserve(16 * MIB as usize))?;
        // So large that small pages are populated.
        told(reservation.commit(0..3 << 20))?;
        told(reservation.decommit(0..3 << 20))?;
        drop(reservation);
        let buf = told(pool.vmalloc(5000))?;
        told(pool.vmas())?;
        told(vmalloc::frames_behind(&buf[..])).map(drop)?;
        let onlooker = told(Onlooker::open(pool.share_path()))?;
        onlooker.areas().iter().try_for_each(|area| told(onlooker.extents_of(area)).map(drop))
    }),
];

/// Goal: every call to the operating system can be made to fail, and what fails leaves nothing. Method:
/// each call of each service fails in turn; the names met are those in the sources.
#[test]
fn every_point_is_walked_and_leaves_nothing() {
    let mut met = BTreeSet::new();
    let mut failures = 0;
    let pool = Pool::create(16 * MIB).unwrap();
    for (what, service) in SERVICES {
        service(&pool).unwrap_or_else(|e| panic!("{what}: {e}"));
        let armed = Plan::count().arm();
        service(&pool).unwrap_or_else(|e| panic!("{what}: {e}"));
        let names = armed.names();
        drop(armed);
        assert_empty(&pool);
        for (n, name) in (1..).zip(&names) {
            for errno in ERRNOS {
                let armed = Plan::nth(n, errno).arm();
                let failed = service(&pool);
                drop(armed);
                failures += u32::from(failed.is_err());
                let context =
                    || format!("{what}: call {n}, {name}, fails with {errno}: {failed:?}");
                pool.verify().unwrap_or_else(|e| panic!("{}: {e}", context()));
                service(&pool).unwrap_or_else(|e| panic!("{}: and then {e}", context()));
                assert_eq!(pool.members().len(), 1, "{}", context());
                assert_empty(&pool);
            }
        }
        println!("{what}: {} calls", names.len());
        met.extend(names);
    }
    let written = points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/os"));
    let missed: Vec<&String> = written
        .iter()
        .filter(|name| !met.contains(name.as_str()))
        .filter(|name| !UNREACHED.iter().chain(&BY_KERNEL).any(|(named, _)| named == name))
        .collect();
    assert!(missed.is_empty(), "no service comes by {missed:?}");
    for (name, why) in UNREACHED.iter().chain(&BY_KERNEL) {
        assert!(written.contains(*name), "{name} ({why}) is no point any more");
    }
    for (name, why) in UNREACHED {
        assert!(!met.contains(name), "a service comes by {name} ({why})");
    }
    println!("{} of {} points, {failures} failures that were errors", met.len(), written.len());
}

/// The names of the points in the sources below `folder`.
fn points(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("tests") {
            names.extend(points(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("fail.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for start in ["fail::point(\"", "checked_advise(\"", "self.ofd(\""] {
                let found = text.split(start).skip(1).filter_map(|rest| rest.split('"').next());
                names.extend(found.map(str::to_owned));
            }
        }
    }
    names
}
