//! Areas shown a second time: several as one, one twice, one to write in.

use crate::peer::{Peer, command, say};
use crate::support::{MIB, PAGE, Random, assert_empty};
use std::sync::atomic::Ordering;
use vmalloc::core::BackError;
use vmalloc::testing::Plan;
use vmalloc::{AllocError, Frozen, Pool, Shared, StitchError, vmas};

fn filled(pool: &Pool, bytes: usize, seed: u8) -> Frozen {
    let mut buf = pool.vmalloc(bytes).unwrap();
    buf.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i as u8) ^ seed);
    buf.freeze().unwrap()
}

fn shared(pool: &Pool, bytes: usize) -> Shared {
    pool.vzalloc(bytes).unwrap().share().unwrap()
}

/// Goal: frozen areas are one slice in the order given, also one that is there twice; no frame is
/// taken; what is shown stays when its areas are freed and dropped.
#[test]
fn frozen_areas_are_one_slice_without_a_copy() {
    let pool = Pool::create(64 * MIB).unwrap();
    let sizes = [3 * PAGE as usize, 2 << 20, PAGE as usize, 5 << 20, 7777];
    let areas: Vec<Frozen> = (0..5).map(|i| filled(&pool, sizes[i], i as u8)).collect();
    let committed = pool.info().committed_bytes;
    for order in [vec![0, 1, 2, 3, 4], vec![3, 1], vec![2, 2, 2, 4], vec![4], vec![0, 3, 0, 3]] {
        let pieces: Vec<&Frozen> = order.iter().map(|&i| &areas[i]).collect();
        let stitched = pool.stitch(&pieces).unwrap();
        let copied: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        assert!(*stitched == *copied, "{order:?}");
        assert_eq!(pool.info().committed_bytes, committed, "{order:?} took frames");
    }
    let stitched = pool.stitch(&[&areas[1], &areas[4]]).unwrap();
    let copied = stitched.to_vec();
    for area in areas {
        area.free().unwrap();
    }
    pool.purge().unwrap();
    pool.vmalloc(20 << 20).unwrap().fill(9);
    assert!(*stitched == *copied, "somebody else had its pages");
    drop(stitched);
    assert_empty(&pool);
}

/// Goal: a ring of a shared area carries what runs over its end on at its beginning, for reads and
/// writes, seen from any other view of it.
/// Method: random copies on the ring, beside a model of bytes modulo the length.
#[test]
fn a_ring_goes_on_at_its_beginning() {
    let pool = Pool::create(16 * MIB).unwrap();
    let area = shared(&pool, 3 * PAGE as usize);
    let other = pool.attach_shared(&area.token()).unwrap();
    let ring = area.ring().unwrap();
    let len = area.len();
    assert_eq!(ring.len(), 2 * len);
    let mut model = vec![0_u8; len];
    let mut random = Random(11);
    for round in 0..300 {
        let at = random.of(0..len as u64) as usize;
        let bytes: Vec<u8> = (0..random.of(0..len as u64)).map(|i| (i + round) as u8).collect();
        ring.write_at(at, &bytes).unwrap();
        bytes.iter().enumerate().for_each(|(i, byte)| model[(at + i) % len] = *byte);
        let mut seen = vec![0; len];
        other.read_at(0, &mut seen).unwrap();
        assert!(seen == model, "round {round}");
        ring.read_at(at, &mut seen).unwrap();
        assert!(seen.iter().enumerate().all(|(i, byte)| *byte == model[(at + i) % len]));
    }
    ring.words()[0].store(7, Ordering::SeqCst);
    assert_eq!(ring.words()[len / 8].load(Ordering::SeqCst), 7, "one word, two addresses");
    assert!(ring.write_at(2 * len - 1, &[1, 2]).is_err());
    assert!(ring.read_at(usize::MAX, &mut [0]).is_err());
    assert_eq!(ring.words().len(), 2 * len / 8);

    let frozen = filled(&pool, 2 * PAGE as usize, 3);
    let both = frozen.ring().unwrap();
    assert!(both[..frozen.len()] == *frozen && both[frozen.len()..] == *frozen);
    area.free().unwrap();
    frozen.free().unwrap();
    drop((ring, both, other));
    assert_empty(&pool);
}

/// Goal: a snapshot is written without anybody seeing it, and shows what was frozen wherever it was
/// not written, whoever frees the area meanwhile; one of a shared area is a copy.
#[test]
fn a_snapshot_is_written_in_private() {
    let pool = Pool::create(64 * MIB).unwrap();
    let frozen = filled(&pool, (4 << 20) + 5, 1);
    let kept = frozen.to_vec();
    let committed = pool.info().committed_bytes;
    let (mut first, second) = (frozen.snapshot().unwrap(), frozen.snapshot().unwrap());
    assert_eq!(pool.info().committed_bytes, committed);
    let mut model = kept.clone();
    for at in [0, 5000, (1 << 20) + 3, (4 << 20) + 4] {
        first[at] = !first[at];
        model[at] = !model[at];
    }
    assert!(*first == *model && *second == *kept && *frozen == *kept);
    frozen.free().unwrap();
    pool.purge().unwrap();
    pool.vmalloc(8 << 20).unwrap().fill(9);
    assert!(*first == *model && *second == *kept);

    let area = shared(&pool, 9000);
    area.write_at(0, &[5; 9000]).unwrap();
    let copy = area.snapshot().unwrap();
    area.write_at(0, &[6; 9000]).unwrap();
    assert!(copy.len() == 9000 && copy.iter().all(|&byte| byte == 5));
    area.free().unwrap();
    drop((first, second, copy));
    assert_empty(&pool);
}

/// Goal: buffers in many pieces become one with all their bytes, for no VMA; if there is no room,
/// they come back.
#[test]
fn pieces_are_exchanged_for_one_buffer() {
    let pool = Pool::create(16 * MIB).unwrap();
    let make = |count: usize, bytes: usize| -> Vec<_> {
        let bufs = (0..count).map(|i| {
            let mut buf = pool.vmalloc(bytes + i).unwrap();
            buf.fill(i as u8);
            buf
        });
        bufs.collect()
    };
    let bufs = make(40, 100_000);
    let copied: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
    let before = pool.vmas().unwrap();
    let whole = pool.exchange(bufs).unwrap();
    assert!(*whole == *copied);
    assert!(pool.vmas().unwrap() <= before);
    let areas = pool.verify().unwrap();
    assert_eq!((areas.areas, areas.parked), (1, 0), "the pieces' frames are back");
    drop(whole);
    let back = pool.exchange(make(10, 1 << 20)).unwrap_err();
    assert!(back.bufs.iter().enumerate().all(|(i, buf)| buf.iter().all(|&b| b == i as u8)));
    drop(back);
    assert_empty(&pool);
}

/// Goal: an exchange needs room for the pieces and for the whole, and without it says so in numbers
/// and gives the pieces back with what is in them.
/// Method: pieces of 5 MiB in a pool of 8, then the same with one of them freed.
#[test]
fn an_exchange_without_room_for_both_gives_the_pieces_back() {
    let pool = Pool::create(8 * MIB).unwrap();
    let piece = |byte| {
        let mut buf = pool.vmalloc(MIB as usize).unwrap();
        buf.fill(byte);
        buf
    };
    let unexchanged = pool.exchange((1..=5).map(piece).collect()).unwrap_err();
    let AllocError::Engine(vmalloc::core::AllocError::Back(e)) = &unexchanged.error else {
        panic!("{}", unexchanged.error);
    };
    let BackError::NoFrames { wanted, free } = *e else { panic!("{e}") };
    assert_eq!((wanted.bytes(), free.bytes()), (5 * MIB, 3 * MIB));
    let mut bufs = unexchanged.bufs;
    for (buf, byte) in bufs.iter().zip(1..) {
        assert!(buf.iter().all(|&b| b == byte));
    }
    bufs.truncate(4);
    let whole = pool.exchange(bufs).unwrap();
    assert!(
        whole.chunks(MIB as usize).zip(1..).all(|(part, byte)| part.iter().all(|&b| b == byte))
    );
}

/// Goal: a run that touches the one before it costs no VMA; when the budget is spent that is an
/// error of its own, and the pool goes on without an `mmap`; nothing is left over.
/// Method: rings of one page until the end; then allocate, free and purge; then drop them. In a
/// process of its own: the budget is the process's, and other tests of this one stitch, too.
#[test]
fn the_end_of_the_vma_budget_is_an_error_and_the_pool_goes_on() {
    let mut peer = Peer::spawn(command("spender"));
    let reply = peer.reply();
    let spent = reply.as_deref().and_then(|reply| reply.strip_prefix("spent "));
    println!("{}", spent.expect("it failed: see above"));
    assert!(peer.wait().success());
}

/// What that process does.
pub fn spender() {
    let pool = Pool::create(64 * MIB).unwrap();
    let taken = || pool.info().stitched_vmas;
    let most = pool.info().stitched_vmas_max;
    let area = filled(&pool, PAGE as usize, 1);
    let ring = area.ring().unwrap();
    assert_eq!(taken(), 3, "two runs and a guard page");
    drop(ring);
    // Neighbours in the file are one run.
    let whole = filled(&pool, 4 * PAGE as usize, 1);
    drop(pool.stitch(&[&whole]).unwrap());
    whole.free().unwrap();
    assert_eq!(taken(), 0);
    let mut rings = Vec::new();
    let error = loop {
        match area.ring() {
            Ok(ring) => rings.push(ring),
            Err(e) => break e,
        }
    };
    assert!(
        matches!(error, StitchError::Vmas { wanted: 3, taken, most: m } if m == most && taken + 3 > most),
        "{error:?}"
    );
    assert_eq!(rings.len(), most / 3);
    let spent = format!("{} rings of {most} VMAs; {} in all", rings.len(), vmas().unwrap());
    pool.vmalloc(20 << 20).unwrap().fill(1);
    pool.purge().unwrap();
    assert!(rings.iter().all(|ring| ring[5] == 5 ^ 1 && ring[PAGE as usize + 5] == 5 ^ 1));
    rings.clear();
    drop(area.ring().unwrap());
    area.free().unwrap();
    assert_empty(&pool);
    say(&format!("spent {spent}"));
}

/// Goal: what cannot be one run is refused with its place; a failed call leaves nothing attached.
#[test]
fn pieces_that_do_not_fit_are_refused() {
    let pool = Pool::create(16 * MIB).unwrap();
    let other = Pool::create(MIB).unwrap();
    let (whole, ragged) = (filled(&pool, PAGE as usize, 1), filled(&pool, 5000, 2));
    let foreign = filled(&other, PAGE as usize, 3);
    assert!(matches!(pool.stitch(&[]), Err(StitchError::Empty)));
    assert!(matches!(
        pool.stitch(&[&whole, &ragged, &whole]),
        Err(StitchError::Ragged { piece: 1, bytes: 5000 })
    ));
    assert!(matches!(ragged.ring(), Err(StitchError::Ragged { piece: 0, .. })));
    assert!(matches!(pool.stitch(&[&whole, &foreign]), Err(StitchError::Attach { piece: 1, .. })));
    for point in ["mmap_stitch", "mmap_run"] {
        for nth in 1..=2 {
            let armed = Plan::nth(nth, libc::ENOMEM).only(point).arm();
            let stitched = pool.stitch(&[&whole, &ragged]);
            let fired = armed.fired().is_some();
            assert_eq!(fired, stitched.is_err(), "{point} {nth}");
            assert!(fired || point == "mmap_stitch" && nth == 2 || whole.len() == 4096);
        }
    }
    let token = whole.token();
    pool.free(&token).unwrap();
    assert!(matches!(whole.ring(), Err(StitchError::Attach { piece: 0, .. })));
    drop(whole);
    ragged.free().unwrap();
    assert_empty(&pool);
}
