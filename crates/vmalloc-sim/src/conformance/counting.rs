//! Purging, listing, counting.

use super::PAGE;
use super::steps::{alloc, expect_apart, free, hex, in_use, purge, records};
use crate::random::Random;
use crate::subject::{Handle, Subject, Want};
use vmalloc_core::{Pages, Stats};

/// Goal: a purge of everything leaves nothing held.
pub fn purge_returns_every_frame(s: &mut dyn Subject) {
    let at_start = s.stats(0).frames_free;
    let mut random = Random::new(3);
    for _ in 0..5 {
        let held: Vec<Handle> = std::iter::from_fn(|| {
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

/// Goal: tools that read `/proc/vmallocinfo` find the same fields: range, size with guard, pages.
pub fn vmallocinfo_is_in_address_order_with_the_fields_of_linux(s: &mut dyn Subject) {
    let live: Vec<Handle> = (1..20).map(|pages| alloc(s, 0, &Want::pages(pages))).collect();
    for handle in live.iter().step_by(3) {
        free(s, *handle);
    }
    let areas = s.areas(0);
    expect_apart(&areas);
    let (mut parked, mut used) = (0, 0);
    for area in &areas {
        let line = area.to_string();
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = fields[0].split_once('-').expect("a range");
        assert_eq!((hex(start), start.len()), (area.addr().0, 18), "{line}");
        let size = (area.pages.len.0 + area.guard.0) * PAGE;
        assert_eq!((hex(end), fields[1].parse()), (area.addr().0 + size, Ok(size)), "{line}");
        assert!(line.contains(&format!(" pages={}", area.pages.len.0)), "{line}");
        if in_use(area) {
            assert!(line.contains(" vmalloc") && line.contains(" caller="), "{line}");
            used += 1;
        } else {
            assert!(line.contains(" unpurged vm_area"), "{line}");
            parked += 1;
        }
    }
    assert_eq!((used, parked), (12, 7));
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
