//! Which NUMA node the kernel takes frames from, for parts of the pool's file.
//!
//! Shared memory keeps such a policy itself, for each part: it holds for all processes, and stays
//! when the frames are punched out. Frames that are there already stay where they are.
//!
//! ```text
//!   map the part a second time ─▶ mbind ─▶ unmap: the file keeps what was said
//! ```
//!
//! Not through the mapping of the pool: `mbind` would cut that into VMAs at both ends of the part.
//!
//! Linux: `mbind(2)` over `shmem_set_policy`; sysfs, for what a node has left.

use crate::os::file::PoolFile;
use crate::os::locks::last_errno;
use crate::os::{PAGE_BYTES, Span, fail};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use vmalloc_core::{NodeChoice, NodeId};

/// Nodes that a mask has bits for: as many as [`NodeId`] can name.
const NODES: usize = 256;
const WORD_BITS: usize = libc::c_ulong::BITS as usize;
type Mask = [libc::c_ulong; NODES / WORD_BITS];

impl PoolFile {
    /// Has frames for `span`, whole pages of the file, come from such a node from now on. Three system
    /// calls, and a VMA meanwhile.
    ///
    /// # Errors
    ///
    /// What the kernel said; at most, what was said before is forgotten. EINVAL: there is no such
    /// node here. ENOSYS: this kernel knows no nodes.
    pub(crate) fn choose_node(&self, span: Span, choice: NodeChoice) -> Result<(), Errno> {
        debug_assert!(span.within_aligned(self.bytes(), PAGE_BYTES).is_ok());
        fail::point("mmap_for_node")?;
        let len = span.len as usize;
        // SAFETY:
        // 1. The address is null and the flags lack MAP_FIXED, so the kernel picks a place where
        //    nothing is mapped: no memory in use is replaced.
        let place = unsafe {
            let (prot, flags) = (ProtFlags::empty(), MapFlags::SHARED);
            rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, &self.fd, span.start)
        }?;
        let (mode, mask) = mode_and_mask(choice);
        let bind = |mode: libc::c_int, mask: &Mask| {
            fail::point("mbind")?;
            // SAFETY:
            // 1. The range is exactly the mapping made above, which nobody else knows of.
            // 2. `mask` has the 256 bits that are said, and outlives the call, which reads it.
            // 3. No byte changes, nor what any address shows: only where later frames come from.
            let code = unsafe {
                libc::syscall(libc::SYS_mbind, place, len, mode, mask.as_ptr(), NODES + 1, 0)
            };
            if code == 0 { Ok(()) } else { Err(last_errno()) }
        };
        let chosen = match choice {
            // The new mapping has no policy, and to that nothing changes: the file is not asked.
            NodeChoice::Any => bind(libc::MPOL_LOCAL, &mask).and_then(|()| bind(mode, &mask)),
            _ => bind(mode, &mask),
        };
        // SAFETY:
        // 1. The range is exactly the mapping made above, and no reference into it was ever made.
        let unmapped = unsafe { rustix::mm::munmap(place, len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
        chosen
    }
}

fn mode_and_mask(choice: NodeChoice) -> (libc::c_int, Mask) {
    let mut mask = Mask::default();
    let (mode, node) = match choice {
        NodeChoice::Any => return (libc::MPOL_DEFAULT, mask),
        NodeChoice::Prefer(node) => (libc::MPOL_PREFERRED, usize::from(node.0)),
        NodeChoice::Only(node) => (libc::MPOL_BIND, usize::from(node.0)),
    };
    mask[node / WORD_BITS] |= 1 << (node % WORD_BITS);
    (mode, mask)
}

/// Bytes that a node can still give: what is free, and half of what files take there. Where frames
/// may come from one node only, too many of them wake the OOM killer, however much the others have.
///
/// # Errors
///
/// What reading said. ENOENT: there is no such node, or nobody says.
pub(crate) fn available_bytes(node: NodeId) -> Result<u64, Errno> {
    fail::point("node_meminfo")?;
    let path = format!("/sys/devices/system/node/node{}/meminfo", node.0);
    let text = std::fs::read_to_string(path)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let kib = |field: &str| -> Result<u64, Errno> {
        let line = text.lines().find_map(|line| line.split_once(field));
        let number = line.and_then(|(_, rest)| rest.trim().strip_suffix(" kB")?.parse().ok());
        number.ok_or(Errno::NODATA)
    };
    let files = kib(" Active(file):")? + kib(" Inactive(file):")?;
    Ok((kib(" MemFree:")? + files / 2) * 1024)
}

/// The policy by which the kernel would find a frame for the page at this address: its mode and its
/// first nodes.
#[cfg(test)]
pub(in crate::os) fn policy_at(address: usize) -> Result<(libc::c_int, libc::c_ulong), Errno> {
    const MPOL_F_ADDR: libc::c_int = 2;
    let (mut mode, mut mask) = (0 as libc::c_int, Mask::default());
    // SAFETY:
    // 1. `mode` and `mask` are as long as is said, and outlive the call, which writes them alone.
    // 2. The address is looked up by the kernel, which says EFAULT where nothing is mapped.
    let code = unsafe {
        let (mode, mask) = (&raw mut mode, mask.as_mut_ptr());
        libc::syscall(libc::SYS_get_mempolicy, mode, mask, NODES + 1, address, MPOL_F_ADDR)
    };
    if code == 0 { Ok((mode, mask[0])) } else { Err(last_errno()) }
}
