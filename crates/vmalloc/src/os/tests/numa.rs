//! Nodes, by what the kernel says of its policy. Where it knows none, each test says so and ends.

#[cfg(not(asan))]
use crate::os::fail::Plan;
use crate::os::numa::{available_bytes, policy_at};
use crate::{AllocError, Buf, Pool};
use rustix::io::Errno;
use vmalloc_core::{BackError, NodeId, PolicyError, Request};

const MIB: u64 = 1 << 20;
const HERE: NodeId = NodeId(0);

fn has_nodes() -> bool {
    let has_nodes = available_bytes(HERE).is_ok();
    if !has_nodes {
        println!("not run: this kernel says nothing of nodes");
    }
    has_nodes
}

/// How the kernel would find each page of the buffer.
fn policies(buf: &Buf) -> Vec<(i32, libc::c_ulong)> {
    let mut found: Vec<_> =
        buf.chunks(4096).map(|page| policy_at(page.as_ptr().addr()).unwrap()).collect();
    found.dedup();
    found
}

/// Goal: the frames of an area come by the policy that was asked for, of all of its pages and no
/// others; pages that go to somebody else have the machine's again, whoever purged them and whoever
/// asks; and the pool takes no VMA for it. Method: the kernel says what it would do; an area of the
/// same size is put where the last one was.
#[test]
fn frames_come_by_the_policy_that_was_asked_for() {
    if !has_nodes() {
        return;
    }
    let pool = Pool::create(16 * MIB).unwrap();
    let vmas = pool.vmas().unwrap();
    for bytes in [5000, 300_000, 3 * MIB] {
        let plain = Request::bytes(bytes);
        let neighbour = pool.alloc(&plain).unwrap();
        assert_eq!(policies(&neighbour), [(libc::MPOL_DEFAULT, 0)]);
        let wanted = [
            (plain.node(HERE), libc::MPOL_PREFERRED),
            (plain.node(HERE).huge(), libc::MPOL_PREFERRED),
            (plain.this_node(HERE), libc::MPOL_BIND),
        ];
        for (request, mode) in wanted {
            let mut buf = pool.alloc(&request).unwrap();
            assert_eq!(policies(&buf), [(mode, 1)], "{request:?}");
            buf.fill(7);
            let place = buf.as_ptr();
            drop(buf);
            // Parked, it is taken again by the same request, and by no other.
            let again = pool.alloc(&request).unwrap();
            assert_eq!((again.as_ptr(), policies(&again)), (place, vec![(mode, 1)]));
            drop(again);
            pool.purge().unwrap();
            let other = Pool::open(pool.share_path()).unwrap();
            let next = other.alloc(&plain).unwrap();
            assert_eq!(policies(&next), [(libc::MPOL_DEFAULT, 0)], "after {request:?}");
        }
        assert_eq!(policies(&neighbour), [(libc::MPOL_DEFAULT, 0)]);
    }
    assert_eq!(pool.vmas().unwrap(), vmas);
    pool.verify().unwrap();
}

/// Goal: a buffer that grows goes on with its own node's frames.
#[test]
fn a_buffer_that_grows_keeps_its_node() {
    if !has_nodes() {
        return;
    }
    let pool = Pool::create(16 * MIB).unwrap();
    let mut buf = pool.alloc(&Request::bytes(3 * MIB).this_node(HERE)).unwrap();
    buf.resize(5 << 20).unwrap();
    assert_eq!(policies(&buf), [(libc::MPOL_BIND, 1)]);
}

/// Goal: a node that is not there is named in an error, and nothing is taken.
#[test]
fn a_node_that_cannot_give_is_refused() {
    if !has_nodes() {
        return;
    }
    let pool = Pool::options().memory_bytes(64 * MIB).create(16 * MIB).unwrap();
    let before = pool.info().committed_bytes;
    let refused = |request: &Request| match pool.alloc(request) {
        Err(AllocError::Engine(vmalloc_core::AllocError::Back(e))) => e,
        other => panic!("{request:?}: {other:?}"),
    };
    let plain = Request::bytes(5000);
    for request in [plain.node(NodeId(200)), plain.this_node(NodeId(200))] {
        let node = NodeId(200);
        assert_eq!(refused(&request), BackError::Policy(PolicyError::NoSuchNode { node }));
    }
    assert_eq!(available_bytes(NodeId(200)), Err(Errno::NOENT));
    assert_eq!((pool.info().committed_bytes, pool.areas().len()), (before, 0));
    pool.verify().unwrap();
}

/// Goal: what is more than the node has left is not even tried, whatever the pool may hold. Method:
/// the calls that were made. Not under AddressSanitizer, which writes a
/// byte for each eight of a window.
#[test]
#[cfg(not(asan))]
fn a_node_is_not_emptied() {
    if !has_nodes() {
        return;
    }
    let more = available_bytes(HERE).unwrap() + (1 << 30);
    let pool = Pool::create(more).unwrap();
    let armed = Plan::count().arm();
    let error = pool.alloc(&Request::bytes(more).this_node(HERE).no_wait()).unwrap_err();
    let back = match error {
        AllocError::Engine(vmalloc_core::AllocError::Back(e)) => e,
        e => panic!("{e:?}"),
    };
    assert!(matches!(back, BackError::MachineFull { .. }), "{back:?}");
    assert!(armed.names().contains(&"node_meminfo") && !armed.names().contains(&"mbind"));
}
