//! Reading the window as one flat range, whatever lives in it: for dumps and debuggers.
//!
//! ```text
//!   window:  │area│guard│  hole  │area being built│area│ parked │
//!   out:     │data│  0  │   0    │       0        │data│   0    │
//! ```
//!
//! Live parts are copied out page by page, everything else reads as zeros, and nothing faults.
//! Linux: `vread_iter`, behind `/proc/kcore`; it holds a lock for the whole copy.

use crate::context::Context;
use crate::machine::Machine;
use crate::registry;
use crate::units::{PAGE_SIZE, VirtAddr};

/// Copies what lives at `addr .. addr + out.len()` to `out`; zeros elsewhere. Returns how many
/// bytes came from areas in use.
pub(crate) fn vread<M: Machine>(context: &Context<'_, M>, addr: VirtAddr, out: &mut [u8]) -> usize {
    let mut live = 0;
    let mut at = addr.0;
    let mut rest = out;
    while !rest.is_empty() {
        let offset = at as usize % PAGE_SIZE;
        let len = rest.len().min(PAGE_SIZE - offset);
        let (part, after) = rest.split_at_mut(len);
        let page = VirtAddr(at).vpn();
        let in_use =
            registry::find(context, VirtAddr(at)).is_some_and(|area| area.kind.is_in_use());
        if in_use && context.machine.read(page, offset, part) {
            live += len;
        } else {
            part.fill(0);
        }
        rest = after;
        // A range that wraps reads as zeros from there on.
        let Some(next) = at.checked_add(len as u64) else {
            rest.fill(0);
            return live;
        };
        at = next;
    }
    live
}
