//! The thirteen cases of Linux's `lib/test_vmalloc.c`: their sizes, counts and order of steps.
//!
//! Each is a function of a [`Work`]; [`cases`] puts them together. What Linux's module asks for
//! with a node, is asked for without. Two are expected to fail, as in Linux: there is no
//! alignment of 2^63, and who may not wait may be refused.

use super::later;
use super::percpu::PerCpu;
use super::subject::{Mem, Subject, Verdict};
use super::work::Work;
use vmalloc_core::{PAGE_SIZE, Request};

const PAGE: u64 = PAGE_SIZE as u64;
/// Linux: `THREAD_ALIGN * 2` on x86_64.
const FIX_ALIGN_BYTES: u64 = 32 << 10;
/// Areas that live through `long_busy_list_alloc_test`.
const BUSY: usize = 15_000;

/// A case, for subjects of one kind.
pub struct Case<S: Subject> {
    /// Its name, as Linux has it.
    pub name: &'static str,
    /// Whether it may fail. Linux: `xfail`.
    pub is_xfail: bool,
    /// Whether it goes round `loops` times.
    pub loops: bool,
    /// The most pages it holds at a time.
    pub pages: fn(&Scale) -> u64,
    /// Runs it.
    pub run: fn(&mut Work<'_, S>) -> Verdict,
}

/// What the sizes of some cases depend on.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// CPUs of the machine.
    pub cpus: u32,
    /// See [`Work::objects`].
    pub objects: u64,
}

impl Scale {
    /// J of `full_fit_alloc_test`; also Linux's `lazy_max_pages`: 32 MiB for each bit of the number of CPUs.
    pub fn fls_pages(&self) -> u64 {
        u64::from(u32::BITS - self.cpus.leading_zeros()) * ((32 << 20) / PAGE)
    }
}

/// All of them, in Linux's order.
pub fn cases<S: Subject>() -> [Case<S>; 13] {
    let looping = |name, pages, run| Case { name, is_xfail: false, loops: true, pages, run };
    [
        looping("fix_size_alloc_test", |_| 1, fix_size),
        looping("full_fit_alloc_test", |scale| 2 * scale.fls_pages() + 256, full_fit),
        looping("long_busy_list_alloc_test", |_| BUSY as u64 + 256, long_busy_list),
        looping("random_size_alloc_test", |_| 100, random_size),
        looping("fix_align_alloc_test", |_| 5, fix_align),
        looping("random_size_align_alloc_test", |_| 10, random_size_align),
        Case {
            is_xfail: true,
            loops: false,
            ..looping("align_shift_alloc_test", |_| 1, align_shift)
        },
        Case { loops: false, ..looping("pcpu_alloc_test", percpu_pages, percpu) },
        looping("kvfree_rcu_1_arg_vmalloc_test", |_| later::PAGES_MAX, later::without_head),
        looping("kvfree_rcu_2_arg_vmalloc_test", |_| later::PAGES_MAX, later::with_head),
        looping("vm_map_ram_test", |_| 1, vm_map_ram),
        Case { is_xfail: true, ..looping("no_block_alloc_test", |_| 1, no_block) },
        looping("vrealloc_test", |_| 5, vrealloc),
    ]
}

fn fix_size<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    for _ in 0..work.loops {
        work.round();
        let mut mem = work.subject.alloc(&Request::bytes(PAGE))?;
        mem.write(0, &[0])?;
    }
    Ok(())
}

/// Holes that fit one page and its guard exactly, between neighbours that live.
fn full_fit<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    let page = Request::bytes(PAGE);
    let scale = Scale { cpus: work.subject.cpus(), objects: 0 };
    let count = scale.fls_pages() as usize;
    let mut kept = Pointers::new(work, count)?;
    let mut junk = Pointers::new(work, count)?;
    for _ in 0..count {
        kept.push(work.subject.alloc(&page)?)?;
        junk.push(work.subject.alloc(&page)?)?;
    }
    junk.held.clear();
    for _ in 0..work.loops {
        work.round();
        work.subject.alloc(&page)?.write(0, &[1])?;
    }
    Ok(())
}

fn long_busy_list<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    let mut busy = Pointers::new(work, BUSY)?;
    for _ in 0..BUSY {
        busy.push(work.subject.alloc(&Request::bytes(PAGE))?)?;
    }
    for _ in 0..work.loops {
        work.round();
        let mut large = work.subject.alloc(&Request::bytes(100 * PAGE))?;
        let mut small = work.subject.alloc(&Request::bytes(PAGE))?;
        large.write(0, &[0])?;
        small.write(0, &[1])?;
        // In this order, as Linux has it.
        drop(large);
        drop(small);
    }
    Ok(())
}

fn random_size<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    for _ in 0..work.loops {
        work.round();
        let pages = 1 + work.random.below(100);
        work.subject.alloc(&Request::bytes(pages * PAGE))?.write(0, &[1])?;
    }
    Ok(())
}

fn fix_align<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    for _ in 0..work.loops {
        work.round();
        work.subject.alloc(&Request::bytes(5 * PAGE).align_bytes(FIX_ALIGN_BYTES).zeroed())?;
    }
    Ok(())
}

/// Size and alignment come from the same byte, as in Linux.
fn random_size_align<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    for _ in 0..work.loops {
        work.round();
        let byte = work.random.below(256);
        let request = Request::bytes((byte % 10 + 1) * PAGE).align_bytes(1 << (byte % 23));
        let mem = work.subject.alloc(&request.zeroed())?;
        if !mem.addr().is_multiple_of(1 << (byte % 23)) {
            return Err(format!("{:#x} is no multiple of 2^{}", mem.addr(), byte % 23).into());
        }
    }
    Ok(())
}

fn align_shift<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    for shift in 0..64 {
        work.round();
        work.subject.alloc(&Request::bytes(PAGE).align_bytes(1 << shift).zeroed())?;
    }
    Ok(())
}

/// About 700 bytes an object, with what its alignment leaves free.
fn percpu_pages(scale: &Scale) -> u64 {
    scale.objects * u64::from(scale.cpus) / 4 + 256
}

fn percpu<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    let mut percpu = PerCpu::new(work.subject);
    let mut objects = Vec::with_capacity(work.objects as usize);
    let mut verdict = Ok(());
    for _ in 0..work.objects {
        work.round();
        let bytes = 1 + work.random.below(PAGE / 4);
        let align = 1 << (1 + work.random.below(11));
        // It goes on after a failure, as in Linux.
        match percpu.alloc(bytes as usize, align) {
            Ok(object) => objects.push(object),
            Err(stop) => verdict = Err(stop),
        }
    }
    objects.into_iter().for_each(|object| percpu.free(object));
    verdict
}

fn vm_map_ram<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    let frames = work.subject.take_frames(1)?;
    for _ in 0..work.loops {
        work.round();
        work.subject.map_ram(&frames)?.write(0, b"a")?;
    }
    Ok(())
}

fn no_block<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    for _ in 0..work.loops {
        work.round();
        // Linux tosses a coin between GFP_ATOMIC and GFP_NOWAIT, which are one here.
        let request = Request::bytes(PAGE).no_wait();
        let mut mem = work.subject.without_waiting(|| work.subject.alloc(&request))?;
        mem.write(0, &[0])?;
    }
    Ok(())
}

fn vrealloc<S: Subject>(work: &mut Work<'_, S>) -> Verdict {
    for _ in 0..work.loops {
        work.round();
        let mut mem = work.subject.alloc(&Request::bytes(PAGE))?;
        mem.write(0, b"a")?;
        for bytes in [4 * PAGE, PAGE, PAGE / 2, PAGE] {
            mem = work.subject.resize(mem, bytes)?;
            expect(&mem, 0, b"a")?;
        }
    }
    Ok(())
}

/// Whether `mem` still holds what was written.
pub fn expect(mem: &impl Mem, at: usize, wrote: &[u8]) -> Verdict {
    let mut now = vec![0; wrote.len()];
    mem.read(at, &mut now)?;
    if now == wrote {
        return Ok(());
    }
    Err(format!("wrote {wrote:x?} at byte {at}, and read {now:x?}").into())
}

/// An array of pointers to areas, itself vmalloc'ed.
struct Pointers<M> {
    array: M,
    held: Vec<M>,
}

impl<M: Mem> Pointers<M> {
    fn new<S: Subject<Mem = M>>(work: &Work<'_, S>, count: usize) -> Verdict<Pointers<M>> {
        let array = work.subject.alloc(&Request::array(count as u64, 8))?;
        Ok(Pointers { array, held: Vec::with_capacity(count) })
    }

    fn push(&mut self, mem: M) -> Verdict {
        self.array.write(self.held.len() * 8, &mem.addr().to_le_bytes())?;
        self.held.push(mem);
        Ok(())
    }
}
