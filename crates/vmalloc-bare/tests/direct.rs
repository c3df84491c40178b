//! The direct map over memory of this process, and page tables in it: what Miri can run of the
//! crate's unsafe code, and what it runs of the walkers.

mod support;

use std::sync::Mutex;
use support::NoCpus;
use vmalloc_bare::{Aarch64, DirectMap, Format, Hardware, PageTables, Sv39, TableMem, X86_64};
use vmalloc_core::platform::{FRAME_WORDS, MapError, Mapper, Ram};
use vmalloc_core::sync::{AtomicU64, Ordering};
use vmalloc_core::{Extent, PAGE_SIZE, PageRange, Pages, Pfn, Prot, VirtAddr, Vpn};

/// A frame as Rust sees it.
#[repr(align(4096))]
#[expect(dead_code, reason = "reached by address")]
struct Frame([AtomicU64; FRAME_WORDS]);

const _: () = assert!(size_of::<Frame>() == PAGE_SIZE);

/// Frames 32 and up, mapped where the heap put them, and never given back.
fn direct(len: u64) -> DirectMap {
    let frames: Box<[Frame]> =
        (0..len).map(|_| Frame([const { AtomicU64::new(0) }; FRAME_WORDS])).collect();
    // A kernel's direct map is an address, no reference: its provenance is exposed.
    let first = VirtAddr(Box::leak(frames).as_mut_ptr().expose_provenance() as u64);
    let run = Extent { start: Pfn(32), len: Pages(len) };
    // SAFETY:
    // 1. The frames are leaked: mapped, readable and writable for ever, from `first` on.
    // 2. The only reference to them ended with the cast; what is made of the map are atomics.
    unsafe { DirectMap::new(first, run) }.unwrap()
}

/// Tables out of a direct map.
struct Mem {
    map: DirectMap,
    free: Mutex<Vec<Pfn>>,
}

impl TableMem for Mem {
    fn table(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.map.words(pfn)
    }

    fn take(&self) -> Option<Pfn> {
        self.free.lock().unwrap().pop()
    }

    fn give(&self, pfn: Pfn) {
        self.free.lock().unwrap().push(pfn);
    }
}

impl Ram for Mem {
    fn words(&self, pfn: Pfn) -> &[AtomicU64; FRAME_WORDS] {
        self.map.words(pfn)
    }

    fn zero(&self, run: Extent) {
        self.map.zero(run);
    }

    fn ram_in(&self, run: Extent) -> Pages {
        self.map.ram_in(run)
    }
}

/// Goal: a frame's words are the frame's, and a run's are those of its frames in order.
/// Method: each word of three frames by one way, read by the other.
#[test]
fn words_of_a_run_are_those_of_its_frames() {
    let map = direct(4);
    let run = map.run(Extent { start: Pfn(33), len: Pages(3) });
    for (i, word) in run.iter().enumerate() {
        word.store(i as u64 + 1, Ordering::Relaxed);
    }
    for (frame, pfn) in (33..36).map(Pfn).enumerate() {
        let words = map.words(pfn);
        let seen = |i: usize| words[i].load(Ordering::Relaxed) as usize;
        assert_eq!((seen(0), seen(511)), (frame * 512 + 1, frame * 512 + 512));
    }
    map.zero(Extent { start: Pfn(34), len: Pages(1) });
    assert_eq!(run[511].load(Ordering::Relaxed), 512);
    assert_eq!(run[512].load(Ordering::Relaxed), 0);
    assert_eq!(run[1024].load(Ordering::Relaxed), 1025);
}

/// Goal: what the map does not show is no RAM, also by way of the hardware. Method: runs that lie
/// across each end, and beyond.
#[test]
fn frames_outside_of_the_map_are_a_devices() {
    let mem = Mem { map: direct(4), free: Mutex::new((32..36).map(Pfn).collect()) };
    let tables = PageTables::<X86_64, Mem>::new(mem).unwrap();
    let hardware = Hardware::new(tables, NoCpus);
    for (start, len, ram) in [(32, 4, 4), (30, 4, 2), (35, 9, 1), (36, 2, 0), (20, 12, 0)] {
        let run = Extent { start: Pfn(start), len: Pages(len) };
        assert_eq!(hardware.ram_in(run), Pages(ram), "{run}");
    }
}

/// Goal: frames and runs that the map does not show are refused, at both ends.
#[test]
fn what_is_outside_of_the_map_is_refused() {
    let map = direct(2);
    let refused = |f: &dyn Fn()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).expect_err("refused")
    };
    for pfn in [31, 34, 0, u64::MAX] {
        refused(&|| map.words(Pfn(pfn))[0].store(1, Ordering::Relaxed));
    }
    for (start, len) in [(31, 1), (33, 2), (32, 3)] {
        refused(&|| {
            map.run(Extent { start: Pfn(start), len: Pages(len) })[0].store(1, Ordering::Relaxed)
        });
    }
    assert_eq!(map.run(Extent { start: Pfn(34), len: Pages(0) }).len(), 0);
}

/// Goal: the walkers map, find and unmap in tables that are memory.
/// Method: runs across a border of 2 MiB, for a format of each architecture.
#[test]
fn walkers_work_in_tables_that_are_memory() {
    walk::<X86_64>(Vpn(0xf_fffc_9000_0000));
    walk::<Aarch64>(Vpn(0xf_fff8_0000_0000));
    walk::<Sv39>(Vpn(0xf_ffff_fc80_0000));
}

fn walk<F: Format>(window: Vpn) {
    let mem = Mem { map: direct(16), free: Mutex::new((32..48).map(Pfn).collect()) };
    let tables = PageTables::<F, _>::new(&mem).unwrap();
    let (at, run) = (Vpn(window.0 + 509), Extent { start: Pfn(77), len: Pages(6) });
    tables.map_run(at, run, Prot::READ_WRITE).unwrap();
    for i in 0..6 {
        let found = tables.translate(Vpn(at.0 + i));
        assert_eq!(found, Some((Pfn(77 + i), Prot::READ_WRITE)));
    }
    let occupied = tables.map_run(Vpn(at.0 + 5), run, Prot::READ);
    assert!(matches!(occupied, Err(MapError::Occupied { .. })), "{occupied:?}");
    tables.protect_run(PageRange { start: at, len: Pages(2) }, Prot::READ);
    assert_eq!(tables.translate(at), Some((Pfn(77), Prot::READ)));
    tables.unmap_run(PageRange { start: at, len: Pages(6) });
    assert_eq!(tables.translate(at), None);
}
