//! Pools in memory that somebody set aside: a file that is there, as long as it is, becomes framed.

use crate::framed::assert_no_frame_is_out;
use crate::peer::Peer;
use crate::support::{KIB, MIB, PAGE, Scratch, file_of};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use vmalloc::{CreateError, Pool};

/// Bytes that must be zero in a file that is to become a pool.
const HEADER: usize = 40 << 10;

/// A file of `bytes`, all of it one hole.
fn hole(bytes: u64) -> Scratch {
    let path = Scratch::new("hole");
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path.0);
    file.unwrap().set_len(bytes).unwrap();
    path
}

/// Goal: memory that somebody set aside becomes a pool, all of it, whatever it held behind its first
/// 40 KiB; what holds something in these is left alone.
#[test]
fn a_piece_of_memory_that_is_there_becomes_a_pool() {
    let path = Scratch::new("carve-out");
    let options = Pool::options().members(4).window_bytes(256 * MIB);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path.0);
    let mut file = file.unwrap();
    // Rubbish in every byte but those of the header.
    file.write_all(&[0; HEADER]).unwrap();
    file.write_all(&vec![0xa5; (48 << 20) - HEADER]).unwrap();
    file.write_all_at(&[1], HEADER as u64 - 1).unwrap();
    let error = options.create_in(&path.0).unwrap_err();
    assert!(matches!(error, CreateError::NotEmpty), "{error:?}");
    file.write_all_at(&[0], HEADER as u64 - 1).unwrap();

    let pool = options.create_in(&path.0).unwrap();
    let info = pool.info();
    println!("48 MiB of memory: a framed pool of {} KiB", info.capacity_bytes / KIB);
    assert!(info.framed && info.capacity_bytes > 32 * MIB, "{}", info.capacity_bytes);
    assert_eq!(file.metadata().unwrap().len(), 48 * MIB);
    pool.verify().unwrap();
    let mut peer = Peer::at(&path.0);
    let there = peer.ok("vmalloc 1000000");
    peer.ok(&format!("all {there} 0"));
    peer.ok(&format!("fill {there} 7"));
    let token = peer.token(&format!("freeze {there}"));
    assert!(pool.attach(&token).unwrap().iter().all(|&byte| byte == 7));
    let again = options.create_in(&path.0).unwrap_err();
    assert!(matches!(again, CreateError::NotEmpty), "{again:?}");
    peer.dismiss();
    pool.free(&token).unwrap();
    let all = pool.vmalloc(info.capacity_bytes as usize).unwrap();
    assert!(all.iter().all(|byte| *byte == 0), "what was there before");
    drop(all);
    assert_no_frame_is_out(&pool);
}

/// Goal: a piece of memory holds as many frames as fit beside their tables, for as many members as
/// there are by default; who is told that it is too small is told what would do, and a file of that
/// size does.
/// Method: a hole of 256 MiB, beside a pool of a page more; holes of 1 MiB and of the size named.
#[test]
fn a_piece_of_memory_holds_as_many_frames_as_fit() {
    let capacity_in = |bytes: u64| {
        let path = hole(bytes);
        let pool = Pool::options().create_in(&path.0).unwrap();
        let capacity = pool.info().capacity_bytes;
        drop(pool.vmalloc(capacity as usize).expect("every frame"));
        assert_no_frame_is_out(&pool);
        capacity
    };
    let capacity = capacity_in(256 * MIB);
    let more = Pool::options().framed().create(capacity + PAGE).unwrap();
    let bytes = file_of(&more).0.metadata().unwrap().len();
    println!(
        "256 MiB for 64 members: {} KiB of frames; with a page more it would take {} MiB",
        capacity / KIB,
        bytes / MIB
    );
    assert!(bytes > 256 * MIB, "{bytes} bytes would have fit");
    let needed = |bytes| match Pool::options().create_in(&hole(bytes).0).unwrap_err() {
        CreateError::NoRoom { bytes: given, needed } if given == bytes => needed,
        error => panic!("{error:?}"),
    };
    let least = needed(MIB);
    assert_eq!(needed(least - 1), least);
    println!("the least is {} MiB: {} KiB of frames", least / MIB, capacity_in(least) / KIB);
}

/// Goal: of what is asked for of a piece of memory, what cannot be is refused with the value: members
/// before all, and a window by the frames that there would be, not by the file's length.
#[test]
fn a_piece_of_memory_is_refused_members_and_windows_that_cannot_be() {
    let path = hole(128 * MIB);
    let options = || Pool::options().members(4);
    for members in [0, 65] {
        let error = options().members(members).create_in(&path.0).unwrap_err();
        assert!(matches!(error, CreateError::Members { members: m } if m == members), "{error:?}");
    }
    for bytes in [0, 1, 64 * MIB, 2048 * MIB, u64::MAX] {
        let error = options().window_bytes(bytes).create_in(&path.0).unwrap_err();
        assert!(matches!(error, CreateError::Window { bytes: b } if b == bytes), "{error:?}");
    }
    // Less than twice the file, and more than twice the frames.
    let pool = options().window_bytes(248 * MIB).create_in(&path.0).unwrap();
    let info = pool.info();
    assert!(2 * info.capacity_bytes <= info.stats.window.bytes(), "{info:?}");
    assert!(info.stats.window.bytes() < 256 * MIB, "{info:?}");
}

/// Goal: memory that is there already is not taken from what the machine has left; holes are.
/// Method: a machine with 8 MiB left, and a file of 48 MiB: written, and one hole.
#[test]
fn memory_that_is_there_is_not_taken_from_what_is_left() {
    let options = Pool::options().members(4).window_bytes(256 * MIB).memory_bytes(8 * MIB);
    let path = hole(48 * MIB);
    let error = options.create_in(&path.0).unwrap_err().to_string();
    assert!(error.contains("the fixed limit leaves 8388608 bytes"), "{error}");
    let file = File::options().write(true).open(&path.0).unwrap();
    file.write_all_at(&vec![0xa5; (48 << 20) - HEADER], HEADER as u64).unwrap();
    let broke = options.clone().memory_bytes(HEADER as u64 - 1).create_in(&path.0).unwrap_err();
    assert!(broke.to_string().ends_with("wanted 40960"), "{broke}: the holes, and no more");
    let pool = options.create_in(&path.0).unwrap();
    drop(pool.vmalloc(pool.info().capacity_bytes as usize).expect("every frame"));
    assert_no_frame_is_out(&pool);
}
