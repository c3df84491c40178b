//! Making and opening a pool.
//!
//! ```text
//!   create: file (holes) ─▶ map ─▶ commit the tables ─▶ header ─▶ ready ─▶ join
//!   open:   file ─check kind, seals, owner─▶ read the header ─check─▶ map ─▶ join
//! ```

use crate::error::{CreateError, OpenError};
use crate::framed;
use crate::header::{CAPACITY_MAX, HEADER_BYTES, Header, Shape};
use crate::linear::{Ground, allocate};
use crate::member::Member;
use crate::os::commit::{Grain, commit};
use crate::os::file::PoolFile;
use crate::os::memory::Headroom;
use crate::os::open::{Accept, Owner as FileOwner};
use crate::os::{PAGE_BYTES, Span};
use crate::pool::Pool;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use vmalloc_core::Pages;

/// How a pool is made or opened. Begin with [`Pool::options`].
#[derive(Clone, Debug)]
pub struct Options {
    name: String,
    members: usize,
    lazy_bytes: Option<u64>,
    memory_bytes: Option<u64>,
    window_bytes: Option<u64>,
    any_owner: bool,
    is_framed: bool,
}

impl Default for Options {
    fn default() -> Options {
        let name = "pool".to_owned();
        Options {
            name,
            members: 64,
            lazy_bytes: None,
            memory_bytes: None,
            window_bytes: None,
            any_owner: false,
            is_framed: false,
        }
    }
}

impl Options {
    /// The name of a pool without a path, as `vmalloc list` shows it. Everybody can see it.
    #[must_use]
    pub fn name(mut self, name: &str) -> Options {
        name.clone_into(&mut self.name);
        self
    }

    /// How many processes may be members at a time, 1 to 64.
    #[must_use]
    pub fn members(mut self, members: usize) -> Options {
        self.members = members;
        self
    }

    /// How much freed memory may be parked, warm for reuse, before a free of this member's purges.
    /// Default: no limit but the pool's capacity, since whoever needs parked frames purges them.
    /// A purge goes down to half of it. Once more is parked than 64 MiB and half of what is in use,
    /// or than half of this limit, what is parked is made to fit whoever wants another size, before
    /// fresh frames are taken: so sizes that never come back do not fill the pool. Each of up to eight
    /// lanes of a member counts a 32nd of it before the others see that, so many members together may
    /// park several times as much. Linux: `lazy_max_pages`.
    #[must_use]
    pub fn lazy_bytes(mut self, bytes: u64) -> Options {
        self.lazy_bytes = Some(bytes);
        self
    }

    /// How many bytes of addresses a new pool has, instead of 64 times its capacity and 4 GiB at
    /// least: for processes whose address space is limited. At least twice the capacity, since
    /// areas that lie in the way of each other need room to go elsewhere.
    #[must_use]
    pub fn window_bytes(mut self, bytes: u64) -> Options {
        self.window_bytes = Some(bytes);
        self
    }

    /// Takes the machine to have `bytes` of memory for this member, instead of looking at what it
    /// has. For tests, and for programs that keep their own accounts.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Options {
        self.memory_bytes = Some(bytes);
        self
    }

    /// A new pool is *framed*: as long as its capacity and a part for tables, its frames there from
    /// the start, and the pool hands them out itself, wherever they lie. For a fixed piece of
    /// memory: the same verbs, at the price of a mapping (and about 5 µs) for each run of frames.
    ///
    /// # Examples
    ///
    /// ```
    /// # use vmalloc::Pool;
    /// let pool = Pool::options().framed().create(16 << 20)?;
    /// let mut buf = pool.vmalloc(3 << 20)?;
    /// buf[..5].copy_from_slice(b"hello");
    /// assert!(pool.info().framed);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn framed(mut self) -> Options {
        self.is_framed = true;
        self
    }

    /// Opens pools of other users, too, where the kernel lets us. A pool is one trust domain:
    /// its owner can spoil whatever this process keeps there.
    #[must_use]
    pub fn any_owner(mut self) -> Options {
        self.any_owner = true;
        self
    }

    /// Makes a pool that may hold `capacity_bytes`, with no name in any file system: it lives
    /// while somebody has it open.
    ///
    /// # Errors
    ///
    /// [`CreateError`].
    pub fn create(&self, capacity_bytes: u64) -> Result<Pool, CreateError> {
        let shape = self.shape(capacity_bytes)?;
        let file = PoolFile::create_memfd(&self.name, shape.file_bytes());
        self.make(file.map_err(|e| CreateError::Os(Box::new(e)))?, shape)
    }

    /// Makes a pool at `path`, which must lie on tmpfs (`/dev/shm`, say) and be free. It lives
    /// until the file is removed and the last member has left.
    ///
    /// # Errors
    ///
    /// [`CreateError`].
    pub fn create_at(&self, path: &Path, capacity_bytes: u64) -> Result<Pool, CreateError> {
        let shape = self.shape(capacity_bytes)?;
        let file = PoolFile::create_at(path, shape.file_bytes());
        let file = file.map_err(|e| CreateError::Os(Box::new(e)))?;
        self.make(file, shape).inspect_err(|_| {
            // It was ours a moment ago, and holds nothing.
            let _ = std::fs::remove_file(path);
        })
    }

    /// Makes a framed pool of the file at `path`, all of it: memory that somebody set aside, what a
    /// hypervisor shares with its guests, say. It must lie on tmpfs and be this user's alone, and its
    /// first 40 KiB must be zero: what else is there is overwritten. Memory of it that is there
    /// already is not taken from what the machine has left ([`Options::memory_bytes`]); holes are.
    ///
    /// Tables are taken off: the more, the more [`Options::members`] there can be and the longer the
    /// [`Options::window_bytes`]. What the pool may hold then,
    /// [`Info::capacity_bytes`](crate::Info::capacity_bytes) says.
    ///
    /// # Errors
    ///
    /// [`CreateError`]; if the file is not empty, it was not touched.
    pub fn create_in(&self, path: &Path) -> Result<Pool, CreateError> {
        let file = PoolFile::open_path(path, &self.accept());
        let file = file.map_err(|e| CreateError::Os(Box::new(e)))?;
        let mut first = [0; HEADER_BYTES as usize];
        if !file.read_at(0, &mut first) || first.iter().any(|byte| *byte != 0) {
            return Err(CreateError::NotEmpty);
        }
        let shape = self.shape_in(file.bytes())?;
        self.make_in(file, shape)
    }

    /// The framed shape with the most frames that takes no more than `bytes`.
    fn shape_in(&self, bytes: u64) -> Result<Shape, CreateError> {
        let options = Options { is_framed: true, ..self.clone() };
        options.check_members()?;
        let most = Pages(bytes / PAGE_BYTES).min(CAPACITY_MAX);
        let (id, window) = (random(), options.window());
        if window
            .is_some_and(|pages| pages.0 == 0 || pages > options.roomy(id, most).geometry.pages())
        {
            return Err(CreateError::Window { bytes: options.window_bytes.unwrap_or(0) });
        }
        let shape_of = |pages: u64| options.shape_of(id, Pages(pages));
        let needed = shape_of(1).file_bytes();
        if needed > bytes {
            return Err(CreateError::NoRoom { bytes, needed });
        }
        // So many pages fit; so many are too many. More pages never take less.
        let (mut fit, mut over) = (1, most.0 + 1);
        while over - fit > 1 {
            let middle = fit + (over - fit) / 2;
            match shape_of(middle).file_bytes() <= bytes {
                true => fit = middle,
                false => over = middle,
            }
        }
        options.checked(shape_of(fit))
    }

    /// Makes a framed pool in memory that may hold anything.
    fn make_in(&self, file: PoolFile, shape: Shape) -> Result<Pool, CreateError> {
        let os = |e: crate::error::Source| CreateError::Os(e);
        let held = file.resident_bytes().map_err(|e| os(Box::new(e)))?;
        let ground = Ground::new(Arc::new(file), shape, self.headroom()).map_err(os)?;
        let (all, file) = (Span::new(0, shape.file_bytes()), ground.mapping.file());
        // What is a hole becomes memory: from here on all of it is. What the kernel holds behind our
        // part is none of it.
        let behind = file.bytes().saturating_sub(all.len);
        let holes = all.len.saturating_sub(held.saturating_sub(behind));
        ground.headroom.take(holes, holes).map_err(|e| os(Box::new(e)))?;
        allocate(file, all).map_err(|e| os(Box::new(e)))?;
        let words = ground.mapping.words(0, (all.len / 8) as usize);
        let words = words.map_err(|e| os(Box::new(e)))?;
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.finish(ground)
    }

    /// Opens the pool at `path`, which may also be another process's `/proc/PID/fd/N`.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(&self, path: &Path) -> Result<Pool, OpenError> {
        self.join(self.file_at(path)?)
    }

    /// Opens the pool behind a descriptor that was inherited or received. The descriptor is
    /// closed: a member has an open file description of its own.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_fd(&self, fd: OwnedFd) -> Result<Pool, OpenError> {
        let file = PoolFile::from_fd(fd, &self.accept());
        self.join(file.map_err(|e| OpenError::File(Box::new(e)))?)
    }

    /// Maps the pool at `path` for a look, without joining.
    pub(crate) fn ground_at(&self, path: &Path) -> Result<Ground, OpenError> {
        self.ground(self.file_at(path)?)
    }

    fn file_at(&self, path: &Path) -> Result<PoolFile, OpenError> {
        let file = match proc_fd(path) {
            Some((pid, fd)) => PoolFile::open_proc(pid, fd, &self.accept()),
            None => PoolFile::open_path(path, &self.accept()),
        };
        file.map_err(|e| OpenError::File(Box::new(e)))
    }

    fn accept(&self) -> Accept {
        let owner = if self.any_owner { FileOwner::Anyone } else { FileOwner::Me };
        Accept { bytes_min: HEADER_BYTES, owner }
    }

    fn shape(&self, capacity_bytes: u64) -> Result<Shape, CreateError> {
        let capacity = Pages::for_bytes(capacity_bytes);
        if capacity.0 == 0 || capacity > CAPACITY_MAX {
            return Err(CreateError::Capacity { bytes: capacity_bytes });
        }
        self.check_members()?;
        self.checked(self.shape_of(random(), capacity))
    }

    fn check_members(&self) -> Result<(), CreateError> {
        let is_possible = (1..=vmalloc_core::layout::MEMBERS_MAX).contains(&self.members);
        is_possible.then_some(()).ok_or(CreateError::Members { members: self.members })
    }

    /// The window that is asked for.
    fn window(&self) -> Option<Pages> {
        self.window_bytes.map(Pages::for_bytes)
    }

    /// The shape with the window that it has by default.
    fn roomy(&self, id: u64, capacity: Pages) -> Shape {
        match self.is_framed {
            true => Shape::framed(id, capacity, self.members),
            false => Shape::new(id, capacity, self.members),
        }
    }

    /// The shape with the window that is asked for, however that fits.
    fn shape_of(&self, id: u64, capacity: Pages) -> Shape {
        let roomy = self.roomy(id, capacity);
        self.window().map_or(roomy, |window| roomy.with_window(window))
    }

    /// This shape, if the window that is asked for fits its capacity.
    fn checked(&self, shape: Shape) -> Result<Shape, CreateError> {
        let Some(bytes) = self.window_bytes else { return Ok(shape) };
        let window = Pages::for_bytes(bytes);
        let most = self.roomy(shape.id, shape.capacity).geometry.pages();
        if window.0 < 2 * shape.capacity.0 || window > most {
            return Err(CreateError::Window { bytes });
        }
        Ok(shape)
    }

    fn make(&self, file: PoolFile, shape: Shape) -> Result<Pool, CreateError> {
        let os = |e: crate::error::Source| CreateError::Os(e);
        let ground = Ground::new(Arc::new(file), shape, self.headroom()).map_err(os)?;
        let take = |span: Span| -> Result<(), crate::error::Source> {
            ground.headroom.take(span.len, span.len)?;
            Ok(allocate(ground.mapping.file(), span)?)
        };
        take(Span::new(0, shape.flat_bytes())).map_err(os)?;
        if shape.is_framed {
            let words = shape.frame_words();
            let start = Shape::words_offset(words.start);
            take(Span::new(start, Shape::words_offset(words.end) - start)).map_err(os)?;
            let frames = Span::new(shape.words_bytes(), shape.capacity.bytes());
            let committed = commit(&ground.mapping, frames, Grain::Huge, &ground.headroom);
            committed.map_err(|e| os(Box::new(e)))?;
        }
        self.finish(ground)
    }

    /// Puts the header in its place, behind which all tables are zero, and joins.
    fn finish(&self, ground: Ground) -> Result<Pool, CreateError> {
        let shape = ground.shape;
        if shape.is_framed {
            framed::format(ground.header(), &shape);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        ground.header().write(&shape, now);
        ground.header().set_ready();
        let member = Member::join(ground, self.lazy_pages_max(&shape));
        member.map(Pool::new).map_err(|e| CreateError::Os(Box::new(OpenError::from(e))))
    }

    fn join(&self, file: PoolFile) -> Result<Pool, OpenError> {
        let ground = self.ground(file)?;
        let lazy_pages_max = self.lazy_pages_max(&ground.shape);
        Ok(Pool::new(Member::join(ground, lazy_pages_max)?))
    }

    /// Reads the header, then maps the pool as it says.
    fn ground(&self, file: PoolFile) -> Result<Ground, OpenError> {
        let shape = read_shape(&file)?;
        Ground::new(Arc::new(file), shape, self.headroom()).map_err(OpenError::Os)
    }

    fn headroom(&self) -> Headroom {
        self.memory_bytes.map_or_else(|| Headroom::machine(None), Headroom::with_limit)
    }

    fn lazy_pages_max(&self, shape: &Shape) -> Pages {
        self.lazy_bytes.map_or(shape.capacity, Pages::for_bytes)
    }
}

/// The shape of the pool in a file. Not through a mapping: a touch of a hole would put a frame into
/// a file that may not be a pool at all.
pub(crate) fn read_shape(file: &PoolFile) -> Result<Shape, OpenError> {
    let mut bytes = vec![0; HEADER_BYTES as usize];
    if !file.read_at(0, &mut bytes) {
        return Err(OpenError::Os("the header could not be read".into()));
    }
    let (words, _) = bytes.as_chunks::<8>();
    let words: Vec<AtomicU64> =
        words.iter().map(|word| AtomicU64::new(u64::from_ne_bytes(*word))).collect();
    Header::new(&words).parse(file.bytes()).map_err(OpenError::Header)
}

/// The process and descriptor that a path of the form `/proc/PID/fd/N` names.
fn proc_fd(path: &Path) -> Option<(u32, i32)> {
    let mut parts = path.to_str()?.strip_prefix("/proc/")?.split('/');
    let pid = match parts.next()? {
        "self" => std::process::id(),
        pid => pid.parse().ok()?,
    };
    let fd = parts.next().filter(|part| *part == "fd").and(parts.next())?.parse().ok()?;
    parts.next().is_none().then_some((pid, fd))
}

/// A number that no other pool has, from the hasher's random keys.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
