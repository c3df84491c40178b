//! Services that come by every call which a machine with page tables may fail.
//!
//! ```text
//!   a machine ─ World ─▶ each service ─▶ each call of it fails in turn ─▶ is anything left?
//!                                             └ sites ─▶ does any call in the sources lack a service?
//! ```
//!
//! The engine over page tables asks for frames, maps and splits in some forty places. Whoever has such a
//! machine puts a [`FaultPlan`](crate::FaultPlan) before it, as this crate and the tests of `vmalloc-bare` do, and runs each service as
//! often as it makes calls. A service lets go of what it has made, whether it succeeds or not; what
//! is parked then goes with a purge. [`calls_in`] reads the sources for the calls there are.
//!
//! Neighbours: `tests/each_point.rs` here and in `vmalloc-bare`.

use crate::Site;
use std::collections::BTreeSet;
use std::path::Path;
use vmalloc_core::kmalloc::{Kmalloc, Kv};
use vmalloc_core::kmap::{Kmap, KmapLocal};
use vmalloc_core::map_ram::{BLOCK_PAGES, MapRam};
use vmalloc_core::paged::Hardware;
use vmalloc_core::platform::Frames;
use vmalloc_core::slab::Slabs;
use vmalloc_core::sync::AtomicU64;
use vmalloc_core::{
    Area, Cache, Engine, Extent, Fill, Order, PAGE_SIZE, PageRange, Paged, Pages, Pfn, Prot,
    Publish, Request, Rights, Vma, Vpn,
};

const PAGE: u64 = PAGE_SIZE as u64;

/// An engine over page tables.
pub type PagedEngine<'a, F, H> = Engine<'a, Paged<'a, F, H>>;

/// What the services find: two engines over one set of frames and backings, and what is beside them.
pub struct World<'w, 'a, F: Frames, H: Hardware> {
    /// The engine that is tried.
    pub engine: &'w PagedEngine<'a, F, H>,
    /// One for another window.
    pub guest: &'w PagedEngine<'a, F, H>,
    /// The hardware of `engine`, for what maps by itself.
    pub hardware: H,
    /// Frames of the pool that the caller owns: 24 at least, no two of them neighbours.
    pub frames: &'w [Pfn],
    /// Every frame of the pool.
    pub pool: Extent,
    /// 1,200 frames at least that are no RAM.
    pub device: Extent,
    /// 2,048 pages from a multiple of 512 on, prepared, for a user.
    pub user: PageRange,
    /// As many, from a multiple of 512 on, that are nobody's.
    pub beside: PageRange,
}

/// What a service does. `Err` tells which of its verbs failed.
pub type Service<F, H> = fn(&World<'_, '_, F, H>) -> Result<(), String>;

/// All services.
#[must_use]
pub fn services<F: Frames, H: Hardware + Clone>() -> Vec<(&'static str, Service<F, H>)> {
    vec![
        ("prepare a window", prepare),
        ("allocate in pieces", allocate),
        ("allocate where a policy says", allocate_by_policy),
        ("allocate zeros", allocate_zeros),
        ("resize", resize),
        ("move", reallocate),
        ("show frames", vmap),
        ("show frames for good", vmap_put_pages),
        ("show a device", show_device),
        ("share", share),
        ("fill a reservation", fill),
        ("commit a reservation", commit),
        ("show a device in a reservation", fill_with_device),
        ("protect", protect),
        ("show to a user", remap),
        ("high memory", kmap),
        ("short maps", map_ram),
        ("objects", kmalloc),
        ("objects or areas", kvmalloc),
    ]
}

fn told<T, E: std::fmt::Debug>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e:?}"))
}

fn single(start: Pfn) -> Extent {
    Extent { start, len: Pages(1) }
}

/// Every frame an extent, in falling order.
fn pieces(frames: &[Pfn], count: usize) -> Vec<Extent> {
    frames[..count].iter().rev().map(|&pfn| single(pfn)).collect()
}

fn part(pages: PageRange, first: u64, len: u64) -> PageRange {
    PageRange { start: Vpn(pages.start.0 + first), len: Pages(len) }
}

fn words(len: usize) -> Vec<AtomicU64> {
    (0..len).map(|_| AtomicU64::new(0)).collect()
}

impl<F: Frames, H: Hardware> World<'_, '_, F, H> {
    /// What succeeded is there: every page shows a frame.
    fn looks_at(&self, pages: PageRange) {
        let hidden = |page: &u64| self.hardware.translate(Vpn(*page)).is_none();
        let hidden = (pages.start.0..pages.end().0).find(hidden);
        assert_eq!(hidden, None, "a page of {pages} that shows nothing");
    }

    /// Looks at an area, and frees it.
    fn done_with(&self, area: &Area) {
        self.looks_at(area.pages);
        self.free(area);
    }

    fn free(&self, area: &Area) {
        let _ = self.engine.free(area.id, area.generation).expect("an area that lives");
    }
}

fn prepare<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    told("prepare", w.engine.prepare())
}

fn allocate<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    w.done_with(&told("vmalloc", w.engine.vmalloc(&Request::bytes(40 * PAGE)))?);
    Ok(())
}

fn allocate_by_policy<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let request = Request::bytes(20 * PAGE).below_log2(40);
    w.done_with(&told("vmalloc below", w.engine.vmalloc(&request))?);
    Ok(())
}

fn allocate_zeros<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    // With granules of its own, and a leaf table of its own.
    let request = Request::bytes(20 * PAGE).align_bytes(2 << 20);
    w.done_with(&told("vzalloc", w.engine.vzalloc(&request))?);
    Ok(())
}

fn resize<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let request = Request::bytes(9 * PAGE).align_bytes(1 << 20);
    let area = told("vmalloc", w.engine.vmalloc(&request))?;
    let to = |pages: u64| w.engine.resize(area.id, area.generation, pages * PAGE, true);
    let done = told("grow", to(30))
        .inspect(|grown| w.looks_at(grown.pages))
        .and_then(|_| told("shrink", to(5)));
    w.free(&area);
    done.map(drop)
}

fn reallocate<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let request = |pages| Request::bytes(pages * PAGE);
    let area = told("vmalloc", w.engine.vrealloc(None, &request(3)))?.expect("three pages");
    match told("vrealloc", w.engine.vrealloc(Some(area.addr()), &request(45))) {
        Ok(moved) => w.done_with(&moved.expect("forty-five pages")),
        Err(why) => {
            w.free(&area);
            return Err(why);
        }
    }
    Ok(())
}

fn vmap<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let runs = pieces(w.frames, 20);
    let area = told("vmap", w.engine.vmap(&runs, Prot::READ_WRITE))?;
    w.looks_at(area.pages);
    told("vunmap_at_once", w.engine.vunmap_at_once(area.addr())).map(drop)
}

fn vmap_put_pages<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let (frames, mut taken) = (w.engine.machine().frames(), Vec::new());
    let give = |taken: &[Extent]| taken.iter().for_each(|&run| frames.give(run));
    for _ in 0..5 {
        match told("take", frames.take(Order(0))) {
            Ok(pfn) => taken.push(single(pfn)),
            Err(why) => {
                give(&taken);
                return Err(why);
            }
        }
    }
    taken.reverse();
    match told("vmap_put_pages", w.engine.vmap_put_pages(&taken, Prot::READ_WRITE)) {
        Ok(area) => w.done_with(&area),
        Err(why) => {
            give(&taken);
            return Err(why);
        }
    }
    Ok(())
}

fn show_device<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let (engine, phys) = (w.engine, w.device.start.0 * PAGE);
    let runs: Vec<Extent> = (0..7).rev().map(|i| single(Pfn(w.device.start.0 + i))).collect();
    let area = told("vmap_pfn", engine.vmap_pfn(&runs, Prot::READ_WRITE))?;
    w.done_with(&area);
    let registers = told("ioremap", engine.ioremap(phys + 5, 40 * PAGE, Cache::WriteBack))?;
    w.looks_at(PageRange { start: registers.vpn(), len: Pages(41) });
    let _ = told("iounmap", engine.iounmap(registers))?;
    let ram = told("memremap", engine.memremap(w.frames[1].0 * PAGE, 9, Cache::WriteBack))?;
    told("memunmap", engine.memunmap(ram)).map(drop)
}

fn share<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let area = told("vmalloc", w.engine.vmalloc(&Request::bytes(19 * PAGE)))?;
    let token = w.engine.share(area.id, area.generation, Publish::Shared).expect("ours");
    let shown = told("attach", w.guest.attach(&token, Prot::READ));
    w.free(&area);
    let shown = shown?;
    told("free", w.guest.free(shown.id, shown.generation)).map(drop)
}

fn fill<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let request = Request::bytes(1536 * PAGE).align_bytes(2 << 20);
    let area = told("get_vm_area", w.engine.get_vm_area(&request, Fill::Frames))?;
    let (id, generation, at) = (area.id, area.generation, area.pages);
    let filled = || {
        let pieces = pieces(w.frames, 20);
        told("map_pages", w.engine.map_pages(id, generation, part(at, 3, 20), &pieces))?;
        w.looks_at(part(at, 3, 20));
        // A huge leaf, where there are any: the part that is taken out of it lies across no end.
        let first = w.device.start.0.next_multiple_of(512);
        let huge = [Extent { start: Pfn(first), len: Pages(512) }];
        told("map_pages, huge", w.engine.map_pages(id, generation, part(at, 512, 512), &huge))?;
        w.looks_at(part(at, 512, 512));
        told("unmap_pages", w.engine.unmap_pages(id, generation, part(at, 600, 9)))
    };
    let done = filled();
    let _ = told("free_vm_area", w.engine.free_vm_area(id, generation))?;
    done
}

fn commit<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let request = Request::bytes(500 * PAGE);
    let area = told("get_vm_area", w.engine.get_vm_area(&request, Fill::Commit))?;
    let (id, generation, at) = (area.id, area.generation, area.pages);
    let filled = told("commit", w.engine.commit(id, generation, part(at, 3, 40)));
    let filled = filled.inspect(|()| w.looks_at(part(at, 3, 40)));
    let done =
        filled.and_then(|()| told("decommit", w.engine.decommit(id, generation, part(at, 9, 20))));
    let _ = told("free_vm_area", w.engine.free_vm_area(id, generation))?;
    done
}

fn fill_with_device<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let request = Request::bytes(40 * PAGE);
    let area = told("get_vm_area", w.engine.get_vm_area(&request, Fill::Device))?;
    let (id, generation, first) = (area.id, area.generation, w.device.start);
    let done = w.engine.ioremap_page_range(id, generation, area.pages, first, Cache::WriteBack);
    let _ = told("free_vm_area", w.engine.free_vm_area(id, generation))?;
    told("ioremap_page_range", done)
}

fn protect<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let area = told("vmalloc", w.engine.vmalloc(&Request::bytes(20 * PAGE)))?;
    told("reset_perms", w.engine.reset_perms(area.id, area.generation))?;
    let done = told("protect", w.engine.protect(area.id, area.generation, Rights::Read));
    w.free(&area);
    done
}

fn remap<F: Frames, H: Hardware + Clone>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let area = told("vmalloc", w.engine.vmalloc(&Request::bytes(20 * PAGE).user()))?;
    let first = Vma::new(w.hardware.clone(), part(w.user, 500, 20), Rights::ReadWrite);
    let second = Vma::new(w.hardware.clone(), part(w.user, 600, 5), Rights::ReadWrite);
    let shown = || {
        let _area =
            told("remap_vmalloc_range", w.engine.remap_vmalloc_range(&first, area.addr(), 0))?;
        w.looks_at(first.pages());
        let at = second.pages().start.addr();
        let device =
            w.engine.remap_pfn_range(&second, at, w.device.start, 5 * PAGE, Cache::WriteBack);
        told("remap_pfn_range", device).map(drop)
    };
    let done = shown();
    w.free(&area);
    done
}

fn kmap<F: Frames, H: Hardware + Clone>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let (window, local) = (part(w.beside, 0, 8), part(w.beside, 512, 8));
    let shared = words(Kmap::<()>::words_needed(window.len));
    let own = words(KmapLocal::<()>::words_needed(1));
    let kmap = Kmap::new(&shared, window, w.hardware.clone()).expect("words as many as asked for");
    let locals = KmapLocal::new(&own, 1, local, w.hardware.clone()).expect("a window");
    told("prepare kmap", kmap.prepare())?;
    told("prepare local", locals.prepare())?;
    told("kmap", kmap.kmap(w.frames[2]))?;
    let inner = told("map", locals.map(0, w.frames[3], Prot::READ)).map(drop);
    told("kunmap", kmap.kunmap(w.frames[2]))?;
    told("flush_unused", kmap.flush_unused())?;
    assert!(kmap.is_sound() && kmap.in_use() == Pages(0) && locals.in_use(0) == 0);
    inner
}

fn map_ram<F: Frames, H: Hardware + Clone>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    let window = part(w.beside, 1024, BLOCK_PAGES.0);
    let words = words(MapRam::<()>::words_needed(window.len, 1));
    let ram = MapRam::new(&words, 1, window, w.hardware.clone()).expect("a window of one block");
    told("prepare map_ram", ram.prepare())?;
    let shown = told("vm_map_ram", ram.vm_map_ram(0, &pieces(w.frames, 7), Prot::READ_WRITE));
    let shown = shown.inspect(|at| w.looks_at(*at));
    let shown = shown.map(|at| ram.vm_unmap_ram(at.start.addr(), at.len).expect("as mapped"));
    told("vm_unmap_aliases", ram.vm_unmap_aliases())?;
    assert!(ram.is_sound() && ram.usage().free == window.len);
    shown
}

/// Runs `body` with an allocator of objects over the engine's frames.
fn with_kmalloc<'a, F: Frames + 'a, H: Hardware + 'a>(
    w: &World<'_, 'a, F, H>,
    body: impl FnOnce(&Kmalloc<'_, F, H>) -> Result<(), String>,
) -> Result<(), String> {
    const SLABS: usize = 16;
    let table = words(Slabs::<F, H>::words_needed(w.pool.len, SLABS));
    let caches = words(Kmalloc::<F, H>::words_needed(SLABS, 1));
    let machine = w.engine.machine();
    let (frames, ram) = (machine.frames(), machine.hardware());
    let slabs = Slabs::format(&table, w.pool, SLABS, frames, ram).expect("words as asked for");
    let kmalloc = Kmalloc::new(slabs, &caches, 1).expect("words as asked for");
    let done = body(&kmalloc);
    kmalloc.shrink();
    assert_eq!(kmalloc.verify(), Ok(()));
    done
}

fn kmalloc<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    with_kmalloc(w, |kmalloc| {
        for bytes in [8, 192, 3 * PAGE] {
            let object = told("kzalloc", kmalloc.kzalloc(bytes))?;
            told("kfree", kmalloc.kfree(object))?;
        }
        Ok(())
    })
}

fn kvmalloc<F: Frames, H: Hardware>(w: &World<'_, '_, F, H>) -> Result<(), String> {
    with_kmalloc(w, |kmalloc| {
        let kv = Kv::new(kmalloc, w.engine);
        for bytes in [64, 30 * PAGE] {
            let addr = told("kvzalloc", kv.kvzalloc(bytes))?;
            let _ = told("kvfree", kv.kvfree(addr))?;
        }
        Ok(())
    })
}

/// Whether a line of a source calls something: the text of it, to the line's end.
pub type IsCall = fn(&str) -> bool;

/// The lines below `folder`, tests and proofs not among them, that `is_call` picks, as sites whose
/// files begin with `prefix`, as compilers name the sources of that folder.
///
/// # Panics
///
/// If the folder cannot be read.
#[must_use]
pub fn calls_in(folder: &Path, prefix: &str, is_call: IsCall) -> BTreeSet<(String, u32)> {
    let mut calls = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a folder of sources").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let file = format!("{prefix}/{name}");
        if path.is_dir() && name != "proof" {
            calls.extend(calls_in(&path, &file, is_call));
        } else if name.ends_with(".rs") && !["tests.rs", "proof.rs"].contains(&&*name) {
            let text = std::fs::read_to_string(&path).expect("a source");
            let shipped = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let picked = (1..).zip(shipped.lines());
            let picked = picked.filter(|(_, line)| !line.trim_start().starts_with("//"));
            calls.extend(picked.filter(|(_, line)| is_call(line)).map(|(n, _)| (file.clone(), n)));
        }
    }
    calls
}

/// Those of `calls` that are no site.
#[must_use]
pub fn missed(calls: &BTreeSet<(String, u32)>, sites: &BTreeSet<Site>) -> Vec<String> {
    let met =
        |file: &str, line| sites.iter().any(|site| site.line == line && site.file.ends_with(file));
    let missed = calls.iter().filter(|(file, line)| !met(file, *line));
    missed.map(|(file, line)| format!("{file}:{line}")).collect()
}
