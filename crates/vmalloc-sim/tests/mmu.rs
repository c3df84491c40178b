//! The MMU against the manual alone: tables built by hand, word by word, no mapper in sight.

use std::sync::atomic::Ordering;
use vmalloc_core::platform::Ram;
use vmalloc_core::{Cache, Extent, Pages, Pfn, VirtAddr};
use vmalloc_sim::{Access, Fault, SimRam, Translation, mmu};

/// Indices 1, 2, 3, 4 from the root down, and byte 5 of the page.
const VA: VirtAddr = VirtAddr(1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 5);
const ROOT: Pfn = Pfn(0x10);
const PRESENT_WRITE: u64 = 0b11;
const PAGE_SIZE_BIT: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const EXECUTE_DISABLE: u64 = 1 << 63;

/// Tables in frames 0x10 (level 4) to 0x13 (level 1) that lead [`VA`] to frame 0x14.
fn tables() -> SimRam {
    let ram = SimRam::new(ROOT, Pages(8), Pages(0));
    ram.zero(Extent { start: ROOT, len: Pages(8) });
    for level in 1..=4 {
        set(&ram, level, (0x15 - level) << 12 | PRESENT_WRITE);
    }
    ram
}

/// Sets the entry of `level` on the way to [`VA`].
fn set(ram: &SimRam, level: u64, entry: u64) {
    ram.words(Pfn(0x14 - level))[5 - level as usize].store(entry, Ordering::Release);
}

fn get(ram: &SimRam, level: u64) -> u64 {
    ram.words(Pfn(0x14 - level))[5 - level as usize].load(Ordering::Acquire)
}

fn walk(ram: &SimRam) -> Result<Translation, Fault> {
    mmu::walk(ram, ROOT, VA)
}

#[test]
fn four_levels_of_nine_bits_lead_to_the_frame() {
    let found = Translation {
        pfn: Pfn(0x14),
        writable: true,
        executable: true,
        user: false,
        cache: Cache::WriteBack,
        global: false,
    };
    assert_eq!(walk(&tables()), Ok(found));
    for bit in [12, 21, 30, 39] {
        let va = VirtAddr(VA.0 ^ 1 << bit);
        assert_eq!(mmu::walk(&tables(), ROOT, va), Err(Fault::NotPresent { va }), "bit {bit}");
    }
}

#[test]
fn a_clear_present_bit_at_any_level_faults_whatever_else_the_entry_holds() {
    for level in 1..=4 {
        let ram = tables();
        set(&ram, level, !1);
        assert_eq!(walk(&ram), Err(Fault::NotPresent { va: VA }));
    }
}

#[test]
fn rights_are_the_least_of_all_levels() {
    for level in 1..=4 {
        let ram = tables();
        set(&ram, level, get(&ram, level) & !2 | EXECUTE_DISABLE);
        let found = walk(&ram).unwrap();
        assert!(!found.writable && !found.executable, "level {level}");
        assert_eq!(found.check(VA, Access::Load), Ok(()));
        assert_eq!(found.check(VA, Access::Store), Err(Fault::ReadOnly { va: VA }));
        assert_eq!(found.check(VA, Access::Fetch), Err(Fault::NoExecute { va: VA }));
    }
}

#[test]
fn only_the_entry_that_maps_the_page_makes_it_global() {
    for level in 1..=4 {
        let ram = tables();
        set(&ram, level, get(&ram, level) | GLOBAL);
        assert_eq!(walk(&ram).unwrap().global, level == 1);
    }
}

#[test]
fn large_pages_map_the_small_page_at_its_place_inside_them() {
    let ram = tables();
    set(&ram, 2, 0x20_0000 | 1 << 12 | PAGE_SIZE_BIT | GLOBAL | PRESENT_WRITE); // bit 12 is PAT
    let found = walk(&ram).unwrap();
    assert_eq!((found.pfn, found.global), (Pfn(0x200 + 4), true));

    let ram = tables();
    set(&ram, 3, 0x4000_0000 | PAGE_SIZE_BIT | PRESENT_WRITE);
    assert_eq!(walk(&ram).unwrap().pfn, Pfn(0x4_0000 + 3 * 512 + 4));
}

#[test]
fn reserved_bits_fault_and_ignored_ones_do_not() {
    let is_reserved = |level: u64, entry: u64| {
        let ram = tables();
        set(&ram, level, entry);
        match walk(&ram) {
            Err(Fault::Reserved { va, level: at, entry: found }) => {
                assert_eq!((va, u64::from(at), found), (VA, level, entry));
                true
            }
            _ => false,
        }
    };
    for level in 1..=4 {
        let entry = get(&tables(), level);
        assert!(is_reserved(level, entry | 1 << mmu::PHYS_BITS), "address too high");
        assert!(is_reserved(level, entry | 1 << 51));
        assert!(!is_reserved(level, entry | 1 << (mmu::PHYS_BITS - 1)));
        assert!(!is_reserved(level, entry | 0x7ff << 52), "bits 62:52 are ignored");
        assert!(!is_reserved(level, entry | 0x7c), "U/S, PWT, PCD, A and D are allowed");
    }
    let large = PAGE_SIZE_BIT | PRESENT_WRITE;
    assert!(is_reserved(4, large), "no 512 GiB pages");
    for (level, size_bit) in [(3, 30), (2, 21)] {
        assert!((13..size_bit).all(|bit| is_reserved(level, large | 1 << bit)), "level {level}");
        assert!([12, size_bit, 45].iter().all(|bit| !is_reserved(level, large | 1 << bit)));
    }
    assert!(!is_reserved(1, get(&tables(), 1) | PAGE_SIZE_BIT), "PAT in a leaf entry");
}

#[test]
fn a_table_outside_ram_is_no_ram_and_not_a_read_elsewhere() {
    for level in 2..=4 {
        let ram = tables();
        set(&ram, level, 0x999 << 12 | PRESENT_WRITE);
        assert_eq!(walk(&ram), Err(Fault::NoRam { va: VA, pfn: Pfn(0x999) }));
    }
    let below = mmu::walk(&tables(), Pfn(ROOT.0 - 1), VA);
    assert_eq!(below, Err(Fault::NoRam { va: VA, pfn: Pfn(ROOT.0 - 1) }));
}

#[test]
fn an_address_is_canonical_if_its_upper_seventeen_bits_are_equal() {
    for (va, is_canonical) in [
        (0, true),
        (0x0000_7fff_ffff_ffff, true),
        (0x0000_8000_0000_0000, false),
        (0xffff_7fff_ffff_ffff, false),
        (0xffff_8000_0000_0000, true),
        (u64::MAX, true),
    ] {
        assert_eq!(mmu::is_canonical(VirtAddr(va)), is_canonical, "{va:#x}");
    }
}
