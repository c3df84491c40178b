//! Reservations of a pool: addresses now, memory for parts of them later.

use crate::support::{MIB, PAGE, Random, assert_empty, resident};
use vmalloc::StitchError;
use vmalloc::core::BackError;
use vmalloc::testing::Plan;
use vmalloc::{AllocError, CommitError, DecommitError, Pool, Reservation, ReserveError};

const P: usize = PAGE as usize;

fn parts(reservation: &Reservation) -> Vec<std::ops::Range<usize>> {
    reservation.committed().collect()
}

/// Goal: a reservation charges for what is committed and for nothing else, holds what was written
/// in each part, reads zeros where memory comes new, and is one slice over parts that touch.
/// Method: random commits, decommits and writes, beside a model of bytes and parts.
#[test]
fn a_reservation_of_a_pool_is_filled_and_emptied_in_parts() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut reservation = pool.reserve(64 * P).unwrap();
    let mut model: Vec<Option<u8>> = vec![None; 64 * P];
    let mut random = Random(5);
    for round in 0..600 {
        let first = random.of(0..64) as usize;
        let end = random.of(first as u64 + 1..65.min(first as u64 + 12)) as usize;
        let range = first * P..end * P;
        let touching: Vec<_> = parts(&reservation)
            .into_iter()
            .filter(|part| part.start < range.end && part.end > range.start)
            .collect();
        let is_inside =
            |part: &std::ops::Range<usize>| part.start >= range.start && part.end <= range.end;
        if random.of(0..2) == 0 {
            match reservation.commit(range.clone()) {
                Ok(()) => {
                    assert!(touching.is_empty(), "round {round}");
                    model[range.clone()].fill(Some(0));
                }
                Err(CommitError::Committed { at }) => {
                    let is_first = model[range.start..at].iter().all(Option::is_none);
                    assert!(model[at].is_some() && is_first, "round {round}");
                }
                Err(e) => panic!("round {round}: {e}"),
            }
        } else {
            match reservation.decommit(range.clone()) {
                Ok(()) => {
                    assert!(touching.iter().all(is_inside), "round {round}");
                    model[range.clone()].fill(None);
                }
                Err(DecommitError::Torn { part }) => {
                    assert!(touching.contains(&part) && !is_inside(&part), "round {round}");
                }
                Err(e) => panic!("round {round}: {e}"),
            }
        }
        let at = random.of(0..64 * PAGE) as usize;
        let bytes = at..(at + random.of(0..5 * PAGE) as usize).min(model.len());
        let missing = model[bytes.clone()].iter().position(Option::is_none);
        match reservation.slice_mut(bytes.clone()) {
            Ok(slice) => {
                assert_eq!(missing, None, "round {round}");
                assert!(slice.iter().zip(&model[bytes.clone()]).all(|(a, b)| Some(*a) == *b));
                slice.fill(round as u8);
                model[bytes].fill(Some(round as u8));
            }
            Err(e) => assert_eq!(Some(e.at - at), missing, "round {round}: {e}"),
        }
    }
    for part in parts(&reservation) {
        let slice = reservation.slice(part.clone()).unwrap();
        assert!(slice.iter().zip(&model[part]).all(|(a, b)| Some(*a) == *b));
    }
    let whole: usize = parts(&reservation).iter().map(std::iter::ExactSizeIterator::len).sum();
    pool.purge().unwrap();
    assert_eq!(pool.info().committed_bytes, whole as u64);
    drop(reservation);
    assert_empty(&pool);
}

/// Goal: what is decommitted is the system's again, but for a page of each part, and the same
/// addresses can be filled again; the next member to get the memory sees none of its bytes.
#[test]
fn decommitted_frames_go_back_to_the_system_at_once() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut reservation = pool.reserve(1 << 40).unwrap();
    assert_eq!((pool.info().committed_bytes, pool.verify().unwrap().areas), (0, 0));
    let far = (1 << 40) - (8 << 20);
    let (low, high) = (0..8 << 20, far..1 << 40);
    // Records come with the first areas, and stay.
    reservation.commit(low.clone()).unwrap();
    reservation.commit(high.clone()).unwrap();
    reservation.decommit(0..1 << 40).unwrap();
    pool.purge().unwrap();
    let empty = resident(&pool);
    for fill in [1, 2] {
        for range in [&low, &high] {
            reservation.commit(range.clone()).unwrap();
            let slice = reservation.slice_mut(range.clone()).unwrap();
            assert!(slice.iter().all(|byte| *byte == 0));
            slice.fill(fill);
        }
        assert!(resident(&pool) >= empty + (16 << 20));
        assert_eq!(pool.verify().unwrap().areas, 2, "each part is an area that a listing shows");
        reservation.decommit(0..1 << 40).unwrap();
        assert!(pool.info().committed_bytes <= 4 * PAGE, "round {fill}");
        let kept = resident(&pool) - empty;
        assert!(kept <= 16 * PAGE, "{kept} bytes were kept, records and parked pages included");
        assert_eq!(reservation.slice(0..1).unwrap_err().at, 0);
    }
    // More often than there are VMAs to be had at once: each decommit gives its own back.
    for _ in 0..9000 {
        reservation.commit(0..P).unwrap();
        reservation.decommit(0..P).unwrap();
    }
    drop(reservation);
    assert_empty(&pool);
}

/// Goal: what cannot be is an error that names what is wrong, changes nothing, and is no signal:
/// sizes, ranges that are no pages or pass the end, bytes that are not committed, a full pool, a
/// member's quota.
#[test]
fn a_reservation_refuses_what_it_cannot_do() {
    let pool = Pool::create(4 * MIB).unwrap();
    assert!(matches!(pool.reserve(0), Err(ReserveError::Size { bytes: 0 })));
    assert!(matches!(pool.reserve(usize::MAX), Err(ReserveError::Size { .. })));
    assert!(matches!(pool.reserve(1 << 60), Err(ReserveError::Map(StitchError::Os(_)))));
    let mut reservation = pool.reserve(16 << 20).unwrap();
    let len = reservation.len();
    #[expect(clippy::reversed_empty_ranges, reason = "bad input")]
    let bad = [0..0, 1..P, 0..P + 1, P..0, len - P..len + P, usize::MAX & !(P - 1)..usize::MAX];
    for range in bad {
        let commit = reservation.commit(range.clone());
        assert!(matches!(commit, Err(CommitError::Range(_))), "{range:?}: {commit:?}");
        let decommit = reservation.decommit(range.clone());
        assert!(matches!(decommit, Err(DecommitError::Range(_))), "{range:?}: {decommit:?}");
    }
    reservation.commit(P..3 * P).unwrap();
    for (range, at) in [(0..P + 1, 0), (P..3 * P + 1, 3 * P), (len..len + 1, len), (5..6, 5)] {
        assert_eq!(reservation.slice(range.clone()).unwrap_err().at, at);
        assert_eq!(reservation.slice_mut(range).unwrap_err().at, at);
    }
    assert!(reservation.slice(2 * P..2 * P).unwrap().is_empty());
    #[expect(clippy::reversed_empty_ranges, reason = "bad input")]
    reservation.slice(2 * P..P).unwrap_err();
    assert_eq!(reservation.decommit(0..2 * P), Err(DecommitError::Torn { part: P..3 * P }));
    reservation.slice_mut(P..3 * P).unwrap().fill(7);

    match reservation.commit(1 << 20..5 << 20) {
        Err(CommitError::Alloc(AllocError::Engine(vmalloc::core::AllocError::Back(
            BackError::NoFrames { wanted, .. },
        )))) => assert_eq!(wanted.0, 4 << 8),
        other => panic!("{other:?}"),
    }
    pool.set_quota(Some(3 * PAGE));
    let over = reservation.commit(1 << 20..2 << 20);
    assert!(matches!(over, Err(CommitError::Alloc(AllocError::Quota(_)))), "{over:?}");
    reservation.commit(0..P).unwrap();
    reservation.decommit(0..P).unwrap();
    reservation.commit(0..P).unwrap();
    assert_eq!(parts(&reservation), [0..P, P..3 * P]);
    assert!(reservation.slice(P..3 * P).unwrap().iter().all(|byte| *byte == 7));
    drop(reservation);
    assert_empty(&pool);
}

/// Goal: a commit whose every call to the system fails in turn takes nothing, and what was there
/// stays; after a refused mapping the reservation says that it is lost, and a drop frees all.
#[test]
fn every_step_of_a_commit_on_a_pool_fails_cleanly() {
    // No look at the machine, which is one call more now and then: the steps are the same each time.
    let pool = Pool::options().memory_bytes(1 << 30).create(16 * MIB).unwrap();
    let mut fired = Vec::new();
    for n in 1.. {
        let mut reservation = pool.reserve(1 << 30).unwrap();
        reservation.commit(8 << 20..9 << 20).unwrap();
        reservation.slice_mut(8 << 20..9 << 20).unwrap().fill(9);
        pool.purge().unwrap();
        let committed = pool.info().committed_bytes;
        let armed = Plan::nth(n, 12).arm();
        let failed = reservation.commit(0..5 << 20);
        let Some(point) = armed.fired() else { break };
        drop(armed);
        fired.push(point);
        if failed.is_ok() {
            continue; // A call that is a wish, or that is asked again.
        }
        assert!(parts(&reservation).iter().eq([&(8 << 20..9 << 20)]), "{point}: {failed:?}");
        pool.purge().unwrap();
        assert_eq!(pool.info().committed_bytes, committed, "{point}: {failed:?}");
        if let Err(CommitError::Map(_)) = failed {
            assert_eq!(point, "mmap_part");
            let again = reservation.commit(0..5 << 20);
            assert!(matches!(again, Err(CommitError::Lost)), "{again:?}");
        } else {
            assert_ne!(point, "mmap_part");
            reservation.commit(0..5 << 20).unwrap();
        }
        assert!(reservation.slice(8 << 20..9 << 20).unwrap().iter().all(|byte| *byte == 9));
        reservation.decommit(0..1 << 30).unwrap();
    }
    assert!(fired.len() >= 2 && fired.contains(&"mmap_part"), "{fired:?}");
    assert_empty(&pool);
}
