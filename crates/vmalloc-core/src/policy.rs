//! Which frames will do: the one value that goes from a request to the frame allocator.
//!
//! ```text
//!   Request ─plan▶ flags word ─▶ Machine::back(pages, FramePolicy) ─▶ Frames::take_where
//! ```
//!
//! A node is a range of frames that some CPUs reach faster than others do; a limit is the number
//! of the first frame that some device cannot reach. Both stand in the area's flags word, so that
//! a revived area never has frames that the request would have refused, and an area that grows
//! goes on under its policy, at no cost where nothing was asked for.
//!
//! Linux: the `node` argument, `__GFP_THISNODE`, `__GFP_DMA` and `__GFP_DMA32`.

use crate::record::flags;
use crate::units::{PAGE_SHIFT, Pages, Pfn};
use core::fmt;

/// The number of a NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u8);

/// Which node's frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum NodeChoice {
    /// Any. Linux: `NUMA_NO_NODE`.
    #[default]
    Any,
    /// This node's first, and any when it has no more. Linux: `vmalloc_node`.
    Prefer(NodeId),
    /// This node's only. Linux: `__GFP_THISNODE`.
    Only(NodeId),
}

/// Which frames will do. See the module's story.
///
/// ```
/// # use vmalloc_core::{FramePolicy, NodeChoice, NodeId};
/// let policy = FramePolicy { node: NodeChoice::Only(NodeId(1)), ..FramePolicy::ANY };
/// assert!(!policy.is_any());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct FramePolicy {
    /// Of which node.
    pub node: NodeChoice,
    /// Below physical address 2^`below_log2`; `None`: anywhere. 32 for a device that drives 32
    /// address lines.
    pub below_log2: Option<u8>,
    /// In huge pages where they fit and the machine has them. A wish, never a reason to refuse.
    pub huge: bool,
}

// The flags word: 6 bits of limit, 2 bits of what the node is, 8 bits of node.
const BELOW: u32 = 40;
const MODE: u32 = 46;
const NODE: u32 = 48;

impl FramePolicy {
    /// All frames will do.
    pub const ANY: FramePolicy =
        FramePolicy { node: NodeChoice::Any, below_log2: None, huge: false };

    /// The bits of an area's flags word that hold a policy, [`flags::HUGE`] not among them.
    pub const BITS: u64 = 0xffff << BELOW;

    /// Whether all frames will do.
    #[must_use]
    pub const fn is_any(self) -> bool {
        matches!(self.node, NodeChoice::Any) && self.below_log2.is_none()
    }

    /// The policy of an area with these flags.
    #[must_use]
    pub const fn of(flags_word: u64) -> FramePolicy {
        let id = NodeId((flags_word >> NODE & 0xff) as u8);
        let node = match flags_word >> MODE & 3 {
            1 => NodeChoice::Prefer(id),
            2 => NodeChoice::Only(id),
            _ => NodeChoice::Any,
        };
        let below = (flags_word >> BELOW & 0x3f) as u8;
        let below_log2 = if below == 0 { None } else { Some(below) };
        FramePolicy { node, below_log2, huge: flags_word & flags::HUGE != 0 }
    }

    /// The policy as bits of a flags word.
    #[must_use]
    pub const fn bits(self) -> u64 {
        let (mode, id) = match self.node {
            NodeChoice::Any => (0, 0),
            NodeChoice::Prefer(id) => (1, id.0),
            NodeChoice::Only(id) => (2, id.0),
        };
        let below = match self.below_log2 {
            // 2^63 bytes and more is no limit.
            Some(log2) if log2 < 0x3f => log2,
            _ => 0,
        };
        (below as u64) << BELOW
            | mode << MODE
            | (id as u64) << NODE
            | if self.huge { flags::HUGE } else { 0 }
    }

    /// The first frame that is too high; `None`: none is.
    #[must_use]
    pub const fn end(self) -> Option<Pfn> {
        match self.below_log2 {
            // Less than a page: no frame at all.
            Some(log2) => Some(Pfn((1 << log2) >> PAGE_SHIFT)),
            None => None,
        }
    }
}

/// Why frames under a policy cannot be had, now or ever. Nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PolicyError {
    /// This machine has no such node.
    NoSuchNode {
        /// The node.
        node: NodeId,
    },
    /// The policy allows fewer frames, free or not, than are wanted.
    OutOfReach {
        /// How many were wanted.
        wanted: Pages,
        /// How many there are.
        most: Pages,
    },
    /// This machine cannot choose its frames so.
    Unsupported {
        /// The policy.
        policy: FramePolicy,
    },
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl fmt::Display for FramePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            NodeChoice::Any => write!(f, "any node")?,
            NodeChoice::Prefer(node) => write!(f, "{node} or any")?,
            NodeChoice::Only(node) => write!(f, "{node} only")?,
        }
        match self.end() {
            Some(end) => write!(f, ", below {end}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::NoSuchNode { node } => write!(f, "there is no {node}"),
            PolicyError::OutOfReach { wanted, most } => {
                write!(f, "{wanted} wanted, and there are {most} that would do")
            }
            PolicyError::Unsupported { policy } => {
                write!(f, "this machine cannot choose frames by \"{policy}\"")
            }
        }
    }
}

impl core::error::Error for PolicyError {}
