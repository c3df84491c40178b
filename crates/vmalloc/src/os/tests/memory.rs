//! Headroom, control groups and commit: refused before the kernel has to choose a victim.

use crate::os::cgroup;
use crate::os::commit::{CommitError, Grain, HugeWay, commit};
use crate::os::fail::Plan;
use crate::os::memory::{Bound, Headroom, Seen};
use crate::os::tests::{MIB, pool, resident, skip, span};
use crate::os::view::{ExclusiveView, PurgeError, ViewError};
use crate::os::{PAGE_BYTES, Span, pagemap};
use rustix::io::Errno;

const GRAINS: [Grain; 2] = [Grain::Small, Grain::Huge];

/// Goal: a commit beyond the limit is refused at once, and leaves no frame and no debt.
/// Method: a fake limit just below the size, for each grain.
#[test]
fn commit_beyond_the_limit_leaves_nothing_behind() {
    for grain in GRAINS {
        let pool = pool("limit", 256 * MIB);
        let headroom = Headroom::with_limit(100 * MIB);
        let run = Span::new(4 * MIB, 100 * MIB + PAGE_BYTES);
        let error = commit(&pool, run, grain, &headroom).unwrap_err();
        let CommitError::NoRoom(room) = error else { panic!("{error}") };
        assert_eq!((room.wanted, room.available), (run.len, 100 * MIB));
        assert_eq!(room.bound, Bound::Fixed);
        assert_eq!(resident(&pool), 0);
        assert_eq!(headroom.look(), Seen { available: 100 * MIB, bound: Bound::Fixed });
    }
}

/// Goal: whatever call of a commit fails, its frames and its debt are gone again.
/// Method: three steps and ragged ends; fail each call in turn.
#[test]
fn a_commit_that_fails_halfway_leaves_nothing_behind() {
    let pool = pool("halfway", 256 * MIB);
    let run = Span::new(3 * MIB, 70 * MIB);
    for grain in GRAINS {
        let headroom = Headroom::with_limit(MIB << 10);
        let armed = Plan::count().arm();
        commit(&pool, run, grain, &headroom).unwrap();
        let names = armed.names();
        drop(armed);
        assert!(names.len() >= 3, "{names:?}");
        assert_eq!(resident(&pool), run.len);
        pool.punch(&[run]).unwrap();
        headroom.put(run.len);

        for (n, name) in (1..).zip(&names) {
            if *name == "collapse" {
                continue; // A wish: its failure is none of the commit's.
            }
            let _armed = Plan::nth(n, Errno::NOMEM.raw_os_error()).arm();
            let error = commit(&pool, run, grain, &headroom).unwrap_err();
            assert!(
                matches!(error, CommitError::NoMemory { errno: Errno::NOMEM, .. }),
                "{name}: {error}"
            );
            assert_eq!(resident(&pool), 0, "call {n}, {name}");
            assert_eq!(headroom.look().available, MIB << 10, "call {n}, {name}");
        }
    }
}

/// Goal: if giving back fails as well, the error says so and keeps the cause.
/// Method: every call from the second step on fails.
#[test]
fn a_commit_that_cannot_be_undone_says_so() {
    let pool = pool("stuck", 128 * MIB);
    let headroom = Headroom::with_limit(MIB << 10);
    let run = Span::new(0, 40 * MIB);
    let armed = Plan::nth(2, Errno::NOMEM.raw_os_error()).and_after().arm();
    let error = commit(&pool, run, Grain::Small, &headroom).unwrap_err();
    drop(armed);
    let CommitError::NotUndone { cause, punch } = error else { panic!("{error}") };
    assert!(matches!(*cause, CommitError::NoMemory { .. }));
    assert_eq!(punch.at, run);
    assert!(resident(&pool) > 0);
}

/// Goal: neither a purge nor the undoing of a commit takes the bytes of a live view.
/// Method: a view in the middle of what is to be punched or committed.
#[test]
fn a_view_keeps_its_bytes_from_purge_and_commit() {
    let pool = pool("kept", MIB);
    let headroom = Headroom::with_limit(MIB);
    commit(&pool, span(4..8), Grain::Small, &headroom).unwrap();
    let mut view = ExclusiveView::new(&*pool, span(5..6)).unwrap();
    view.fill(3);
    let view = view.freeze();
    let taken = ViewError::Taken { span: span(4..8) };
    let error = pool.punch(&[span(1..2), span(4..8)]).unwrap_err();
    assert_eq!(error, PurgeError::View(taken));
    let error = commit(&pool, span(4..8), Grain::Small, &headroom).unwrap_err();
    assert_eq!(error, CommitError::View(taken));
    let bad = [Span::new(1, 2), Span::new(0, 2 * MIB), span(1..1)];
    assert!(bad.iter().all(|&bad| pool.punch(&[bad]).is_err()));
    assert!(view.iter().all(|&byte| byte == 3));
    drop(view);
    assert_eq!(pool.punch(&[span(1..2), span(4..6), span(6..8)]), Ok(2));
    assert_eq!(resident(&pool), 0);
    ExclusiveView::new(&*pool, span(1..9)).unwrap();
}

/// Goal: a signal that interrupts a step makes the next try smaller, and the commit succeeds.
/// Method: the first call says EINTR.
#[test]
fn an_interrupted_commit_goes_on_in_smaller_steps() {
    let pool = pool("signal", 64 * MIB);
    let headroom = Headroom::with_limit(64 * MIB);
    for len in [PAGE_BYTES, MIB, 8 * MIB] {
        let armed = Plan::nth(1, Errno::INTR.raw_os_error()).arm();
        commit(&pool, Span::new(0, len), Grain::Small, &headroom).unwrap();
        assert!(armed.calls() >= 2);
        drop(armed);
        assert_eq!(resident(&pool), len);
        pool.punch(&[Span::new(0, len)]).unwrap();
        headroom.put(len);
    }
}

/// Goal: what is committed is zero, whatever lay there before, and all of it is there.
/// Method: dirty, punch, commit again, by every means.
#[test]
fn committed_memory_reads_as_zeros() {
    let pool = pool("zeros", 64 * MIB);
    let headroom = Headroom::with_limit(64 * MIB);
    for (len, grain) in
        [(PAGE_BYTES, Grain::Small), (5 * MIB, Grain::Small), (5 * MIB, Grain::Huge)]
    {
        let run = Span::new(MIB, len);
        for _ in 0..2 {
            commit(&pool, run, grain, &headroom).unwrap();
            assert_eq!(resident(&pool), len);
            let mut view = ExclusiveView::new(&*pool, run).unwrap();
            assert!(view.iter().all(|&byte| byte == 0));
            view.fill(0xff);
            drop(view);
            pool.punch(&[run]).unwrap();
            headroom.put(len);
        }
        assert_eq!(resident(&pool), 0);
    }
}

/// Goal: a huge commit gives huge pages, whether the kernel heeds advice or must be asked.
/// Method: the kernel's own count of what is mapped by 2 MiB.
#[test]
fn a_huge_commit_is_mapped_by_huge_pages() {
    let pool = pool("huge", 64 * MIB);
    if pool.huge_way() == HugeWay::Never {
        return skip("huge pages", "the kernel has none for shared memory", "needs THP for shmem");
    }
    let huge_in = |run: Span| {
        let start = pool.base() + run.start as usize;
        pool.populate_read(run).unwrap();
        pagemap::huge_bytes(&(start..start + run.len as usize)).unwrap()
    };
    // A VMA of its own for each run, since the kernel counts by VMA.
    let by_hand = Span::new(48 * MIB, 2 * MIB);
    pool.advise_huge(by_hand).unwrap();
    pool.populate_write(by_hand).unwrap();
    let collapsed = pool.collapse(by_hand);
    if huge_in(by_hand) == 0 {
        let why = format!("the kernel gave none: {collapsed:?}");
        return skip("huge pages", &why, "needs Linux 6.1 and free 2 MiB blocks");
    }

    let run = Span::new(4 * MIB, 8 * MIB);
    pool.advise_huge(run).unwrap();
    commit(&pool, run, Grain::Huge, &Headroom::with_limit(64 * MIB)).unwrap();
    assert_eq!(huge_in(run), run.len);
    assert_eq!(resident(&pool), run.len + by_hand.len);
}

/// Goal: the machine is looked at, and the reserve is kept.
/// Method: a look against `/proc/meminfo`; a reserve larger than the machine refuses one byte.
#[test]
fn headroom_keeps_its_reserve() {
    let headroom = Headroom::machine(None);
    let seen = headroom.look();
    assert!(seen.available > 0);
    headroom.take(PAGE_BYTES, PAGE_BYTES).unwrap();
    let room = headroom.take(PAGE_BYTES, 1 << 60).unwrap_err();
    assert_eq!(room.wanted, 1 << 60);

    let full = Headroom::machine(Some(1 << 60));
    let room = full.take(PAGE_BYTES, PAGE_BYTES).unwrap_err();
    assert_eq!(room.reserve, 1 << 60);
    assert!(room.available < 1 << 60);
}

/// Goal: the groups are found in both versions, up to the root that is mounted, and no further.
/// Method: the text of real systems: version 1, version 2, both, and a container that sees its
/// own group as the root.
#[test]
fn groups_are_found_in_both_versions() {
    let folders = |membership, mounts| {
        let groups = cgroup::find(membership, mounts);
        groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>()
    };
    let v1 = "36 31 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
    let found = folders("4:memory:/a/b\n3:cpu:/x", v1);
    assert_eq!(found.len(), 3);
    assert!(found[0].contains("\"/sys/fs/cgroup/memory/a/b\""), "{found:?}");
    assert!(found[2].contains("\"/sys/fs/cgroup/memory\""), "{found:?}");

    let v2 = "41 31 0:38 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    let found = folders("0::/user.slice/my session", v2);
    assert_eq!(found.len(), 3);
    assert!(found[0].contains("my session"), "{found:?}");

    let container = "41 31 0:38 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
    let found = folders("0::/docker/abc/inner", container);
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("\"/sys/fs/cgroup/inner\""), "{found:?}");
    assert_eq!(folders("0::/elsewhere", container), Vec::<String>::new());
    assert_eq!(folders("", ""), Vec::<String>::new());
}

/// Goal: the tightest group decides, whatever its version, and page cache that can be dropped
/// counts as free; a group without a limit does not.
/// Method: folders that look like control groups of both versions.
#[test]
fn the_tightest_group_decides() {
    let root = std::env::temp_dir().join(format!("vmalloc-os-groups-{}", std::process::id()));
    let write = |folder: &str, files: &[(&str, &str)]| {
        std::fs::create_dir_all(root.join(folder)).unwrap();
        for (name, text) in files {
            std::fs::write(root.join(folder).join(name), text).unwrap();
        }
    };
    let mount = |kind: &str| format!("1 1 0:1 / {} rw - {kind}", root.display());
    let room = |membership: &str, mounts: &str| {
        let headroom = Headroom::of_groups(cgroup::find(membership, mounts), Some(MIB));
        headroom.take(MIB, 3 * MIB).map_err(|room| (room.available, room.bound))
    };

    let stat = "anon 1\ninactive_file 1048576\nactive_file 7";
    write("", &[("memory.max", "4194304\n"), ("memory.current", "3145728\n")]);
    write("a", &[("memory.max", "max\n"), ("memory.current", "5\n")]);
    write("", &[("memory.stat", stat)]);
    let v2 = mount("cgroup2 none rw");
    assert_eq!(room("0::/a", &v2), Err((2 * MIB, Bound::Group(root.clone()))));
    write("", &[("memory.current", "1048576\n")]);
    assert_eq!(room("0::/a", &v2), Ok(()));

    let limit = "memory.limit_in_bytes";
    write("b", &[(limit, "2097152\n"), ("memory.usage_in_bytes", "1048576\n")]);
    write("", &[(limit, "9223372036854771712\n"), ("memory.usage_in_bytes", "1\n")]);
    let v1 = mount("cgroup cgroup rw,memory");
    assert_eq!(room("4:memory:/b", &v1), Err((MIB, Bound::Group(root.join("b")))));
    write("b", &[("memory.stat", "inactive_file 1\ntotal_inactive_file 1048576")]);
    assert_eq!(room("4:memory:/b", &v1), Err((2 * MIB, Bound::Group(root.join("b")))));
    std::fs::remove_dir_all(root).unwrap();
}

/// Goal: each word of the kernel's huge page policy is understood.
/// Method: all of them.
#[test]
fn huge_policy_words_are_understood() {
    for policy in ["always", "within_size", "advise", "force"] {
        assert_eq!(HugeWay::from_policy(policy), HugeWay::Fault, "{policy}");
    }
    assert_eq!(HugeWay::from_policy("never"), HugeWay::Collapse);
    assert_eq!(HugeWay::from_policy("deny"), HugeWay::Never);
}

/// Goal: a commit of one page costs what its table says: one call, no look from the credit.
/// Method: count the calls.
#[test]
fn a_page_is_committed_by_one_call_while_the_credit_lasts() {
    let pool = pool("credit", MIB);
    let headroom = Headroom::machine(Some(0));
    commit(&pool, span(0..1), Grain::Small, &headroom).unwrap();
    let armed = Plan::count().arm();
    for page in 1..100 {
        commit(&pool, span(page..page + 1), Grain::Small, &headroom).unwrap();
    }
    let looks = armed.names().iter().filter(|&&name| name == "meminfo").count();
    // None, unless this thread was kept waiting for longer than the credit lasts.
    assert!(looks < 20, "{looks} looks for 99 pages");
    assert_eq!(armed.calls() - looks as u64, 99);
}
