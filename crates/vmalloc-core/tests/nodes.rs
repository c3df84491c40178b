//! Frames of a node, and below a limit: what a policy allows, all of it, and nothing else.

use proptest::prelude::*;
use vmalloc_core::frames::Buddy;
use vmalloc_core::platform::Frames;
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{Extent, FramePolicy, NodeChoice, NodeId, Order, Pages, Pfn, PolicyError};

const FIRST: u64 = 1000;

fn choice() -> impl Strategy<Value = NodeChoice> {
    (0..3_u8, 0..3_u8).prop_map(|(kind, id)| match kind {
        0 => NodeChoice::Any,
        1 => NodeChoice::Prefer(NodeId(id)),
        _ => NodeChoice::Only(NodeId(id)),
    })
}

proptest! {
    /// Goal: a policy's frames are taken to the last one, and no others. Method: pools in pieces at
    /// random, three nodes of random length; the frames that a plain loop over all would find.
    #[test]
    fn a_policy_takes_every_frame_that_it_allows_and_no_other(
        cuts in (1..1500_u64, 1..1500_u64),
        holes in prop::collection::vec((0..3000_u64, 1..200_u64), 0..30),
        node in choice(),
        below_log2 in prop_oneof![Just(None), (20..25_u8).prop_map(Some)],
        want in 0..3500_u64,
        at_a_time in 1..40_usize,
    ) {
        let len = 3000;
        let words: Vec<AtomicU64> =
            (0..Buddy::words_needed(Pages(len))).map(|_| AtomicU64::new(0)).collect();
        let run = |start: u64, len| Extent { start: Pfn(FIRST + start), len: Pages(len) };
        let nodes = [run(0, cuts.0), run(cuts.0, cuts.1), run(cuts.0 + cuts.1, len - cuts.0 - cuts.1)];
        let buddy = Buddy::format(&words, Pfn(FIRST), Pages(len)).unwrap().with_nodes(&nodes);
        // In pieces: all taken, and then holes made.
        let mut out = vec![Extent::default(); 16];
        prop_assert_eq!(buddy.take_bulk(Pages(len), &mut out), 1);
        for (start, hole) in holes {
            for pfn in start..(start + hole).min(len) {
                if !buddy.is_free(Pfn(FIRST + pfn)) {
                    buddy.give(run(pfn, 1));
                }
            }
        }
        let policy = FramePolicy { node, below_log2, huge: false };
        let in_node = |pfn: &Pfn, id: NodeId| buddy.node_of(*pfn) == Some(id);
        let low = |pfn: &Pfn| policy.end().is_none_or(|end| *pfn < end);
        let free: Vec<Pfn> =
            (FIRST..FIRST + len).map(Pfn).filter(|&pfn| buddy.is_free(pfn)).filter(low).collect();
        let (first, only) = match node {
            NodeChoice::Any => (free.len(), false),
            NodeChoice::Prefer(id) => (free.iter().filter(|pfn| in_node(pfn, id)).count(), false),
            NodeChoice::Only(id) => (free.iter().filter(|pfn| in_node(pfn, id)).count(), true),
        };
        let allowed = if only { first } else { free.len() };

        let mut got: Vec<Pfn> = Vec::new();
        let mut out = vec![Extent::default(); at_a_time];
        while (got.len() as u64) < want {
            let n = buddy.take_where(policy, Pages(want - got.len() as u64), &mut out).unwrap();
            if n == 0 {
                break;
            }
            got.extend(out[..n].iter().flat_map(|run| (run.start.0..run.end().0).map(Pfn)));
        }
        prop_assert_eq!(got.len(), allowed.min(want as usize));
        prop_assert!(got.iter().all(|pfn| free.contains(pfn) && !buddy.is_free(*pfn)));
        if let NodeChoice::Prefer(id) | NodeChoice::Only(id) = node {
            // The node's own before any other's.
            let own = got.iter().filter(|pfn| in_node(pfn, id)).count();
            prop_assert_eq!(own, first.min(got.len()));
        }
        prop_assert_eq!(buddy.verify().map(drop), Ok(()));
    }
}

/// Goal: a node that there is not is named, and an allocator without nodes has none. Method: ask.
#[test]
fn a_node_that_there_is_not_is_an_error() {
    let words: Vec<AtomicU64> =
        (0..Buddy::words_needed(Pages(64))).map(|_| AtomicU64::new(0)).collect();
    let buddy = Buddy::format(&words, Pfn(0), Pages(64)).unwrap();
    let (node, mut out) = (NodeId(0), [Extent::default(); 4]);
    for choice in [NodeChoice::Prefer(node), NodeChoice::Only(node)] {
        let policy = FramePolicy { node: choice, ..FramePolicy::ANY };
        let none = PolicyError::NoSuchNode { node };
        assert_eq!(buddy.take_where(policy, Pages(1), &mut out), Err(none));
        assert_eq!(buddy.reach(policy), Err(none));
    }
    assert_eq!(buddy.free(), Pages(64));
    assert_eq!(buddy.take(Order(0)), Ok(Pfn(0)));
}

/// Goal: a policy survives its way through an area's flags word. Method: all kinds, both ways.
#[test]
fn a_policy_fits_in_a_flags_word() {
    for node in [NodeChoice::Any, NodeChoice::Prefer(NodeId(255)), NodeChoice::Only(NodeId(0))] {
        for below_log2 in [None, Some(1), Some(24), Some(32), Some(62)] {
            for huge in [false, true] {
                let policy = FramePolicy { node, below_log2, huge };
                assert_eq!(FramePolicy::of(policy.bits()), policy);
            }
        }
    }
}
