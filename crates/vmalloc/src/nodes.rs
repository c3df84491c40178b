//! NUMA nodes: where the frames of a linear pool come from.
//!
//! ```text
//!   back ─▶ nobody ever asked for a node here, nor does this request ─▶ as it is: a load
//!           this one does: say so in the header ─▶ the file's policy for these pages
//!           somebody did:  take back what the file may still say of these pages, if it can be
//! ```
//!
//! The policy is the file's ([`crate::os::numa`]), so it is one for all members, and it outlives
//! both the area and whoever asked. Nothing has to be undone when an area goes, or its owner dies:
//! whoever gets these pages next says what it wants.
//!
//! Linux: `vmalloc_node`, `__GFP_THISNODE`.

use crate::linear::Ground;
use crate::os::numa;
use rustix::io::Errno;
use vmalloc_core::{BackError, FramePolicy, NodeChoice, PageRange, Pages, PolicyError};

impl Ground {
    /// Has the kernel take the frames of `pages`, which have none, by this policy.
    ///
    /// # Errors
    ///
    /// `BackError::Policy`: there is no such node, or this machine cannot choose so; `MachineFull`:
    /// the one node that will do has too little left; `Refused`. Nothing was taken.
    #[inline]
    pub(crate) fn choose_frames(
        &self,
        pages: PageRange,
        policy: FramePolicy,
    ) -> Result<(), BackError> {
        if policy.is_any() && !self.header().knows_nodes() {
            return Ok(());
        }
        self.choose_anew(pages, policy)
    }

    #[cold]
    fn choose_anew(&self, pages: PageRange, policy: FramePolicy) -> Result<(), BackError> {
        if policy.is_any() {
            // What somebody wanted of these pages before is then wanted of them still, at worst: no
            // reason to refuse who wants nothing, where a sandbox forbids the call, say.
            if !self.shape.is_framed {
                let _ = self.mapping.file().choose_node(self.span(pages), NodeChoice::Any);
            }
            return Ok(());
        }
        let unsupported = BackError::Policy(PolicyError::Unsupported { policy });
        // What is below some address the kernel does not say; a framed pool has its frames.
        if policy.below_log2.is_some() || self.shape.is_framed {
            return Err(unsupported);
        }
        if let NodeChoice::Only(node) = policy.node {
            let wanted = pages.len;
            match numa::available_bytes(node) {
                Ok(bytes) => {
                    let spare = Pages(self.headroom.spare_of(bytes) / Pages(1).bytes());
                    if spare < wanted {
                        return Err(BackError::MachineFull { wanted, spare });
                    }
                }
                Err(Errno::NOENT) => {
                    return Err(BackError::Policy(PolicyError::NoSuchNode { node }));
                }
                Err(errno) => return Err(BackError::Refused { errno: errno.raw_os_error() }),
            }
        }
        // Before it is done: who sees no node here may find none.
        self.header().set_knows_nodes();
        let chosen = self.mapping.file().choose_node(self.span(pages), policy.node);
        chosen.map_err(|errno| match (errno, policy.node) {
            (Errno::INVAL, NodeChoice::Prefer(node) | NodeChoice::Only(node)) => {
                BackError::Policy(PolicyError::NoSuchNode { node })
            }
            (Errno::NOSYS, _) => unsupported,
            _ => BackError::Refused { errno: errno.raw_os_error() },
        })
    }
}
