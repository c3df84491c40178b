//! What a TLB holds, and when it must not.

use crate::arch;
use crate::machine::{self, mmu, tables_in_use};
use crate::smp;
use crate::subject::with_engines;
use vmalloc_core::platform::{Mapper, Ram, Tlb};
use vmalloc_core::sync::Ordering;
use vmalloc_core::{Extent, PageRange, Pages, Pfn, Prot, Request, Vpn};
use vmalloc_sim::Setup;

/// A page of window 3, which no engine uses, and two frames that hold their own numbers.
fn page_and_frames() -> (PageRange, [Extent; 2]) {
    let page = PageRange { start: machine::window_of(3).start, len: Pages(1) };
    let frames = [0, 1].map(|i| Extent { start: Pfn(machine::pool().start.0 + i), len: Pages(1) });
    for frame in frames {
        machine::Mem::new().words(frame.start)[0].store(frame.start.0, Ordering::Release);
    }
    (page, frames)
}

/// Maps `page` to another frame, with no shootdown; this CPU alone forgets.
fn repoint(page: PageRange, to: Extent) {
    let mmu = mmu();
    mmu.unmap_run(page);
    mmu.map_run(page.start, to, Prot::READ_WRITE).expect("tables are there");
    mmu.flush_local(page);
    mmu.publish(page);
}

/// Goal: the tests below test something. Method: repoint a page that the other CPU has read; if it
/// reads the old frame, its translation is stale. A TLB may forget by itself, so: one of a hundred.
pub fn shows_without_a_shootdown() {
    let (page, frames) = page_and_frames();
    let addr = page.start.addr().0;
    repoint(page, frames[0]);
    mmu().flush_all_cpus(&[page]);
    let mut stale = 0;
    for round in 0..100 {
        let (old, new) = (frames[round % 2], frames[1 - round % 2]);
        assert_eq!(smp::load_there(addr), Ok(old.start.0));
        repoint(page, new);
        assert_eq!(arch::load(addr), Ok(new.start.0), "this CPU has forgotten");
        let seen = smp::load_there(addr).expect("mapped all the while");
        assert!(seen == old.start.0 || seen == new.start.0);
        stale += usize::from(seen == old.start.0);
        mmu().flush_all_cpus(&[page]);
    }
    crate::console::println!("stale translation seen in {stale} of 100 without a shootdown");
    assert!(stale > 0, "no stale translation: nothing here shows that shootdowns work");
    mmu().unmap_run(page);
    mmu().flush_all_cpus(&[page]);
}

/// Goal: with the shootdown, never. Method: the same, 500 times.
pub fn never_shows_after_a_shootdown() {
    let (page, frames) = page_and_frames();
    let addr = page.start.addr().0;
    for round in 0..500 {
        repoint(page, frames[round % 2]);
        mmu().flush_all_cpus(&[page]);
        let expected = Ok(frames[round % 2].start.0);
        assert_eq!((smp::load_there(addr), arch::load(addr)), (expected, expected), "{round}");
    }
    mmu().unmap_run(page);
    mmu().flush_all_cpus(&[page]);
    assert_eq!(smp::load_there(addr), Err(arch::Fault { addr }));
    assert_eq!(arch::load(addr), Err(arch::Fault { addr }));
}

/// Goal: no CPU reaches a freed and purged area. Method: both have translations of it.
pub fn freed_page_faults_on_both_cpus() {
    with_engines(Setup::DEFAULT, |_, engines| {
        for pages in [1, 7, 40, 130] {
            let area = engines[0].vmalloc(&Request::bytes(pages * 4096)).expect("room");
            let addrs = (0..pages).map(|i| area.addr().0 + i * 4096);
            for addr in addrs.clone() {
                arch::store(addr, addr).expect("mapped");
                assert_eq!(smp::load_there(addr), Ok(addr));
            }
            let _ = engines[0].vfree(area.addr()).expect("live");
            engines[0].purge().expect("may wait");
            for addr in addrs {
                assert_eq!(arch::load(addr), Err(arch::Fault { addr }));
                assert_eq!(smp::load_there(addr), Err(arch::Fault { addr }));
            }
        }
    });
}

/// Goal: one step past the end of an area faults, there and nowhere else, on both CPUs.
pub fn guard_page_faults_at_its_address() {
    with_engines(Setup::DEFAULT, |_, engines| {
        for pages in [1, 2, 8, 100] {
            let area = engines[0].vmalloc(&Request::bytes(pages * 4096)).expect("room");
            let guard = area.addr().0 + pages * 4096;
            assert!(arch::store(guard - 8, 1).is_ok());
            assert_eq!(arch::load(guard), Err(arch::Fault { addr: guard }));
            assert_eq!(arch::store(guard + 64, 1), Err(arch::Fault { addr: guard + 64 }));
            assert_eq!(smp::store_there(guard, 1), Err(arch::Fault { addr: guard }));
        }
        while engines[0].areas().next().is_some() {
            let area = engines[0].areas().next().expect("one");
            if engines[0].vfree(area.addr()).is_err() {
                engines[0].purge().expect("may wait");
            }
        }
    });
}

/// Goal: large leaves work on this CPU, are split, and go; their tables come home.
/// Method: 4 MiB by hand, where pages and frames are aligned alike.
pub fn large_leaves() {
    let before = tables_in_use();
    let mmu = mmu();
    let start = Vpn(machine::window_of(3).start.0.next_multiple_of(512));
    let first = Pfn((machine::pool().start.0 + 512).next_multiple_of(512));
    let all = PageRange { start, len: Pages(1024) };
    let word = |page: u64| Vpn(start.0 + page).addr().0;
    mmu.map_run(start, Extent { start: first, len: Pages(1024) }, Prot::READ_WRITE).expect("room");
    for page in [0, 511, 512, 700, 1023] {
        arch::store(word(page), page).expect("mapped");
        assert_eq!(smp::load_there(word(page)), Ok(page));
    }
    let leaves = tables_in_use() - before;
    mmu.split(Vpn(start.0 + 700)).expect("a frame for a table");
    assert_eq!(tables_in_use() - before, leaves + 1, "4 MiB had two leaves");
    let tail = PageRange { start: Vpn(start.0 + 700), len: Pages(324) };
    mmu.unmap_run(tail);
    mmu.flush_all_cpus(&[tail]);
    assert_eq!(smp::load_there(word(699 & !1)), arch::load(word(699 & !1)));
    for page in [700, 1023] {
        assert_eq!(smp::load_there(word(page)), Err(arch::Fault { addr: word(page) }));
    }
    mmu.protect_run(PageRange { start, len: Pages(512) }, Prot::READ);
    mmu.flush_all_cpus(&[all]);
    assert!(arch::store(word(5), 1).is_err() && smp::store_there(word(5), 1).is_err());
    assert_eq!(arch::load(word(511)), Ok(511));
    mmu.unmap_run(all);
    mmu.flush_all_cpus(&[all]);
    assert_eq!(tables_in_use() - before, leaves, "the leaf table went home");
    assert!(arch::load(word(0)).is_err());
}
