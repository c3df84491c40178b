//! Purging, listing, counting.

use super::PAGE;
use super::steps::{alloc, expect_apart, free, hex, in_use, purge, records};
use crate::random::Random;
use crate::subject::{Handle, Subject, Want};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use vmalloc_core::{Pages, Stats};

/// Goal: a purge of everything leaves nothing held.
pub fn purge_returns_every_frame(s: &mut dyn Subject) {
    let at_start = s.stats(0).frames_free;
    let mut random = Random::new(3);
    for _ in 0..5 {
        let held: Vec<Handle> = core::iter::from_fn(|| {
            let (member, pages) = (random.index(2), 1 + random.below(40));
            s.alloc(member, &Want::pages(pages)).ok()
        })
        .collect();
        for handle in held {
            free(s, handle);
        }
        purge(s);
        for member in 0..s.setup().members {
            let stats = s.stats(member);
            assert_eq!((stats.parked, stats.parked_areas), (Pages(0), 0), "member {member}");
            assert_eq!(stats.holes, stats.window, "member {member}");
        }
        assert_eq!(s.stats(0).frames_free, at_start);
    }
}

/// Goal: no caller of a purge stalls for long. Method: 150 parked areas.
pub fn purge_step_takes_at_most_64_areas_for_one_shootdown(s: &mut dyn Subject) {
    let held: Vec<Handle> = (0..150).map(|i| alloc(s, 0, &Want::pages(1 + i % 3))).collect();
    let pages: u64 = held.iter().map(|handle| handle.pages.0).sum();
    for handle in held {
        free(s, handle);
    }
    let before = s.stats(0);
    let (mut areas, mut purged) = (0, 0);
    loop {
        let step = s.purge_step(0).expect("a purge");
        if step.areas == 0 {
            break;
        }
        assert_eq!(step.flushes, step.areas.div_ceil(64), "{step:?}");
        assert!(step.areas <= 64 || !s.abilities().purges_in_steps, "{step:?}");
        (areas, purged) = (areas + step.areas, purged + step.pages.0);
    }
    assert_eq!((areas, purged), (150, pages));
    assert_eq!(s.stats(0).flushes - before.flushes, 3, "150 areas are three batches");
}

/// Goal: up to the limit nothing is asked of the caller; past it, every free says so (unless the
/// machine has purged by itself).
pub fn free_says_when_the_lazy_limit_is_passed(s: &mut dyn Subject) {
    let max = s.setup().lazy_pages_max;
    let held: Vec<Handle> = (0..12).map(|_| alloc(s, 0, &Want::pages(32))).collect();
    for (i, handle) in held.into_iter().enumerate() {
        let over = s.free(handle).expect("live");
        let parked = s.stats(0).parked;
        assert_eq!(over, parked > max, "{parked} parked, {max} allowed");
        let freed = Pages(32 * (i as u64 + 1));
        if freed <= max {
            assert_eq!(parked, freed, "purged before the limit");
        }
    }
    purge(s);
    assert_eq!(s.stats(0).parked, Pages(0));
}

/// Goal: tools that read `/proc/vmallocinfo` find Linux's fields in Linux's order: range, size with
/// guard, who asked, pages, kind; and `unpurged vm_area` with nothing behind.
pub fn vmallocinfo_is_in_address_order_with_the_fields_of_linux(s: &mut dyn Subject) {
    let live: Vec<Handle> = (1..20).map(|pages| alloc(s, 0, &Want::pages(pages))).collect();
    for handle in live.iter().step_by(3) {
        free(s, *handle);
    }
    let user = alloc(s, 0, &Want::pages(25).user());
    let areas = s.areas(0);
    expect_apart(&areas);
    let (mut parked, mut used) = (0, 0);
    for area in &areas {
        let line = area.to_string();
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next().and_then(|range| range.split_once('-')).expect("a range");
        assert_eq!((hex(start), start.len()), (area.addr().0, 18), "{line}");
        let size = (area.pages.len.0 + area.guard.0) * PAGE;
        let bytes = fields.next().map(str::parse);
        assert_eq!((hex(end), bytes), (area.addr().0 + size, Some(Ok(size))), "{line}");
        assert_eq!(line.find(start), Some(0), "{line}");
        let rest: Vec<&str> = fields.collect();
        if in_use(area) {
            let mut expected = vec![format!("pages={}", area.pages.len.0), "vmalloc".to_owned()];
            if area.caller != 0 {
                expected.insert(0, format!("{:#x}", area.caller));
            }
            if area.addr() == user.addr {
                expected.push("user".to_owned());
            }
            assert_eq!(rest[..expected.len()], expected, "{line}");
            used += 1;
        } else {
            assert_eq!(rest, ["unpurged", "vm_area"], "{line}");
            parked += 1;
        }
    }
    assert_eq!((used, parked), (13, 7));
}

/// Goal: `VmallocChunk` is true: so much is served, and one page more is not. Method: random
/// traffic, some of it parked, in a window that is short of addresses or of frames.
pub fn vmalloc_chunk_is_the_largest_request_that_is_served(s: &mut dyn Subject) {
    let mut random = Random::new(21);
    let mut held: Vec<Handle> = Vec::new();
    for round in 0..60 {
        for _ in 0..8 {
            if random.below(5) < 2 && !held.is_empty() {
                free(s, held.swap_remove(random.index(held.len())));
            } else if let Ok(handle) = s.alloc(0, &Want::pages(1 + random.below(70))) {
                held.push(handle);
            }
        }
        let most = s.stats(0).largest_request;
        let records = s.overhead(most);
        let want = |pages: u64| match Want::pages(pages) {
            want if pages >= 512 => want.huge(),
            want => want,
        };
        if most > records {
            let handle = s.alloc(0, &want(most.0 - records.0));
            free(s, handle.unwrap_or_else(|e| panic!("round {round}, {most}: {e}")));
        }
        let more = s.alloc(0, &want(most.0 + 1)).map(|handle| handle.pages);
        assert!(more.is_err(), "round {round}: {more:?} where {most} were the most");
    }
}

/// Goal: the same where addresses run out before frames do, so that slots and holes decide.
pub fn vmalloc_chunk_is_the_largest_request_in_a_short_window(s: &mut dyn Subject) {
    vmalloc_chunk_is_the_largest_request_that_is_served(s);
}

/// Goal: totals are the sums of what is listed, and counters count.
pub fn stats_add_up(s: &mut dyn Subject) {
    let at_start = s.stats(0);
    assert_eq!((at_start.areas, at_start.used, at_start.parked), (0, Pages(0), Pages(0)));
    assert_eq!(at_start.holes, at_start.window);
    assert!(at_start.largest_hole <= at_start.holes);
    let held: Vec<Handle> = (1..=10).map(|pages| alloc(s, 0, &Want::pages(pages))).collect();
    let middle = s.stats(0);
    assert_eq!((middle.areas, middle.used), (10, Pages(55)));
    assert_eq!(middle.allocs - at_start.allocs, 10);
    assert_eq!(middle.frames_free.0, at_start.frames_free.0 - 55 - records(s, &held));
    for handle in held {
        free(s, handle);
    }
    let parked = s.stats(0);
    assert_eq!((parked.areas, parked.used), (0, Pages(0)));
    assert_eq!((parked.parked_areas, parked.parked), (10, Pages(55)));
    assert_eq!(parked.frees - middle.frees, 10);
    purge(s);
    let purged: Stats = s.stats(0);
    assert!(purged.purged - at_start.purged >= 10);
    assert!(purged.flushes > at_start.flushes);
    assert_eq!(purged.frames, s.setup().frames);
}
