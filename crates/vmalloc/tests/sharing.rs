//! Two processes, one memory: tokens, attaching by every way there is, and the order of free,
//! detach and death.

use crate::peer::{Peer, command};
use crate::support::{KIB, MIB, PAGE, Random, Scratch, assert_empty, forge, resident, wait_until};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use vmalloc::core::{Area, Kind};
use vmalloc::{AttachError, FreeError, Pool, Token};

/// Goal: two processes see the same frames, each at an address of its own, and what one writes
/// through its mapping the other reads through its own.
/// Method: a shared area; each side writes a part and reads the other's. The window's base differs
/// between processes, or the test would not show it: peers are started until one's does.
#[test]
fn a_write_through_one_mapping_is_read_through_the_other_at_another_address() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut buf = pool.vmalloc(3 * MIB as usize).unwrap();
    buf.fill(1);
    let here = buf.as_ptr().addr();
    let shared = buf.share().unwrap();
    let token = shared.token();

    let mut elsewhere = 0;
    for _ in 0..8 {
        let mut peer = Peer::of(&pool);
        let key = peer.ok(&format!("attach_shared {token}"));
        elsewhere += u32::from(peer.ok(&format!("address {key}")) != here.to_string());
        shared.write_at(0, &[7]).unwrap();
        assert_eq!(peer.ok(&format!("read {key} 0")), "7");
        peer.ok(&format!("fill {key} 9"));
        let mut seen = vec![0; shared.len()];
        shared.read_at(0, &mut seen).unwrap();
        assert!(seen.iter().all(|&byte| byte == 9), "what the peer wrote is not here");
        shared.write_at(0, &vec![1; shared.len()]).unwrap();
        peer.dismiss();
        if elsewhere > 0 {
            break;
        }
    }
    assert!(elsewhere > 0, "eight processes in a row had the pool at one address");
    shared.free().unwrap();
    assert_empty(&pool);
}

/// Goal: a frozen area is a plain slice with the maker's bytes in every process, and every handle
/// of one process counts.
/// Method: two handles here, one in a peer; the area is freed and stays until the last goes.
#[test]
fn a_frozen_slice_holds_its_bytes_until_the_last_handle_of_the_last_process_is_gone() {
    let pool = Pool::create(64 * MIB).unwrap();
    let mut buf = pool.vmalloc(MIB as usize + 5).unwrap();
    buf.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    let frozen = buf.freeze().unwrap();
    let token = frozen.token();
    let again = pool.attach(&token).unwrap();
    let mut peer = Peer::of(&pool);
    let key = peer.ok(&format!("attach {token}"));
    assert_eq!(peer.ok(&format!("read {key} 258")), "2");

    pool.free(&token).unwrap();
    assert!(matches!(pool.attach(&token), Err(AttachError::Engine(_))));
    drop(frozen);
    pool.purge().unwrap();
    assert!(again.iter().enumerate().all(|(i, &byte)| byte == i as u8));
    drop(again);
    pool.purge().unwrap();
    assert_eq!(pool.verify().unwrap().areas, 1, "the peer is still attached");
    assert_eq!(peer.ok(&format!("read {key} 259")), "3");
    peer.ok(&format!("drop {key}"));
    assert_empty(&pool);
}

/// Attaches a peer to an area of this pool, has it read and write, and dismisses it.
fn works_in(pool: &Pool, mut peer: Peer) {
    let mut buf = pool.vmalloc(64 * KIB as usize).unwrap();
    buf.fill(42);
    let shared = buf.share().unwrap();
    let key = peer.ok(&format!("attach_shared {}", shared.token()));
    peer.ok(&format!("all {key} 42"));
    peer.ok(&format!("fill {key} 43"));
    let mut byte = [0];
    shared.read_at(65_535, &mut byte).unwrap();
    assert_eq!(byte, [43]);
    shared.free().unwrap();
    peer.dismiss();
    assert_empty(pool);
}

#[test]
fn a_pool_is_opened_by_its_path() {
    let path = Scratch::new("by-path");
    let pool = Pool::create_at(&path.0, 16 * MIB).unwrap();
    works_in(&pool, Peer::at(&path.0));
}

#[test]
fn a_pool_is_opened_by_another_process_s_descriptor_in_proc() {
    let pool = Pool::create(16 * MIB).unwrap();
    works_in(&pool, Peer::at(&pool.share_path()));
}

#[test]
fn a_pool_is_opened_by_a_descriptor_that_came_over_a_socket() {
    let pool = Pool::create(16 * MIB).unwrap();
    let path = Scratch::new("socket");
    let listener = UnixListener::bind(&path.0).unwrap();
    let mut peer = Peer::new();
    peer.tell(&format!("receive {}", path.0.display()));
    let (socket, _) = listener.accept().unwrap();
    pool.send(&socket).unwrap();
    assert_eq!(peer.reply().as_deref(), Some("ok"));
    works_in(&pool, peer);
}

/// Goal: a descriptor that a child inherits is enough to join.
/// Method: a copy of it at number 9, without close-on-exec, made between fork and exec.
#[test]
fn a_pool_is_opened_by_an_inherited_descriptor() {
    let pool = Pool::create(16 * MIB).unwrap();
    let fd = std::os::fd::AsFd::as_fd(&pool).as_raw_fd();
    let mut command = command("member");
    let inherit = move || {
        // SAFETY:
        // 1. Number 9 of the child may be replaced: it has not begun to use any.
        match unsafe { libc::dup2(fd, 9) } {
            9 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY:
    // 1. Between fork and exec `inherit` calls `dup2` alone, which is async-signal-safe.
    unsafe { command.pre_exec(inherit) };
    let mut peer = Peer::spawn(command);
    peer.ok("inherited 9");
    works_in(&pool, peer);
}

/// Goal: when the last one has detached and a purge has run, the system has the frames back.
/// Method: one cycle to bring the tables' own pages in, then the file must hold exactly as much
/// after a cycle of 32 MiB as before it, by the kernel's count.
#[test]
fn after_the_last_detach_and_a_purge_the_frames_are_back_with_the_system() {
    let pool = Pool::create(64 * MIB).unwrap();
    let fresh = resident(&pool);
    let mut peer = Peer::of(&pool);
    let mut cycle = || {
        let buf = pool.vmalloc(32 * MIB as usize).unwrap();
        let frozen = buf.freeze().unwrap();
        let token = frozen.token();
        let key = peer.ok(&format!("attach {token}"));
        assert!(resident(&pool) >= 32 * MIB);
        frozen.free().unwrap();
        peer.ok(&format!("drop {key}"));
        pool.purge().unwrap();
        resident(&pool)
    };
    let empty = cycle();
    assert!(empty - fresh <= 2 * PAGE, "{} bytes stay behind", empty - fresh);
    assert_eq!(cycle(), empty);
    assert_empty(&pool);
}

/// Goal: free and the detaches may come in any order, and what is left is nothing.
/// Method: all six orders of free, the maker's detach and the peer's.
#[test]
fn free_and_detach_come_in_any_order() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let frozen = pool.vzalloc(100 * KIB as usize).unwrap().freeze().unwrap();
        let token = frozen.token();
        let key = peer.ok(&format!("attach {token}"));
        let mut frozen = Some(frozen);
        for (done, step) in order.into_iter().enumerate() {
            assert_eq!(pool.verify().unwrap().areas, 1, "{order:?}: gone after {done} steps");
            match step {
                0 => pool.free(&token).unwrap(),
                1 => frozen = None,
                _ => drop(peer.ok(&format!("drop {key}"))),
            }
        }
        drop(frozen);
        assert_empty(&pool);
        assert!(matches!(pool.free(&token), Err(FreeError::Engine(_))));
    }
}

/// Goal: an area that was published outlives the process that made it, with its contents.
/// Method: a peer makes the pool and an area in it, and leaves once the pool is open here.
#[test]
fn a_published_area_outlives_its_maker() {
    let mut maker = Peer::new();
    maker.ok("create 32");
    let pool = Pool::open(PathBuf::from(maker.ok("share_path"))).unwrap();
    let key = maker.ok("vmalloc 3000000");
    maker.ok(&format!("fill {key} 77"));
    let token = maker.token(&format!("freeze {key}"));
    maker.dismiss();

    let seen = pool.attach(&token).unwrap();
    assert_eq!(seen.len(), 3_000_000);
    assert!(seen.iter().all(|&byte| byte == 77));
    seen.free().unwrap();
    assert_empty(&pool);
}

/// Goal: what a killed process had published stays; what was its alone comes back.
/// Method: SIGKILL with both in hand, and attached to a third of ours.
#[test]
fn a_killed_member_leaves_its_published_areas_and_nothing_else() {
    let pool = Pool::create(32 * MIB).unwrap();
    let ours = pool.vzalloc(MIB as usize).unwrap().freeze().unwrap();
    let mut peer = Peer::of(&pool);
    let alone = peer.ok("vmalloc 8000000");
    peer.ok(&format!("fill {alone} 1"));
    let published = peer.ok("vmalloc 4000000");
    peer.ok(&format!("fill {published} 2"));
    let token = peer.token(&format!("share {published}"));
    peer.ok(&format!("attach {}", ours.token()));
    peer.kill();

    wait_until("recovery of the killed member", || pool.recover().areas == 1);
    let verified = pool.verify().unwrap();
    assert_eq!((verified.areas, verified.parked), (2, 1));
    let seen = pool.attach_shared(&token).unwrap();
    let mut bytes = vec![0; seen.len()];
    seen.read_at(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 2));
    seen.free().unwrap();
    ours.free().unwrap();
    assert_empty(&pool);
}

/// Goal: a killed process that was attached does not keep an area that was freed.
/// Method: free before the kill, and after it.
#[test]
fn a_member_that_is_killed_while_attached_holds_nothing_back() {
    let pool = Pool::create(32 * MIB).unwrap();
    for free_first in [true, false] {
        let frozen = pool.vzalloc(5 * MIB as usize).unwrap().freeze().unwrap();
        let token = frozen.token();
        let mut peer = Peer::of(&pool);
        peer.ok(&format!("attach {token}"));
        if free_first {
            pool.free(&token).unwrap();
            drop(frozen);
            assert_eq!(pool.verify().unwrap().areas, 1, "the peer is attached");
            peer.kill();
        } else {
            peer.kill();
            frozen.free().unwrap();
        }
        wait_until("recovery", || pool.recover().detached == 1 || pool.members().len() == 1);
        assert_empty(&pool);
    }
}

/// Goal: a token that was good once is refused when its area has gone, though another lives in
/// the same place.
/// Method: free, revive, and try the old token in every way, here and in a peer.
#[test]
fn a_stale_token_is_refused_though_another_area_lives_in_its_place() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut peer = Peer::of(&pool);
    let first = pool.vmalloc(50_000).unwrap().freeze().unwrap();
    let stale = first.token();
    first.free().unwrap();
    let second = pool.vmalloc(50_000).unwrap().freeze().unwrap();
    let good = second.token();
    assert_ne!(stale, good);
    assert_eq!(forge(&stale, |n| n[2] = 0), forge(&good, |n| n[2] = 0), "another place");

    assert!(matches!(pool.attach(&stale), Err(AttachError::Engine(_))));
    assert!(matches!(pool.attach_shared(&stale), Err(AttachError::Engine(_))));
    assert!(matches!(pool.free(&stale), Err(FreeError::Engine(_))));
    for verb in ["attach", "attach_shared", "free"] {
        assert!(peer.err(&format!("{verb} {stale}")).contains("Stale"));
    }
    assert_eq!(peer.ok(&format!("attach {good}")), "1");
    second.free().unwrap();
    peer.dismiss();
    assert_empty(&pool);
}

#[test]
fn a_token_of_another_pool_is_refused_with_both_numbers() {
    let (one, two) = (Pool::create(8 * MIB).unwrap(), Pool::create(8 * MIB).unwrap());
    let frozen = one.vmalloc(5000).unwrap().freeze().unwrap();
    let token = frozen.token();
    let (theirs, ours) = (one.info().id, two.info().id);
    let is_other = |t: u32, p: u32| (t, p) == (theirs, ours);
    assert!(matches!(
        two.attach(&token), Err(AttachError::OtherPool { token, pool }) if is_other(token, pool)
    ));
    assert!(matches!(
        two.free(&token), Err(FreeError::OtherPool { token, pool }) if is_other(token, pool)
    ));
    frozen.free().unwrap();
}

/// Goal: an area is attached to as what it is.
/// Method: the other verb is refused and changes nothing.
#[test]
fn a_frozen_area_is_not_attached_to_as_shared_nor_the_other_way_round() {
    let pool = Pool::create(8 * MIB).unwrap();
    let frozen = pool.vmalloc(5000).unwrap().freeze().unwrap();
    let shared = pool.vmalloc(5000).unwrap().share().unwrap();
    assert!(matches!(pool.attach_shared(&frozen.token()), Err(AttachError::Frozen)));
    assert!(matches!(pool.attach(&shared.token()), Err(AttachError::Shared)));
    frozen.free().unwrap();
    shared.free().unwrap();
    assert_empty(&pool);
}

/// Goal: no token, whatever it says, does more than fail.
/// Method: a good token with each field replaced by random and by extreme numbers, thousands of
/// times, in a pool with live, parked and published areas; all must be there afterwards, with
/// their contents.
#[test]
fn forged_tokens_are_refused_and_change_nothing() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut random = Random(1);
    let mut live: Vec<_> = (1..40).map(|i| pool.vmalloc(i * 3000).unwrap()).collect();
    live.iter_mut().enumerate().for_each(|(i, buf)| buf.fill(i as u8));
    drop((1..20).map(|i| pool.vmalloc(i * 5000).unwrap()).collect::<Vec<_>>());
    let frozen = pool.vzalloc(100_000).unwrap().freeze().unwrap();
    let token = frozen.token();
    let before = pool.verify().unwrap();

    let extreme = [0, 1, 63, 64, 65, u64::from(u32::MAX), (1 << 48) - 1, u64::MAX];
    for round in 0..20_000 {
        let mut value = |max: u64| match random.of(0..3) {
            0 => extreme[random.of(0..extreme.len() as u64) as usize],
            1 => random.of(0..max),
            _ => random.next(),
        };
        let forged: Token = forge(&token, |n| match round % 5 {
            0 => n[0] = value(4),
            1 => n[1] = value(64 * 64),
            2 => n[2] = value(4),
            3 => n[3] = value(64),
            _ => (n[1], n[2], n[3]) = (value(64 * 64), value(4), value(64)),
        });
        if forged == token {
            continue;
        }
        assert!(pool.attach(&forged).is_err(), "{forged} attached");
        assert!(pool.attach_shared(&forged).is_err(), "{forged} attached");
        assert!(pool.free(&forged).is_err(), "{forged} freed");
    }
    assert_eq!(pool.verify().unwrap(), before);
    assert!(live.iter().enumerate().all(|(i, buf)| buf.iter().all(|&byte| byte == i as u8)));
    frozen.free().unwrap();
    drop(live);
    assert_empty(&pool);
}

/// Goal: a buffer that is nobody else's cannot be freed by a token made up for it.
/// Method: the token that its area would have; free must refuse, and the buffer live on.
#[test]
fn regress_a_made_up_token_does_not_free_a_live_buffer() {
    let pool = Pool::create(16 * MIB).unwrap();
    let published = pool.vmalloc(5000).unwrap().freeze().unwrap();
    let mut buf = pool.vmalloc(9000).unwrap();
    buf.fill(5);
    let area = pool.areas().into_iter().find(|area| area.bytes == 9000).unwrap();
    let made_up = forge(&published.token(), |n| {
        (n[1], n[2], n[3]) = (area.id.0.into(), area.generation, area.pages.len.0);
    });
    assert!(matches!(pool.free(&made_up), Err(FreeError::Engine(_))));
    assert_eq!(pool.verify().unwrap().areas, 2);
    assert!(buf.iter().all(|&byte| byte == 5));
    drop(buf);
    published.free().unwrap();
    assert_empty(&pool);
}

/// Goal: handles of one process are counted right while threads come and go over one area: who
/// attaches at the very moment of publishing holds it.
/// Method: an area is published over and over in one place, so its next token can be told in
/// advance; a second thread keeps redeeming it, and looks whether what it holds lives on while the
/// first one frees it.
#[test]
fn regress_an_attach_at_the_moment_of_publishing_is_counted() {
    let pool = Pool::create(8 * MIB).unwrap();
    let first = pool.vmalloc(5000).unwrap().freeze().unwrap();
    let token = first.token();
    first.free().unwrap();
    let tokens: Vec<Token> = (0..=30_000).map(|n| forge(&token, |t| t[2] += n)).collect();
    let round = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let finder = scope.spawn(|| {
            let mut caught = 0;
            loop {
                // Relaxed: a hint which token comes next.
                let now = round.load(Ordering::Relaxed);
                if now == u64::MAX {
                    return caught;
                }
                match pool.attach(&tokens[now as usize]) {
                    Ok(seen) => {
                        caught += 1;
                        let again = pool.attach(&seen.token());
                        drop(again);
                        // Detached, and freed, it would be parked, or in the next tenant's hands.
                        let page = seen.as_ptr().addr() - pool.window_base();
                        let lives = |area: &Area| {
                            area.addr().0 == page as u64
                                && matches!(area.kind, Kind::Frozen | Kind::Dying)
                        };
                        assert!(pool.areas().iter().any(lives), "{seen:?} is nobody's");
                    }
                    Err(AttachError::Engine(_)) => {}
                    Err(e) => panic!("{e:?}"),
                }
            }
        });
        let mut random = Random(1);
        for n in 1..=30_000 {
            let mut buf = pool.vmalloc(5000).unwrap();
            buf[0] = 1;
            round.store(n, Ordering::Relaxed);
            let frozen = buf.freeze().unwrap();
            (0..random.of(0..200)).for_each(|_| std::hint::spin_loop());
            frozen.free().unwrap();
        }
        round.store(u64::MAX, Ordering::Relaxed);
        println!("attached in {} of 30000 rounds", finder.join().unwrap());
    });
    assert_empty(&pool);
}

/// Goal: in a pool for one process, too, what is freed stays until that process has let it go: nobody
/// gets pages of which a handle lives. (Such pools had no presence cells, so a free parked the area at
/// once; with 64 threads, others then found its pages in use.)
/// Method: both kinds, freed by token while a handle lives; then as many pages are allocated as there
/// are, zeroed ones last, and each must be another's.
#[test]
fn regress_a_pool_for_one_process_keeps_what_its_handles_show() {
    let pool = Pool::options().members(1).create(MIB).unwrap();
    let made = |byte: u8| {
        let mut buf = pool.vmalloc(64 * KIB as usize).unwrap();
        buf.fill(byte);
        buf
    };
    let (frozen, shared) = (made(1).freeze().unwrap(), made(2).share().unwrap());
    pool.free(&frozen.token()).unwrap();
    pool.free(&shared.token()).unwrap();
    let warm = [pool.vmalloc(64 * KIB as usize).unwrap(), pool.vzalloc(64 * KIB as usize).unwrap()];
    assert!(warm.iter().all(|buf| buf.as_ptr() != frozen.as_ptr()));
    assert!(frozen.iter().all(|&byte| byte == 1), "a frozen area was given out again");
    let mut seen = [0; 64 * KIB as usize];
    shared.read_at(0, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == 2), "a shared area was given out again");
    drop((frozen, shared, warm));
    assert_empty(&pool);
}

/// Goal: what was frozen goes warm to its maker, who alone has written it, and to nobody else; what
/// others could write goes to its maker zeroed.
/// Method: areas of one size, one at a time, so that each allocation takes the last one's pages.
#[test]
fn a_frozen_area_comes_back_to_its_maker_as_it_was_and_to_others_zeroed() {
    let pool = Pool::create(16 * MIB).unwrap();
    let filled = |byte: u8| {
        let mut buf = pool.vmalloc(64 * KIB as usize).unwrap();
        buf.fill(byte);
        buf
    };
    let frozen = filled(1).freeze().unwrap();
    let (at, token) = (frozen.as_ptr(), frozen.token());
    let mut peer = Peer::of(&pool);
    let key = peer.ok(&format!("attach {token}"));
    frozen.free().unwrap();
    peer.ok(&format!("drop {key}"));
    let again = pool.vmalloc(64 * KIB as usize).unwrap();
    assert!(again.as_ptr() == at, "other pages than the last ones");
    assert!(again.iter().all(|&byte| byte == 1), "zeroed, though nobody else wrote it");
    drop(again);

    let frozen = filled(2).freeze().unwrap();
    frozen.free().unwrap();
    let key = peer.ok(&format!("vmalloc {}", 64 * KIB));
    assert_eq!(peer.ok(&format!("read {key} 0")), "0", "another member's bytes");
    peer.ok(&format!("drop {key}"));

    let shared = filled(3).share().unwrap();
    shared.free().unwrap();
    let again = pool.vmalloc(64 * KIB as usize).unwrap();
    assert!(again.iter().all(|&byte| byte == 0), "what another could have written");
}

/// Goal: whoever gets the number of a member that left, or was killed, gets nothing of what that one
/// had frozen, whenever it is freed.
/// Method: a peer freezes an area, and leaves or is killed; another takes its number; the area is
/// freed, before or after that; the successor allocates as much.
#[test]
fn a_successor_sees_nothing_of_what_its_number_had_frozen() {
    for is_killed in [false, true] {
        for is_freed_before in [false, true] {
            let pool = Pool::options().members(2).create(MIB).unwrap();
            let mut first = Peer::of(&pool);
            let key = first.ok(&format!("vmalloc {}", 64 * KIB));
            first.ok(&format!("fill {key} 9"));
            let token: Token = first.ok(&format!("freeze {key}")).parse().unwrap();
            let here = pool.attach(&token).unwrap();
            if is_freed_before {
                pool.free(&token).unwrap();
            }
            if is_killed {
                first.kill()
            } else {
                first.dismiss()
            };
            let mut second = Peer::of(&pool);
            if !is_freed_before {
                pool.free(&token).unwrap();
            }
            drop(here);
            let key = second.ok(&format!("vmalloc {}", 64 * KIB));
            let what = format!("killed: {is_killed}, freed before: {is_freed_before}");
            assert_eq!(second.ok(&format!("read {key} 0")), "0", "{what}");
            second.dismiss();
        }
    }
}
