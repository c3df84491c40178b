//! Framed pools: a fixed piece of memory whose frames the pool hands out itself.
//!
//! The suite, the model and the hundred kills run on them beside linear pools (`conformance.rs`,
//! `model.rs`, `recovery.rs`); here is what is theirs alone: frames, runs, VMAs. Those in memory that
//! was there before are in `carved.rs`.

use crate::fragmentation::Half;
use crate::peer::Peer;
use crate::support::{MIB, Mount, PAGE, Random, Scratch};
use std::time::Instant;
use vmalloc::core::{AllocError, MapError};
use vmalloc::testing::Plan;
use vmalloc::{Frozen, Onlooker, Pool, Request, ShareError, Token};

const ZEROS: [u8; 4096] = [0; 4096];

/// Nothing is out, nothing parked, nothing shown; and no frame is anybody's.
#[track_caller]
pub fn assert_no_frame_is_out(pool: &Pool) {
    pool.purge().unwrap();
    let verified = pool.verify().unwrap();
    let info = pool.info();
    assert!(info.framed);
    assert_eq!((verified.areas, verified.parked, info.committed_bytes), (0, 0, 0));
    assert_eq!(info.stats.holes, info.stats.window, "granules are still taken");
}

fn framed(capacity: u64) -> Pool {
    Pool::options().framed().create(capacity).unwrap()
}

/// A pool in which every second frame is free and the others hold published areas of a page, which
/// nobody here shows; the areas' tokens.
fn comb(capacity: u64) -> (Pool, Vec<Token>) {
    let pool = framed(capacity);
    let publish = |i: u64| {
        let mut buf = pool.vmalloc(PAGE as usize).unwrap();
        buf[..8].copy_from_slice(&i.to_le_bytes());
        buf.freeze().unwrap().token()
    };
    let tokens: Vec<Token> = (0..capacity / PAGE).map(publish).collect();
    let (kept, freed): (Vec<_>, Vec<_>) = tokens.chunks(2).map(|two| (two[0], two[1])).unzip();
    freed.iter().for_each(|token| pool.free(token).unwrap());
    pool.purge().unwrap();
    (pool, kept)
}

/// Runs one seed; the longest free piece in bytes, and the VMAs with the block.
fn fragment(seed: u64, capacity: u64) -> (u64, usize) {
    let pool = framed(capacity);
    let half = Half::of(&pool, seed, capacity);
    let quarter = capacity / 4;
    let mut block = pool.vmalloc(quarter as usize).expect("a quarter of the pool");
    assert!(block.chunks(4096).all(|page| page == &ZEROS[..page.len()]), "what others left");
    block.fill(2);
    drop(block);
    pool.purge().unwrap();
    let mut block = pool.vmalloc(half.free_bytes as usize).expect("all that is free");
    assert!(block.chunks(4096).all(|page| page == &ZEROS[..page.len()]), "what others left");
    block.fill(3);
    half.assert_kept();
    let vmas = pool.vmas().unwrap();
    pool.verify().unwrap();
    drop(block);
    let longest = half.longest;
    drop(half);
    assert_no_frame_is_out(&pool);
    (longest, vmas)
}

/// Goal: after half of a full pool was freed at random, one block of a quarter of the pool succeeds,
/// and then one of everything that is free, though the frames lie in pieces.
/// Method: 20 seeds, sizes from 4 KiB to 4 MiB; VMAs are printed.
#[test]
fn one_block_takes_all_the_free_frames_of_20_of_20_framed_pools() {
    let start = Instant::now();
    let seen: Vec<(u64, usize)> = (0..20).map(|seed| fragment(seed, 256 * MIB)).collect();
    let longest = seen.iter().map(|(longest, _)| longest / MIB).max().unwrap();
    let vmas: Vec<usize> = seen.iter().map(|(_, vmas)| *vmas).collect();
    let (least, most) = (vmas.iter().min().unwrap(), vmas.iter().max().unwrap());
    println!(
        "20 of 20 seeds in framed pools of 256 MiB: the longest free piece was {longest} MiB at \
         most; {least} to {most} VMAs with the block and its neighbours; {:?} in all",
        start.elapsed()
    );
}

/// Goal: one block of single frames, no two of which are neighbours: each is a VMA.
#[test]
fn a_block_of_single_frames_takes_a_vma_for_each() {
    let (pool, kept) = comb(16 * MIB);
    let before = pool.vmas().unwrap();
    let mut block = pool.vmalloc(8 << 20).unwrap();
    block.fill(9);
    let vmas = pool.vmas().unwrap() - before;
    println!("8 MiB in 2048 single frames: {vmas} VMAs");
    assert!((2048..2052).contains(&vmas), "{vmas}");
    let numbers = kept.iter().map(|token| {
        let area = pool.attach(token).unwrap();
        u64::from_le_bytes(area[..8].try_into().unwrap())
    });
    assert!(numbers.eq((0..4096).step_by(2)), "a neighbour lost its bytes");
    drop(block);
    assert_eq!(pool.vmas().unwrap(), before, "hidden, and one VMA again");
}

/// Goal: a block in more runs than VMAs are left is an error of its own, which says how many; nothing
/// is taken, and the pool goes on with smaller ones.
#[test]
fn the_end_of_the_vmas_is_its_own_error_and_the_pool_goes_on() {
    let (pool, kept) = comb(256 * MIB);
    let free = pool.info().limit_bytes - pool.info().committed_bytes;
    let error = pool.vmalloc(free as usize).unwrap_err();
    println!("{} MiB in single frames: {error}", free / MIB);
    let vmalloc::AllocError::Engine(AllocError::Map(MapError::NoVmas { wanted, most, .. })) = error
    else {
        panic!("{error:?}")
    };
    assert!(wanted > most, "{wanted} of {most}");
    let verified = pool.verify().unwrap();
    assert_eq!((verified.areas, verified.pages.0), (32_768, 32_768));
    // What fits still comes.
    let mut buf = pool.vmalloc(4 << 20).unwrap();
    buf.fill(1);
    drop(buf);
    kept.iter().for_each(|token| pool.free(token).unwrap());
    assert_no_frame_is_out(&pool);
    // And whole runs take no more than they need.
    let all = pool.vmalloc(256 << 20).unwrap();
    assert!(pool.vmas().unwrap() < 16, "{} VMAs", pool.vmas().unwrap());
    drop(all);
}

/// Goal: a shared area that grew by more runs than VMAs are left is the same error where it is
/// followed, not damage; what was seen before is seen still, and the rest when there are VMAs again.
/// Method: a peer that has spent all but a few of its VMAs.
#[test]
fn the_end_of_the_vmas_is_its_own_error_when_a_shared_area_grows() {
    let (pool, kept) = comb(256 * MIB);
    let most = pool.info().stitched_vmas_max;
    let mut peer = Peer::of(&pool);
    // 768 single frames, and the rest of the window; 100 are left then.
    let hog = peer.ok(&format!("vmalloc {}", (most - 770 - 100) as u64 * PAGE));
    let mut shared = pool.vzalloc(3 << 20).unwrap().share().unwrap();
    let there = peer.ok(&format!("attach_shared {}", shared.token()));
    shared.grow(5 << 20).unwrap();
    shared.write_at(4 << 20, &[7; 16]).unwrap();
    for verb in [format!("refresh {there}"), format!("grow {there} {}", 6 << 20)] {
        let error = peer.err(&verb);
        println!("{verb}: {error}");
        assert!(error.contains("NoVmas { wanted: 512, taken: "), "{error}");
    }
    assert_eq!(peer.ok(&format!("len {there}")), (3_u64 << 20).to_string());
    peer.ok(&format!("all {there} 0"));
    peer.ok(&format!("drop {hog}"));
    peer.ok("purge");
    assert_eq!(peer.ok(&format!("refresh {there}")), (5_u64 << 20).to_string());
    shared.free().unwrap();
    peer.dismiss();
    kept.iter().for_each(|token| pool.free(token).unwrap());
    assert_no_frame_is_out(&pool);
}

/// Goal: a buffer whose bytes the kernel would not hide is not given away, and it says why.
/// Method: both ways to hide them fail.
#[test]
fn a_buffer_that_cannot_be_hidden_is_not_given() {
    let pool = framed(4 * MIB);
    let mut buf = pool.vmalloc(100_000).unwrap();
    buf.fill(3);
    let armed = Plan::nth(1, 12).and_after().arm();
    let mut e = buf.give().unwrap_err();
    assert_eq!(armed.fired(), Some("mmap_hide"));
    drop(armed);
    println!("{}", e.error);
    let ShareError::Os(cause) = &e.error else { panic!("{:?}", e.error) };
    assert!(cause.to_string().contains("os error 12"), "{cause}");
    assert!(e.buf.len() == 100_000 && e.buf.iter().all(|&byte| byte == 3));
    e.buf.fill(4);
    drop(pool.take(&e.buf.give().unwrap()).unwrap());
    assert_no_frame_is_out(&pool);
}

/// Goal: two processes share an area of scattered frames, each at addresses of its own, and see each
/// other's writes; when both have let go, neither shows it.
#[test]
fn two_processes_share_an_area_of_scattered_frames() {
    let (pool, kept) = comb(4 * MIB);
    let mut peer = Peer::of(&pool);
    let mut buf = pool.vmalloc(MIB as usize + 77).unwrap();
    buf.fill(5);
    let shared = buf.share().unwrap();
    let token = shared.token();
    let there = peer.ok(&format!("attach_shared {token}"));
    peer.ok(&format!("all {there} 5"));
    let vmas: usize = peer.ok("vmas").parse().unwrap();
    assert!(vmas > 256, "{vmas} VMAs for 257 single frames");
    peer.ok(&format!("fill {there} 6"));
    let mut bytes = vec![0; shared.len()];
    shared.read_at(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 6));
    let here = shared.words().as_ptr().addr();
    assert_ne!(peer.ok(&format!("address {there}")), here.to_string(), "both at one address");
    shared.free().unwrap();
    peer.ok(&format!("all {there} 6"));
    assert_eq!(pool.verify().unwrap().areas, kept.len() + 1, "the peer has it still");
    peer.ok(&format!("drop {there}"));
    assert_eq!(pool.verify().unwrap().areas, kept.len());
    let vmas: usize = peer.ok("vmas").parse().unwrap();
    assert!(vmas < 8, "{vmas} VMAs and nothing shown");
    peer.dismiss();
    kept.iter().for_each(|token| pool.free(token).unwrap());
    assert_no_frame_is_out(&pool);
}

/// Goal: all verbs between processes: frozen, given whole, taken, freed by token; what the next owner
/// gets is zero.
#[test]
fn frames_change_hands_and_are_zeroed_in_between() {
    let pool = framed(4 * MIB);
    let mut peer = Peer::of(&pool);
    let mut buf = pool.vmalloc(3 << 20).unwrap();
    buf.fill(7);
    let frozen = buf.freeze().unwrap();
    let there = peer.ok(&format!("attach {}", frozen.token()));
    peer.ok(&format!("all {there} 7"));
    peer.ok(&format!("drop {there}"));
    frozen.free().unwrap();

    // The same memory, to the peer: revived, and zeroed since it was another's.
    let there = peer.ok("vmalloc 3145728");
    peer.ok(&format!("all {there} 0"));
    peer.ok(&format!("fill {there} 8"));
    let token = peer.token(&format!("give {there}"));
    let taken = pool.take(&token).unwrap();
    assert!(taken.iter().all(|&byte| byte == 8));
    drop(taken);
    // In other pieces: purged first.
    let parts: Vec<_> = (0..1024).map(|_| pool.vmalloc(PAGE as usize).unwrap()).collect();
    assert!(parts.iter().all(|part| part.iter().all(|&byte| byte == 0)));
    drop(parts);

    // To nobody: it is the giver's again, bytes and all.
    let mut buf = pool.vmalloc(100_000).unwrap();
    buf.fill(3);
    let e = buf.give_to(40).unwrap_err();
    assert!(e.buf.len() == 100_000 && e.buf.iter().all(|&byte| byte == 3));
    drop(e);
    peer.dismiss();
    assert_no_frame_is_out(&pool);
}

/// Goal: a buffer grows and shrinks where it lies, into frames that lie elsewhere, and a shared area
/// grows under a member that sees it; without addresses behind it, that is an error.
#[test]
fn areas_change_their_size_where_they_lie() {
    let (pool, kept) = comb(64 * MIB);
    let mut buf = pool.vmalloc(4 << 20).unwrap();
    let address = buf.as_ptr();
    let mut random = Random(4);
    let mut len = buf.len();
    buf.fill(1);
    for round in 0..40 {
        let new = random.of(MIB..7 * MIB) as usize;
        buf.resize(new).unwrap();
        assert_eq!(buf.as_ptr(), address);
        assert!(buf[..len.min(new)].iter().all(|&byte| byte == 1), "round {round}");
        assert!(buf[len.min(new)..].iter().all(|&byte| byte == 0), "round {round}");
        buf.fill(1);
        len = new;
        pool.verify().unwrap();
    }
    let neighbours: Vec<_> = (0..2).map(|_| pool.vmalloc(3 << 20).unwrap()).collect();
    let small = buf.resize(400 << 20).unwrap_err();
    assert!(matches!(small, vmalloc::ResizeError::Engine(_)), "{small:?}");
    assert!(buf.len() == len && buf.iter().all(|&byte| byte == 1), "as it was");
    drop((buf, neighbours));

    let mut peer = Peer::of(&pool);
    let mut shared = pool.vzalloc(3 << 20).unwrap().share().unwrap();
    let there = peer.ok(&format!("attach_shared {}", shared.token()));
    shared.grow(5 << 20).unwrap();
    shared.write_at(0, &vec![4; 5 << 20]).unwrap();
    assert_eq!(peer.ok(&format!("refresh {there}")), (5_u64 << 20).to_string());
    peer.ok(&format!("all {there} 4"));
    peer.ok(&format!("grow {there} {}", 6 << 20));
    assert_eq!(shared.refresh().unwrap(), 6 << 20);
    let mut end = [9; 16];
    shared.read_at((6 << 20) - 16, &mut end).unwrap();
    assert_eq!(end, [0; 16]);
    shared.free().unwrap();
    peer.dismiss();
    kept.iter().for_each(|token| pool.free(token).unwrap());
    assert_no_frame_is_out(&pool);
}

/// Goal: what shows areas a second time works on scattered frames: stitched, twice, snapshot, and
/// parts of a reservation.
#[test]
fn scattered_areas_are_stitched_and_reserved() {
    let (pool, kept) = comb(16 * MIB);
    let filled = |bytes: usize, seed: u8| -> Frozen {
        let mut buf = pool.vmalloc(bytes).unwrap();
        buf.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8 ^ seed);
        buf.freeze().unwrap()
    };
    let areas = [filled(3 * PAGE as usize, 1), filled(MIB as usize, 2), filled(7777, 3)];
    let stitched = pool.stitch(&[&areas[1], &areas[0], &areas[2]]).unwrap();
    let copied = [&areas[1][..], &areas[0][..], &areas[2][..]].concat();
    assert!(*stitched == *copied);
    let mut snapshot = areas[0].snapshot().unwrap();
    snapshot[0] = !areas[0][0];
    assert_ne!(snapshot[0], areas[0][0]);
    let mut table = pool.reserve(1 << 30).unwrap();
    table.commit(1 << 20..3 << 20).unwrap();
    table.slice_mut(1 << 20..3 << 20).unwrap().fill(8);
    table.decommit(1 << 20..3 << 20).unwrap();
    drop((stitched, snapshot, table));
    areas.into_iter().for_each(|area| area.free().unwrap());
    kept.iter().for_each(|token| pool.free(token).unwrap());
    assert_no_frame_is_out(&pool);
}

/// Goal: huge areas are made of whole huge pages while there are any, at addresses that fit them.
#[test]
fn huge_runs_come_first_and_lie_right() {
    let pool = framed(64 * MIB);
    // Breaks one huge page, so that the next free frames are crumbs.
    let crumb = pool.alloc(&Request::bytes(PAGE)).unwrap();
    let buf = pool.vmalloc(20 << 20).unwrap();
    assert_eq!(buf.as_ptr().addr() % (2 << 20), 0);
    let onlooker = Onlooker::open(pool.share_path()).unwrap();
    let areas = onlooker.areas();
    let area = areas.iter().find(|area| area.bytes == 20 << 20).unwrap();
    let runs = onlooker.extents_of(area).unwrap();
    assert!(runs.iter().all(|run| run.pages.len.0 % 512 == 0), "{runs:?}");
    assert_eq!(onlooker.file_runs(area)[0].bytes.start % (2 << 20), 0);
    drop((crumb, buf));
    assert_no_frame_is_out(&pool);
}

/// Goal: each call to the operating system may fail: the verb fails, nothing is taken, and the pool
/// goes on. A hide that fails is done another way.
/// Method: scattered frames; every call of an allocation and a free in turn.
#[test]
fn each_call_of_a_framed_allocation_may_fail() {
    let (pool, kept) = comb(MIB);
    let work = || -> Result<(), vmalloc::AllocError> {
        // Else a parked area is tried first, and that it cannot be shown is no error.
        pool.purge().unwrap();
        let mut buf = pool.vmalloc(5 * PAGE as usize)?;
        buf.fill(1);
        buf.freeze().map(|frozen| frozen.free().unwrap()).unwrap();
        Ok(())
    };
    let counted = Plan::count().arm();
    work().unwrap();
    let calls = counted.calls();
    drop(counted);
    assert!(calls >= 6, "{calls} calls");
    let mut failed = 0;
    pool.purge().unwrap();
    for n in 1..=calls {
        let armed = Plan::nth(n, 12).arm();
        failed += usize::from(work().is_err());
        drop(armed);
        pool.purge().unwrap();
        assert_eq!(pool.verify().unwrap().areas, kept.len(), "call {n}");
        assert!(pool.vmas().unwrap() < 16, "call {n}: {} VMAs", pool.vmas().unwrap());
    }
    println!("{calls} calls, {failed} failed allocations");
    assert!(failed >= 5, "{failed} of {calls}");
    work().unwrap();
    kept.iter().for_each(|token| pool.free(token).unwrap());
    assert_no_frame_is_out(&pool);
}

/// Goal: a file of a framed pool is what it says: opened by path by others, who see which kind it is;
/// a reader without rights to write reads scattered frames.
#[test]
fn a_framed_pool_at_a_path_is_opened_as_one() {
    let path = Scratch::new("framed");
    let pool = Pool::options().framed().members(4).create_at(&path.0, 8 * MIB).unwrap();
    let mut peer = Peer::at(&path.0);
    let there = peer.ok("vmalloc 3000000");
    peer.ok(&format!("fill {there} 4"));
    let token = peer.token(&format!("freeze {there}"));
    let onlooker = Onlooker::open(&path.0).unwrap();
    assert!(onlooker.info().framed);
    assert_eq!(onlooker.verify().unwrap().areas, 1);
    let file = std::fs::File::open(&path.0).unwrap();
    let reader = vmalloc::Reader::from_fd(file.into()).unwrap();
    assert!(reader.read(&token).unwrap().iter().all(|&byte| byte == 4));
    let mut end = [0; 5000];
    reader.read_at(&token, 2_995_000, &mut end).unwrap();
    assert_eq!(end, [4; 5000]);
    peer.kill();
    pool.recover();
    assert_eq!(pool.verify().unwrap().areas, 1, "what it published stays");
    pool.free(&token).unwrap();
    assert_no_frame_is_out(&pool);
}

/// Goal: in a file of huge pages, where a run of one frame would show all of a huge page, no framed
/// pool is made, and nothing is left.
#[test]
fn a_file_of_huge_pages_is_refused() {
    let what = "a_file_of_huge_pages_is_refused";
    let Some(mount) = Mount::of(what, "hugetlbfs", "size=64M") else { return };
    let path = mount.0.join("pool");
    let error = Pool::options().framed().members(1).create_at(&path, 4 * MIB).unwrap_err();
    println!("{error}");
    assert!(!path.exists());
    assert!(error.to_string().contains("2097152 bytes; expected 4096"), "{error}");
}
