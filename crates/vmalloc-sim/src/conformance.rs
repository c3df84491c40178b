//! What every machine must do: one function a rule, named by the sentence that it proves.
//!
//! A machine's test file is three lines:
//!
//! ```text
//!   const HOST: SimHost = …;
//!   vmalloc_sim::conformance_tests!(HOST);      // one #[test] a rule, under the rule's name
//! ```
//!
//! Each rule gets a fresh [`Subject`] of the size it asks for, and afterwards the subject is
//! verified: by the engine's own check and by whatever the machine can count. Rules that need
//! what a machine cannot do ([`crate::Abilities`]) return at once.

use crate::model::pattern;
use crate::random::Random;
use crate::subject::{Handle, Host, Setup, Subject, TokenKey, Want};
use vmalloc_core::{
    AllocError, Area, AttachError, BackError, Extent, FreeError, Kind, PAGE_SIZE, Pages, Pfn,
    Publish, ShareError, Stats, VirtAddr, Vpn,
};

const PAGE: u64 = PAGE_SIZE as u64;

/// A rule of the suite.
#[derive(Clone, Copy)]
pub struct Rule {
    /// The sentence it proves.
    pub name: &'static str,
    /// How large a subject it wants.
    pub setup: Setup,
    /// Panics if the sentence is not true.
    pub check: fn(&mut dyn Subject),
}

/// Checks the rule of this name on a fresh subject of `host`, and verifies the subject.
///
/// # Panics
///
/// If the rule is broken, or there is none of this name.
pub fn check(host: &dyn Host, name: &str) {
    let rule = RULES.iter().find(|rule| rule.name == name).expect("a rule of that name");
    host.with(rule.setup, &mut |subject| {
        (rule.check)(subject);
        if let Err(e) = subject.verify() {
            panic!("{} after {name}: {e}", host.name());
        }
    });
}

/// Checks every rule, and tells of each before it begins.
///
/// # Panics
///
/// If a rule is broken.
pub fn check_all(host: &dyn Host) {
    for rule in RULES {
        println!("{}: {}", host.name(), rule.name);
        check(host, rule.name);
    }
}

/// Lists the rules, and makes the macro that turns them into tests.
macro_rules! rules {
    ($($setup:ident: $name:ident;)*) => {
        /// Every rule, in the order in which they build on each other.
        pub const RULES: &[Rule] =
            &[$(Rule { name: stringify!($name), setup: $setup, check: $name }),*];

        /// One `#[test]` for each rule of [`crate::conformance`], on the host given.
        #[macro_export]
        macro_rules! conformance_tests {
            ($host:expr) => {
                $(
                    #[test]
                    fn $name() {
                        $crate::conformance::check(&$host, stringify!($name));
                    }
                )*
            };
        }
    };
}

const USUAL: Setup = Setup::DEFAULT;
const THREE_MEMBERS: Setup = Setup { members: 3, ..Setup::DEFAULT };
const NEVER_OVER_LIMIT: Setup = Setup { lazy_pages_max: Pages(1 << 20), ..Setup::DEFAULT };
const HUGE_POOL: Setup = Setup { frames: Pages(4096), ..Setup::DEFAULT };
/// Room for twelve blocks of 4 MiB at multiples of 4 MiB, and for little besides.
const TWELVE_BLOCKS: Setup = Setup {
    frames: Pages(12 * 1024 + 64),
    window: Pages(13 * 1024 + 512),
    members: 1,
    lazy_pages_max: Pages(1 << 20),
};

rules! {
    USUAL: size_zero_is_refused_and_changes_nothing;
    USUAL: size_that_overflows_is_refused_and_changes_nothing;
    USUAL: more_than_the_pool_is_refused_and_changes_nothing;
    USUAL: bad_alignment_is_refused_and_changes_nothing;
    USUAL: free_of_null_is_refused_and_changes_nothing;
    USUAL: free_of_a_stranger_is_refused_and_changes_nothing;
    USUAL: free_of_an_interior_address_names_the_base_and_changes_nothing;
    USUAL: free_of_a_guard_page_is_refused_and_changes_nothing;
    USUAL: second_free_is_refused_and_changes_nothing;
    USUAL: base_is_a_multiple_of_every_power_of_two_asked_for;
    USUAL: guard_page_is_never_readable;
    USUAL: areas_and_their_guards_never_overlap;
    USUAL: contents_survive_the_traffic_of_others;
    USUAL: vzalloc_is_zero_also_where_others_left_their_bytes;
    USUAL: revived_area_has_the_same_pages_and_cost_no_flush;
    USUAL: what_was_shared_is_zeroed_before_its_next_tenant;
    USUAL: what_one_member_freed_no_other_can_read;
    USUAL: strict_area_is_unreadable_once_freed;
    HUGE_POOL: huge_area_is_served_and_kept;
    USUAL: full_pool_is_an_error_and_the_pool_goes_on;
    USUAL: after_freeing_half_at_random_one_block_takes_every_free_frame;
    TWELVE_BLOCKS: exactly_fitting_aligned_holes_are_all_served;
    THREE_MEMBERS: area_lives_until_free_and_the_last_detach_in_any_order;
    USUAL: write_through_one_member_is_read_through_the_other;
    USUAL: frozen_area_cannot_be_written_by_a_guest;
    USUAL: token_of_a_freed_area_is_stale;
    USUAL: token_of_an_earlier_tenant_is_stale;
    USUAL: only_the_owner_shares_and_only_once;
    USUAL: vmap_shows_the_frames_given_in_their_order;
    USUAL: vunmap_leaves_the_frames_to_their_owner;
    USUAL: vfree_of_a_vmapped_area_is_refused;
    USUAL: purge_returns_every_frame;
    NEVER_OVER_LIMIT: purge_step_takes_at_most_64_areas_for_one_shootdown;
    USUAL: free_says_when_the_lazy_limit_is_passed;
    USUAL: vmallocinfo_is_in_address_order_with_the_fields_of_linux;
    USUAL: stats_add_up;
}

// Arguments.

/// Goal: size 0 has an error of its own.
pub fn size_zero_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(3), 1);
    let error = refused(s, &Want::bytes(0));
    assert_eq!(error, AllocError::ZeroSize);
    expect_filled(s, live, 1);
}

/// Goal: sizes near 2^64 do not wrap around to small ones.
pub fn size_that_overflows_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    for bytes in [u64::MAX, u64::MAX - PAGE + 1, u64::MAX - PAGE, 1 << 63, 1 << 52] {
        match refused(s, &Want::bytes(bytes)) {
            AllocError::TooBig { bytes: told, .. } => assert_eq!(told, bytes),
            other => panic!("{bytes} bytes: {other}"),
        }
    }
}

/// Goal: one page more than the pool has is refused for good, and the error says what is the
/// most.
pub fn more_than_the_pool_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let frames = s.setup().frames;
    for pages in [frames.0 + 1, 2 * frames.0] {
        let bytes = Pages(pages).bytes();
        let error = refused(s, &Want::pages(pages));
        assert_eq!(error, AllocError::TooBig { bytes, limit: frames });
    }
}

/// Goal: an alignment is a power of two that the machine can keep in every member, or an error.
pub fn bad_alignment_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let max = s.abilities().align_max.bytes();
    for align in [0, 3, PAGE + 1, 3 * PAGE, 2 * max, 1 << 63, u64::MAX] {
        let error = refused(s, &Want::pages(1).align(align));
        let expected = AllocError::BadAlign { align_bytes: align, align_max_bytes: max };
        assert_eq!(error, expected);
    }
}

/// Goal: `free(NULL)` is not a free. Linux returns in silence; we say so.
pub fn free_of_null_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(2), 1);
    expect_free_refused(s, VirtAddr(0), |e| e == FreeError::Null);
    expect_filled(s, live, 1);
}

/// Goal: an address outside the window is told apart from one inside.
pub fn free_of_a_stranger_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(2), 1);
    let window = s.stats(0).window.bytes();
    for addr in [PAGE, 8 * PAGE + 5, live.addr.0.wrapping_add(2 * window), u64::MAX] {
        let addr = VirtAddr(addr);
        expect_free_refused(s, addr, |e| e == FreeError::Stranger { addr });
    }
    expect_filled(s, live, 1);
}

/// Goal: inside an area no address but the base frees it. Method: every page, and odd bytes.
pub fn free_of_an_interior_address_names_the_base_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(5), 1);
    for offset in [1, 8, PAGE - 1, PAGE, 2 * PAGE, 4 * PAGE, 5 * PAGE - 1] {
        let (addr, base) = (VirtAddr(live.addr.0 + offset), live.addr);
        expect_free_refused(s, addr, |e| e == FreeError::Interior { addr, base });
    }
    expect_filled(s, live, 1);
}

/// Goal: a guard page belongs to no area.
pub fn free_of_a_guard_page_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    let live = filled(s, 0, &Want::pages(5), 1);
    let addr = VirtAddr(live.addr.0 + 5 * PAGE);
    expect_free_refused(s, addr, |e| e == FreeError::NoArea { addr });
    expect_filled(s, live, 1);
}

/// Goal: a double free is an error, at once and after a purge. Method: a neighbour lives on, so
/// that the slot's surroundings stay.
pub fn second_free_is_refused_and_changes_nothing(s: &mut dyn Subject) {
    if !s.abilities().frees_by_address {
        return;
    }
    let live = filled(s, 0, &Want::pages(2), 1);
    let gone = filled(s, 0, &Want::pages(2), 2);
    free(s, gone);
    let twice = |e| matches!(e, FreeError::Twice { .. } | FreeError::NoArea { .. });
    expect_free_refused(s, gone.addr, |e| e == FreeError::Twice { addr: gone.addr });
    purge(s);
    expect_free_refused(s, gone.addr, twice);
    expect_filled(s, live, 1);
}

// Addresses.

/// Goal: alignment is of addresses, and at most the machine's. Method: several of each, all live.
pub fn base_is_a_multiple_of_every_power_of_two_asked_for(s: &mut dyn Subject) {
    let most = s.abilities().align_max.bytes().min(s.setup().window.bytes() / 16);
    let mut held = Vec::new();
    for align in (0..64).map(|log2| 1_u64 << log2).take_while(|&align| align <= most) {
        for pages in [1, 2, 7] {
            let handle = alloc(s, 0, &Want::pages(pages).align(align));
            assert_eq!(handle.addr.0 % align.max(PAGE), 0, "{} for {align}", handle.addr);
            fill(s, handle, 3);
            held.push(handle);
        }
    }
    for handle in held {
        expect_filled(s, handle, 3);
        free(s, handle);
    }
}

/// Goal: the page behind an area faults: while the area lives, parked, revived and purged.
pub fn guard_page_is_never_readable(s: &mut dyn Subject) {
    if !s.abilities().guards_fault {
        return;
    }
    for pages in (1..=17).chain([63, 64, 127, 128]) {
        let handle = filled(s, 0, &Want::pages(pages), 1);
        let last = VirtAddr(handle.addr.0 + pages * PAGE - 1);
        let guard = VirtAddr(last.0 + 1);
        assert!(s.is_readable(0, last), "the last byte of {pages} pages");
        assert!(!s.is_readable(0, guard), "behind {pages} pages");
        free(s, handle);
        assert!(!s.is_readable(0, guard), "behind {pages} parked pages");
        let again = alloc(s, 0, &Want::pages(pages));
        let guard = VirtAddr(again.addr.0 + again.pages.bytes());
        assert!(!s.is_readable(0, guard), "behind {pages} revived pages");
        free(s, again);
        purge(s);
    }
}

/// Goal: no page is given out twice, and between two areas lies a page of neither. Method: random
/// sizes and frees; every live area against every other, parked ones too.
pub fn areas_and_their_guards_never_overlap(s: &mut dyn Subject) {
    let mut random = Random::new(1);
    let mut held = Vec::new();
    for _ in 0..200 {
        if random.below(3) == 0 && !held.is_empty() {
            free(s, held.swap_remove(random.index(held.len())));
        } else if let Ok(handle) = s.alloc(0, &Want::pages(1 + random.below(20))) {
            held.push(handle);
        }
        expect_apart(&s.areas(0));
    }
}

// Contents.

/// Goal: what one wrote stays, whatever others do.
pub fn contents_survive_the_traffic_of_others(s: &mut dyn Subject) {
    let members = s.setup().members;
    let mut random = Random::new(2);
    let kept: Vec<Handle> =
        (0..12).map(|i| filled(s, i % members, &Want::pages(1 + i as u64), i as u8)).collect();
    let mut held = Vec::new();
    for round in 0..300 {
        let member = random.index(members);
        match random.below(5) {
            0 | 1 if !held.is_empty() => free(s, held.swap_remove(random.index(held.len()))),
            2 if round % 17 == 0 => purge(s),
            _ => {
                if let Ok(handle) = s.alloc(member, &Want::pages(1 + random.below(24))) {
                    fill(s, handle, 0xee);
                    held.push(handle);
                }
            }
        }
    }
    kept.iter().enumerate().for_each(|(i, &handle)| expect_filled(s, handle, i as u8));
}

/// Goal: zero means zero. Method: fresh, revived dirty, and out of frames that others dirtied.
pub fn vzalloc_is_zero_also_where_others_left_their_bytes(s: &mut dyn Subject) {
    let fresh = alloc(s, 0, &Want::pages(9).zeroed());
    expect_zero(s, fresh);
    fill(s, fresh, 1);
    free(s, fresh);
    let revived = alloc(s, 0, &Want::pages(9).zeroed());
    expect_zero(s, revived);
    free(s, revived);
    // The whole pool dirty, then purged.
    let all: Vec<Handle> = std::iter::from_fn(|| s.alloc(0, &Want::pages(16)).ok()).collect();
    for &handle in &all {
        fill(s, handle, 2);
    }
    for handle in all {
        free(s, handle);
    }
    purge(s);
    let big = alloc(s, 0, &Want::pages(100).zeroed());
    expect_zero(s, big);
}

/// Goal: the lazy list is a warm cache.
pub fn revived_area_has_the_same_pages_and_cost_no_flush(s: &mut dyn Subject) {
    let first = filled(s, 0, &Want::pages(6), 1);
    let frames = frames_of(s, first);
    free(s, first);
    let before = s.stats(0);
    let again = alloc(s, 0, &Want::pages(6));
    let after = s.stats(0);
    assert_eq!(again.addr, first.addr);
    assert_eq!(frames_of(s, again), frames);
    assert_eq!((after.flushes, after.purged), (before.flushes, before.purged));
    assert_eq!(after.revives, before.revives + 1);
    assert_eq!(after.frames_free, before.frames_free);
}

/// Goal: what several could read and write does not show in an area that one gets for itself.
pub fn what_was_shared_is_zeroed_before_its_next_tenant(s: &mut dyn Subject) {
    let first = filled(s, 0, &Want::pages(6), 1);
    share(s, first, Publish::Shared);
    free(s, first);
    let next = alloc(s, 0, &Want::pages(6));
    assert_eq!(next.addr, first.addr, "revived");
    expect_zero(s, next);
}

/// Goal: nothing of one member's shows in another's area, zeroed or not. For machines where
/// members are processes; in a kernel all is one.
pub fn what_one_member_freed_no_other_can_read(s: &mut dyn Subject) {
    if !s.abilities().shares_window {
        return;
    }
    for pages in [1, 6, 130, 6] {
        let first = filled(s, 0, &Want::pages(pages), 1);
        free(s, first);
        let next = alloc(s, 1, &Want::pages(pages));
        expect_zero(s, next);
        free(s, next);
    }
}

/// Goal: `no_reuse` catches a use after free.
pub fn strict_area_is_unreadable_once_freed(s: &mut dyn Subject) {
    if !s.abilities().freed_faults {
        return;
    }
    let strict = filled(s, 0, &Want::pages(3).no_reuse(), 1);
    free(s, strict);
    for page in 0..3 {
        assert!(!s.is_readable(0, VirtAddr(strict.addr.0 + page * PAGE)), "page {page}");
    }
}

/// Goal: huge areas work like others, whether or not the machine has huge pages.
pub fn huge_area_is_served_and_kept(s: &mut dyn Subject) {
    let huge = filled(s, 0, &Want::pages(1024).huge(), 1);
    let other = filled(s, 0, &Want::pages(600).huge(), 2);
    expect_filled(s, huge, 1);
    free(s, huge);
    expect_filled(s, other, 2);
    let again = alloc(s, 0, &Want::pages(1024).huge().zeroed());
    expect_zero(s, again);
}

// A pool that is full, or in pieces.

/// Goal: a full pool is an error of the call, and nothing is lost by it.
pub fn full_pool_is_an_error_and_the_pool_goes_on(s: &mut dyn Subject) {
    let mut held = Vec::new();
    let error = loop {
        match s.alloc(held.len() % 2, &Want::pages(16)) {
            Ok(handle) => held.push(handle),
            Err(e) => break e,
        }
        let last = held.len() - 1;
        fill(s, held[last], last as u8);
    };
    let is_full = |e| {
        let AllocError::Back(e) = e else { return false };
        matches!(
            e,
            BackError::NoFrames { .. } | BackError::NoMetadata | BackError::MachineFull { .. }
        )
    };
    assert!(is_full(error), "{error}");
    let room = s.setup().frames.0 - s.overhead(Pages(16)).0 * held.len() as u64;
    assert!(held.len() as u64 >= room / 16 - 1, "full with {} of 16 pages", held.len());
    for round in 0..20 {
        let at = round % held.len();
        expect_filled(s, held[at], at as u8);
        let member = held[at].member;
        free(s, held[at]);
        held[at] = filled(s, member, &Want::pages(16), at as u8);
        assert!(s.alloc(0, &Want::pages(17)).is_err_and(is_full), "round {round}");
    }
    held.iter().enumerate().for_each(|(i, &handle)| expect_filled(s, handle, i as u8));
}

/// Goal: free frames are never too scattered. Method: fill with random sizes, free half at
/// random, ask for one block of all that is free, less what its records may need; ten seeds.
pub fn after_freeing_half_at_random_one_block_takes_every_free_frame(s: &mut dyn Subject) {
    for seed in 0..10 {
        let mut random = Random::new(seed);
        let mut held = Vec::new();
        while let Ok(handle) = s.alloc(0, &Want::pages(1 + random.below(32))) {
            fill(s, handle, held.len() as u8);
            held.push((handle, held.len() as u8));
        }
        random.shuffle(&mut held);
        for (handle, _) in held.split_off(held.len() / 2) {
            free(s, handle);
        }
        let used = |pages: Pages| pages.0 + s.overhead(pages).0;
        let live: u64 = held.iter().map(|(handle, _)| used(handle.pages)).sum();
        let free_pages = Pages(s.setup().frames.0 - live);
        let block = Want::pages(free_pages.0 - s.overhead(free_pages).0);
        let block = filled(s, 0, &block, 0x55);
        expect_filled(s, block, 0x55);
        for (handle, seed) in held {
            expect_filled(s, handle, seed);
            free(s, handle);
        }
        free(s, block);
    }
}

/// Goal: a hole that fits exactly, at an address that is right, is found. Linux's search passes
/// such holes over. Method: blocks of 4 MiB at multiples of 4 MiB without guards, as many as go
/// in; every other one freed leaves holes of exactly that size.
pub fn exactly_fitting_aligned_holes_are_all_served(s: &mut dyn Subject) {
    const BLOCK: u64 = 4 << 20;
    if s.abilities().align_max.bytes() < BLOCK {
        return;
    }
    let want = Want::bytes(BLOCK).align(BLOCK).no_guard();
    let mut held: Vec<Handle> = std::iter::from_fn(|| s.alloc(0, &want).ok()).collect();
    assert!(held.len() >= 12, "{} blocks", held.len());
    held.sort_by_key(|handle| handle.addr);
    let every_other: Vec<Handle> = held.into_iter().step_by(2).collect();
    for &handle in &every_other {
        free(s, handle);
    }
    purge(s);
    for hole in 0..every_other.len() {
        let again = alloc(s, 0, &want);
        assert_eq!(again.addr.0 % BLOCK, 0, "hole {hole}");
    }
    expect_apart(&s.areas(0));
}

// Sharing.

/// Goal: a backing lives while anybody shows it, and no longer. Method: owner and two guests
/// leave in each of the six orders.
pub fn area_lives_until_free_and_the_last_detach_in_any_order(s: &mut dyn Subject) {
    purge(s);
    let free_before = s.stats(0).frames_free;
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (seed, order) in (10_u8..).zip(orders) {
        let owner = filled(s, 0, &Want::pages(5), seed);
        let token = share(s, owner, Publish::Shared);
        let all = [owner, attach(s, 1, token), attach(s, 2, token)];
        for (left, who) in order.into_iter().enumerate() {
            purge(s);
            let used = free_before.0 - s.stats(0).frames_free.0;
            assert!((5..=5 + s.overhead(Pages(5)).0).contains(&used), "{used} in use, of 5");
            for &still in &order[left..] {
                expect_filled(s, all[still], seed);
            }
            if who == 0 {
                free(s, owner);
            } else {
                s.detach(all[who]).expect("attached");
            }
        }
        purge(s);
        assert_eq!(s.stats(0).frames_free, free_before, "order {order:?}");
    }
}

/// Goal: the same frames, at different addresses where the machine has several.
pub fn write_through_one_member_is_read_through_the_other(s: &mut dyn Subject) {
    let owner = filled(s, 0, &Want::pages(4), 1);
    let token = share(s, owner, Publish::Shared);
    let guest = attach(s, 1, token);
    expect_filled(s, guest, 1);
    fill(s, guest, 2);
    expect_filled(s, owner, 2);
    fill(s, owner, 3);
    expect_filled(s, guest, 3);
    assert_eq!(frames_of(s, owner), frames_of(s, guest));
}

/// Goal: frozen is for everyone to read.
pub fn frozen_area_cannot_be_written_by_a_guest(s: &mut dyn Subject) {
    let owner = filled(s, 0, &Want::pages(4), 1);
    let token = share(s, owner, Publish::Frozen);
    let guest = attach(s, 1, token);
    for at in [0, 5, 3 * PAGE] {
        assert!(s.write(guest, at, &[9]).is_err(), "a guest wrote byte {at}");
    }
    if !s.abilities().owner_writes_frozen {
        assert!(s.write(owner, 0, &[9]).is_err(), "the owner wrote");
    }
    expect_filled(s, guest, 1);
    expect_filled(s, owner, 1);
}

/// Goal: after the free nobody attaches any more: while the area is parked, while a guest keeps
/// it alive, and after a purge.
pub fn token_of_a_freed_area_is_stale(s: &mut dyn Subject) {
    let parked = filled(s, 0, &Want::pages(4), 1);
    let token = share(s, parked, Publish::Shared);
    free(s, parked);
    expect_stale(s, 1, token);

    let kept = filled(s, 0, &Want::pages(3), 2);
    let kept_token = share(s, kept, Publish::Shared);
    let guest = attach(s, 1, kept_token);
    free(s, kept);
    expect_stale(s, 0, kept_token);
    expect_filled(s, guest, 2);
    s.detach(guest).expect("attached");

    purge(s);
    expect_stale(s, 1, token);
    expect_stale(s, 0, kept_token);
}

/// Goal: a token names a tenant, not a place. Method: the area is revived, and shared again.
pub fn token_of_an_earlier_tenant_is_stale(s: &mut dyn Subject) {
    let first = filled(s, 0, &Want::pages(4), 1);
    let old = share(s, first, Publish::Shared);
    free(s, first);
    let next = filled(s, 0, &Want::pages(4), 2);
    assert_eq!(next.addr, first.addr, "revived");
    expect_stale(s, 1, old);
    let new = share(s, next, Publish::Shared);
    expect_stale(s, 1, old);
    let guest = attach(s, 1, new);
    expect_filled(s, guest, 2);
}

/// Goal: sharing is the owner's to do, once.
pub fn only_the_owner_shares_and_only_once(s: &mut dyn Subject) {
    if !s.abilities().refuses_second_share {
        return;
    }
    let owner = filled(s, 0, &Want::pages(4), 1);
    let token = share(s, owner, Publish::Shared);
    let is_stale =
        |shared: Result<TokenKey, ShareError>| matches!(shared, Err(ShareError::Stale { .. }));
    assert!(is_stale(s.share(owner, Publish::Frozen)), "a second time");
    let guest = attach(s, 1, token);
    assert!(is_stale(s.share(guest, Publish::Shared)), "by a guest");
    expect_filled(s, guest, 1);
}

// Frames that the caller brings.

/// Goal: page i shows the i-th frame. Method: the same frames in two orders, written through one
/// and read through the other.
pub fn vmap_shows_the_frames_given_in_their_order(s: &mut dyn Subject) {
    if !s.abilities().vmaps {
        return;
    }
    let mut frames = s.take_frames(40).expect("40 frames");
    let forward = s.vmap(0, &singles(&frames)).expect("vmap");
    frames.reverse();
    let backward = s.vmap(1, &singles(&frames)).expect("vmap");
    for page in 0..40_u64 {
        s.write(forward, page * PAGE, &[page as u8; 100]).expect("mapped");
    }
    for page in 0..40_u64 {
        let mut bytes = [0; 100];
        s.read(backward, page * PAGE, &mut bytes).expect("mapped");
        assert_eq!(bytes, [39 - page as u8; 100], "page {page}");
    }
    assert_eq!(frames_of(s, backward), frames.iter().map(|&pfn| Some(pfn)).collect::<Vec<_>>());
    s.vunmap(forward).expect("mapped");
    s.vunmap(backward).expect("mapped");
    purge(s);
    s.give_frames(&frames);
}

/// Goal: the frames were lent. Method: map, write, unmap, purge; map again: the bytes are there,
/// and no frame went to the pool.
pub fn vunmap_leaves_the_frames_to_their_owner(s: &mut dyn Subject) {
    if !s.abilities().vmaps {
        return;
    }
    let frames = s.take_frames(10).expect("10 frames");
    let free_before = s.stats(0).frames_free;
    let first = s.vmap(0, &singles(&frames)).expect("vmap");
    fill(s, first, 7);
    s.vunmap(first).expect("mapped");
    assert!(!s.areas(0).iter().any(in_use), "still listed as in use");
    purge(s);
    assert!(!s.is_readable(0, first.addr), "readable after the purge");
    assert_eq!(s.stats(0).frames_free, free_before);
    let second = s.vmap(1, &singles(&frames)).expect("vmap");
    expect_filled(s, second, 7);
    s.vunmap(second).expect("mapped");
    purge(s);
    s.give_frames(&frames);
}

/// Goal: each kind of area is freed by its own verb.
pub fn vfree_of_a_vmapped_area_is_refused(s: &mut dyn Subject) {
    if !s.abilities().vmaps || !s.abilities().frees_by_address {
        return;
    }
    let frames = s.take_frames(3).expect("3 frames");
    let mapped = s.vmap(0, &singles(&frames)).expect("vmap");
    fill(s, mapped, 1);
    expect_free_refused(s, mapped.addr, |e| e == FreeError::WrongVerb);
    expect_filled(s, mapped, 1);
    s.vunmap(mapped).expect("mapped");
    purge(s);
    s.give_frames(&frames);
}

// Purging and counting.

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

// Steps that the rules are made of.

fn alloc(s: &mut dyn Subject, member: usize, want: &Want) -> Handle {
    s.alloc(member, want).unwrap_or_else(|e| panic!("{want:?} for member {member}: {e}"))
}

fn free(s: &mut dyn Subject, handle: Handle) {
    s.free(handle).unwrap_or_else(|e| panic!("{handle:?}: {e}"));
}

fn purge(s: &mut dyn Subject) {
    s.purge().expect("a purge");
}

fn share(s: &mut dyn Subject, handle: Handle, how: Publish) -> TokenKey {
    s.share(handle, how).unwrap_or_else(|e| panic!("{handle:?}: {e}"))
}

fn attach(s: &mut dyn Subject, member: usize, token: TokenKey) -> Handle {
    s.attach(member, token).unwrap_or_else(|e| panic!("member {member}: {e}"))
}

fn filled(s: &mut dyn Subject, member: usize, want: &Want, seed: u8) -> Handle {
    let handle = alloc(s, member, want);
    fill(s, handle, seed);
    handle
}

fn fill(s: &mut dyn Subject, handle: Handle, seed: u8) {
    let bytes: Vec<u8> = (0..handle.bytes).map(|at| pattern(seed, at)).collect();
    s.write(handle, 0, &bytes).unwrap_or_else(|e| panic!("{handle:?}: {e}"));
}

fn bytes_of(s: &mut dyn Subject, handle: Handle) -> Vec<u8> {
    let mut bytes = vec![0; handle.bytes as usize];
    s.read(handle, 0, &mut bytes).unwrap_or_else(|e| panic!("{handle:?}: {e}"));
    bytes
}

fn expect_filled(s: &mut dyn Subject, handle: Handle, seed: u8) {
    let bytes = bytes_of(s, handle);
    let wrong = (0..).zip(&bytes).find(|&(at, &byte)| byte != pattern(seed, at));
    assert_eq!(wrong, None, "first wrong byte of {handle:?}");
}

fn expect_zero(s: &mut dyn Subject, handle: Handle) {
    let bytes = bytes_of(s, handle);
    assert_eq!(bytes.iter().position(|&byte| byte != 0), None, "first byte that is not zero");
}

/// All of a window that a refused call must leave as it was.
fn still(s: &dyn Subject) -> (Vec<Area>, Pages, Pages, Pages, u64) {
    let stats = s.stats(0);
    (s.areas(0), stats.frames_free, stats.holes, stats.parked, stats.flushes)
}

fn refused(s: &mut dyn Subject, want: &Want) -> AllocError {
    let before = still(s);
    let error = s.alloc(0, want).map(|handle| handle.addr).expect_err("must be refused");
    assert_eq!(still(s), before, "changed by a call that failed");
    error
}

fn expect_free_refused(s: &mut dyn Subject, addr: VirtAddr, expected: impl Fn(FreeError) -> bool) {
    if !s.abilities().frees_by_address {
        return;
    }
    let before = still(s);
    match s.free_at(0, addr) {
        Err(e) if expected(e) => {}
        other => panic!("free of {addr}: {other:?}"),
    }
    assert_eq!(still(s), before, "changed by a call that failed");
}

fn expect_stale(s: &mut dyn Subject, member: usize, token: TokenKey) {
    match s.attach(member, token) {
        Err(AttachError::Stale { .. }) => {}
        other => panic!("member {member} by a stale token: {other:?}"),
    }
}

/// In address order, guards counted.
fn expect_apart(areas: &[Area]) {
    for pair in areas.windows(2) {
        let end = pair[0].pages.end().0 + pair[0].guard.0;
        assert!(end <= pair[1].pages.start.0, "{} and {}", pair[0], pair[1]);
    }
}

fn in_use(area: &Area) -> bool {
    matches!(area.kind, Kind::Live | Kind::Frozen | Kind::Shared | Kind::Dying)
}

fn frames_of(s: &dyn Subject, handle: Handle) -> Vec<Option<Pfn>> {
    let start = handle.addr.vpn().0;
    (start..start + handle.pages.0).map(|page| s.frame_at(handle.member, Vpn(page))).collect()
}

fn singles(frames: &[Pfn]) -> Vec<Extent> {
    frames.iter().map(|&start| Extent { start, len: Pages(1) }).collect()
}

/// Frames that hold the records of these areas, in a pool where frames lie side by side: none.
fn records(s: &dyn Subject, held: &[Handle]) -> u64 {
    let at_most: u64 = held.iter().map(|handle| s.overhead(handle.pages).0).sum();
    let used = s.stats(0).frames.0 - s.stats(0).frames_free.0;
    let pages: u64 = held.iter().map(|handle| handle.pages.0).sum();
    assert!((pages..=pages + at_most).contains(&used), "{used} in use for {pages}");
    used - pages
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number")
}
