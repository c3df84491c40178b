//! The member that is killed: what it has before the verb, and the verbs.

use super::{step, trap};
use crate::peer::say;
use crate::support::PAGE;
use std::io::stdin;
use vmalloc::{Buf, Frozen, Options, Pool, Request, Reservation, Shared, Token};

/// What a member has in hand when the verb begins.
pub struct Actor {
    path: String,
    pool: Option<Pool>,
    own: Option<Buf>,
    fleeting: Option<Buf>,
    given: Option<Shared>,
    taken: Option<Shared>,
    dying: Option<Shared>,
    offered: Token,
    // What the verb got: kept until the end, for dropping it would be another verb.
    kept: Vec<Kept>,
}

#[allow(dead_code, reason = "kept for being dropped late")]
enum Kept {
    Buf(Buf),
    Frozen(Frozen),
    Shared(Shared),
    Reservation(Reservation),
    Pool(Pool),
}

/// Who carries the verb out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A member that has all of [`Actor`].
    Member,
    /// A process that is no member yet.
    Stranger,
    /// The same, while the slot that it gets is a dead member's.
    Heir,
}

pub struct Verb {
    pub name: &'static str,
    pub by: By,
    run: fn(&mut Actor),
}

const fn member(name: &'static str, run: fn(&mut Actor)) -> Verb {
    Verb { name, by: By::Member, run }
}

pub const VERBS: &[Verb] = &[
    member("vmalloc, a new chunk", |a| a.alloc(&pages(10))),
    member("vmalloc, a slot of a chunk", |a| a.alloc(&pages(20))),
    member("vmalloc, granules of its own", |a| a.alloc(&pages(900))),
    member("vmalloc, huge pages", |a| a.alloc(&pages(512).huge())),
    member("vmalloc, revived", |a| a.alloc(&pages(3))),
    member("vmalloc, revived, another's", |a| a.alloc(&pages(5))),
    member("vmalloc, revived, large", |a| a.alloc(&pages(460))),
    member("vmalloc, made to fit, longer", |a| a.alloc_fitted(470)),
    member("vmalloc, made to fit, shorter", |a| a.alloc_fitted(455)),
    member("vmalloc, after a purge", |a| a.alloc(&pages(2500).huge())),
    member("vmalloc, refused", |a| {
        a.pool().alloc(&pages(3072).huge().no_wait()).expect_err("more than there is");
    }),
    member("vzalloc", |a| a.alloc(&pages(3).zeroed())),
    member("free", |a| a.own = None),
    member("free, no reuse", |a| a.fleeting = None),
    member("freeze", |a| {
        let frozen = a.own.take().unwrap().freeze().unwrap();
        a.kept.push(Kept::Frozen(frozen));
    }),
    member("share", |a| {
        let shared = a.own.take().unwrap().share().unwrap();
        a.kept.push(Kept::Shared(shared));
    }),
    member("attach", |a| {
        let frozen = a.pool().attach(&a.offered).unwrap();
        a.kept.push(Kept::Frozen(frozen));
    }),
    member("detach", |a| a.taken = None),
    member("detach, the last of a freed area", |a| a.dying = None),
    member("free a published area, while others are attached", |a| {
        let token = a.given.as_ref().unwrap().token();
        a.pool().free(&token).unwrap();
    }),
    member("free a published area, by token", |a| a.pool().free(&a.offered).unwrap()),
    member("resize, shorter", |a| a.own.as_mut().unwrap().resize(PAGE as usize).unwrap()),
    member("resize, longer", |a| {
        let mut buf = a.pool().alloc(&pages(520)).unwrap();
        buf.resize(900 * PAGE as usize).unwrap();
        a.kept.push(Kept::Buf(buf));
    }),
    member("grow a shared area", |a| {
        let mut shared = a.pool().alloc(&pages(520)).unwrap().share().unwrap();
        shared.grow(600 * PAGE as usize).unwrap();
        shared.grow(900 * PAGE as usize).unwrap();
        a.kept.push(Kept::Shared(shared));
    }),
    member("commit parts of a reservation", |a| {
        let mut reservation = a.pool().reserve(1 << 30).unwrap();
        reservation.commit(0..3 * PAGE as usize).unwrap();
        reservation.commit(1 << 20..3 << 20).unwrap();
        a.kept.push(Kept::Reservation(reservation));
    }),
    member("commit and decommit a part of a reservation", |a| {
        let mut reservation = a.pool().reserve(1 << 30).unwrap();
        reservation.commit(0..20 * PAGE as usize).unwrap();
        reservation.decommit(0..1 << 30).unwrap();
        a.kept.push(Kept::Reservation(reservation));
    }),
    member("give to whoever comes", |a| {
        let _token = a.own.take().unwrap().give().unwrap();
    }),
    member("give to a member", |a| {
        let _token = a.own.take().unwrap().give_to(1).unwrap();
    }),
    member("give and take", |a| {
        let number = a.pool().member_number();
        let token = a.own.take().unwrap().give_to(number).unwrap();
        let taken = a.pool().take(&token).unwrap();
        a.kept.push(Kept::Buf(taken));
    }),
    member("name and unname", |a| {
        a.pool().name(&a.offered, "offered").unwrap();
        a.pool().unname("offered").unwrap();
    }),
    member("purge", |a| assert!(a.pool().purge().unwrap().areas > 0)),
    member("leave", |a| {
        (a.own, a.fleeting, a.given, a.taken, a.dying) = (None, None, None, None, None);
        a.pool = None;
    }),
    Verb { name: "join", by: By::Stranger, run: Actor::join },
    Verb { name: "join, in a dead member's slot", by: By::Heir, run: Actor::join },
];

fn pages(n: u64) -> Request {
    Request::bytes(n * PAGE)
}

/// As a member with an account of its own: the machine's would be asked in a thousand steps.
pub fn options() -> Options {
    Pool::options().memory_bytes(1 << 30)
}

impl Actor {
    fn pool(&self) -> Pool {
        self.pool.clone().expect("a member")
    }

    fn alloc(&mut self, request: &Request) {
        let buf = self.pool.as_ref().unwrap().alloc(request).unwrap();
        self.kept.push(Kept::Buf(buf));
    }

    /// The first takes so much that less than `n` pages are free: then what is parked will do.
    fn alloc_fitted(&mut self, n: u64) {
        self.alloc(&pages(1700));
        self.alloc(&pages(n));
    }

    fn join(&mut self) {
        let pool = options().open(self.path.as_ref()).unwrap();
        self.kept.push(Kept::Pool(pool));
    }
}

/// What the process does that is stepped through one verb, or waits to be killed: the argument is
/// the pool's path, the verb's number, and the tokens that [`Actor`] wants.
pub fn stepped(argument: &str) {
    let words: Vec<&str> = argument.split(' ').collect();
    let [path, verb, offered, taken, dying] = words[..] else { panic!("{argument:?}") };
    let verb = &VERBS[verb.parse::<usize>().unwrap()];
    let token = |text: &str| text.parse::<Token>().unwrap();
    let mut actor = Actor {
        path: path.to_owned(),
        pool: None,
        own: None,
        fleeting: None,
        given: None,
        taken: None,
        dying: None,
        offered: token(offered),
        kept: Vec::new(),
    };
    let mut base = 0;
    if verb.by == By::Member {
        let pool = options().open(path.as_ref()).unwrap();
        base = pool.window_base();
        let alloc = |n| pool.alloc(&pages(n)).unwrap();
        actor.taken = Some(pool.attach_shared(&token(taken)).unwrap());
        actor.dying = Some(pool.attach_shared(&token(dying)).unwrap());
        actor.given = Some(alloc(5).share().unwrap());
        actor.fleeting = Some(pool.alloc(&pages(3).no_reuse()).unwrap());
        let (own, parked, large) = (alloc(3), alloc(3), alloc(460));
        drop((parked, large));
        actor.own = Some(own);
        say(&format!("ready {}", actor.given.as_ref().unwrap().token()));
        actor.pool = Some(pool);
    } else {
        say("ready");
    }
    // Everybody else gets ready, too.
    stdin().read_line(&mut String::new()).unwrap();
    say(&format!("{} {base}", nix::unistd::gettid()));
    step::let_parent_step();
    (verb.run)(&mut actor);
    step::stand_still();
}

/// What the process does that is stepped through a recovery: the argument is the pool's path.
pub fn recoverer(path: &str) {
    let pool = options().open(path.as_ref()).unwrap();
    let (number, thread, base) = (pool.member_number(), nix::unistd::gettid(), pool.window_base());
    say(&format!("{number} {thread} {base} {}", trap::system_call()));
    step::let_parent_step();
    pool.recover();
    step::stand_still();
}
