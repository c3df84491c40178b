//! Who may do what: other users, the same user, other versions, small containers, hostile bytes.
//! The attack cases of `docs/trust.md`.

use crate::peer::{Peer, command, say};
use crate::support::{
    KIB, MIB, PAGE, Random, Scratch, assert_empty, file_of, forge, is_root, skip,
};
use rustix::fs::{FallocateFlags, MemfdFlags, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::Stdio;
use std::time::Duration;
use vmalloc::{HeaderError, OpenError, Pool, ReadError, Reader, SealError, Sealed, Token};

/// Maps a page for writing, and unmaps it again.
fn map_writable(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY:
    // 1. The address is null, without MAP_FIXED: nothing in use is replaced. Nobody touches it.
    let mapped = unsafe {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        rustix::mm::mmap(std::ptr::null_mut(), 4096, prot, MapFlags::SHARED, fd, 0)
    }?;
    // SAFETY:
    // 1. Exactly what was mapped above; no reference into it exists.
    unsafe { rustix::mm::munmap(mapped, 4096) }
}

/// Everything by which somebody with this descriptor might write or cut its file: what each said.
fn attacks(fd: BorrowedFd<'_>) -> Vec<(&'static str, Result<(), Errno>)> {
    let allocate = |flags| rustix::fs::fallocate(fd, flags, 0, 4096);
    let size = rustix::fs::fstat(fd).unwrap().st_size as u64;
    let again = || {
        rustix::fs::open(
            format!("/proc/self/fd/{}", fd.as_raw_fd()),
            OFlags::RDWR | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
    };
    let write = |fd: BorrowedFd<'_>| rustix::io::pwrite(fd, b"x", 0).map(drop);
    let through = |attack: &dyn Fn(BorrowedFd<'_>) -> Result<(), Errno>| {
        again().and_then(|again| attack(again.as_fd()))
    };
    vec![
        ("write", write(fd)),
        ("map writable", map_writable(fd)),
        ("punch", allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
        ("shrink", rustix::fs::ftruncate(fd, 0)),
        ("grow", rustix::fs::ftruncate(fd, size + 4096)),
        ("open again and write", through(&|fd| write(fd))),
        ("open again and map writable", through(&|fd| map_writable(fd))),
        ("open again and shrink", through(&|fd| rustix::fs::ftruncate(fd, 0))),
        (
            "open again and punch",
            through(&|fd| {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(fd, punch, 0, 4096)
            }),
        ),
        ("take a seal off by adding one", rustix::fs::fcntl_add_seals(fd, SealFlags::GROW)),
    ]
}

/// Listens where any user may connect.
fn listen(path: &Scratch) -> UnixListener {
    let listener = UnixListener::bind(&path.0).unwrap();
    std::fs::set_permissions(&path.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    listener
}

/// What another user's process does: takes a read-only pool, then a writable descriptor, then a
/// sealed copy, and says of each what it could do.
pub fn stranger(argument: &str) {
    let (socket, token) = argument.split_once(' ').unwrap();
    let token: Token = token.parse().unwrap();
    let socket = UnixStream::connect(socket).unwrap();
    let reader = Reader::receive(&socket).unwrap();
    let bytes = reader.read(&token).unwrap();
    say(&format!("read {} {}", bytes.len(), bytes.iter().all(|&byte| byte == 7)));
    let succeeded: Vec<&str> =
        attacks(reader.as_fd()).into_iter().filter(|a| a.1.is_ok()).map(|a| a.0).collect();
    say(&format!("succeeded {succeeded:?}"));
    say(&format!("join {:?}", Pool::receive(&socket).map(drop)));
    let sealed = Sealed::receive(&socket).unwrap();
    say(&format!("sealed {} {}", sealed.len(), sealed.iter().all(|&byte| byte == 7)));
    // Until it is told that the area is gone.
    for _ in std::io::stdin().lines().take(1) {}
    say(&format!("stale {:?}", reader.read(&token).map(drop)));
}

/// Goal: another user reads with a read-only descriptor, and can do nothing else, whatever it tries;
/// with a writable one it cannot join; what was freed it reads no more; a sealed copy it keeps.
/// Method: a process of user 65534, with no group.
#[test]
fn another_user_reads_what_it_is_given_and_nothing_else() {
    let what = "another user's reader";
    if !is_root() {
        return skip(what, "becoming another user needs root", "run the tests as root");
    }
    let pool = Pool::create(16 * MIB).unwrap();
    let mut buf = pool.vmalloc(100_000).unwrap();
    buf.fill(7);
    let frozen = buf.freeze().unwrap();
    let path = Scratch::new("stranger");
    let listener = listen(&path);
    let mut command = command("stranger");
    command.env("VMALLOC_TEST_ARGUMENT", format!("{} {}", path.0.display(), frozen.token()));
    command.uid(65_534).gid(65_534).stdin(Stdio::piped());
    let mut peer = match std::panic::catch_unwind(AssertUnwindSafe(|| Peer::spawn(command))) {
        Ok(peer) => peer,
        Err(_) => return skip(what, "user 65534 may not run this program", "a readable target/"),
    };
    let (socket, _) = listener.accept().unwrap();
    pool.send_read_only(&socket).unwrap();
    pool.send(&socket).unwrap();
    Sealed::copy_of(&frozen).unwrap().send(&socket).unwrap();
    assert_eq!(peer.reply().as_deref(), Some("read 100000 true"));
    assert_eq!(peer.reply().as_deref(), Some("succeeded []"));
    let joined = peer.reply().unwrap();
    assert!(joined.contains("Err") && joined.contains("WrongOwner"), "{joined}");
    assert_eq!(peer.reply().as_deref(), Some("sealed 100000 true"));
    frozen.free().unwrap();
    peer.tell("freed");
    assert_eq!(peer.reply().as_deref(), Some("stale Err(NotFrozen)"));
    assert!(peer.wait().success());
    assert_empty(&pool);
}

/// Goal: a reader checks what it is told: other pools, areas that are not frozen, numbers that are
/// none, bytes outside; and reads what was frozen, to the byte.
#[test]
fn a_reader_checks_every_number() {
    let pool = Pool::create(16 * MIB).unwrap();
    let other = Pool::create(16 * MIB).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    pool.send_read_only(&ours).unwrap();
    let reader = Reader::receive(&theirs).unwrap();
    for bytes in [1, 5000, 300_000, 3 << 20] {
        let mut buf = pool.vmalloc(bytes).unwrap();
        buf.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
        let frozen = buf.freeze().unwrap();
        let token = frozen.token();
        assert_eq!(reader.read(&token).unwrap(), *frozen);
        let mut some = [0; 1];
        reader.read_at(&token, bytes - 1, &mut some).unwrap();
        assert_eq!(some[0], (bytes - 1) as u8);
        for at in [bytes, usize::MAX] {
            let error = reader.read_at(&token, at, &mut some).unwrap_err();
            assert!(matches!(error, ReadError::OutOfBounds(_)), "{error:?}");
        }
        for at in 1..4 {
            for value in [0, 1, u64::from(u32::MAX), 12345] {
                let forged = forge(&token, |numbers| numbers[at] = value);
                if forged != token {
                    assert!(matches!(reader.read(&forged), Err(ReadError::NotFrozen)), "{forged}");
                }
            }
        }
        frozen.free().unwrap();
        assert!(matches!(reader.read(&token), Err(ReadError::NotFrozen)));
    }
    let shared = pool.vmalloc(100).unwrap().share().unwrap();
    assert!(matches!(reader.read(&shared.token()), Err(ReadError::NotFrozen)));
    let foreign = other.vmalloc(100).unwrap().freeze().unwrap();
    assert!(matches!(reader.read(&foreign.token()), Err(ReadError::OtherPool { .. })));
    shared.free().unwrap();
    foreign.free().unwrap();
    assert_empty(&pool);
}

/// Goal: within one user nobody can write, cut or punch a sealed copy, its maker included, however
/// it opens the file; and the pool it came from goes on being purged.
#[test]
fn a_sealed_copy_is_written_by_nobody_not_even_its_maker() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut buf = pool.vmalloc(100_001).unwrap();
    buf.fill(7);
    let frozen = buf.freeze().unwrap();
    let sealed = Sealed::copy_of(&frozen).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    sealed.send(&ours).unwrap();
    let received = Sealed::receive(&theirs).unwrap();
    for fd in [sealed.as_fd(), received.as_fd()] {
        for (attack, result) in attacks(fd) {
            assert!(result.is_err(), "{attack} succeeded");
        }
    }
    frozen.free().unwrap();
    assert_empty(&pool);
    assert!(received.len() == 100_001 && received.iter().all(|&byte| byte == 7));
    // The same attacks do succeed on a read-only descriptor of the same user's: it protects nothing.
    pool.send_read_only(&ours).unwrap();
    let reader = Reader::receive(&theirs).unwrap();
    let attacks = attacks(reader.as_fd());
    let result = |name: &str| attacks.iter().find(|attack| attack.0 == name).unwrap().1;
    assert!(result("write").is_err() && result("map writable").is_err());
    assert_eq!(result("open again and map writable"), Ok(()));
    assert!(result("open again and shrink").is_err(), "the pool's size is sealed");
}

/// Goal: why sealed copies are files of their own: the seal that keeps new writers out would stop
/// every purge of a pool, too.
/// Method: the kernel's answers on a memfd with F_SEAL_FUTURE_WRITE.
#[test]
fn a_seal_against_new_writers_would_stop_every_purge() {
    let fd = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, 8192).unwrap();
    let allocate = |flags| rustix::fs::fallocate(&fd, flags, 0, 4096);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!((allocate(FallocateFlags::empty()), allocate(punch)), (Ok(()), Ok(())));
    rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE).unwrap();
    assert_eq!(allocate(FallocateFlags::empty()), Ok(()));
    assert_eq!(allocate(punch), Err(Errno::PERM));
    assert_eq!(map_writable(fd.as_fd()), Err(Errno::PERM));
}

/// Goal: a receiver takes only what is sealed in all four ways, regular, in memory and not empty.
#[test]
fn a_receiver_refuses_what_somebody_could_still_write() {
    let refused = |fd: OwnedFd| match Sealed::from_fd(fd) {
        Err(SealError::File(e)) => e.to_string(),
        other => panic!("{other:?}"),
    };
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        let fd = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&fd, b"bytes").unwrap();
        rustix::fs::fcntl_add_seals(&fd, all.difference(missing)).unwrap();
        assert!(refused(fd).contains("seals"), "{missing:?}");
    }
    let empty = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::fcntl_add_seals(&empty, all).unwrap();
    assert!(refused(empty).contains("no bytes"));
    assert!(refused(File::open("/dev/zero").unwrap().into()).contains("not a regular file"));
    assert!(refused(File::open("/proc/version").unwrap().into()).contains("not in memory"));
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert!(refused(ours.into()).contains("not a regular file"));
    assert!(matches!(Sealed::copy_of(&[]), Err(SealError::File(_))));
}

/// Goal: programs of two versions refuse each other's pools by the version, which the error names,
/// and by nothing worse; members that are there go on.
/// Method: the version in the header is patched, older and newer.
#[test]
fn a_pool_of_another_version_is_refused_by_its_version() {
    let path = Scratch::new("version");
    let pool = Pool::create_at(&path.0, 16 * MIB).unwrap();
    let buf = pool.vmalloc(5000).unwrap();
    let (file, _) = file_of(&pool);
    let mut ours = [0; 8];
    file.read_exact_at(&mut ours, 8).unwrap();
    let ours = u64::from_ne_bytes(ours);
    for version in [0, ours - 1, ours + 1, u64::MAX] {
        file.write_all_at(&version.to_ne_bytes(), 8).unwrap();
        let error = Pool::open(&path.0).unwrap_err();
        assert!(
            matches!(error, OpenError::Header(HeaderError::Version { found, ours: o })
                if found == version && o == ours),
            "{error:?}"
        );
        let mut peer = Peer::new();
        let refused = peer.err(&format!("open {}", path.0.display()));
        assert!(refused.contains("Version"), "{refused}");
        let fd = File::options().read(true).open(&path.0).unwrap();
        assert!(matches!(Reader::from_fd(fd.into()), Err(OpenError::Header(_))));
        drop(pool.vmalloc(100 * KIB as usize).unwrap());
    }
    file.write_all_at(&ours.to_ne_bytes(), 8).unwrap();
    Peer::at(&path.0).dismiss();
    drop(buf);
    assert_empty(&pool);
}

/// Goal: a pool needs no room in `/dev/shm`: in a container that has 64 MiB there it holds more, and
/// is opened from outside.
/// Method: a mount namespace with a small tmpfs; a pool of 256 MiB, 100 MiB of it in use.
#[test]
fn a_pool_works_where_dev_shm_has_64_mib() {
    let what = "a small /dev/shm";
    if !is_root() {
        return skip(what, "a mount namespace needs root", "run the tests as root");
    }
    let inner = command("member");
    let mut command = std::process::Command::new("unshare");
    let script = "mount -t tmpfs -o size=64M tmpfs /dev/shm && exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut peer = Peer::spawn(command);
    peer.tell("create 256");
    match peer.reply().as_deref() {
        Some("ok") => {}
        None => return skip(what, "no mount namespace can be made here", "allow unshare(1)"),
        other => panic!("{other:?}"),
    }
    let key = peer.ok("vmalloc 104857600");
    peer.ok(&format!("fill {key} 3"));
    let token = peer.token(&format!("freeze {key}"));
    let pool = Pool::open(peer.ok("share_path")).unwrap();
    assert!(pool.attach(&token).unwrap().iter().all(|&byte| byte == 3));
    pool.free(&token).unwrap();
    peer.ok(&format!("drop {key}"));
    drop(pool);
    peer.dismiss();
}

/// Goal: a member that is stopped, holding whatever it holds, keeps nobody from working.
#[test]
fn a_stopped_member_blocks_nobody() {
    let pool = Pool::create(16 * MIB).unwrap();
    for seed in 0..6 {
        let mut peer = Peer::working("victim", &pool, seed);
        std::thread::sleep(Duration::from_millis(3));
        rustix::process::kill_process(peer.pid(), rustix::process::Signal::STOP).unwrap();
        for _ in 0..50 {
            let shared = pool.vmalloc(20_000).unwrap().share().unwrap();
            let again = pool.attach_shared(&shared.token()).unwrap();
            shared.free().unwrap();
            drop(again);
        }
        pool.purge().unwrap();
        peer.kill_and_recover(&pool);
        for token in pool.areas().iter().filter_map(|area| pool.token_of(area)) {
            pool.free(&token).unwrap();
        }
    }
    assert_empty(&pool);
}

/// Goal: what the document says a hostile member can do is true: it can spoil contents that others
/// have frozen. (So who does not trust uses a sealed copy.)
#[test]
fn a_member_that_breaks_the_protocol_spoils_contents_of_its_pool_alone() {
    let pool = Pool::create(16 * MIB).unwrap();
    let mut buf = pool.vmalloc(PAGE as usize).unwrap();
    buf.fill(7);
    let at = buf.as_ptr().addr() - pool.window_base();
    let frozen = buf.freeze().unwrap();
    let sealed = Sealed::copy_of(&frozen).unwrap();
    let (_, window) = file_of(&pool);
    let mut peer = Peer::of(&pool);
    let path = pool.share_path();
    peer.ok(&format!("write_over {} {} 9 4096", path.display(), window + at as u64));
    assert!(frozen.to_vec().iter().all(|&byte| byte == 9));
    assert!(sealed.iter().all(|&byte| byte == 7));
    frozen.free().unwrap();
    peer.dismiss();
    assert_empty(&pool);
}

/// The verbs that `use_everything` has not: in a pool that may say anything. Errors are fine.
pub fn use_the_rest(pool: &Pool, tokens: &[Token], random: &mut Random) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    pool.send_read_only(&ours).unwrap();
    let reader = Reader::receive(&theirs);
    for token in tokens {
        if let Ok(reader) = &reader {
            let _ = reader.read_at(token, 0, &mut [0; 100]);
        }
        if let Ok(mut buf) = pool.take(token) {
            buf.fill(5);
        }
        if let Ok(mut shared) = pool.attach_shared(token) {
            let _ = shared.grow(random.of(1..MIB) as usize);
            let _ = shared.refresh();
            let _ = shared.write_at(0, &vec![5; shared.len()]);
            if let Ok(ring) = shared.ring() {
                let _ = ring.read_at(0, &mut vec![0; ring.len()]);
            }
            shared.signal().notify();
            let _ = shared.signal().wait(shared.signal().seen(), Duration::from_micros(10));
        }
        if let Ok(frozen) = pool.attach(token)
            && let Ok(mut snapshot) = frozen.snapshot()
        {
            snapshot.fill(1);
        }
    }
    if random.of(0..16) == 0 && tokens.first().is_some_and(|token| pool.name(token, "x").is_ok()) {
        let _ = pool.unname("x");
    }
    std::hint::black_box((pool.names(), pool.named("x"), pool.limit_bytes()));
    for _ in 0..4 {
        let Ok(mut buf) = pool.vmalloc(random.of(1..300 * KIB) as usize) else { continue };
        let _ = buf.resize(random.of(1..300 * KIB) as usize);
        let _ = buf.vrealloc(random.of(1..300 * KIB) as usize);
        buf.fill(2);
        match random.of(0..3) {
            0 => drop(buf.give().map(|token| pool.take(&token))),
            1 => drop(buf.give_to(random.of(0..5) as usize).map(|token| pool.free(&token))),
            _ => drop(buf),
        }
    }
}
