//! `vm_map_ram` at one chosen moment: another CPU comes between two of its steps, every time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use vmalloc_core::map_ram::{BLOCK_PAGES, MapRam, Usage};
use vmalloc_core::platform::{MapError, Mapper, Prot, Tlb};
use vmalloc_core::{Extent, PageRange, Pages, Pfn, Vpn};

const WINDOW: PageRange = PageRange { start: Vpn(0x8000), len: BLOCK_PAGES };

/// Nothing is staged.
const QUIET: u32 = 0;
/// The next who asks whether it may wait lets the other CPU begin its shootdown.
const ARMED: u32 = 1;
/// The other CPU is to begin.
const BEGIN: u32 = 2;
/// It has claimed the pages, and waits for all CPUs to answer.
const CLAIMED: u32 = 3;
/// All CPUs have answered.
const ANSWERED: u32 = 4;

/// Page tables that hold nothing, and a shootdown that takes as long as the test wants.
#[derive(Default)]
struct Stage(AtomicU32);

impl Stage {
    fn goes_on(&self, from: u32, to: u32) -> bool {
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn wait_until(&self, state: u32) {
        while self.0.load(Ordering::SeqCst) != state {
            thread::yield_now();
        }
    }
}

impl Mapper for &Stage {
    fn prepare(&self, _: PageRange) -> Result<(), MapError> {
        Ok(())
    }
    fn map_run(&self, _: Vpn, _: Extent, _: Prot) -> Result<(), MapError> {
        Ok(())
    }
    fn unmap_run(&self, _: PageRange) {}
    fn protect_run(&self, _: PageRange, _: Prot) {}
    fn translate(&self, _: Vpn) -> Option<(Pfn, Prot)> {
        None
    }
}

impl Tlb for &Stage {
    fn publish(&self, _: PageRange) {}
    fn flush_all_cpus(&self, _: &[PageRange]) {
        if self.goes_on(BEGIN, CLAIMED) {
            self.wait_until(ANSWERED);
        }
    }
    fn may_wait(&self) -> bool {
        if self.goes_on(ARMED, BEGIN) {
            self.wait_until(CLAIMED);
        }
        true
    }
    fn wait_for_others(&self) {
        self.goes_on(CLAIMED, ANSWERED);
        thread::yield_now();
    }
}

/// Goal: pages that another CPU claims for its shootdown after the caller has counted them are
/// waited for, too.
/// Method: a window of which every page is dirty. The caller counts them and then asks whether it
/// may wait; just there the other CPU claims all, and its shootdown ends only if it is waited for.
#[test]
fn regress_pages_claimed_by_another_after_they_were_counted_are_waited_for() {
    let len = MapRam::<()>::words_needed(WINDOW.len, 2);
    let words: Vec<_> = (0..len).map(|_| AtomicU64::new(0)).collect();
    let stage = Stage::default();
    let ram = MapRam::new(&words, 2, WINDOW, &stage).unwrap();
    let run = [Extent { start: Pfn(7), len: Pages(64) }];
    let runs: Vec<_> =
        (0..16).map(|_| ram.vm_map_ram(0, &run, Prot::READ_WRITE).unwrap()).collect();
    runs.iter().for_each(|run| ram.vm_unmap_ram(run.start.addr(), run.len).unwrap());
    assert_eq!(ram.usage(), Usage { dirty: WINDOW.len, ..Usage::default() });

    assert!(stage.goes_on(QUIET, ARMED));
    let mapped = thread::scope(|scope| {
        scope.spawn(|| {
            stage.wait_until(BEGIN);
            ram.vm_unmap_aliases().unwrap();
        });
        let mapped = ram.vm_map_ram(1, &run, Prot::READ_WRITE);
        stage.goes_on(CLAIMED, ANSWERED);
        mapped
    });
    assert_eq!(mapped.map(|run| run.len), Ok(Pages(64)));
}
