//! The other CPU: it waits for a job, does it, and says so. Interrupts are on all the while, so it
//! answers shootdowns. Who waits sleeps: a CPU of an emulator that spins takes time from the other.

use crate::arch;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use vmalloc_bare::Cpus;

/// CPUs that are up, a bit each.
static ONLINE: AtomicU64 = AtomicU64::new(0);
/// How deep each CPU is in interrupt handlers.
static IN_INTERRUPT: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// What the other CPU is asked to do.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Job {
    /// Load a word.
    Load = 1,
    /// Store a word.
    Store = 2,
    /// Run [`crate::cases::beside`], until told to stop.
    Beside = 3,
}

static JOB: AtomicUsize = AtomicUsize::new(0);
/// Who waits for the job's end.
static WAITER: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicBool = AtomicBool::new(false);
static ADDR: AtomicU64 = AtomicU64::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);
static FAULTED: AtomicBool = AtomicBool::new(false);

/// The CPUs of this kernel.
#[derive(Clone, Copy, Debug)]
pub struct TwoCpus;

impl Cpus for TwoCpus {
    fn current(&self) -> usize {
        arch::cpu()
    }

    fn online(&self) -> u64 {
        ONLINE.load(Ordering::Acquire)
    }

    fn interrupt(&self, mask: u64) {
        arch::interrupt(mask);
    }

    fn may_wait(&self) -> bool {
        IN_INTERRUPT[arch::cpu()].load(Ordering::Relaxed) == 0 && arch::interrupts_are_on()
    }
}

/// Runs an interrupt handler.
pub fn in_interrupt(handler: impl FnOnce()) {
    let depth = &IN_INTERRUPT[arch::cpu()];
    depth.fetch_add(1, Ordering::Relaxed);
    handler();
    depth.fetch_sub(1, Ordering::Relaxed);
}

/// The boot CPU says that it is up.
pub fn this_cpu_is_up() {
    ONLINE.fetch_or(1 << arch::cpu(), Ordering::AcqRel);
}

/// Starts the other CPU, and waits for it.
pub fn start_other() {
    arch::start_other();
    while ONLINE.load(Ordering::Acquire) != 3 {
        arch::relax();
    }
}

/// Where the other CPU comes to from the assembler.
pub fn other_main() -> ! {
    this_cpu_is_up();
    arch::interrupts_on();
    loop {
        match JOB.swap(0, Ordering::Acquire) {
            0 => {
                arch::idle_unless(|| JOB.load(Ordering::Acquire) != 0);
                continue;
            }
            1 => finish(arch::load(ADDR.load(Ordering::Relaxed))),
            2 => {
                let value = VALUE.load(Ordering::Relaxed);
                finish(arch::store(ADDR.load(Ordering::Relaxed), value).map(|()| value));
            }
            _ => {
                crate::cases::beside();
                finish(Ok(0));
            }
        }
    }
}

fn finish(result: Result<u64, arch::Fault>) {
    FAULTED.store(result.is_err(), Ordering::Relaxed);
    VALUE.store(result.unwrap_or_else(|fault| fault.addr), Ordering::Relaxed);
    DONE.store(true, Ordering::Release);
    arch::wake(WAITER.load(Ordering::Relaxed));
}

/// Gives the other CPU a job. It is idle.
pub fn begin(job: Job, addr: u64, value: u64) {
    ADDR.store(addr, Ordering::Relaxed);
    VALUE.store(value, Ordering::Relaxed);
    DONE.store(false, Ordering::Relaxed);
    WAITER.store(arch::cpu(), Ordering::Relaxed);
    JOB.store(job as usize, Ordering::Release);
    arch::wake(1 - arch::cpu());
}

/// Waits for the job's end.
pub fn wait() -> Result<u64, arch::Fault> {
    while !DONE.load(Ordering::Acquire) {
        arch::idle_unless(|| DONE.load(Ordering::Acquire));
    }
    let value = VALUE.load(Ordering::Relaxed);
    if FAULTED.load(Ordering::Relaxed) { Err(arch::Fault { addr: value }) } else { Ok(value) }
}

/// A load by the other CPU.
pub fn load_there(addr: u64) -> Result<u64, arch::Fault> {
    begin(Job::Load, addr, 0);
    wait()
}

/// A store by the other CPU.
pub fn store_there(addr: u64, value: u64) -> Result<(), arch::Fault> {
    begin(Job::Store, addr, value);
    wait().map(|_| ())
}
