//! What the kernel really did: physical frames, VMAs and huge pages behind a range.
//!
//! For the demo, for `vmalloc info`, and for tests that count. Reads `/proc/self`, changes
//! nothing. The physical numbers are for those who may know them (CAP_SYS_ADMIN); everybody else
//! reads zeros, which come out as `None`.
//!
//! Linux: Documentation/admin-guide/mm/pagemap.rst; `vmalloc_to_pfn` is the kernel's own way.

use crate::os::{PAGE_BYTES, fail};
use rustix::io::Errno;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

const PRESENT: u64 = 1 << 63;
const PFN_MASK: u64 = (1 << 55) - 1;

/// The physical frame number behind each page of `addresses` in this process; `None` inside for a
/// page that is not in our page tables now (populate it first).
///
/// `None` outside if we may not know: the kernel hides the numbers without CAP_SYS_ADMIN.
///
/// # Errors
///
/// What opening or reading `/proc/self/pagemap` said.
pub(crate) fn frames(addresses: Range<usize>) -> Result<Option<Vec<Option<u64>>>, Errno> {
    fail::point("pagemap")?;
    let first = addresses.start as u64 / PAGE_BYTES;
    let len = (addresses.end as u64).div_ceil(PAGE_BYTES).saturating_sub(first);
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| Errno::NOMEM)? * 8];
    File::open("/proc/self/pagemap")
        .and_then(|file| file.read_exact_at(&mut bytes, first * 8))
        .map_err(|error| errno_of(&error))?;

    let (entries, _) = bytes.as_chunks::<8>();
    let entries = entries.iter().map(|entry| u64::from_ne_bytes(*entry));
    let frames: Vec<Option<u64>> =
        entries.map(|entry| (entry & PRESENT != 0).then_some(entry & PFN_MASK)).collect();
    // Frame 0 is never ours: the kernel keeps it. So a present page with number 0 is a hidden one.
    let hidden = frames.contains(&Some(0));
    Ok((!hidden).then_some(frames))
}

/// How many VMAs this process has: what counts against `vm.max_map_count`.
///
/// # Errors
///
/// What reading `/proc/self/maps` said.
pub(crate) fn vmas() -> Result<usize, Errno> {
    Ok(maps()?.lines().count())
}

/// How many VMAs of this process touch `addresses`.
///
/// # Errors
///
/// What reading `/proc/self/maps` said.
pub(crate) fn vmas_within(addresses: &Range<usize>) -> Result<usize, Errno> {
    Ok(maps()?.lines().filter_map(vma_of).filter(|vma| overlap(vma, addresses)).count())
}

/// Whether every page of `addresses` is mapped in this process, and none may be touched.
///
/// # Errors
///
/// What reading `/proc/self/maps` said.
pub(crate) fn is_closed(addresses: &Range<usize>) -> Result<bool, Errno> {
    let maps = maps()?;
    let mut at = addresses.start;
    for line in maps.lines() {
        let Some(vma) = vma_of(line).filter(|vma| overlap(vma, addresses)) else { continue };
        if vma.start > at || line.split(' ').nth(1).is_none_or(|rights| !rights.starts_with("---"))
        {
            return Ok(false);
        }
        at = vma.end;
    }
    Ok(at >= addresses.end)
}

/// How many bytes this process maps by huge pages, in the VMAs that touch `addresses`: whole
/// VMAs, so give whole ones. Reads all of `/proc/self/smaps`: milliseconds.
///
/// # Errors
///
/// What reading it said.
#[cfg(test)]
pub(crate) fn huge_bytes(addresses: &Range<usize>) -> Result<u64, Errno> {
    fail::point("smaps")?;
    let smaps = fs::read_to_string("/proc/self/smaps").map_err(|error| errno_of(&error))?;
    let mut inside = false;
    let mut kib = 0;
    for line in smaps.lines() {
        if let Some(vma) = vma_of(line) {
            inside = overlap(&vma, addresses);
        } else if inside
            && let Some((name, value)) = line.split_once(':')
            && matches!(name, "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped")
        {
            kib += value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        }
    }
    Ok(kib * 1024)
}

fn maps() -> Result<String, Errno> {
    fail::point("maps")?;
    fs::read_to_string("/proc/self/maps").map_err(|error| errno_of(&error))
}

/// The addresses of a VMA's line in maps or smaps.
fn vma_of(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
