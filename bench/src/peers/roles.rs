//! The roles of those contenders that live in this program.

use super::Kind;
use super::store::{Memfds, Plan, Store, frag};
use crate::rng::Rng;
use crate::share::{receive_fd, send_fd};
use std::os::unix::net::UnixStream;
use vmalloc::Pool;

/// How many blocks a victim holds.
const LIVE: usize = 16;
/// What the next user takes.
const NEXT_BYTES: usize = 64 << 10;

/// Plays a role: `contender role argument…`.
pub fn child(args: &[String]) {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == args[0]).expect("a contender");
    let spot = args.get(2).map_or("", String::as_str);
    match (kind, args[1].as_str()) {
        (Kind::Ours, "work") => {
            let mut pool = Pool::open(spot).expect("the judge's pool");
            work(|bytes| pool.touched(bytes).expect("a pool with room"));
        }
        (Kind::Ours, "next") => {
            let mut pool = Pool::open(spot).expect("the judge's pool");
            pool.touched(NEXT_BYTES).expect("a pool with room");
            // Nobody else is alive and holds anything: what is in use is lost.
            println!("leaked={}", pool.info().stats.used.bytes());
        }
        (Kind::Ours, "idle") => {
            let _pool = Pool::open(spot).expect("the judge's pool");
            println!("joined");
            // Until its input ends.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        }
        (Kind::Ours, "frag") => frag(&Plan::read(), |plan| {
            Pool::create(plan.pool_bytes as u64).expect("a pool of the plan's size")
        }),
        (Kind::Memfd, "work") => {
            let (here, there) = UnixStream::pair().expect("a pair of sockets");
            work(|bytes| {
                let block = Memfds.touched(bytes).expect("a memfd");
                send_fd(&here, &block.file);
                (block, receive_fd(&there))
            });
        }
        (Kind::Memfd, "next") => {
            Memfds.touched(NEXT_BYTES).expect("a memfd");
            println!("leaked=0");
        }
        (Kind::Memfd, "frag") => frag(&Plan::read(), |_| Memfds),
        #[cfg(feature = "iceoryx2")]
        (Kind::Iceoryx, role) => super::iceoryx::child(role, spot),
        _ => panic!("no such role: {args:?}"),
    }
}

/// Takes and drops until it is killed.
pub fn work<B>(mut take: impl FnMut(usize) -> B) -> ! {
    let mut rng = Rng(u64::from(std::process::id()));
    let mut live = Vec::new();
    let mut is_told = false;
    loop {
        if live.len() == LIVE {
            live.swap_remove(rng.below(LIVE as u64) as usize);
        }
        live.push(take(4096 << rng.below(7)));
        if !is_told {
            println!("ready");
            is_told = true;
        }
    }
}
