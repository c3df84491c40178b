//! Areas that become longer and shorter where they lie, while others look.

use crate::crash::image::Layout;
use crate::limits::guards;
use crate::peer::{Peer, say};
use crate::support::{MIB, Random, assert_empty, file_of, resident};
use std::os::unix::fs::FileExt;
use vmalloc::core::layout::Table;
use vmalloc::core::{self, BackError};
use vmalloc::{Pool, ResizeError};

/// Goal: a buffer keeps its place and its bytes whatever size it gets; new bytes are zeros, frames
/// that it loses are with the system at once, and the page behind it faults.
/// Method: random sizes within a slot, and for an area with granules of its own; the bytes are
/// compared with a `Vec` that is resized alike.
#[test]
fn a_buffer_changes_its_size_where_it_lies() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut random = Random(3);
    for (start, most) in [(135_000, 190_000), (3 * MIB, 24 * MIB)] {
        // What an earlier tenant of ours left must not come to light.
        let mut before = pool.vmalloc(start as usize).unwrap();
        before.fill(0xee);
        drop(before);
        let mut buf = pool.vmalloc(start as usize).unwrap();
        buf.fill(1);
        let place = buf.as_ptr();
        let mut model = buf.to_vec();
        for _ in 0..40 {
            let bytes = random.of(1..most) as usize;
            match buf.resize(bytes) {
                Ok(()) => model.resize(bytes, 0),
                Err(ResizeError::Engine(core::ResizeError::NoRoom { .. })) if most < MIB => {}
                Err(e) => panic!("{bytes}: {e:?}"),
            }
            assert_eq!(buf.as_ptr(), place);
            assert!(*buf == *model, "not the same bytes at {bytes}");
            let last = buf.len() - 1;
            (buf[last], model[last]) = (9, 9);
        }
        buf.resize(1).unwrap();
        pool.verify().unwrap();
        drop(buf);
        assert_empty(&pool);
    }
    let mut buf = pool.vmalloc(32 * MIB as usize).unwrap();
    buf.fill(1);
    let before = resident(&pool);
    buf.resize(MIB as usize).unwrap();
    assert!(resident(&pool) + 31 * MIB <= before, "the frames are not back");
    assert!(matches!(buf.resize(0), Err(ResizeError::Engine(core::ResizeError::ZeroSize))));
    drop(buf);
    assert_empty(&pool);
}

/// Goal: the guard page follows the end of the buffer, both ways.
/// Method: a process that touches the last byte lives, at the one behind the last page it dies.
#[test]
fn the_guard_page_follows_the_end_of_a_buffer() {
    let pool = Pool::create(64 * MIB).unwrap();
    if !guards(&pool) {
        return;
    }
    for (from, to) in
        [(3 << 20, 5 << 20), (5 << 20, 3 << 20), (150_000, 135_000), (135_000, 150_000)]
    {
        let mut peer = Peer::of(&pool);
        let key = peer.ok(&format!("vmalloc {from}"));
        peer.ok(&format!("resize {key} {to}"));
        peer.ok(&format!("fill {key} 3"));
        peer.dies_behind(&key, to);
        pool.recover();
    }
    assert_empty(&pool);
}

/// Goal: what has no room behind it moves when it may, with its bytes; what cannot be had at all is
/// an error that changes nothing.
/// Method: a neighbour behind the buffer; then more than the pool has.
#[test]
fn a_buffer_without_room_behind_it_moves_when_asked() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut buf = pool.vmalloc(5000).unwrap();
    buf.fill(5);
    let place = buf.as_ptr();
    let no_room = buf.resize(MIB as usize).unwrap_err();
    assert!(
        matches!(no_room, ResizeError::Engine(core::ResizeError::NoRoom { .. })),
        "{no_room:?}"
    );
    buf.vrealloc(MIB as usize).unwrap();
    assert_ne!(buf.as_ptr(), place);
    assert_eq!(buf.len(), MIB as usize);
    assert!(buf.iter().enumerate().all(|(i, &byte)| byte == if i < 5000 { 5 } else { 0 }));
    // In place, where that will do.
    let place = buf.as_ptr();
    buf.vrealloc(100).unwrap();
    assert_eq!((buf.as_ptr(), buf.len(), buf[99]), (place, 100, 5));

    let error = buf.vrealloc(64 * MIB as usize).unwrap_err();
    assert!(matches!(error, ResizeError::Alloc(_)), "{error:?}");
    let mut large = pool.vmalloc(4 * MIB as usize).unwrap();
    let error = large.resize(20 * MIB as usize).unwrap_err();
    let ResizeError::Engine(core::ResizeError::Back(error)) = error else { panic!("{error:?}") };
    assert!(matches!(error, BackError::NoFrames { .. }), "{error:?}");
    assert_eq!((buf.len(), large.len(), buf[99]), (100, 4 << 20, 5));
    pool.verify().unwrap();
    drop((buf, large));
    assert_empty(&pool);
}

/// Goal: a shared area grows under those who use it, whoever makes it grow: all see the new length
/// when they look, keep what they had, and share the new bytes; a later attach sees all of it by
/// the first token.
/// Method: this process and a peer in turn, within a slot and beyond granules; the peer's old
/// handle reads and writes all the time.
#[test]
fn a_shared_area_grows_under_those_who_use_it() {
    let pool = Pool::create(128 * MIB).unwrap();
    for sizes in [[135_000, 140_000, 150_000, 159_000], [3 << 20, 4 << 20, (9 << 20) + 5, 20 << 20]]
    {
        let mut buf = pool.vmalloc(sizes[0]).unwrap();
        buf.fill(1);
        let mut shared = buf.share().unwrap();
        let token = shared.token();
        let mut peer = Peer::of(&pool);
        let key = peer.ok(&format!("attach_shared {token}"));
        let old = peer.ok(&format!("attach_shared {token}"));
        for (turn, &bytes) in sizes[1..].iter().enumerate() {
            let before = shared.words().as_ptr();
            if turn % 2 == 0 {
                shared.grow(bytes).unwrap();
                assert_eq!(peer.ok(&format!("len {key}")), sizes[turn].to_string());
                assert_eq!(peer.ok(&format!("refresh {key}")), bytes.to_string());
            } else {
                peer.ok(&format!("grow {key} {bytes}"));
                assert_eq!(shared.len(), sizes[turn]);
                assert_eq!(shared.refresh().unwrap(), bytes);
            }
            assert_eq!(shared.words().as_ptr(), before);
            let mut last = [7];
            shared.read_at(bytes - 1, &mut last).unwrap();
            assert_eq!(last, [0], "new bytes are zeros");
            peer.ok(&format!("all {old} 1"));
            peer.ok(&format!("fill {key} {}", turn + 2));
            shared.read_at(bytes - 1, &mut last).unwrap();
            assert_eq!(last, [turn as u8 + 2]);
            shared.write_at(0, &vec![1; bytes]).unwrap();
            peer.ok(&format!("all {key} 1"));
            assert_eq!(pool.attach_shared(&token).unwrap().len(), bytes);
            pool.verify().unwrap();
        }
        // Shorter than it is: nothing to do, for anybody.
        shared.grow(1).unwrap();
        assert_eq!(shared.len(), sizes[3]);
        if guards(&pool) {
            peer.dies_behind(&key, sizes[3] as u64);
        }
        shared.free().unwrap();
        pool.recover();
        assert_empty(&pool);
    }
}

/// Goal: what a shared area grows by is zeros in its last page, too, where an earlier tenant wrote.
#[test]
fn a_shared_area_grows_by_zeros_where_an_earlier_tenant_wrote() {
    let pool = Pool::create(16 * MIB).unwrap();
    pool.vmalloc(8192).unwrap().fill(7);
    let mut shared = pool.vmalloc(5000).unwrap().share().unwrap();
    shared.grow(8192).unwrap();
    let mut new = [1; 8192 - 5000];
    shared.read_at(5000, &mut new).unwrap();
    assert_eq!(new.iter().position(|&byte| byte != 0), None);
    shared.free().unwrap();
    assert_empty(&pool);
}

/// Goal: an area that cannot grow stays as it was: others behind it, a full pool, freed meanwhile.
#[test]
fn a_shared_area_that_cannot_grow_stays_as_it_was() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut small = pool.vmalloc(5000).unwrap().share().unwrap();
    let mut large = pool.vmalloc(3 << 20).unwrap().share().unwrap();
    let error = small.grow(MIB as usize).unwrap_err();
    assert!(matches!(error, ResizeError::Engine(core::ResizeError::NoRoom { .. })), "{error:?}");
    let error = large.grow(20 << 20).unwrap_err();
    assert!(matches!(error, ResizeError::Engine(core::ResizeError::Back(_))), "{error:?}");
    assert_eq!((small.len(), large.len()), (5000, 3 << 20));
    pool.free(&large.token()).unwrap();
    let error = large.grow(4 << 20).unwrap_err();
    assert!(matches!(error, ResizeError::Engine(core::ResizeError::Stale { .. })), "{error:?}");
    assert!(large.refresh().is_err());
    assert_eq!(large.len(), 3 << 20);
    pool.verify().unwrap();
    drop(large);
    small.free().unwrap();
    assert_empty(&pool);
}

/// What the process does that is killed: makes areas grow until then.
pub fn grower(argument: &str) {
    let (path, seed) = argument.split_once(' ').unwrap();
    let pool = Pool::open(path).unwrap();
    let mut random = Random(seed.parse().unwrap());
    say("working");
    loop {
        let mut buf = pool.vmalloc(random.of(1..3 * MIB) as usize).unwrap();
        let _ = buf.resize(random.of(1..6 * MIB) as usize);
        let mut shared = buf.share().unwrap();
        for _ in 0..4 {
            let _ = shared.grow(random.of(1..12 * MIB) as usize);
        }
        shared.free().unwrap();
    }
}

/// Goal: a process that is killed while it makes areas grow leaves nothing half grown.
/// Method: 30 kills at random moments; after each one the pool is whole, and empty.
#[test]
fn a_grower_that_is_killed_leaves_nothing_half_grown() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut random = Random(7);
    for seed in 0..30 {
        let mut peer = Peer::working("grower", &pool, seed);
        std::thread::sleep(std::time::Duration::from_micros(random.of(0..20_000)));
        peer.kill_and_recover(&pool);
        pool.verify().unwrap();
        for token in pool.areas().iter().filter_map(|area| pool.token_of(area)) {
            pool.free(&token).unwrap();
        }
        assert_empty(&pool);
    }
}

/// Goal: an area that a dead member was just growing is not busy for ever.
/// Method: a member, who seems to grow it: first it lives, then it is killed.
#[test]
fn an_area_is_not_busy_with_a_dead_member_s_growing() {
    const GROWER: usize = 7;
    let pool = Pool::create(16 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    let number: u64 = peer.ok("number").parse().unwrap();
    let mut shared = pool.vmalloc(3 << 20).unwrap().share().unwrap();
    peer.ok(&format!("attach_shared {}", shared.token()));
    let area = pool.areas()[0];
    let (file, _) = file_of(&pool);
    let records = Layout::of(&pool, &file).table(Table::Records);
    let at = records.start + 8 * area.id.0 as usize + GROWER;
    let building = 1 | number << 8 | area.generation << 16;
    file.write_all_at(&building.to_ne_bytes(), 8 * at as u64).unwrap();
    let error = shared.grow(4 << 20).unwrap_err();
    let busy = core::ResizeError::Busy { owner: core::Owner::new(number as usize) };
    assert!(matches!(error, ResizeError::Engine(e) if e == busy), "{error:?}");
    peer.kill();
    shared.grow(4 << 20).unwrap();
    assert_eq!(shared.len(), 4 << 20);
    shared.free().unwrap();
    assert_empty(&pool);
}
