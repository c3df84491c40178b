//! Where it ends: full pools, full machines, full file systems, bad arguments, guard pages; and
//! what a new owner finds in memory that had another one.

use crate::peer::Peer;
use crate::support::{
    KIB, MIB, Mount, PAGE, Random, Scratch, assert_empty, is_root, skip, wait_until,
};
use std::path::Path;
use vmalloc::core::{BackError, FlushError, PurgeError};
use vmalloc::testing::Plan;
use vmalloc::{AllocError, CreateError, Pool, Request};

fn engine_error(error: AllocError) -> vmalloc::core::AllocError {
    match error {
        AllocError::Engine(error) => error,
        other => panic!("{other:?}"),
    }
}

fn back_error(error: AllocError) -> BackError {
    match engine_error(error) {
        vmalloc::core::AllocError::Back(error) => error,
        other => panic!("{other:?}"),
    }
}

/// Goal: a full pool is an error that says how full, and the pool goes on.
/// Method: fill to the last page; fail; free one; succeed.
#[test]
fn a_full_pool_is_an_error_with_the_numbers_and_goes_on() {
    let pool = Pool::create(4 * MIB).unwrap();
    let mut bufs: Vec<_> = (0..1024).map(|_| pool.vmalloc(4096).unwrap()).collect();
    let error = back_error(pool.vmalloc(4096).unwrap_err());
    assert!(
        matches!(error, BackError::NoFrames { wanted, free } if (wanted.0, free.0) == (1, 0)),
        "{error:?}"
    );
    bufs.swap_remove(500);
    let buf = pool.vmalloc(4096).unwrap();
    let error = back_error(pool.vmalloc(4097).unwrap_err());
    assert!(matches!(error, BackError::NoFrames { wanted, .. } if wanted.0 == 2));
    pool.verify().unwrap();
    drop((buf, bufs));
    drop(pool.vmalloc(4 * MIB as usize).unwrap());
    assert_empty(&pool);
}

/// Goal: a machine without memory is an error of its own, before the kernel is asked.
/// Method: a pool of 64 MiB for a member that takes the machine to have 16.
#[test]
fn a_full_machine_is_an_error_and_the_pool_goes_on() {
    let pool = Pool::options().memory_bytes(16 * MIB).create(64 * MIB).unwrap();
    let mut bufs = Vec::new();
    let error = loop {
        match pool.vmalloc(MIB as usize) {
            Ok(buf) => bufs.push(buf),
            Err(e) => break back_error(e),
        }
    };
    assert!(matches!(error, BackError::MachineFull { wanted, .. } if wanted.0 == 256), "{error:?}");
    assert!((13..16).contains(&bufs.len()), "{} MiB were to be had", bufs.len());
    pool.verify().unwrap();
    bufs.truncate(8);
    bufs.push(pool.vmalloc(4 * MIB as usize).unwrap());
    assert!(matches!(
        back_error(pool.vmalloc(32 * MIB as usize).unwrap_err()),
        BackError::MachineFull { .. }
    ));
    drop(bufs);
    drop(pool.vmalloc(12 * MIB as usize).unwrap());
    assert_empty(&pool);
}

/// Goal: a file system that is full is an error, never SIGBUS, wherever it becomes full: data,
/// records, presence cells, the tables of a new pool; and the pool goes on.
/// Method: a tmpfs of 64 MiB. Small areas until it ends (each writes its page); publish some,
/// which needs cells; from 0 to 12 pages left by a file beside the pool, so that each kind of
/// page is the one that fails.
#[test]
fn a_full_tmpfs_is_an_error_and_never_a_signal() {
    let Some(mount) = Mount::new("a full tmpfs", "size=64M") else { return };
    let ballast = mount.0.join("ballast");
    for left in 0..12 {
        let path = mount.0.join("pool");
        let pool = Pool::create_at(&path, 256 * MIB).unwrap();
        // Something of each kind that is there already, and must stay usable.
        let mut held = vec![pool.vmalloc(4096).unwrap()];
        fill_up(&ballast, left);
        let mut random = Random(left);
        let mut published = Vec::new();
        let mut failed = 0;
        while failed < 20 {
            match pool.vmalloc(random.of(1..6 * PAGE) as usize) {
                Ok(mut buf) => {
                    buf.fill(7);
                    match random.of(0..3) {
                        0 => match buf.share() {
                            Ok(shared) => published.push(shared),
                            Err(e) => {
                                failed += 1;
                                held.push(e.buf);
                            }
                        },
                        _ => held.push(buf),
                    }
                }
                Err(AllocError::Engine(
                    vmalloc::core::AllocError::Back(BackError::MachineFull { .. })
                    | vmalloc::core::AllocError::NoMetadata(_),
                )) => failed += 1,
                Err(e) => panic!("{e:?}"),
            }
        }
        held.iter_mut().for_each(|buf| buf.fill(8));
        pool.verify().unwrap();
        let error = Pool::create_at(mount.0.join("second"), 256 * MIB).unwrap_err();
        assert!(matches!(error, CreateError::Os(_)), "{error:?}");
        assert!(!mount.0.join("second").exists(), "a pool that was not made left its file");

        std::fs::remove_file(&ballast).unwrap();
        held.push(pool.vmalloc(5 * MIB as usize).unwrap());
        held.last_mut().unwrap().fill(9);
        published.drain(..).for_each(|shared| shared.free().unwrap());
        held.clear();
        assert_empty(&pool);
        drop(pool);
        std::fs::remove_file(&path).unwrap();
    }
}

/// Fills the file system of `path` but for `left` pages.
fn fill_up(path: &Path, left: u64) {
    let file = std::fs::File::create(path).unwrap();
    let free = || rustix::fs::fstatvfs(&file).unwrap();
    let mut bytes = 0;
    // What was removed before may be given back only now.
    wait_until("the file system is full", || {
        bytes += free().f_bavail.saturating_sub(left) * free().f_frsize;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        free().f_bavail == left
    });
}

/// Goal: each bad argument is refused with its value, and changes nothing.
#[test]
fn bad_sizes_and_alignments_are_refused_with_their_values() {
    use vmalloc::core::AllocError as Engine;
    let pool = Pool::create(8 * MIB).unwrap();
    let refused = |request: Request| engine_error(pool.alloc(&request).unwrap_err());
    assert_eq!(refused(Request::bytes(0)), Engine::ZeroSize);
    for bytes in [8 * MIB + 1, 1 << 40, u64::MAX - 4095, u64::MAX] {
        let error = refused(Request::bytes(bytes));
        assert!(matches!(error, Engine::TooBig { bytes: b, .. } if b == bytes), "{error:?}");
    }
    for align_bytes in [0, 3, 4097, 8 << 20, 1 << 63, u64::MAX] {
        let error = refused(Request::bytes(1).align_bytes(align_bytes));
        assert!(
            matches!(error, Engine::BadAlign { align_bytes: a, .. } if a == align_bytes),
            "{error:?}"
        );
    }
    for align_bytes in [1_u64, 2048, 4096, 8192, 65_536, 2 << 20, 4 << 20] {
        let buf = pool.alloc(&Request::bytes(5000).align_bytes(align_bytes)).unwrap();
        assert_eq!(buf.as_ptr().addr() as u64 % align_bytes.max(PAGE), 0);
    }
    assert_empty(&pool);
}

/// Goal: a capacity that cannot be is refused before anything is made.
/// Method: 0, just over the most, and sizes that overflow; members likewise.
#[test]
fn a_pool_that_cannot_be_is_refused_at_once() {
    for bytes in [0, (512 << 30) + 1, 1 << 40, (1 << 40) + 1, u64::MAX] {
        let error = Pool::create(bytes).unwrap_err();
        assert!(matches!(error, CreateError::Capacity { bytes: b } if b == bytes), "{error:?}");
    }
    for members in [0, 65, usize::MAX] {
        let error = Pool::options().members(members).create(MIB).unwrap_err();
        assert!(matches!(error, CreateError::Members { members: m } if m == members), "{error:?}");
    }
    // The smallest: one page, one member.
    let pool = Pool::options().members(1).create(1).unwrap();
    let buf = pool.vmalloc(4096).unwrap();
    assert!(pool.vmalloc(1).is_err());
    let frozen = buf.freeze().unwrap();
    assert_eq!(pool.attach(&frozen.token()).unwrap().len(), 4096);
    frozen.free().unwrap();
    assert_empty(&pool);
}

/// Goal: the first byte behind the last page of an area ends the process that touches it, the
/// maker as well as a process that attached, and the byte before it does not.
/// Method: SIGSEGV of real processes, for a slot and for an area with granules of its own.
#[test]
fn an_overrun_ends_the_process_at_the_first_byte_behind_the_area() {
    let pool = Pool::create(64 * MIB).unwrap();
    if !guards(&pool) {
        return;
    }
    for bytes in [4096, 20_000, 3 << 20, 5 << 20] {
        let mut maker = Peer::of(&pool);
        let key = maker.ok(&format!("vmalloc {bytes}"));
        maker.dies_behind(&key, bytes as u64);

        let shared = pool.vmalloc(bytes).unwrap().share().unwrap();
        let mut guest = Peer::of(&pool);
        let key = guest.ok(&format!("attach_shared {}", shared.token()));
        guest.dies_behind(&key, bytes as u64);
        shared.free().unwrap();
    }
}

/// Goal: when the pages of a slot are given out again under another size class, no guard page of
/// before kills an access that is legal, in any process that ever put one there.
/// Method: two processes fill a pool with areas of one size (a guard in every slot), free and
/// purge all, and do so for sizes whose slots lie across the old ones; each touches every page
/// that it may, attached areas too.
#[test]
fn no_guard_page_of_an_earlier_size_stands_in_a_later_area() {
    let pool = Pool::create(16 * MIB).unwrap();
    if !guards(&pool) {
        return;
    }
    let mut peer = Peer::of(&pool);
    for pages in [1_u64, 3, 8, 40, 2, 130, 5, 500, 1, 12, 2000, 2] {
        let bytes = pages * PAGE;
        let count = (8 * MIB / bytes).min(60);
        let mut ours = Vec::new();
        let mut keys = Vec::new();
        for _ in 0..count {
            let mut buf = pool.vmalloc(bytes as usize).unwrap();
            buf.fill(1);
            let shared = buf.share().unwrap();
            let key = peer.ok(&format!("attach_shared {}", shared.token()));
            peer.ok(&format!("all {key} 1"));
            peer.ok(&format!("fill {key} 2"));
            keys.push(key);
            ours.push(shared);
        }
        for _ in 0..count.min(8 * MIB / bytes) {
            let key = peer.ok(&format!("vmalloc {bytes}"));
            peer.ok(&format!("fill {key} 3"));
            keys.push(key);
        }
        ours.drain(..).for_each(|shared| shared.free().unwrap());
        keys.iter().for_each(|key| drop(peer.ok(&format!("drop {key}"))));
        assert_empty(&pool);
    }
    peer.dismiss();
}

/// Goal: `vzalloc` gives zeros also where memory is used again.
/// Method: the same place, filled before.
#[test]
fn vzalloc_of_memory_used_before_is_zero() {
    let pool = Pool::create(16 * MIB).unwrap();
    for bytes in [100, 5000, 3 * MIB as usize] {
        let mut buf = pool.vmalloc(bytes).unwrap();
        buf.fill(0xee);
        let place = buf.as_ptr();
        drop(buf);
        let buf = pool.vzalloc(bytes).unwrap();
        assert_eq!(buf.as_ptr(), place, "not used again");
        assert!(buf.iter().all(|&byte| byte == 0));
    }
}

/// Goal: nobody reads what another process left: freed, freed after sharing, or held at its death.
/// Method: peers fill areas and let go of them in each way; what is then allocated here must be
/// zeros, though nothing asks for zeros. The place must be the same, or it shows nothing.
#[test]
fn memory_of_another_process_comes_zeroed_however_it_was_left() {
    let pool = Pool::create(16 * MIB).unwrap();
    for way in ["freed", "shared", "left", "killed", "killed attached"] {
        let mut peer = Peer::of(&pool);
        let key = peer.ok("vmalloc 3000000");
        peer.ok(&format!("fill {key} 238"));
        let mut token = None;
        if way == "shared" || way == "killed attached" {
            token = Some(peer.token(&format!("share {key}")));
        }
        let mut peer = Some(peer);
        match way {
            "freed" => drop(peer.as_mut().unwrap().ok(&format!("drop {key}"))),
            "shared" => {
                let peer = peer.as_mut().unwrap();
                peer.ok(&format!("drop {key}"));
                peer.ok(&format!("free {}", token.unwrap()));
            }
            "left" => peer.take().unwrap().dismiss(),
            _ => {
                peer.as_mut().unwrap().kill();
                if let Some(token) = token {
                    pool.free(&token).unwrap();
                }
                crate::support::wait_until("recovery", || {
                    pool.recover();
                    pool.members().len() == 1
                });
            }
        }
        let verified = pool.verify().unwrap();
        assert_eq!((verified.areas, verified.parked), (0, 1), "{way}");
        let buf = pool.vmalloc(3_000_000).unwrap();
        assert_eq!(pool.verify().unwrap().parked, 0, "{way}: not used again");
        assert!(buf.iter().all(|&byte| byte == 0), "{way}: another's bytes");
        drop(buf);
        drop(peer);
        pool.recover();
        assert_empty(&pool);
    }
}

/// Goal: a member that takes a number after another, clean or killed, does not see what that one
/// freed.
/// Method: the number is reused (two slots only), the memory too.
#[test]
fn the_next_member_with_the_same_number_sees_zeros() {
    let pool = Pool::options().members(2).create(16 * MIB).unwrap();
    for kill in [false, true] {
        let mut first = Peer::of(&pool);
        let number = first.ok("number");
        let key = first.ok("vmalloc 100000");
        first.ok(&format!("fill {key} 238"));
        first.ok(&format!("drop {key}"));
        if kill {
            first.kill();
        } else {
            first.dismiss();
        }
        let mut second = Peer::of(&pool);
        assert_eq!(second.ok("number"), number);
        let key = second.ok("vmalloc 100000");
        assert_eq!(pool.verify().unwrap().parked, 0, "not used again");
        second.ok(&format!("all {key} 0"));
        second.dismiss();
        assert_empty(&pool);
    }
}

/// Goal: what asks for huge pages has them where the file system gives them.
/// Method: a tmpfs with huge=advise; 4 MiB; the kernel's own word in smaps.
#[test]
fn a_huge_request_is_backed_by_huge_pages() {
    let what = "huge pages on a tmpfs";
    let Some(mount) = Mount::new(what, "size=64M,huge=advise") else { return };
    let pool = Pool::create_at(mount.0.join("pool"), 32 * MIB).unwrap();
    let mut buf = pool.alloc(&Request::bytes(4 * MIB).huge()).unwrap();
    assert_eq!(buf.as_ptr().addr() as u64 % (2 * MIB), 0);
    buf.fill(1);
    let kib = huge_kib(buf.as_ptr().addr());
    if kib == 0 {
        let policy = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
        let policy = std::fs::read_to_string(policy).unwrap_or_default();
        skip(what, &format!("the kernel gave none ({})", policy.trim()), "a kernel that does");
        return;
    }
    assert_eq!(kib, 4096);
    let small = pool.alloc(&Request::bytes(4 * MIB)).unwrap();
    assert_eq!(huge_kib(small.as_ptr().addr()), 0, "nobody asked for these");
    drop((buf, small));
    assert_empty(&pool);
}

/// KiB mapped by huge pages in the VMA that holds `address`.
fn huge_kib(address: usize) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    let mut kib = 0;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let hex = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(start), Some(end))) = range.map(|(s, e)| (hex(s), hex(e))) {
            inside = (start..end).contains(&address);
        } else if inside && (line.starts_with("ShmemPmd") || line.starts_with("FilePmd")) {
            let value = line.split_whitespace().nth(1).unwrap();
            kib += value.parse::<u64>().unwrap();
        }
    }
    kib
}

/// Goal: a purge that the system refuses loses nothing: it is tried again, and the memory is not
/// handed out meanwhile.
/// Method: every punch fails for a while.
#[test]
fn a_purge_that_is_refused_is_done_by_the_next_one() {
    let pool = Pool::create(16 * MIB).unwrap();
    drop((pool.vmalloc(5000).unwrap(), pool.vmalloc(3 * MIB as usize).unwrap()));
    let before = pool.info().resident_bytes;
    {
        let _armed = Plan::nth(1, libc::EIO).only("punch").and_after().arm();
        let flush = FlushError { errno: libc::EIO };
        assert_eq!(pool.purge(), Err(PurgeError::Flush(flush)));
    }
    let verified = pool.verify().unwrap();
    assert_eq!(verified.parked, 2);
    assert_empty(&pool);
    assert!(pool.info().resident_bytes < before - 3 * MIB);
}

/// Goal: a batch that the system refuses is tried area by area, so that one which can never be
/// given back keeps no other.
/// Method: all punches fail, and nothing is lost; then that of the batch alone, and all three go.
#[test]
fn one_area_that_cannot_be_punched_keeps_no_other() {
    let pool = Pool::create(16 * MIB).unwrap();
    let sizes = [5000, 300_000, 3 * MIB as usize];
    drop(sizes.map(|bytes| pool.vmalloc(bytes).unwrap()));
    {
        let _armed = Plan::nth(1, libc::EIO).only("punch").and_after().arm();
        assert!(pool.purge_step().is_err());
        assert_eq!(pool.verify().unwrap().parked, 3);
    }
    {
        let _armed = Plan::nth(1, libc::EIO).only("punch").arm();
        assert_eq!(pool.purge_step().map(|purged| purged.areas), Ok(3));
    }
    assert_empty(&pool);
}

/// Goal: an allocation does not fail for want of what another thread is just purging.
/// Method: two threads with at most three quarters of the pool between them, sizes that do not
/// fit each other's, so that each purges what the other freed.
#[test]
fn regress_memory_on_its_way_back_is_waited_for() {
    let pool = Pool::create(64 * MIB).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = Random(seed);
                for round in 0..400 {
                    let bytes = random.of(64 * KIB..24 * MIB) as usize;
                    let buf = pool.vmalloc(bytes);
                    let buf = buf.unwrap_or_else(|e| panic!("round {round}, {bytes}: {e}"));
                    drop(buf);
                }
            });
        }
    });
    assert_empty(&pool);
}

/// Whether this kernel has guard pages; else the skip is told.
pub fn guards(pool: &Pool) -> bool {
    if !pool.info().guards {
        skip("guard pages", "this kernel has none on shared files", "Linux 6.15 or newer");
    }
    pool.info().guards
}

/// Goal: looking for pools takes no memory, not even where a file on tmpfs is none.
/// Method: a sparse file that this process has open, before and after a listing.
#[test]
fn regress_a_listing_puts_no_frames_into_files_that_are_no_pools() {
    let path = Scratch::new("sparse");
    let file = std::fs::File::create_new(&path.0).unwrap();
    file.set_len(64 * MIB).unwrap();
    let pool = Pool::options().name("listed").create(MIB).unwrap();
    let found = vmalloc::list();
    assert!(found.iter().any(|pool| pool.name == "listed"));
    assert!(vmalloc::Onlooker::open(&path.0).is_err());
    assert_eq!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()), 0);
    drop(pool);
}

/// Goal: a pool file that another user owns is not opened unless asked for.
/// Method: given to another user, as root.
#[test]
fn a_pool_of_another_user_is_opened_only_on_request() {
    if !is_root() {
        return skip("pools of other users", "changing an owner needs root", "run as root");
    }
    let path = Scratch::new("owner");
    let pool = Pool::create_at(&path.0, 8 * MIB).unwrap();
    std::os::unix::fs::chown(&path.0, Some(12_345), None).unwrap();
    let mut peer = Peer::new();
    assert!(peer.err(&format!("open {}", path.0.display())).contains("WrongOwner"));
    peer.ok(&format!("open_any {}", path.0.display()));
    peer.dismiss();
    drop(pool);
}
