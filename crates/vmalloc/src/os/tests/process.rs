//! What takes a second process: locks and death, fork, discovery, a pool opened by path.

use crate::os::discover;
use crate::os::file::PoolFile;
use crate::os::fork::ForkGuard;
use crate::os::locks::Holder;
use crate::os::map::Mapping;
use crate::os::open::Accept;
use crate::os::tests::file::Scratch;
use crate::os::tests::{MIB, child, pool, span};
use crate::os::view::{ExclusiveView, FrozenView};
use crate::os::{PAGE_BYTES, Span, passing};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a child says when it got to where it waits.
const READY: &str = "child-is-ready";

/// Does what a child shall do.
pub(super) fn play(role: &str, argument: &str) {
    match role {
        "fail-every-call" => super::file::fail_every_call(),
        "fail-every-map" => super::map::fail_every_map(),
        "touch-guard" => touch_guard(),
        "lock" => hold_lock(argument),
        "attach" => attach(argument),
        "receive" => receive(argument),
        "fork" => fork_and_look(),
        _ => panic!("no such part: {role}"),
    }
}

/// Starts a child and waits for it to pass.
pub(super) fn assert_child_passes(role: &str) {
    let output = child(role, "").stderr(std::process::Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{role}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a child that must be killed by `signal`, after it said that it is ready.
pub(super) fn assert_child_dies_of(role: &str, signal: i32) {
    let output = child(role, "").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(READY), "{role} was not ready");
    assert_eq!(output.status.signal(), Some(signal), "{role}: {}", output.status);
}

/// Tells the parent, then waits until it hangs up or kills us.
fn ready_and_wait() {
    println!("\n{READY}");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

/// Starts a child and waits until it is ready.
fn start(role: &str, argument: &str) -> (Child, BufReader<ChildStdout>) {
    let mut process = child(role, argument).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(READY) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "{role} died before it was ready");
    }
    (process, lines)
}

fn open_path(path: &str) -> PoolFile {
    // `/proc/<pid>/fd/<n>`
    let mut parts = path.split('/').skip(2);
    let pid = parts.next().unwrap().parse().unwrap();
    let fd = parts.nth(1).unwrap().parse().unwrap();
    PoolFile::open_proc(pid, fd, &Accept::mine(PAGE_BYTES)).unwrap()
}

fn touch_guard() {
    let pool = pool("touch", MIB);
    let view = ExclusiveView::new(&*pool, span(1..3)).unwrap();
    pool.guard_install(span(2..3)).unwrap();
    assert_eq!(view[4095], 0);
    println!("\n{READY}");
    std::io::stdout().flush().unwrap();
    std::hint::black_box(view[4096]);
}

fn hold_lock(path: &str) {
    let file = open_path(path);
    assert_eq!(file.try_lock(7, 1), Ok(true));
    ready_and_wait();
}

/// Goal: a locked byte is seen by others, refused to them, and free soon after a SIGKILL.
/// Method: a child locks and is killed; the time from its end to a successful lock.
#[test]
fn a_dead_members_lock_is_gone_within_milliseconds() {
    let pool = PoolFile::create_memfd("locks", MIB).unwrap();
    assert_eq!(pool.probe_byte(7), Ok(None));
    let (mut member, _lines) = start("lock", pool.share_path().to_str().unwrap());
    assert_eq!(pool.probe_byte(7), Ok(Some(Holder::Description)));
    assert_eq!(pool.probe_byte(8), Ok(None));
    assert_eq!(pool.try_lock(7, 1), Ok(false));
    assert_eq!(pool.try_lock(8, 1), Ok(true));

    let killed = Instant::now();
    member.kill().unwrap();
    let waited = loop {
        if pool.try_lock(7, 1).unwrap() {
            break killed.elapsed();
        }
        assert!(killed.elapsed() < Duration::from_secs(5), "the lock outlives its holder");
        std::thread::yield_now();
    };
    // 0.2 ms on an idle machine; generous, since this one may be busy.
    assert!(waited < Duration::from_millis(500), "{waited:?}");
    member.wait().unwrap();
}

/// Goal: a lock belongs to the open file description: reopened is another holder, in the same
/// process too, and our own probe does not see our own lock.
/// Method: two descriptions here.
#[test]
fn each_description_is_its_own_holder() {
    let one = PoolFile::create_memfd("holders", MIB).unwrap();
    let two = one.reopen().unwrap();
    assert_eq!(one.id(), two.id());
    // Past the end of the file: only a number.
    let byte = 1 << 40;
    assert_eq!(one.try_lock(byte, 1), Ok(true));
    assert_eq!(one.try_lock(byte, 1), Ok(true));
    assert_eq!(one.probe_byte(byte), Ok(None));
    assert_eq!(two.probe_byte(byte), Ok(Some(Holder::Description)));
    assert_eq!(two.try_lock(byte, 1), Ok(false));
    one.unlock(byte, 1).unwrap();
    assert_eq!(two.try_lock(byte, 1), Ok(true));
    drop(two);
    assert_eq!(one.try_lock(byte, 1), Ok(true));
}

fn attach(path: &str) {
    let file = open_path(path);
    let pool = Mapping::new(Arc::new(file), PAGE_BYTES).unwrap();
    let word = &pool.words(0, 1).unwrap()[0];
    // Acquire, Release: pair with the parent's.
    assert_eq!(word.load(Ordering::Acquire), 1);
    let mut view = ExclusiveView::new(&*pool, Span::new(2 * MIB, MIB)).unwrap();
    assert!(view.iter().all(|&byte| byte == 0xab));
    view.fill(0xcd);
    word.store(2, Ordering::Release);
    ready_and_wait();
}

/// Goal: another process maps the same frames at another address; both see what the other wrote;
/// its death takes nothing away.
/// Method: write, let a child check and write, kill it, check.
#[test]
fn two_processes_share_the_same_bytes() {
    let pool = pool("shared", 8 * MIB);
    let run = Span::new(2 * MIB, MIB);
    ExclusiveView::new(&*pool, run).unwrap().fill(0xab);
    pool.words(0, 1).unwrap()[0].store(1, Ordering::Release);
    let (mut member, _lines) = start("attach", pool.file().share_path().to_str().unwrap());
    member.kill().unwrap();
    member.wait().unwrap();
    assert_eq!(pool.words(0, 1).unwrap()[0].load(Ordering::Acquire), 2);
    assert!(FrozenView::new(&*pool, run).unwrap().iter().all(|&byte| byte == 0xcd));
}

fn receive(socket: &str) {
    let socket = UnixStream::connect(socket).unwrap();
    let file = PoolFile::from_fd(passing::recv_fd(&socket).unwrap(), &Accept::mine(1)).unwrap();
    assert_eq!(file.try_lock(3, 1), Ok(true));
    ready_and_wait();
}

/// Goal: a pool passed over a socket is opened by a process that knows no path to it, with a
/// description of its own. Method: the receiver's lock conflicts with the sender's.
#[test]
fn a_pool_reaches_another_process_over_a_socket() {
    let path = std::env::temp_dir().join(format!("vmalloc-os-{}.socket", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let pool = PoolFile::create_memfd("socket", MIB).unwrap();
    let fd = pool.reopen().unwrap();
    let sender = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        passing::send_fd(&socket, rustix::fd::AsFd::as_fd(&fd)).unwrap();
    });
    let (mut member, _lines) = start("receive", path.to_str().unwrap());
    sender.join().unwrap();
    assert_eq!(pool.try_lock(3, 1), Ok(false));
    member.kill().unwrap();
    member.wait().unwrap();
    std::fs::remove_file(path).unwrap();
}

/// Goal: a forked child knows that it is not a member, and its parent still is.
/// Method: a real `fork`, without exec, in a child process with one thread at work; the
/// grandchild's answer is its exit code.
#[test]
fn a_forked_child_is_noticed() {
    assert_child_passes("fork");
}

fn fork_and_look() {
    let guard = ForkGuard::new().unwrap();
    assert!(!guard.is_forked());
    // SAFETY:
    // 1. The forked child calls only `is_forked` (one load) and `_exit`: both are async-signal
    //    safe, so locks that other threads held at the fork do not matter.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = if guard.is_forked() { 42 } else { 1 };
        // SAFETY:
        // 1. `_exit` is async-signal safe, and returns to no Rust code.
        unsafe { libc::_exit(code) };
    }
    let pid = rustix::process::Pid::from_raw(pid).expect("fork");
    let options = rustix::process::WaitOptions::empty();
    let (_, status) = rustix::process::waitpid(Some(pid), options).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(42), "{status:?}");
    assert!(!guard.is_forked());
}

/// Goal: pools are found by name or by a question, once each, with everybody who has them open.
/// Method: a memfd that two processes have open, and a file on tmpfs.
#[test]
fn discover_finds_every_pool_once() {
    let name = format!("discover-{}", std::process::id());
    let memfd = PoolFile::create_memfd(&name, 8 * MIB).unwrap();
    memfd.allocate(span(0..3)).unwrap();
    let path = Scratch::new("discover");
    let named = PoolFile::create_at(&path.0, MIB).unwrap();
    let (mut member, _lines) = start("lock", memfd.share_path().to_str().unwrap());

    let found = discover::pools(|_, target| target == path.0);
    member.kill().unwrap();
    member.wait().unwrap();

    let by_id = |id| found.iter().find(|pool| pool.id == id).expect("found");
    let pool = by_id(memfd.id());
    assert_eq!(pool.name, name);
    assert_eq!((pool.bytes, pool.resident_bytes), (8 * MIB, 3 * PAGE_BYTES));
    let mut pids = [std::process::id(), member.id()];
    pids.sort_unstable();
    assert_eq!(pool.pids(), pids);
    let ours = pool.open.iter().find(|at| at.pid == std::process::id()).unwrap();
    assert_eq!(ours.path(), memfd.share_path());
    assert_eq!(by_id(named.id()).name, path.0.to_str().unwrap());
}
