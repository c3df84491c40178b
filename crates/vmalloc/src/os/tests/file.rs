//! Pool files: made, checked on opening, grown full and emptied.

use crate::os::fail::Plan;
use crate::os::file::{CreateError, Kind, PoolFile};
use crate::os::open::{Accept, OpenError, Owner};
use crate::os::tests::{MIB, is_root, skip, span};
use crate::os::{PAGE_BYTES, passing};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

fn accept() -> Accept {
    Accept::mine(PAGE_BYTES)
}

/// A path on tmpfs that no other test uses. Removed on drop.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Scratch {
        Scratch(PathBuf::from(format!("/dev/shm/vmalloc-os-{}-{name}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Goal: nobody can shrink or grow a pool under a mapping, make it executable, or add a seal that
/// would stop the purge; and other users cannot open it.
/// Method: try each on a fresh memfd.
#[test]
fn a_memfd_pool_is_sealed_and_private_from_birth() {
    let pool = PoolFile::create_memfd("sealed", 4 * MIB).unwrap();
    assert_eq!(rustix::fs::ftruncate(&pool, 0), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(&pool, 8 * MIB), Err(Errno::PERM));
    assert_eq!(rustix::fs::fcntl_add_seals(&pool, SealFlags::FUTURE_WRITE), Err(Errno::PERM));
    let stat = rustix::fs::fstat(&pool).unwrap();
    assert_eq!(stat.st_mode & 0o777, 0o600);
    let seals = rustix::fs::fcntl_get_seals(&pool).unwrap();
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL), "{seals:?}");
    if seals.contains(SealFlags::EXEC) {
        assert_eq!(rustix::fs::fchmod(&pool, Mode::RWXU), Err(Errno::PERM));
    } else {
        skip("fchmod +x of a memfd", "no MFD_NOEXEC_SEAL", "needs Linux 6.3");
    }
    assert_eq!((pool.bytes(), pool.kind()), (4 * MIB, Kind::Memfd));
}

/// Goal: what others hand us is opened only if it cannot shrink under us.
/// Method: memfds with all, some and no seals, through a descriptor and through `/proc`.
#[test]
fn open_refuses_a_memfd_without_its_seals() {
    let memfd = |seals| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("vmalloc:unsealed", flags).unwrap();
        rustix::fs::ftruncate(&fd, MIB).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    };
    for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::SHRINK] {
        let error = PoolFile::from_fd(memfd(seals), &accept()).unwrap_err();
        assert_eq!(error, OpenError::Unsealed { seals });
    }
    let both = SealFlags::SHRINK | SealFlags::GROW;
    assert!(PoolFile::from_fd(memfd(both), &accept()).is_ok());
}

/// Goal: only a regular file in memory, of our own, large enough and writable, becomes a pool.
/// Method: one of each other sort, by path or descriptor.
#[test]
fn open_refuses_what_is_not_a_pool_file() {
    let open = |path: &str| PoolFile::open_path(Path::new(path), &accept()).unwrap_err();
    assert!(matches!(open("/dev/null"), OpenError::NotRegular { .. }));
    assert!(matches!(open("/dev/shm"), OpenError::NotRegular { .. }));
    assert!(matches!(open("/proc/self/status"), OpenError::NotInMemory { .. }));
    assert!(matches!(open("/nowhere"), OpenError::Os { errno: Errno::NOENT, .. }));
    let on_disk = std::env::current_exe().unwrap();
    let error = PoolFile::open_path(&on_disk, &accept()).unwrap_err();
    assert!(matches!(error, OpenError::NotInMemory { .. }), "{error}");

    let (left, _right) = UnixStream::pair().unwrap();
    let error = PoolFile::from_fd(OwnedFd::from(left), &accept()).unwrap_err();
    assert!(matches!(error, OpenError::NotRegular { .. }), "{error}");

    let file = Scratch::new("sorts");
    let _pool = PoolFile::create_at(&file.0, MIB).unwrap();
    let link = Scratch::new("link");
    std::os::unix::fs::symlink(&file.0, &link.0).unwrap();
    let error = PoolFile::open_path(&link.0, &accept()).unwrap_err();
    assert!(matches!(error, OpenError::NotRegular { .. }), "{error}");

    let read_only = rustix::fs::open(&file.0, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let error = PoolFile::from_fd(read_only.unwrap(), &accept()).unwrap_err();
    assert_eq!(error, OpenError::ReadOnly);

    let error = PoolFile::open_path(&file.0, &Accept::mine(2 * MIB)).unwrap_err();
    assert_eq!(error, OpenError::TooSmall { bytes: MIB, bytes_min: 2 * MIB });

    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o660)).unwrap();
    let error = PoolFile::open_path(&file.0, &accept()).unwrap_err();
    assert_eq!(error, OpenError::WritableByOthers { mode: 0o660 });
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(PoolFile::open_path(&file.0, &accept()).is_ok());
}

/// Goal: a pool that belongs to another user is refused, unless one only looks.
/// Method: give a file away (as root).
#[test]
fn open_refuses_another_users_pool() {
    if !is_root() {
        return skip("another user's pool", "only root can give a file away", "run as root");
    }
    let file = Scratch::new("owner");
    let _pool = PoolFile::create_at(&file.0, MIB).unwrap();
    std::os::unix::fs::chown(&file.0, Some(65534), None).unwrap();
    let error = PoolFile::open_path(&file.0, &accept()).unwrap_err();
    assert_eq!(error, OpenError::WrongOwner { uid: 65534, expected: 0 });
    let anyone = Accept { bytes_min: 0, owner: Owner::Anyone };
    assert!(PoolFile::open_path(&file.0, &anyone).is_ok());
}

/// Goal: a named pool is made new, private, and only in memory; a failure leaves no file.
/// Method: create twice, then on a disk.
#[test]
fn create_at_makes_only_new_files_in_memory() {
    let file = Scratch::new("new");
    let pool = PoolFile::create_at(&file.0, MIB).unwrap();
    assert_eq!(pool.kind(), Kind::Named);
    assert_eq!(fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o600);
    let error = PoolFile::create_at(&file.0, MIB).unwrap_err();
    assert!(matches!(error, CreateError::Os { errno: Errno::EXIST, .. }), "{error}");

    let disk = std::env::current_exe().unwrap().with_extension("pool");
    let disk = Scratch(disk);
    let error = PoolFile::create_at(&disk.0, MIB).unwrap_err();
    assert!(matches!(error, CreateError::NotInMemory { .. }), "{error}");
    assert!(error.to_string().contains("/dev/shm"), "{error}");
    assert!(!disk.0.exists());

    for name in ["", "a/b", "a\nb", &"x".repeat(300)] {
        let error = PoolFile::create_memfd(name, MIB).unwrap_err();
        assert_eq!(error, CreateError::BadName { name: name.to_owned() });
    }
    for bytes in [0, 4095, 1 << 63] {
        let error = PoolFile::create_memfd("size", bytes).unwrap_err();
        assert_eq!(error, CreateError::BadSize { bytes });
    }
}

/// Goal: each call of creating and opening may fail, and leaves neither file nor descriptor.
/// Method: count the calls, then fail each; the child counts its own descriptors, undisturbed by
/// other tests.
#[test]
fn a_failed_create_or_open_leaves_nothing_behind() {
    crate::os::tests::process::assert_child_passes("fail-every-call");
}

/// The part of the child in `a_failed_create_or_open_leaves_nothing_behind`.
pub(super) fn fail_every_call() {
    let open_fds = || fs::read_dir("/proc/self/fd").unwrap().count();
    let file = Scratch::new("fail");
    let existing = PoolFile::create_memfd("exists", MIB).unwrap();
    let duplicate = || rustix::io::fcntl_dupfd_cloexec(&existing, 0).unwrap();

    type Verb<'a> = Box<dyn Fn() -> bool + 'a>;
    let verbs: [(&str, Verb); 4] = [
        ("create_memfd", Box::new(|| PoolFile::create_memfd("fail", MIB).is_ok())),
        ("create_at", Box::new(|| PoolFile::create_at(&file.0, MIB).is_ok())),
        ("from_fd", Box::new(|| PoolFile::from_fd(duplicate(), &accept()).is_ok())),
        ("reopen", Box::new(|| existing.reopen().is_ok())),
    ];
    for (name, verb) in verbs {
        let armed = Plan::count().arm();
        assert!(verb(), "{name}");
        let calls = armed.calls();
        drop(armed);
        let _ = fs::remove_file(&file.0);
        assert!(calls >= 4, "{name} passes {calls} failure points");
        let before = open_fds();
        for n in 1..=calls {
            let armed = Plan::nth(n, Errno::IO.raw_os_error()).arm();
            assert!(!verb(), "{name}: call {n} failed and was not noticed");
            assert!(armed.fired().is_some());
            drop(armed);
            assert_eq!(open_fds(), before, "{name}: call {n} left a descriptor open");
            assert!(!file.0.exists(), "{name}: call {n} left a file");
        }
    }
}

/// Goal: punching gives the frames back to the system, neighbours in one call.
/// Method: the kernel's own count of blocks, and the number of calls.
#[test]
fn punch_gives_the_frames_back() {
    let pool = PoolFile::create_memfd("punch", 64 * MIB).unwrap();
    assert_eq!(pool.resident_bytes(), Ok(0));
    pool.allocate(span(0..64)).unwrap();
    assert_eq!(pool.resident_bytes(), Ok(64 * PAGE_BYTES));
    let calls = pool.punch(&[span(0..8), span(8..16), span(16..16), span(20..30)]).unwrap();
    assert_eq!(calls, 2);
    assert_eq!(pool.resident_bytes(), Ok((64 - 26) * PAGE_BYTES));
    assert_eq!(pool.bytes(), 64 * MIB);

    let _armed = Plan::nth(2, Errno::NOMEM.raw_os_error()).only("punch").arm();
    let error = pool.punch(&[span(30..31), span(40..50), span(50..64)]).unwrap_err();
    assert_eq!((error.at, error.errno), (span(40..64), Errno::NOMEM));
    assert_eq!(pool.resident_bytes(), Ok((64 - 27) * PAGE_BYTES));
}

/// Goal: a descriptor that went over a socket opens the same pool.
/// Method: both ends here; then a message without one, two in one, and a closed socket.
#[test]
fn a_passed_descriptor_opens_the_same_pool() {
    use passing::RecvError;
    use std::io::Write;
    let pool = PoolFile::create_memfd("passing", MIB).unwrap();
    let (left, right) = UnixStream::pair().unwrap();
    passing::send_fd(&left, rustix::fd::AsFd::as_fd(&pool)).unwrap();
    let fd = passing::recv_fd(&right).unwrap();
    let flags = rustix::io::fcntl_getfd(&fd).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(PoolFile::from_fd(fd, &accept()).unwrap().id(), pool.id());

    let send = |fds: &[rustix::fd::BorrowedFd<'_>], mark: &[u8]| {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(fds)));
        let payload = [rustix::io::IoSlice::new(mark)];
        let flags = rustix::net::SendFlags::empty();
        rustix::net::sendmsg(&left, &payload, &mut control, flags).unwrap();
    };
    let fd = rustix::fd::AsFd::as_fd(&pool);
    send(&[fd], b"x");
    assert_eq!(passing::recv_fd(&right).unwrap_err(), RecvError::NotOne { fds: 1 });
    send(&[fd, fd], b"v");
    assert_eq!(passing::recv_fd(&right).unwrap_err(), RecvError::NotOne { fds: 2 });

    (&left).write_all(b"v").unwrap();
    assert_eq!(passing::recv_fd(&right).unwrap_err(), RecvError::NotOne { fds: 0 });
    drop(left);
    assert_eq!(passing::recv_fd(&right).unwrap_err(), RecvError::Closed);
}
