//! The pool: memory that several processes share, and the verbs a program uses.
//!
//! Areas that grow under this process are followed in `pool/grow.rs`; names are in
//! `pool/names.rs`, limits and quotas in `pool/budget.rs`; who finds no room looks again in
//! `pool/room.rs`.

mod budget;
mod grow;
mod names;
mod room;

use crate::buf::{Buf, Frozen, Shared, given};
use crate::error::{AllocError, AttachError, CreateError, FreeError, OpenError, VerifyError};
use crate::events::About;
use crate::info::{Info, MemberInfo};
use crate::member::{self, Member};
use crate::options::Options;
use crate::os::view::{ExclusiveView, FrozenView, SharedView};
use crate::os::{pagemap, passing};
use crate::spread::{Seat, Spread};
use crate::token::Token;
use crate::trace::Op;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vmalloc_core::{Area, Kind, Pages, PurgeError, Purged, Recovered, Request, Verified};

/// A pool of memory, opened by this process, which is a member of it until the last clone and the
/// last buffer are dropped.
///
/// Clones are the same member. All methods take `&self`; threads share a pool freely.
#[derive(Clone, Debug)]
pub struct Pool {
    member: Arc<Spread<Member>>,
}

impl Pool {
    /// How to make or open a pool otherwise than by default.
    #[must_use]
    pub fn options() -> Options {
        Options::default()
    }

    /// Makes a pool that may hold `capacity_bytes`, without a name: it lives while a process has
    /// it open. Costs about 0.6 % of the capacity at once, for tables.
    ///
    /// # Errors
    ///
    /// [`CreateError`].
    pub fn create(capacity_bytes: u64) -> Result<Pool, CreateError> {
        Pool::options().create(capacity_bytes)
    }

    /// Makes a pool at a path on tmpfs, `/dev/shm/frames` say. It lives until the file is removed.
    ///
    /// # Errors
    ///
    /// [`CreateError`].
    pub fn create_at(path: impl AsRef<Path>, capacity_bytes: u64) -> Result<Pool, CreateError> {
        Pool::options().create_at(path.as_ref(), capacity_bytes)
    }

    /// Opens the pool at a path, or at another process's `/proc/PID/fd/N`
    /// (see [`Pool::share_path`]), and joins it.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Pool, OpenError> {
        Pool::options().open(path.as_ref())
    }

    /// Opens the pool whose descriptor a member sends with [`Pool::send`], and joins it.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn receive(socket: &UnixStream) -> Result<Pool, OpenError> {
        let fd = passing::recv_fd(socket).map_err(|e| OpenError::Os(Box::new(e)))?;
        Pool::options().open_fd(fd)
    }

    pub(crate) fn new(member: Member) -> Pool {
        Pool { member: Spread::new(Arc::clone(&member.ground.mapping), member) }
    }

    /// The pool of a member.
    pub(crate) fn of(member: &Seat<Member>) -> Pool {
        Pool { member: member.spread() }
    }

    /// Sends the pool's descriptor over a Unix socket.
    ///
    /// # Errors
    ///
    /// What the socket said.
    pub fn send(&self, socket: &UnixStream) -> std::io::Result<()> {
        Ok(passing::send_fd(socket, self.as_fd())?)
    }

    /// A path by which other processes of this user can open the pool while this one lives:
    /// `/proc/PID/fd/N`.
    #[must_use]
    pub fn share_path(&self) -> PathBuf {
        self.member.ground.mapping.file().share_path()
    }

    /// Allocates `bytes` bytes, in huge pages from 2 MiB on where the system has them. Contents
    /// undefined: what this process freed, or zeros; never what another process left. Linux:
    /// `vmalloc`.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was taken.
    pub fn vmalloc(&self, bytes: usize) -> Result<Buf, AllocError> {
        self.alloc(&Request::bytes(bytes as u64).huge())
    }

    /// Allocates `bytes` zeroed bytes. Linux: `vzalloc`.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was taken.
    pub fn vzalloc(&self, bytes: usize) -> Result<Buf, AllocError> {
        self.alloc(&Request::bytes(bytes as u64).huge().zeroed())
    }

    /// Allocates what the request says. If there is no room, purges, recovers members that died
    /// with memory in their hands, and waits for what others are purging or recovering, two
    /// seconds at most, before it gives up.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing was taken.
    pub fn alloc(&self, request: &Request) -> Result<Buf, AllocError> {
        self.alive().map_err(|()| AllocError::Forked)?;
        let member: &Member = &self.member;
        let claimed = member.claim(Pages::for_bytes(request.len_bytes()));
        let claimed = claimed.map_err(AllocError::Quota)?;
        let area = match member.engine().vmalloc(request) {
            Ok(area) => area,
            Err(e) => room::alloc_again(member, request, e).map_err(AllocError::Engine)?,
        };
        member.note(Op::Alloc, || About::area(&area, request));
        claimed.held();
        match ExclusiveView::new(self.member.here(), member.ground.bytes_of(&area)) {
            Ok(view) => Ok(Buf::new(&area, view)),
            // This process has a view of these pages: the records lie. The area is left as it
            // is, since freeing it would hand the pages to somebody else.
            Err(e) => Err(AllocError::Damaged(Box::new(e))),
        }
    }

    /// Attaches to a frozen area: a plain slice of the frames its maker filled.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing is attached.
    pub fn attach(&self, token: &Token) -> Result<Frozen, AttachError> {
        let area = self.attach_area(token, Kind::Frozen)?;
        match grow::published_view(&self.member, &area, FrozenView::new) {
            Ok(view) => Ok(Frozen::new(*token, view)),
            Err(e) => {
                self.member.detach(token.area, token.generation);
                Err(e)
            }
        }
    }

    /// Attaches to an area that its members write.
    ///
    /// # Errors
    ///
    /// [`AttachError`]; nothing is attached.
    pub fn attach_shared(&self, token: &Token) -> Result<Shared, AttachError> {
        let area = self.attach_area(token, Kind::Shared)?;
        match grow::published_view(&self.member, &area, SharedView::new) {
            Ok(view) => Ok(Shared::new(*token, view)),
            Err(e) => {
                self.member.detach(token.area, token.generation);
                Err(e)
            }
        }
    }

    /// Frees a published area by its token: nobody can attach any more, and when the last member
    /// has detached, it goes. What was given away and not taken goes at once.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing was freed.
    pub fn free(&self, token: &Token) -> Result<(), FreeError> {
        self.alive().map_err(|()| FreeError::Forked)?;
        self.check_pool(token).map_err(|(token, pool)| FreeError::OtherPool { token, pool })?;
        // A token is for what was published: one that was made up for a buffer must not free it.
        let stale = vmalloc_core::FreeError::Stale { generation: token.generation };
        self.look(token).map_err(|_| FreeError::Engine(stale))?;
        let freed = self.member.engine().free(token.area, token.generation);
        self.member.note_free(token.area, token.generation, &freed);
        let freed = freed.map(|freed| self.member.relieve(freed)).map_err(FreeError::Engine);
        self.member.ground.bell(0).ring();
        freed
    }

    /// Gives the frames of everything that is parked back to the system.
    ///
    /// # Errors
    ///
    /// [`PurgeError`]; what was not purged is still parked.
    pub fn purge(&self) -> Result<Purged, PurgeError> {
        if self.member.is_forked() {
            return Ok(Purged::default());
        }
        self.member.note(Op::Purge, About::default);
        self.member.engine().purge()
    }

    /// Gives the frames of up to 64 parked areas back, the largest first, for one flush: a purge
    /// whose stall is bounded.
    ///
    /// # Errors
    ///
    /// [`PurgeError`]; what was not purged is still parked.
    pub fn purge_step(&self) -> Result<Purged, PurgeError> {
        if self.member.is_forked() {
            Ok(Purged::default())
        } else {
            self.member.engine().purge_step()
        }
    }

    /// Gives the frames of what was parked already when this was called last back to the system: who
    /// calls it at intervals keeps warm what is used, and no more. [`Pool::watch_and_decay`] does.
    ///
    /// # Errors
    ///
    /// [`PurgeError`]; what was not purged is still parked.
    pub fn decay(&self) -> Result<Purged, PurgeError> {
        if self.member.is_forked() { Ok(Purged::default()) } else { self.member.engine().decay() }
    }

    /// Recovers what members that died held. Joining does it, and an allocation that finds no
    /// room; call it to see what it finds.
    pub fn recover(&self) -> Recovered {
        if self.member.is_forked() { Recovered::default() } else { self.member.recover_dead() }
    }

    /// What joining found and finished: the work of members that had died.
    #[must_use]
    pub fn recovered_at_join(&self) -> Recovered {
        self.member.at_join
    }

    /// Checks the invariants. Other members must be idle meanwhile.
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: which one does not hold, where.
    pub fn verify(&self) -> Result<Verified, VerifyError> {
        self.member.recount_if_due();
        self.member.ground.verify()
    }

    /// What the pool is and holds, taken while others work.
    #[must_use]
    pub fn info(&self) -> Info {
        Info::of(&self.member.ground)
    }

    /// Every area, parked ones too, in address order; `Display` of one is its `vmallocinfo` line.
    #[must_use]
    pub fn areas(&self) -> Vec<Area> {
        self.member.engine().areas().collect()
    }

    /// The members whose slots are taken.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        MemberInfo::all(&self.member.ground)
    }

    /// This member's number.
    #[must_use]
    pub fn member_number(&self) -> usize {
        self.member.me.number()
    }

    /// Where the window begins in this process. An area's address is this plus its pages' offset.
    #[must_use]
    pub fn window_base(&self) -> usize {
        self.member.ground.window_base()
    }

    /// How many virtual memory areas of this process the pool takes: three, whatever it holds. Of a
    /// framed pool: a few, and one for each run of frames that this process uses.
    ///
    /// # Errors
    ///
    /// What reading `/proc/self/maps` said.
    pub fn vmas(&self) -> std::io::Result<usize> {
        let (base, bytes) = (self.member.ground.mapping.base(), self.member.ground.mapping.bytes());
        Ok(pagemap::vmas_within(&(base..base + bytes as usize))?)
    }

    /// The token of a published area, for tools that list areas.
    #[must_use]
    pub fn token_of(&self, area: &Area) -> Option<Token> {
        crate::info::token_of(&self.member.ground, area)
    }

    fn attach_area(&self, token: &Token, kind: Kind) -> Result<Area, AttachError> {
        self.alive().map_err(|()| AttachError::Forked)?;
        self.check_pool(token).map_err(|(token, pool)| AttachError::OtherPool { token, pool })?;
        let area = self.look(token).map_err(AttachError::Engine)?;
        if area.kind != kind {
            return Err(match area.kind {
                Kind::Frozen => AttachError::Frozen,
                Kind::Given => AttachError::Given,
                _ => AttachError::Shared,
            });
        }
        let area = self.member.attach(&token.core()).map_err(AttachError::Engine)?;
        self.member.note(Op::Attach, || About::handle(area.id, area.generation));
        Ok(area)
    }

    /// The published or given area that the token names, in every number.
    fn look(&self, token: &Token) -> Result<Area, vmalloc_core::AttachError> {
        let published = self.member.engine().look(&token.core());
        let area = published.or_else(|e| given(&self.member, token).ok_or(e))?;
        if !grow::length_fits(&area, token.pages) {
            return Err(vmalloc_core::AttachError::Malformed);
        }
        Ok(area)
    }

    pub(crate) fn member(&self) -> &Arc<Spread<Member>> {
        &self.member
    }

    pub(crate) fn check_pool(&self, token: &Token) -> Result<(), (u32, u32)> {
        let pool = self.member.ground.shape.pool_number();
        if token.pool == pool { Ok(()) } else { Err((token.pool, pool)) }
    }

    fn alive(&self) -> Result<(), ()> {
        if self.member.is_forked() { Err(()) } else { Ok(()) }
    }
}

impl AsFd for Pool {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.member.ground.mapping.file().as_fd()
    }
}

pub(crate) use grow::follow_view;
pub(crate) use member::is_alive;
pub(crate) use room::Search;
