//! What only looks, in Linux's words.

use vmalloc_core::platform::Prot;
use vmalloc_core::{Cache, Extent, Fill, NodeId, Pages, Pfn, Request, VirtAddr};
use vmalloc_sim::{KernelConfig, SimKernel};

const PAGE: u64 = 4096;

/// Goal: the listing says how many pages of an area are on each node, as Linux does, behind its
/// other fields. Method: areas of one node, of both, and a parked one; whole lines compared.
#[test]
fn vmallocinfo_counts_the_pages_on_each_node() {
    let config = KernelConfig { nodes: 2, ..KernelConfig::USUAL };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let on = |pages: u64, node| Request::bytes(pages * PAGE).node(NodeId(node)).caller(0xc0de);
        let first = engine.vmalloc(&on(3, 1)).unwrap();
        let both = engine.vmalloc(&on(300, 0)).unwrap();
        let parked = engine.vmalloc(&on(2, 1)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
        let listing = engine.vmallocinfo().to_string();
        let line = |addr: VirtAddr| {
            let start = format!("{:#018x}-", addr.0);
            listing.lines().find(|line| line.starts_with(&start)).expect("a line").to_owned()
        };
        let tail = |addr: VirtAddr| line(addr)[38..].trim_start().to_owned();
        assert_eq!(tail(first.addr()), "16384 0xc0de pages=3 vmalloc owner=1 N1=3");
        assert_eq!(tail(both.addr()), "1232896 0xc0de pages=300 vmalloc owner=1 N0=256 N1=44");
        assert_eq!(tail(parked.addr()), "12288 unpurged vm_area");
        assert_eq!(listing.lines().count(), 3);
    });
}

/// Goal: what is mapped and reserved is told in Linux's words, a device's area with its physical
/// address. Method: one of each; the device's frames in one piece, and in two.
#[test]
fn vmallocinfo_tells_devices_and_reservations_in_the_words_of_linux() {
    let config = KernelConfig { device_frames: Pages(8), ..KernelConfig::USUAL };
    SimKernel::run(config, |kernel| {
        let engine = kernel.engine(0);
        let device = kernel.hardware().ram().device_frames().start;
        let phys = device.0 * PAGE + 0x10;
        let registers = engine.ioremap(phys, 2 * PAGE, Cache::Uncached).unwrap();
        let one = |page: u64| Extent { start: Pfn(device.0 + page), len: Pages(1) };
        let uncached = Prot::READ_WRITE.cached(Cache::Uncached);
        let pieces = engine.vmap_pfn(&[one(3), one(1)], uncached).unwrap().addr();
        let reserve = |fill| engine.get_vm_area(&Request::bytes(5 * PAGE), fill).unwrap().addr();
        let (sparse, later) = (reserve(Fill::Frames), reserve(Fill::Device));
        let user = engine.vmalloc(&Request::bytes(PAGE).user()).unwrap().addr();
        let listing = engine.vmallocinfo().to_string();
        let tail = |addr: VirtAddr| {
            let start = format!("{:#018x}-", addr.vpn().addr().0);
            let line = listing.lines().find(|line| line.starts_with(&start)).expect("a line");
            line[38..].trim_start().split_once(' ').expect("words").1.to_owned()
        };
        let base = phys - 0x10;
        let told = format!("pages=3 phys={base:#018x} ioremap owner=1");
        assert_eq!(tail(registers), told, "{listing}");
        assert_eq!(tail(pieces), "pages=2 ioremap owner=1", "{listing}");
        assert_eq!(tail(sparse), "pages=5 sparse owner=1");
        assert_eq!(tail(later), "pages=5 ioremap owner=1", "nothing is shown yet");
        assert_eq!(tail(user), "pages=1 vmalloc user owner=1 N0=1");
    });
}

/// Goal: an address of an area, inside it too, is told in Linux's words; others are not. Method:
/// a live area, its guard, a parked one, outside; where waiting is forbidden.
#[test]
fn dump_obj_tells_of_areas_in_use_and_never_waits() {
    SimKernel::run(KernelConfig::USUAL, |kernel| {
        let engine = kernel.engine(0);
        let area = engine.vmalloc(&Request::bytes(3 * PAGE).caller(0xc0de)).unwrap();
        let parked = engine.vmalloc(&Request::bytes(5 * PAGE)).unwrap();
        let _ = engine.vfree(parked.addr()).unwrap();
        kernel.hardware().set_may_wait(false);
        let inside = VirtAddr(area.addr().0 + 2 * PAGE + 5);
        let told = engine.dump_obj(inside).unwrap().to_string();
        let start = area.addr();
        assert_eq!(told, format!("3-page vmalloc region starting at {start} allocated at 0xc0de"));
        assert_eq!(engine.vmalloc_nr_pages(inside), Some(Pages(3)));
        for nowhere in [area.pages.end().addr(), parked.addr(), VirtAddr(0), VirtAddr(u64::MAX)] {
            assert_eq!(engine.dump_obj(nowhere), None, "{nowhere}");
        }
        kernel.hardware().set_may_wait(true);
    });
}

/// Goal: `/proc/meminfo` has the same three lines. Method: a window of 128 MiB, 10 pages in use.
#[test]
fn meminfo_has_the_lines_of_linux() {
    SimKernel::run(KernelConfig::USUAL, |kernel| {
        let engine = kernel.engine(0);
        engine.vmalloc(&Request::bytes(10 * PAGE)).unwrap();
        let lines = "VmallocTotal:     131072 kB\nVmallocUsed:          40 kB\nVmallocChunk:       2008 kB\n";
        assert_eq!(engine.stats().meminfo().to_string(), lines);
    });
}
