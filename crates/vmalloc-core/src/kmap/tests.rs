//! Races that no test on a whole machine can time: words as another CPU would have left them, and
//! threads on page tables without any lock.

extern crate std;

use super::*;
use std::sync::Barrier;
use std::vec::Vec;

/// Page tables of one word a page, 0 for not mapped; a TLB that nobody has.
struct Toy {
    first: Vpn,
    shown: Vec<AtomicU64>,
}

impl Toy {
    fn at(&self, page: Vpn) -> &AtomicU64 {
        &self.shown[(page.0 - self.first.0) as usize]
    }
}

impl Mapper for &Toy {
    fn prepare(&self, _: PageRange) -> Result<(), MapError> {
        Ok(())
    }

    fn map_run(&self, at: Vpn, run: Extent, _: Prot) -> Result<(), MapError> {
        match self.at(at).compare_exchange(0, run.start.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(by) => Err(MapError::Occupied { at, by: Pfn(by) }),
        }
    }

    fn unmap_run(&self, at: PageRange) {
        (at.start.0..at.end().0).for_each(|page| self.at(Vpn(page)).store(0, Ordering::Release));
    }

    fn protect_run(&self, _: PageRange, _: Prot) {
        unreachable!("a kmap window has one protection");
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        let pfn = self.at(at).load(Ordering::Acquire);
        (pfn != 0).then_some((Pfn(pfn), Prot::READ_WRITE))
    }
}

impl Tlb for &Toy {
    fn publish(&self, _: PageRange) {}

    fn flush_all_cpus(&self, _: &[PageRange]) {}

    fn may_wait(&self) -> bool {
        true
    }
}

const START: Vpn = Vpn(0x100);

fn with_kmap<R>(pages: u64, body: impl FnOnce(&Kmap<'_, &Toy>) -> R) -> R {
    let shown = (0..pages).map(|_| AtomicU64::new(0)).collect();
    let toy = Toy { first: START, shown };
    let words: Vec<_> = (0..=pages).map(|_| AtomicU64::new(0)).collect();
    let window = PageRange { start: START, len: Pages(pages) };
    body(&Kmap::new(&words, window, &toy).unwrap())
}

/// Goal: a CPU that stops between proposal and decision holds nobody up, and its proposal is not
/// decided twice. Method: its word; another CPU maps the frame; the first one goes on.
#[test]
fn a_proposal_of_a_cpu_that_stopped_is_decided_by_whoever_comes() {
    with_kmap(4, |kmap| {
        let proposed = Slot::Proposed { pfn: Pfn(7), ticket: 3 };
        assert!(kmap.step(2, Slot::Free, proposed));
        assert_eq!(kmap.kmap(Pfn(7)), Ok(kmap.page(2)));
        assert!(!kmap.decide(2, proposed, Pfn(7)));
        assert_eq!(kmap.kmap(Pfn(7)), Ok(kmap.page(2)));
        assert_eq!(kmap.lookup(Pfn(7)), Some((kmap.page(2), 2)));
        assert!(kmap.is_sound());
    });
}

/// Goal: a frame is not said to be out of reach while another CPU has its page unmapped and not yet
/// shot down. Method: the word of such a page; the other CPU ends; the same call again.
#[test]
fn regress_flush_unused_waits_for_the_shootdowns_of_others() {
    with_kmap(2, |kmap| {
        assert!(kmap.step(1, Slot::Free, Slot::Purging));
        assert_eq!(kmap.flush_unused(), Err(KmapError::Flushing { pages: Pages(1) }));
        assert!(kmap.step(1, Slot::Purging, Slot::Free));
        assert_eq!(kmap.flush_unused(), Ok(Pages(0)));
    });
}

/// Goal: of two proposals one stands, whoever decides. Method: two words for a frame; each is
/// decided first in turn; the later on the way has gone, and only one page is mapped.
#[test]
fn of_two_proposals_for_a_frame_the_earlier_on_its_way_stands() {
    for later_first in [false, true] {
        with_kmap(4, |kmap| {
            let pfn = Pfn(7);
            let way: Vec<usize> = kmap.way(pfn).collect();
            let [early, late] = [1, 2].map(|ticket| Slot::Proposed { pfn, ticket });
            assert!(kmap.step(way[1], Slot::Free, early) && kmap.step(way[3], Slot::Free, late));
            if later_first {
                assert!(!kmap.decide(way[3], late, pfn));
            }
            assert!(kmap.decide(way[1], early, pfn));
            assert_eq!(kmap.show(way[1], pfn), Ok(kmap.page(way[1])));
            assert_eq!(kmap.get(way[3]), Slot::Free);
            assert!(!kmap.decide(way[3], late, pfn));
            assert!(kmap.is_sound());
        });
    }
}

/// Goal: a proposal gives way to a page that was agreed on, even one later on the way.
#[test]
fn a_proposal_gives_way_to_a_page_that_is_agreed() {
    with_kmap(4, |kmap| {
        let pfn = Pfn(9);
        let way: Vec<usize> = kmap.way(pfn).collect();
        let proposed = Slot::Proposed { pfn, ticket: 1 };
        assert!(kmap.step(way[0], Slot::Free, proposed));
        assert!(kmap.step(way[2], Slot::Free, Slot::Agreed { pfn, count: 1 }));
        assert_eq!(kmap.kmap(pfn), Ok(kmap.page(way[2])));
        assert!(!kmap.decide(way[0], proposed, pfn));
        assert_eq!(kmap.get(way[0]), Slot::Free);
        assert_eq!(kmap.lookup(pfn), Some((kmap.page(way[2]), 2)));
    });
}

/// Goal: CPUs that map a frame at once get one page. Method: three threads start together on a
/// frame that is mapped nowhere, in an empty window; each sees the frame at its page, and all
/// pages are the same.
#[test]
fn cpus_that_map_a_frame_at_once_get_the_same_page() {
    const THREADS: usize = 3;
    with_kmap(8, |kmap| {
        let barrier = Barrier::new(THREADS);
        let run = |_| {
            let mut pages = Vec::new();
            for round in 1..3_000 {
                barrier.wait();
                let page = kmap.kmap(Pfn(round)).unwrap();
                assert_eq!(kmap.hardware.translate(page).map(|(pfn, _)| pfn), Some(Pfn(round)));
                pages.push(page);
                barrier.wait();
                kmap.kunmap(Pfn(round)).unwrap();
                if barrier.wait().is_leader() && round % 3 == 0 {
                    kmap.flush_unused().unwrap();
                    assert!(kmap.is_sound());
                }
            }
            pages
        };
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|t| scope.spawn(move || run(t))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|pages| *pages == all[0]));
    });
}

/// Goal: a page never changes its frame while it is used, however the window is recycled around it.
/// Method: three threads, more frames than pages, every map checked before its unmap.
#[test]
fn a_page_in_use_shows_its_frame_while_others_recycle_the_window() {
    with_kmap(4, |kmap| {
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let pfn = Pfn(1 + (round * (thread + 1) + thread) % 7);
                        match kmap.kmap(pfn) {
                            Ok(page) => {
                                let shown = kmap.hardware.translate(page).map(|(pfn, _)| pfn);
                                assert_eq!(shown, Some(pfn));
                                kmap.kunmap(pfn).unwrap();
                            }
                            Err(KmapError::Full { .. }) => std::thread::yield_now(),
                            Err(e) => panic!("{e}"),
                        }
                    }
                });
            }
        });
        assert!(kmap.is_sound());
        assert_eq!(kmap.in_use(), Pages(0));
    });
}
