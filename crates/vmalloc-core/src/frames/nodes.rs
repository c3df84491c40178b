//! Frames of a part of the pool: of a node, below a limit.
//!
//! The bits know no nodes. A node is a range of frames, a limit is the range below it, and what a
//! policy allows is at most two ranges, tried in turn: [`super::bulk`] gathers within a range.
//! Linux: `struct pglist_data` with zones, each with free lists of its own, and the zone list that
//! says in which order they are tried.

use super::Buddy;
use super::bulk::Gather;
use crate::platform::Frames;
use crate::policy::{FramePolicy, NodeChoice, NodeId, PolicyError};
use crate::units::{Extent, Pages, Pfn};

impl<'a> Buddy<'a> {
    /// The same allocator, whose node n has the frames `nodes[n]`. Free.
    #[must_use]
    pub fn with_nodes(mut self, nodes: &'a [Extent]) -> Buddy<'a> {
        self.nodes = nodes;
        self
    }

    /// The ranges that a policy allows, in the order in which they are to be tried.
    fn allowed(&self, policy: FramePolicy) -> Result<[Extent; 2], PolicyError> {
        let end = policy.end().unwrap_or(self.extent().end());
        let low = cut(self.extent(), Extent { start: Pfn(0), len: Pages(end.0) });
        let of = |node: NodeId| {
            let frames = self.nodes.get(usize::from(node.0));
            frames.map(|frames| cut(low, *frames)).ok_or(PolicyError::NoSuchNode { node })
        };
        Ok(match policy.node {
            NodeChoice::Any => [low, NOTHING],
            NodeChoice::Prefer(node) => [of(node)?, low],
            NodeChoice::Only(node) => [of(node)?, NOTHING],
        })
    }

    pub(super) fn total_where(&self, policy: FramePolicy) -> Result<Pages, PolicyError> {
        let [first, then] = self.allowed(policy)?;
        // Where there are two ranges, the second contains the first.
        Ok(first.len.max(then.len))
    }

    pub(super) fn bulk_where(
        &self,
        policy: FramePolicy,
        want: Pages,
        out: &mut [Extent],
    ) -> Result<usize, PolicyError> {
        if policy.is_any() {
            return Ok(self.take_bulk(want, out));
        }
        let mut got = Gather::new(want, out);
        for range in self.allowed(policy)?.into_iter().filter(|range| range.len.0 > 0) {
            got.only_within(range);
            self.gather(&mut got);
            if !got.is_done() {
                self.refresh_all();
                self.gather(&mut got);
            }
        }
        Ok(got.finish())
    }

    pub(super) fn node_with(&self, pfn: Pfn) -> Option<NodeId> {
        let holds = |node: &Extent| (node.start..node.end()).contains(&pfn);
        self.nodes.iter().position(holds).map(|node| NodeId(node as u8))
    }
}

const NOTHING: Extent = Extent { start: Pfn(0), len: Pages(0) };

/// What two runs have in common.
fn cut(a: Extent, b: Extent) -> Extent {
    let (start, end) = (a.start.max(b.start), a.end().min(b.end()));
    Extent { start, len: Pages(end.0.saturating_sub(start.0)) }
}
