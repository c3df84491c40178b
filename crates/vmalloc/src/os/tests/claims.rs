//! The claims against a naive model, and their edges.

use crate::os::HUGE_BYTES;
use crate::os::claims::{Claims, Sharing, Taken};
use crate::os::tests::{pool, seat, span};
use crate::os::view::{ExclusiveView, FrozenView, Published, SharedView, ViewError};
use crate::os::{PAGE_BYTES, RangeError, Span};
use std::sync::Arc;

const BLOCK: u64 = HUGE_BYTES / PAGE_BYTES;

/// So many rounds; far fewer under Miri, which is some hundred times slower.
const fn rounds(count: u64) -> u64 {
    if cfg!(miri) { count / 1000 } else { count }
}

/// Goal: two claims never overlap, and a refused or ended one leaves nothing claimed.
/// Method: 60,000 random takes and puts over 40 blocks, beside one `bool` a page. Sizes favour
/// the edges of words (64 pages), blocks (512) and block words (32 blocks).
#[test]
fn claims_agree_with_one_bool_a_page() {
    let len = 40 * BLOCK;
    for seed in 1..=3_u64 {
        let claims = Claims::new(len).unwrap();
        let mut model = vec![false; len as usize];
        let mut held: Vec<(u64, u64)> = Vec::new();
        let mut state = seed;
        let mut random = |below: u64| {
            // Xorshift: any spread will do.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..rounds(20_000) {
            if held.len() > 24 || (!held.is_empty() && random(2) == 0) {
                let (first, count) = held.swap_remove(random(held.len() as u64) as usize);
                claims.put(first, count);
                model[first as usize..(first + count) as usize].fill(false);
                continue;
            }
            let unit = [1, 64, BLOCK, 8 * BLOCK][random(4) as usize];
            let count = (random(4) * unit + random(3)).max(1).min(len);
            let first = (random(len / unit) * unit + random(2)).min(len - count);
            let pages = &mut model[first as usize..(first + count) as usize];
            let free = !pages.contains(&true);
            assert_eq!(
                claims.take(first, count),
                if free { Ok(()) } else { Err(Taken) },
                "seed {seed}: pages {first}..{}",
                first + count
            );
            if free {
                pages.fill(true);
                held.push((first, count));
            }
        }
        for (first, count) in held {
            claims.put(first, count);
        }
        assert_eq!(claims.take(0, len), Ok(()), "seed {seed}: something stayed claimed");
    }
}

/// Goal: a claim that is cut short keeps its front and gives up its tail, to the page, and can be
/// made longer again.
/// Method: 4,000 random claims of up to four blocks, cut and lengthened at random; each time a
/// naive model says which pages can be had.
#[test]
fn a_claim_is_cut_short_and_made_longer_to_the_page() {
    let len = 8 * BLOCK;
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..if cfg!(miri) { 1 } else { 200 } {
        let claims = Claims::new(len).unwrap();
        let first = random(3) * [1, 64, BLOCK][random(3) as usize];
        let mut now = 1 + random(4 * BLOCK);
        assert_eq!(claims.take(first, now), Ok(()));
        for _ in 0..20 {
            let new = 1 + random(4) * BLOCK.min(1 + random(2 * BLOCK));
            if new < now {
                claims.shorten(first, now, new);
            } else {
                assert_eq!(claims.take(first + now, new - now), Ok(()));
            }
            now = new;
            for page in [first, first + now / 2, first + now - 1] {
                assert_eq!(claims.take(page, 1), Err(Taken), "page {page} of {first}+{now}");
            }
            assert_eq!(claims.take(first + now, 1), Ok(()), "the page behind {first}+{now}");
            claims.put(first + now, 1);
        }
        claims.put(first, now);
        assert_eq!(claims.take(0, len), Ok(()), "something stayed claimed");
    }
}

/// Goal: of many threads that want one run, exactly one has it at a time.
/// Method: two threads take and put overlapping runs, small and whole blocks, and check a plain
/// owner word that only the claim protects.
#[test]
fn racing_takers_never_hold_the_same_pages() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let claims = Claims::new(4 * BLOCK).unwrap();
    let owner = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (me, first, len) in [(1, 3, 2 * BLOCK), (2, 0, BLOCK), (3, 70, 1)] {
            let (claims, owner) = (&claims, &owner);
            scope.spawn(move || {
                for _ in 0..rounds(20_000) {
                    if claims.take(first, len) == Ok(()) {
                        // All three runs hold page 70, so whoever is here is alone.
                        assert_eq!(owner.swap(me, Ordering::Relaxed), 0);
                        assert_eq!(owner.swap(0, Ordering::Relaxed), me);
                        claims.put(first, len);
                    }
                }
            });
        }
    });
    assert_eq!(claims.take(0, 4 * BLOCK), Ok(()));
}

/// Goal: a whole block is claimed by one taker at a time, and takers of its neighbours, whose bits
/// are in the same word, lose nothing. Method: three threads, a block each and one they all want.
#[test]
fn racing_takers_of_whole_blocks_do_not_disturb_their_neighbours() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let claims = Claims::new(32 * BLOCK).unwrap();
    let owner = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for me in 1..=3 {
            let (claims, owner) = (&claims, &owner);
            scope.spawn(move || {
                for _ in 0..rounds(50_000) {
                    assert_eq!(claims.take(me * BLOCK, BLOCK), Ok(()));
                    assert_eq!(claims.take(me * BLOCK, BLOCK), Err(Taken));
                    if claims.take(31 * BLOCK, BLOCK) == Ok(()) {
                        assert_eq!(owner.swap(me, Ordering::Relaxed), 0);
                        assert_eq!(owner.swap(0, Ordering::Relaxed), me);
                        claims.put(31 * BLOCK, BLOCK);
                    }
                    claims.put(me * BLOCK, BLOCK);
                }
            });
        }
    });
    assert_eq!(claims.take(0, 32 * BLOCK), Ok(()));
}

/// Goal: counted claims admit holders of one kind and one extent, and free the pages with the
/// last. Method: each combination.
#[test]
fn counted_claims_admit_only_their_own_kind_and_extent() {
    let claims = Claims::new(BLOCK).unwrap();
    assert_eq!(claims.take_counted(8, 4, Sharing::Frozen), Ok(()));
    assert_eq!(claims.take_counted(8, 4, Sharing::Frozen), Ok(()));
    assert_eq!(claims.take_counted(8, 4, Sharing::Shared), Err(Taken));
    assert_eq!(claims.take_counted(8, 3, Sharing::Frozen), Err(Taken));
    assert_eq!(claims.take_counted(9, 1, Sharing::Frozen), Err(Taken));
    assert_eq!(claims.take(11, 1), Err(Taken));
    claims.put_counted(8);
    assert_eq!(claims.take(8, 4), Err(Taken));
    claims.put_counted(8);
    assert_eq!(claims.take(8, 4), Ok(()));
}

/// Goal: no two views of one process overlap unless both only read, or both are atomic; and none
/// reaches the words. Method: a pool, and every pair.
#[test]
fn a_second_view_of_the_same_bytes_is_refused() {
    let pool = pool("views", 64 * PAGE_BYTES);
    let taken = |span| ViewError::Taken { span };

    let run = Span::new(8 * PAGE_BYTES, 5000);
    let mut mine = ExclusiveView::new(&*pool, run).unwrap();
    mine.fill(7);
    assert_eq!(mine.len(), 5000);
    assert_eq!(ExclusiveView::new(&*pool, span(9..10)).unwrap_err(), taken(span(9..10)));
    assert_eq!(FrozenView::new(&*pool, span(8..10)).unwrap_err(), taken(span(8..10)));
    assert_eq!(SharedView::new(&*pool, span(8..10)).unwrap_err(), taken(span(8..10)));
    assert_eq!(pool.zero(span(7..9)).unwrap_err(), taken(span(7..9)));
    assert_eq!(mine[4999], 7);

    let frozen = mine.freeze();
    let again = frozen.clone();
    assert!(ExclusiveView::new(&*pool, span(8..9)).is_err());
    assert!(SharedView::new(&*pool, run).is_err());
    assert_eq!(again[..], [7; 5000]);
    drop((frozen, again));
    let mut shared = ExclusiveView::new(&*pool, run).unwrap().share();
    let other = SharedView::new(&*pool, shared.span()).unwrap();
    other.copy_in(4998, &[1, 2]).unwrap();
    let mut two = [0; 2];
    shared.copy_out(4998, &mut two).unwrap();
    assert_eq!(two, [1, 2]);
    assert!(shared.copy_in(4999, &[1, 2]).is_err());
    drop(other);
    // One that has ended has no place to grow at: least of all where the words are.
    shared.end();
    assert!(shared.grow(PAGE_BYTES).is_err() && shared.words().is_empty());
    assert!(ExclusiveView::new(&*pool, span(8..10)).is_ok());

    let words = ViewError::Range(RangeError::Outside { span: span(0..2), limit: pool.bytes() });
    assert_eq!(ExclusiveView::new(&*pool, span(0..2)).unwrap_err(), words);
    assert!(ExclusiveView::new(&*pool, span(63..65)).is_err());
    assert!(ExclusiveView::new(&*pool, Span::new(PAGE_BYTES, 0)).is_err());
    assert!(ExclusiveView::new(&*pool, Span::new(u64::MAX - 4095, PAGE_BYTES)).is_err());
    assert!(ExclusiveView::new(&*pool, Span::new(PAGE_BYTES + 8, 8)).is_err());
}

/// Goal: what one holder wrote is over before the next one reads and writes: the end of a view
/// hands its bytes on. For Miri and ThreadSanitizer, which see a race that this processor hides.
/// Method: two threads, one page, a plain counter in it.
#[test]
pub fn a_view_that_ends_hands_its_bytes_to_the_next() {
    let pool = pool("hand over", 4 * PAGE_BYTES);
    let turns = rounds(20_000);
    let add = || {
        for _ in 0..turns {
            let mut view = loop {
                match ExclusiveView::new(&*pool, span(2..3)) {
                    Ok(view) => break view,
                    Err(_) => std::thread::yield_now(),
                }
            };
            let count = u64::from_ne_bytes(*view.first_chunk().unwrap());
            *view.first_chunk_mut().unwrap() = (count + 1).to_ne_bytes();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(add);
        scope.spawn(add);
    });
    let view = ExclusiveView::new(&*pool, span(2..3)).unwrap();
    assert_eq!(view.first_chunk(), Some(&(2 * turns).to_ne_bytes()));
}

/// Goal: frozen slices of one run may be many at once, and views keep the bytes when the pool's
/// handle is gone. Method: what Miri would call an alias, or a use after free.
#[test]
fn slices_of_frozen_views_stand_side_by_side() {
    let pool = pool("slices", 4 * PAGE_BYTES);
    let seat = seat(Arc::clone(&pool));
    let mut mine = ExclusiveView::new(Arc::clone(&seat), span(1..3)).unwrap();
    let (left, right) = mine.split_at_mut(PAGE_BYTES as usize);
    (left[5], right[5]) = (1, 2);
    mine.resize(PAGE_BYTES).unwrap();
    let mut next = ExclusiveView::new(seat, span(2..3)).unwrap();
    next[0] = 3;
    mine[4095] = 4;
    let frozen = mine.freeze();
    assert!(mine.has_ended() && mine.is_empty() && mine.resize(PAGE_BYTES).is_err());
    let (one, again) = (&frozen[..], frozen.clone());
    assert_eq!((one[5], again[5], one[4095], next[5], next[0]), (1, 1, 4, 2, 3));
    let bell = pool.bell(64).unwrap();
    assert_eq!((bell.ring(), bell.count()), (0, 1));
    drop(pool);
    next.fill(9);
    assert_eq!(again[5] + next[4095], 10);
}

/// Goal: copies move exactly the bytes asked for, at any alignment.
/// Method: every start and length up to three words, against a plain array.
#[test]
fn copies_move_exactly_the_bytes_asked_for() {
    let pool = pool("copies", 2 * PAGE_BYTES);
    let view = SharedView::new(&*pool, Span::new(PAGE_BYTES, 40)).unwrap();
    let fresh: Vec<u8> = (1..=40).collect();
    for at in (0..12).step_by(if cfg!(miri) { 5 } else { 1 }) {
        for len in 0..24 {
            view.copy_in(0, &fresh).unwrap();
            let mut model = fresh.clone();
            model[at..at + len].fill(0xee);
            view.copy_in(at as u64, &vec![0xee; len]).unwrap();
            let mut all = [0; 40];
            view.copy_out(0, &mut all).unwrap();
            assert_eq!(all[..], model[..], "in: {len} at {at}");

            let mut out = vec![0; len];
            view.copy_out(at as u64, &mut out).unwrap();
            assert_eq!(out, vec![0xee; len]);
            let mut shifted = vec![0; len];
            view.copy_out(at as u64 + 1, &mut shifted).unwrap();
            assert_eq!(shifted[..], all[at + 1..at + 1 + len], "out: {len} at {at}");
        }
    }
}

/// Goal: pages of neighbouring words are counted far apart, and no two words at one place: a claim
/// on any page is seen by whoever asks for that page, and by nobody else.
/// Method: every word of three pages of the table, one at a time, with all others asked.
#[test]
fn each_word_of_pages_has_a_place_of_its_own() {
    let len = 3 * 512 * 64;
    let claims = Claims::new(len).unwrap();
    for word in 0..len / 64 {
        assert_eq!(claims.take(word * 64, 1), Ok(()), "word {word} lies where another does");
    }
    for word in 0..len / 64 {
        assert_eq!(claims.take(word * 64, 2), Err(Taken), "word {word}");
        assert_eq!(claims.take(word * 64 + 1, 63), Ok(()), "word {word}");
    }
}
