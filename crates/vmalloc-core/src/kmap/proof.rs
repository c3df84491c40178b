//! `kmap` under loom: CPUs that share a window of a page or two, and TLBs that forget nothing by
//! themselves.

extern crate std;

use super::agree::Seen;
use super::{Kmap, KmapLocal, MapError, Mapper, Slot, Tlb, unmap_run};
use crate::proof::explore::{Canary, Scenario, Walk, race_each_first};
use crate::proof::hardware::Hardware;
use crate::sync::Ordering;
use crate::sync::explored::Sequential;
use crate::{Extent, PageRange, Pages, Pfn, Prot, Vpn};
use std::boxed::Box;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

const FRAME: Pfn = Pfn(7);
const OTHER: Pfn = Pfn(9);

/// The window's hardware, and the pages that CPUs got.
struct World {
    hardware: Hardware,
    got: Mutex<Vec<Vpn>>,
}

impl World {
    fn new(pages: u64) -> World {
        let pages = Pages(pages);
        let hardware = Hardware::new(pages, Kmap::<()>::words_needed(pages));
        World { hardware, got: Mutex::default() }
    }

    fn kmap(&self) -> Kmap<'_, &Hardware> {
        self.over(&self.hardware)
    }

    fn over<H>(&self, hardware: H) -> Kmap<'_, H> {
        Kmap::new(self.hardware.piece(), self.hardware.window(), hardware).unwrap()
    }

    /// What a user does with its page; all CPUs may use it.
    fn read(&self, page: Vpn, pfn: Pfn) {
        for cpu in 0..2 {
            let seen = self.hardware.read(cpu, page);
            assert_eq!(seen, Some(pfn), "what a page in use shows");
        }
    }

    fn map(&self, pfn: Pfn) {
        if let Ok(page) = self.kmap().kmap(pfn) {
            self.read(page, pfn);
            self.got.lock().unwrap().push(page);
        }
    }

    fn use_one(&self, pfn: Pfn) {
        if let Ok(page) = self.kmap().kmap(pfn) {
            self.read(page, pfn);
            self.kmap().kunmap(pfn).unwrap();
        }
    }

    /// The frame was used, and its page is shown still.
    fn used(self, pfn: Pfn) -> World {
        self.use_one(pfn);
        self
    }

    /// When all is quiet: the frame has `users`, who all got the same page, and still see it.
    fn settle(&self, users: u64) {
        let got = self.got.lock().unwrap();
        assert_eq!(got.len() as u64, users, "who got a page");
        got.iter().for_each(|&page| self.read(page, FRAME));
        if let Some(&page) = got.first() {
            assert!(got.iter().all(|&other| other == page), "pages of one frame");
            assert_eq!(self.kmap().lookup(FRAME), Some((page, users)), "pages of one frame");
        }
        assert!(self.kmap().is_sound(), "words and tables do not agree");
    }
}

fn run(name: &'static str, preemptions: usize, needs: Sequential, canary: Canary, body: fn()) {
    Scenario { name, preemptions: Some(preemptions), needs, canary, body }.run();
}

fn check(world: World, walks: Vec<Walk<World>>) -> Arc<World> {
    let world = Arc::new(world);
    race_each_first(&world, |world| &world.hardware.words, walks);
    world
}

/// Goal: two who map a frame at once get one page, counted twice, which shows it. Method: without
/// orderings one sees the page live before the tables show it.
#[test]
fn frame_that_two_map_has_one_page() {
    fn body() {
        let world = World::new(2);
        check(world, vec![Box::new(|w| w.map(FRAME)), Box::new(|w| w.map(FRAME))]).settle(2);
    }
    run("kmap: two map one frame", 3, Sequential::Plain, Canary::Unordered, body);
}

/// Goal: of two pages that are proposed for a frame one stands. Method: two CPUs that found each
/// another page free; if neither sees the other's proposal, both stand.
#[test]
fn of_two_proposals_one_stands() {
    fn propose(w: &World, nth: usize) {
        let kmap = w.kmap();
        let index = kmap.way(FRAME).nth(nth).unwrap();
        let proposed = Slot::Proposed { pfn: FRAME, ticket: nth as u64 };
        let stands = kmap.step(index, Slot::Free, proposed) && kmap.decide(index, proposed, FRAME);
        if stands {
            let page = kmap.show(index, FRAME).unwrap();
            w.read(page, FRAME);
            w.got.lock().unwrap().push(page);
        } else {
            w.map(FRAME);
        }
    }
    fn body() {
        let world = World::new(2);
        check(world, vec![Box::new(|w| propose(w, 0)), Box::new(|w| propose(w, 1))]).settle(2);
    }
    run("kmap: two proposals", 3, Sequential::Fenced, Canary::AcqRel, body);
}

/// Goal: a page does not go while somebody uses it. Method: its last user leaves and flushes what
/// is unused, while another maps the frame; a purge that looks at the count and then stores would take
/// the page away.
#[test]
fn page_in_use_does_not_go() {
    fn race_for(flush: fn(&World)) {
        let world = World::new(2);
        world.kmap().kmap(FRAME).unwrap();
        let leave = move |w: &World| {
            w.kmap().kunmap(FRAME).unwrap();
            flush(w);
        };
        check(world, vec![Box::new(leave), Box::new(|w| w.map(FRAME))]).settle(1);
    }
    fn body() {
        race_for(|w| _ = w.kmap().flush_unused());
    }
    fn wrong() {
        race_for(|w| {
            let kmap = w.kmap();
            let index = kmap.way(FRAME).next().unwrap();
            if let Slot::Live { count: 0, .. } = kmap.get(index) {
                kmap.slots[index].store(Slot::Purging.encode(), Ordering::SeqCst);
                let pending = unmap_run(&&w.hardware, kmap.run(index, index + 1));
                kmap.settle(index, &pending.shoot_down(&&w.hardware));
            }
        });
    }
    let canary = Canary::Assert("what a page in use shows", wrong);
    run("kmap: last unmap against map", 3, Sequential::Plain, canary, body);
}

/// Goal: a page that shows another frame than before shows it to every CPU. Method: both CPUs have
/// read the one frame there; both map the other. If the page were free before the flush, one of them
/// would read what its TLB still says.
#[test]
fn page_is_not_used_again_before_its_flush() {
    fn race_for(first: fn(&World)) {
        let world = World::new(1).used(FRAME);
        let again = move |w: &World| {
            first(w);
            w.use_one(OTHER);
        };
        check(world, vec![Box::new(again), Box::new(|w| w.use_one(OTHER))]).settle(0);
    }
    fn body() {
        race_for(|_| {});
    }
    fn wrong() {
        race_for(|w| {
            let kmap = w.kmap();
            if kmap.withdraw(0) {
                (&w.hardware).unmap_run(kmap.run(0, 1));
                kmap.step(0, Slot::Purging, Slot::Free);
                (&w.hardware).flush_all_cpus(&[kmap.run(0, 1)]);
            }
        });
    }
    let canary = Canary::Assert("what a page in use shows", wrong);
    run("kmap: a page for another frame", 2, Sequential::Plain, canary, body);
}

/// Goal: after `flush_unused` no CPU reaches a frame that was given up before. Method: its user gives
/// it up and flushes, while another purges its page to have room. If what another has withdrawn and not
/// yet shot down were taken for gone, the frame would go home while a TLB shows it.
#[test]
fn frame_that_was_flushed_is_out_of_reach() {
    fn race_for(flush: fn(&World) -> bool) {
        let world = World::new(1);
        let page = world.kmap().kmap(FRAME).unwrap();
        world.read(page, FRAME);
        let leave = move |w: &World| {
            w.kmap().kunmap(FRAME).unwrap();
            let is_flushed = flush(w);
            assert!(
                !is_flushed || !w.hardware.is_reached(FRAME),
                "a frame goes home that is shown"
            );
        };
        check(world, vec![Box::new(leave), Box::new(|w| w.use_one(OTHER))]).settle(0);
    }
    fn body() {
        race_for(|w| w.kmap().flush_unused().is_ok());
    }
    fn wrong() {
        race_for(|w| {
            let kmap = w.kmap();
            while kmap.unused().0 > 0 {
                kmap.recycle();
            }
            true
        });
    }
    let canary = Canary::Assert("a frame goes home that is shown", wrong);
    run("kmap: flush against a purge", 3, Sequential::Plain, canary, body);
}

/// Tables that have no frame for a table more.
struct Poor<'h>(&'h Hardware);

impl Mapper for Poor<'_> {
    fn prepare(&self, _: PageRange) -> Result<(), MapError> {
        Ok(())
    }

    fn map_run(&self, at: Vpn, _: Extent, _: Prot) -> Result<(), MapError> {
        Err(MapError::NoTable { at })
    }

    fn unmap_run(&self, at: PageRange) {
        self.0.unmap_run(at);
    }

    fn protect_run(&self, at: PageRange, prot: Prot) {
        self.0.protect_run(at, prot);
    }

    fn translate(&self, at: Vpn) -> Option<(Pfn, Prot)> {
        self.0.translate(at)
    }
}

impl Tlb for Poor<'_> {
    fn publish(&self, at: PageRange) {
        self.0.publish(at);
    }

    fn flush_all_cpus(&self, ranges: &[PageRange]) {
        self.0.flush_all_cpus(ranges);
    }

    fn may_wait(&self) -> bool {
        true
    }
}

/// Goal: a map that fails takes nothing away from another user of the frame. Method: one finds no
/// table; if it freed the page as soon as it had failed, the other would stand there without one.
#[test]
fn map_that_fails_takes_no_page_away() {
    fn race_for(fail: fn(&World) -> bool) {
        let world = World::new(1);
        let poor = move |w: &World| {
            if fail(w) {
                w.kmap().kunmap(FRAME).unwrap();
            }
        };
        check(world, vec![Box::new(poor), Box::new(|w| w.map(FRAME))]).settle(1);
    }
    fn body() {
        race_for(|w| w.over(Poor(&w.hardware)).kmap(FRAME).is_ok());
    }
    fn wrong() {
        race_for(|w| {
            let kmap = w.kmap();
            let Seen::Nothing(Some(free)) = kmap.look(FRAME) else { return false };
            let proposed = Slot::Proposed { pfn: FRAME, ticket: 5 };
            if kmap.step(free, Slot::Free, proposed) && kmap.decide(free, proposed, FRAME) {
                kmap.slots[free].store(0, Ordering::SeqCst);
            }
            false
        });
    }
    let canary = Canary::Assert("pages of one frame", wrong);
    run("kmap: a map that fails", 3, Sequential::Plain, canary, body);
}

/// Goal: two temporary maps of one CPU never share a page. Method: two at once, which nest in every
/// order, as an interrupt handler's would; a push that looks and then stores gives both one page.
#[test]
fn local_maps_never_share_a_page() {
    type Local<'w> = KmapLocal<'w, &'w Hardware>;
    struct Stack(Hardware);
    impl Stack {
        fn local(&self) -> Local<'_> {
            KmapLocal::new(self.0.piece(), 1, self.0.window(), &self.0).unwrap()
        }
    }
    fn race_for(map: fn(&Stack, Pfn)) {
        let words = KmapLocal::<()>::words_needed(1);
        let stack = Arc::new(Stack(Hardware::new(Pages(2), words)));
        let walks: Vec<Walk<Stack>> =
            vec![Box::new(move |s| map(s, FRAME)), Box::new(move |s| map(s, OTHER))];
        race_each_first(&stack, |stack| &stack.0.words, walks);
        assert_eq!(stack.local().in_use(0), 0, "a page is never given back");
    }
    fn body() {
        race_for(|stack, pfn| {
            let local = stack.local();
            let map = local.map(0, pfn, Prot::READ_WRITE).unwrap();
            assert_eq!(stack.0.read(0, map.page()), Some(pfn), "what a page in use shows");
        });
    }
    fn wrong() {
        race_for(|stack, pfn| {
            let word = &stack.0.piece()[0];
            let bits = word.load(Ordering::SeqCst);
            let slot = u64::from(u64::BITS - bits.leading_zeros());
            word.store(bits | 1 << slot, Ordering::SeqCst);
            let (page, frame) = (stack.0.window().start, Extent { start: pfn, len: Pages(1) });
            let page = Vpn(page.0 + slot);
            let _ = (&stack.0).map_run(page, frame, Prot::READ_WRITE);
            assert_eq!(stack.0.read(0, page), Some(pfn), "what a page in use shows");
        });
    }
    let canary = Canary::Assert("what a page in use shows", wrong);
    run("kmap: two local maps, one CPU", 3, Sequential::Plain, canary, body);
}
