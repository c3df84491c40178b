//! User mode, and code that comes and goes.

use super::interrupts::{lend, lent};
use crate::arch::{self, USER_BASE, UserExit};
use crate::machine::{KernelEngine, Parts, UserSpace};
use crate::subject::with_engines;
use vmalloc_core::platform::{Frames, Mapper, Tlb};
use vmalloc_core::{
    Area, Extent, Machine, Order, PageRange, Pages, Prot, Request, Rights, VirtAddr, Vpn,
};
use vmalloc_sim::Setup;

/// Where a space has its code, and where it sees the area: another place in each.
const CODE: Vpn = Vpn(USER_BASE.0 + 16);

fn data(space: usize) -> Vpn {
    Vpn(USER_BASE.0 + 1024 + 300 * space as u64)
}

/// The code, in a frame of its own, as an area of the kernel's that both spaces are shown.
fn code(engine: &KernelEngine<'_>, bytes: &[u8]) -> Area {
    let area = engine.vmalloc(&Request::bytes(4096)).expect("room");
    arch::copy_to(area.addr().0, bytes);
    arch::sync_code(area.addr().0);
    area
}

/// Shows an area in a user space, page by page what the kernel's tables say. Linux:
/// `remap_vmalloc_range`.
fn remap(engine: &KernelEngine<'_>, area: &Area, space: &UserSpace, at: Vpn, prot: Prot) {
    for i in 0..area.pages.len.0 {
        let page = Vpn(area.pages.start.0 + i);
        let (pfn, _) = engine.machine().translate(page).expect("mapped");
        let run = Extent { start: pfn, len: Pages(1) };
        space.mmu.map_run(Vpn(at.0 + i), run, prot.user()).expect("tables");
    }
    space.mmu.publish(PageRange { start: at, len: area.pages.len });
}

fn setup() -> Setup {
    Setup { members: 1, ..Setup::DEFAULT }
}

/// Goal: user code in two address spaces works on one area of the kernel's, at addresses of its
/// own. Method: each writes what the other then reads; the kernel sees both. The frames are also
/// shown by number (Linux: `remap_pfn_range`).
pub fn two_user_spaces_share_an_area() {
    with_engines(setup(), |parts, engines| {
        let engine = &engines[0];
        let program = code(engine, arch::user_code());
        let area = engine.vzalloc(&Request::bytes(5 * 4096)).expect("room");
        let spaces = [0, 1].map(|_| UserSpace::new());
        for (i, space) in spaces.iter().enumerate() {
            remap(engine, &program, space, CODE, Prot::new(Rights::ReadExecute));
            remap(engine, &area, space, data(i), Prot::READ_WRITE);
        }
        for round in 0..20_u64 {
            let (me, page) = (round as usize % 2, round % 5);
            let word = data(me).addr().0 + page * 4096 + 8 * round;
            let exit = spaces[me].run(CODE.addr().0, word, word, 100 + round);
            assert_eq!(exit, UserExit::Call(0), "round {round}: fresh");
            let other = data(1 - me).addr().0 + page * 4096 + 8 * round;
            let exit = spaces[1 - me].run(CODE.addr().0, other, other, 200 + round);
            assert_eq!(exit, UserExit::Call(100 + round), "round {round}: what the first wrote");
            let kernels = area.addr().0 + page * 4096 + 8 * round;
            assert_eq!(
                arch::load(kernels),
                Ok(200 + round),
                "round {round}: what the second wrote"
            );
        }
        // The kernel's own window is not for users.
        let exit = spaces[0].run(CODE.addr().0, area.addr().0, data(0).addr().0, 1);
        assert_eq!(exit, UserExit::Fault(area.addr().0));
        by_number(parts, &spaces);
        spaces.into_iter().for_each(UserSpace::drop);
        free_all(engine, [program, area]);
    });
}

/// A frame that no area has, shown by its number in both spaces.
fn by_number(parts: &Parts<'_>, spaces: &[UserSpace; 2]) {
    let pfn = parts.buddy.take(Order(0)).expect("a frame");
    let run = Extent { start: pfn, len: Pages(1) };
    let at = Vpn(USER_BASE.0 + 5000);
    let word = at.addr().0;
    for space in spaces {
        space.mmu.map_run(at, run, Prot::READ_WRITE.user()).expect("tables");
        space.mmu.publish(PageRange { start: at, len: Pages(1) });
    }
    spaces[0].run(CODE.addr().0, word, word, 77);
    assert_eq!(spaces[1].run(CODE.addr().0, word, word, 78), UserExit::Call(77));
    for space in spaces {
        space.mmu.unmap_run(PageRange { start: at, len: Pages(1) });
        space.mmu.flush_all_cpus(&[PageRange { start: at, len: Pages(1) }]);
        let exit = space.run(CODE.addr().0, word, word, 79);
        assert_eq!(exit, UserExit::Fault(word), "unmapped and flushed");
    }
    parts.buddy.give(run);
}

/// Goal: a user may read what it was shown read-only, and faults where it writes.
pub fn read_only_faults() {
    with_engines(setup(), |_, engines| {
        let engine = &engines[0];
        let program = code(engine, arch::user_code());
        let area = engine.vzalloc(&Request::bytes(2 * 4096)).expect("room");
        arch::store(area.addr().0 + 4096, 42).expect("mapped");
        let (writer, reader) = (UserSpace::new(), UserSpace::new());
        for (i, (space, prot)) in
            [(&writer, Prot::READ_WRITE), (&reader, Prot::READ)].into_iter().enumerate()
        {
            remap(engine, &program, space, CODE, Prot::new(Rights::ReadExecute));
            remap(engine, &area, space, data(i), prot);
        }
        let word = |space: usize| data(space).addr().0 + 4096;
        assert_eq!(reader.run(CODE.addr().0, word(1), word(1), 1), UserExit::Fault(word(1)));
        assert_eq!(arch::load(area.addr().0 + 4096), Ok(42), "nothing was written");
        assert_eq!(writer.run(CODE.addr().0, word(0), word(0), 43), UserExit::Call(42));
        assert_eq!(arch::load(area.addr().0 + 4096), Ok(43));
        // One page past the area: nothing there.
        let past = data(1).addr().0 + 2 * 4096;
        assert_eq!(reader.run(CODE.addr().0, past, past, 1), UserExit::Fault(past));
        // Code cannot be written, data cannot be executed.
        let start = CODE.addr().0;
        assert_eq!(writer.run(start, start, start, 1), UserExit::Fault(start));
        assert_eq!(writer.run(word(0), word(0), word(0), 1), UserExit::Fault(word(0)));
        writer.drop();
        reader.drop();
        free_all(engine, [program, area]);
    });
}

fn free_all(engine: &KernelEngine<'_>, areas: [Area; 2]) {
    for area in areas {
        let _ = engine.vfree(area.addr()).expect("live");
    }
    engine.purge().expect("may wait");
    engine.verify().expect("sound");
}

/// What a module may call.
extern "C" fn allocate(bytes: u64) -> u64 {
    lent().vzalloc(&Request::bytes(bytes)).map_or(0, |area| area.addr().0)
}

/// Goal: code lives in an area: written, then made executable (and no longer writable), called from
/// there, and gone with it. Method: a module's code calls the allocator; then it is unloaded.
pub fn module() {
    with_engines(setup(), |_, engines| {
        let engine = &engines[0];
        for _ in 0..20 {
            let text = code(engine, arch::module_code());
            let mmu = engine.machine().hardware();
            mmu.protect_run(text.pages, Prot::new(Rights::ReadExecute));
            mmu.flush_all_cpus(&[text.pages]);
            assert!(arch::store(text.addr().0, 0).is_err(), "code that can be written");
            let at = lend(engine, || arch::call_module(text.addr().0, allocate, 9000));
            let area = engine.find(VirtAddr(at)).expect("what the module allocated");
            assert_eq!((area.bytes, arch::load(at)), (9000, Ok(0)));
            mmu.protect_run(text.pages, Prot::READ_WRITE);
            mmu.flush_all_cpus(&[text.pages]);
            free_all(engine, [area, text]);
            assert!(arch::load(text.addr().0).is_err() && arch::load(at).is_err());
        }
    });
}
