//! What a pool cannot do, said by type: its frames are the kernel's to choose.

use crate::support::{MIB, PAGE, assert_empty};
use vmalloc::core::{BackError, FramePolicy, NodeChoice, NodeId, PolicyError};
use vmalloc::{AllocError, Pool, Request};

/// Goal: a request for low frames, and in a framed pool one for a node, is refused with the policy that
/// it asked for, and nothing is taken; waiting, or a parked area of the same size, changes nothing.
/// Method: each policy, of small and huge areas, on an empty pool and with areas parked; a request
/// that must not fail gets the error, too, instead of waiting for ever.
#[test]
fn a_limit_is_refused_by_a_pool_and_a_node_by_a_framed_one() {
    let pool = Pool::create(16 * MIB).unwrap();
    refuses(&pool, false);
    // Huge pages are a wish, which a pool hears.
    drop(pool.alloc(&Request::bytes(3 * MIB).huge()).unwrap());
    assert_empty(&pool);
    refuses(&Pool::options().framed().create(16 * MIB).unwrap(), true);
}

fn refuses(pool: &Pool, nodes: bool) {
    let prefer = |id| FramePolicy { node: NodeChoice::Prefer(NodeId(id)), ..FramePolicy::ANY };
    let this = FramePolicy { node: NodeChoice::Only(NodeId(0)), ..FramePolicy::ANY };
    let below = |log2| FramePolicy { below_log2: Some(log2), ..FramePolicy::ANY };
    let asked = |bytes| {
        let plain = Request::bytes(bytes);
        let (node, only) = (plain.node(NodeId(0)), plain.this_node(NodeId(0)));
        let both = FramePolicy { below_log2: Some(24), ..prefer(1) };
        let of_nodes = [
            (node, prefer(0)),
            (node.huge(), prefer(0)),
            (only, this),
            (only.no_wait(), this),
            (only.no_fail(), this),
        ];
        let of_limits = [
            (plain.below_log2(32), below(32)),
            (plain.below_log2(32).user(), below(32)),
            (plain.node(NodeId(1)).below_log2(24), both),
        ];
        of_nodes.into_iter().filter(|_| nodes).chain(of_limits).collect::<Vec<_>>()
    };
    for round in 0..2 {
        let before = (pool.verify().unwrap(), pool.info().committed_bytes);
        for (request, wanted) in asked(PAGE).into_iter().chain(asked(3 * MIB)) {
            match pool.alloc(&request) {
                Err(AllocError::Engine(vmalloc::core::AllocError::Back(BackError::Policy(
                    PolicyError::Unsupported { policy },
                )))) => assert_eq!(FramePolicy { huge: false, ..policy }, wanted),
                other => panic!("{request:?}: {other:?}"),
            }
            let after = (pool.verify().unwrap(), pool.info().committed_bytes);
            assert_eq!(after, before, "{request:?}, round {round}");
        }
        // For the second round: parked areas of these very sizes.
        drop([pool.vmalloc(PAGE as usize).unwrap(), pool.vmalloc(3 * MIB as usize).unwrap()]);
    }
}
