//! The mapping: where it lies, what shows through it, guards, and what the kernel says of it.

use crate::os::advice::{AdviseError, guards_supported};
use crate::os::fail::Plan;
use crate::os::file::PoolFile;
use crate::os::map::{MapError, Mapping};
use crate::os::tests::{MIB, is_root, pool, resident, seat, skip, span};
use crate::os::view::{ExclusiveView, SharedView};
use crate::os::{HUGE_BYTES, PAGE_BYTES, RangeError, Span, pagemap};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn addresses(mapping: &Mapping, span: Span) -> Range<usize> {
    let start = mapping.base() + span.start as usize;
    start..start + span.len as usize
}

/// Goal: address ≡ offset modulo 2 MiB, for huge pages, and one VMA however large the window.
/// Method: several sizes at once, up to 256 GiB.
#[test]
fn base_is_congruent_with_the_offset_modulo_2_mib() {
    for bytes in [PAGE_BYTES, 3 * MIB, 256 << 30] {
        let pool = pool("base", bytes);
        assert!(pool.base().is_multiple_of(HUGE_BYTES as usize), "{bytes}: {:#x}", pool.base());
        let range = addresses(&pool, Span::new(0, bytes));
        assert_eq!(pagemap::vmas_within(&range), Ok(1), "{bytes}");
        assert_eq!(resident(&pool), 0);
    }
}

/// Goal: two mappings of one pool, at two addresses, show the same frames.
/// Method: atomics of one, read through the other; the words part and the data part.
#[test]
fn two_mappings_see_each_others_atomics() {
    let one = pool("twice", 4 * MIB);
    let other = Mapping::new(Arc::new(one.file().reopen().unwrap()), PAGE_BYTES).unwrap();
    assert_ne!(one.base(), other.base());
    one.words(64, 2).unwrap()[1].store(7, Ordering::Relaxed);
    assert_eq!(other.words(72, 1).unwrap()[0].load(Ordering::Relaxed), 7);

    let here = SharedView::new(&*one, span(3..5)).unwrap();
    let there = SharedView::new(&*other, span(3..5)).unwrap();
    there.words()[1000].store(9, Ordering::Relaxed);
    assert_eq!(here.words()[1000].load(Ordering::Relaxed), 9);
}

/// Goal: words are checked: aligned, inside their part, not empty, no overflow.
/// Method: one of each.
#[test]
fn words_stay_below_the_data() {
    let pool = pool("words", MIB);
    assert_eq!(pool.words(PAGE_BYTES - 8, 1).unwrap().len(), 1);
    assert!(matches!(pool.words(4, 1), Err(RangeError::Misaligned { .. })));
    for (offset, count) in [(PAGE_BYTES - 8, 2), (PAGE_BYTES, 1), (0, 0), (8, usize::MAX)] {
        assert!(matches!(pool.words(offset, count), Err(RangeError::Outside { .. })), "{offset}");
    }
    let file = PoolFile::create_memfd("words", MIB).unwrap();
    let error = Mapping::new(Arc::new(file), 2 * MIB).unwrap_err();
    assert_eq!(error, MapError::WordsSize { words_bytes: 2 * MIB, bytes: MIB });
}

/// Goal: a view keeps the mapping alive after the pool's handle is gone, and no longer.
/// Method: VMAs in the range.
#[test]
fn a_view_keeps_its_mapping_alive() {
    let pool = pool("alive", MIB);
    let range = addresses(&pool, Span::new(0, MIB));
    let weak = Arc::downgrade(&pool);
    let mut view = ExclusiveView::new(seat(pool), span(1..2)).unwrap();
    view[0] = 1;
    assert_eq!(pagemap::vmas_within(&range), Ok(1));
    drop(view);
    // Another thread may have mapped something there by now, so ask the owner.
    assert_eq!(weak.strong_count(), 0);
}

/// Goal: each call of mapping may fail, and leaves nothing mapped.
/// Method: fail each in turn; the child compares its VMAs, undisturbed by other tests.
#[test]
fn a_failed_mapping_leaves_nothing_mapped() {
    crate::os::tests::process::assert_child_passes("fail-every-map");
}

/// The part of the child in `a_failed_mapping_leaves_nothing_mapped`.
pub(super) fn fail_every_map() {
    // Not a multiple of 2 MiB: the kernel would align the reservation itself.
    let file = Arc::new(PoolFile::create_memfd("fail", 3 * MIB).unwrap());
    let lines = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("memfd") || line.contains("---p")).count()
    };
    let at_first = lines();
    let armed = Plan::count().arm();
    drop(Mapping::new(Arc::clone(&file), PAGE_BYTES).unwrap());
    let calls = armed.calls();
    drop(armed);
    assert!(calls >= 4, "{calls}");
    let before = lines();
    assert_eq!(before, at_first, "a mapping that was dropped left something mapped");
    // The ends of the reservation go back at once: one VMA a mapping, wherever it lies.
    let eight = [(); 8].map(|()| Mapping::new(Arc::clone(&file), PAGE_BYTES).unwrap());
    assert_eq!(lines(), before + eight.len());
    drop(eight);
    for n in 1..=calls {
        let _armed = Plan::nth(n, Errno::NOMEM.raw_os_error()).arm();
        let error = Mapping::new(Arc::clone(&file), PAGE_BYTES).unwrap_err();
        assert!(matches!(error, MapError::Os { errno: Errno::NOMEM, .. }), "{error}");
        assert_eq!(lines(), before, "call {n} left something mapped");
    }
    assert_eq!(Arc::strong_count(&file), 1);
}

/// Goal: a touched guard page is SIGSEGV, and taking it away shows what the file held.
/// Method: a child dies of it; here the content beside and below survives. No VMA is used.
#[test]
fn a_guard_faults_and_keeps_what_is_below() {
    if !guards_supported() {
        return skip("guard pages", "no MADV_GUARD_INSTALL on shared files", "needs Linux 6.15");
    }
    let pool = pool("guards", MIB);
    let mut view = ExclusiveView::new(&*pool, span(1..4)).unwrap();
    view.fill(5);
    pool.guard_install(span(2..3)).unwrap();
    assert_eq!(view[..4096], [5; 4096]);
    assert_eq!(view[8192..], [5; 4096]);
    assert_eq!(resident(&pool), 3 * PAGE_BYTES);
    let range = addresses(&pool, Span::new(0, MIB));
    assert_eq!(pagemap::vmas_within(&range), Ok(1));
    pool.guard_remove(span(2..3)).unwrap();
    assert!(view.iter().all(|&byte| byte == 5));

    crate::os::tests::process::assert_child_dies_of("touch-guard", 11);
}

/// Goal: advice is for whole pages inside the mapping, and its errors keep their reasons.
/// Method: bad ranges, then each errno.
#[test]
fn advice_errors_say_what_was_wrong() {
    let pool = pool("advice", 4 * MIB);
    let error = pool.populate_write(Span::new(1, PAGE_BYTES)).unwrap_err();
    assert!(matches!(error, AdviseError::Range(RangeError::Misaligned { .. })));
    let error = pool.guard_install(Span::new(4 * MIB, PAGE_BYTES)).unwrap_err();
    assert!(matches!(error, AdviseError::Range(RangeError::Outside { .. })));

    let span = span(4..6);
    for (errno, error) in [
        (Errno::FAULT, AdviseError::NoMemory { span, errno: Errno::FAULT }),
        (Errno::NOMEM, AdviseError::NoMemory { span, errno: Errno::NOMEM }),
        (Errno::HWPOISON, AdviseError::Poisoned { span }),
        (Errno::INTR, AdviseError::Interrupted { span }),
        (Errno::INVAL, AdviseError::Unsupported { span }),
        (Errno::IO, AdviseError::Os { span, errno: Errno::IO }),
    ] {
        let _armed = Plan::nth(1, errno.raw_os_error()).arm();
        assert_eq!(pool.populate_read(span), Err(error));
    }
    assert_eq!(resident(&pool), 0);
    pool.advise_huge(Span::new(0, 2 * MIB)).unwrap();
    pool.advise_nohuge(Span::new(2 * MIB, 2 * MIB)).unwrap();
    pool.populate_read(span).unwrap();
    assert_eq!(resident(&pool) % PAGE_BYTES, 0);
    assert!(resident(&pool) >= 2 * PAGE_BYTES);
}

/// Goal: the physical frames behind a range, as root; one frame a page, the same through both
/// mappings of a pool. Method: populate, look, compare.
#[test]
fn pagemap_shows_the_frames_behind_a_range() {
    let one = pool("frames", MIB);
    let other = Mapping::new(Arc::new(one.file().reopen().unwrap()), PAGE_BYTES).unwrap();
    let run = span(16..48);
    one.populate_write(run).unwrap();
    let Some(frames) = pagemap::frames(addresses(&one, run)).unwrap() else {
        assert!(!is_root(), "root may know the frames");
        return skip("physical frames", "no CAP_SYS_ADMIN", "run as root");
    };
    assert_eq!(frames.len(), 32);
    let distinct: BTreeSet<_> = frames.iter().map(|frame| frame.expect("populated")).collect();
    assert_eq!(distinct.len(), 32);

    let through_other = || pagemap::frames(addresses(&other, run)).unwrap().unwrap();
    assert_eq!(through_other(), vec![None; 32]);
    other.populate_read(run).unwrap();
    assert_eq!(through_other(), frames);
    assert!(pagemap::vmas().unwrap() > 2);
}
