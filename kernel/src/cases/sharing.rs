//! User mode, and code that comes and goes.

use super::interrupts::{lend, lent};
use crate::arch::{self, USER_BASE, UserExit};
use crate::machine::{self, KernelEngine, Mmu, UserSpace};
use crate::smp;
use crate::subject::with_engines;
use vmalloc_core::platform::{Frames, Mapper};
use vmalloc_core::{
    Area, BackError, Cache, Extent, PageRange, Pages, Pfn, Prot, RemapError, Request, Rights,
    VirtAddr, Vma, Vpn,
};
use vmalloc_sim::Setup;

/// Where a space has its code, and where it sees the area: another place in each.
const CODE: Vpn = Vpn(USER_BASE.0 + 16);

fn data(space: usize) -> Vpn {
    Vpn(USER_BASE.0 + 1024 + 300 * space as u64)
}

/// The code, in a frame of its own, as an area of the kernel's that users may be shown.
fn code(engine: &KernelEngine<'_>, bytes: &[u8]) -> Area {
    let area = engine.vmalloc(&Request::bytes(4096).user()).expect("room");
    arch::copy_to(area.addr().0, bytes);
    arch::sync_code(area.addr().0);
    engine.protect(area.id, area.generation, Rights::ReadExecute).expect("its own");
    assert!(arch::store(area.addr().0, 0).is_err(), "code that can be written");
    area
}

/// Where users are shown an area of `pages` pages.
fn place(space: &UserSpace, start: Vpn, pages: u64, rights: Rights) -> Vma<Mmu> {
    let pages = PageRange { start, len: Pages(pages) };
    space.mmu.prepare(pages).expect("frames for the upper tables");
    Vma::new(space.hardware(), pages, rights)
}

fn setup() -> Setup {
    Setup { members: 1, ..Setup::DEFAULT }
}

/// Goal: user code in two address spaces works on one area of the kernel's, at addresses of its
/// own, and on what the area was when the kernel frees it. Method: `remap_vmalloc_range` to both;
/// each writes what the other then reads; the kernel sees both, frees and purges; they go on.
pub fn two_user_spaces_share_an_area() {
    with_engines(setup(), |parts, engines| {
        let engine = &engines[0];
        let tables = machine::tables_in_use();
        let program = code(engine, arch::user_code());
        let area = engine.vzalloc(&Request::bytes(5 * 4096).user()).expect("room");
        let spaces = [0, 1].map(|_| UserSpace::new());
        let codes = spaces.each_ref().map(|space| place(space, CODE, 1, Rights::ReadExecute));
        let places = [0, 1].map(|i| place(&spaces[i], data(i), 5, Rights::ReadWrite));
        let show = |vma, area: &Area| engine.remap_vmalloc_range(vma, area.addr(), 0);
        let programs = codes.each_ref().map(|vma| show(vma, &program).expect("user code"));
        let [first, second] = places.each_ref().map(|vma| show(vma, &area).expect("user data"));
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
        // The kernel goes first; its frames stay for who sees them, and nobody else.
        let _ = engine.vfree(area.addr()).expect("live");
        engine.purge().expect("may wait");
        assert!(arch::load(area.addr().0).is_err() && smp::load_there(area.addr().0).is_err());
        let [mine, yours] = [0, 1].map(|i| data(i).addr().0 + 4 * 4096 + 8 * 19);
        assert_eq!(spaces[0].run(CODE.addr().0, mine, mine, 300), UserExit::Call(219));
        assert!(first.detach().is_ok());
        assert_eq!(spaces[0].run(CODE.addr().0, mine, mine, 301), UserExit::Fault(mine));
        assert_eq!(spaces[1].run(CODE.addr().0, yours, yours, 302), UserExit::Call(300));
        let held = parts.buddy.free();
        assert!(second.detach().is_ok());
        assert!(parts.buddy.free().0 >= held.0 + 5, "the last user takes the frames along");
        assert_eq!(spaces[1].run(CODE.addr().0, yours, yours, 303), UserExit::Fault(yours));
        programs.into_iter().for_each(drop);
        spaces.into_iter().for_each(UserSpace::drop);
        free_all(engine, [program]);
        assert_eq!(parts.buddy.free(), setup().frames, "frames that did not come home");
        let now = machine::tables_in_use();
        assert!(now <= tables + 8, "{tables} tables before, {now} now: the users' stayed");
    });
}

/// Goal: two users see a device's memory at once, and RAM is refused. Method: `remap_pfn_range` of
/// the carve-out; the kernel looks by `vmap_pfn`.
pub fn two_user_spaces_share_a_device() {
    with_engines(setup(), |parts, engines| {
        let engine = &engines[0];
        let device = Extent { len: Pages(3), ..machine::carve_out() };
        let program = code(engine, arch::user_code());
        let spaces = [0, 1].map(|_| UserSpace::new());
        let codes = spaces.each_ref().map(|space| place(space, CODE, 1, Rights::ReadExecute));
        let places = [0, 1].map(|i| place(&spaces[i], data(i), 3, Rights::ReadWrite));
        let programs = codes
            .each_ref()
            .map(|vma| engine.remap_vmalloc_range(vma, program.addr(), 0).expect("user code"));
        let show = |vma: &'_ Vma<Mmu>, pfn| {
            let (at, len_bytes) = (vma.pages().start.addr(), vma.pages().len.bytes());
            engine.remap_pfn_range(vma, at, pfn, len_bytes, Cache::WriteBack).map(|_| ())
        };
        let pool = machine::pool();
        for start in [pool.start, Pfn(pool.end().0 - 1)] {
            let refused = show(&places[0], start);
            assert!(
                matches!(refused, Err(RemapError::Frames(BackError::IsRam { .. }))),
                "{start}: {refused:?}"
            );
        }
        let remaps = places.each_ref().map(|vma| {
            let (at, len_bytes) = (vma.pages().start.addr(), vma.pages().len.bytes());
            engine
                .remap_pfn_range(vma, at, device.start, len_bytes, Cache::WriteBack)
                .expect("a device")
        });
        let kernels = engine.vmap_pfn(&[device], Prot::READ_WRITE).expect("room");
        for page in 0..3 {
            let at = page * 4096 + 16;
            let words = [0, 1].map(|i| data(i).addr().0 + at);
            arch::store(kernels.addr().0 + at, 76).expect("mapped");
            assert_eq!(spaces[0].run(CODE.addr().0, words[0], words[0], 77), UserExit::Call(76));
            assert_eq!(spaces[1].run(CODE.addr().0, words[1], words[1], 78), UserExit::Call(77));
            assert_eq!(arch::load(kernels.addr().0 + at), Ok(78));
        }
        for (i, remap) in remaps.into_iter().enumerate() {
            assert!(remap.detach().is_ok());
            let word = data(i).addr().0;
            let exit = spaces[i].run(CODE.addr().0, word, word, 79);
            assert_eq!(exit, UserExit::Fault(word), "unmapped and flushed");
        }
        let _ = engine.vunmap(kernels.addr()).expect("live");
        programs.into_iter().for_each(drop);
        spaces.into_iter().for_each(UserSpace::drop);
        free_all(engine, [program]);
        assert_eq!(parts.buddy.free(), setup().frames, "frames that did not come home");
    });
}

/// Goal: a user may read what it was shown read-only, and faults where it writes; an area that the
/// kernel itself may only read is shown to nobody writable. Method: `remap_vmalloc_range` with
/// other rights to each; then `protect`.
pub fn read_only_faults() {
    with_engines(setup(), |parts, engines| {
        let engine = &engines[0];
        let program = code(engine, arch::user_code());
        let area = engine.vzalloc(&Request::bytes(2 * 4096).user()).expect("room");
        arch::store(area.addr().0 + 4096, 42).expect("mapped");
        let (writer, reader) = (UserSpace::new(), UserSpace::new());
        let codes = [&writer, &reader].map(|space| place(space, CODE, 1, Rights::ReadExecute));
        let writable = place(&writer, data(0), 2, Rights::ReadWrite);
        let readable = place(&reader, data(1), 2, Rights::Read);
        let more = place(&reader, data(2), 2, Rights::ReadWrite);
        let show = |vma, area: &Area| engine.remap_vmalloc_range(vma, area.addr(), 0);
        let programs = codes.each_ref().map(|vma| show(vma, &program).expect("user code"));
        let remaps = [&writable, &readable].map(|vma| show(vma, &area).expect("user data"));
        let word = |space: usize| data(space).addr().0 + 4096;
        assert_eq!(reader.run(CODE.addr().0, word(1), word(1), 1), UserExit::Fault(word(1)));
        assert_eq!(arch::load(area.addr().0 + 4096), Ok(42), "nothing was written");
        assert_eq!(writer.run(CODE.addr().0, word(0), word(0), 43), UserExit::Call(42));
        assert_eq!(arch::load(area.addr().0 + 4096), Ok(43));
        // It reads there, and writes elsewhere: to what a user may not write, its code.
        let start = CODE.addr().0;
        assert_eq!(reader.run(start, word(1), start, 1), UserExit::Fault(start));
        // One page past the area: nothing there.
        let past = data(1).addr().0 + 2 * 4096;
        assert_eq!(reader.run(start, past, past, 1), UserExit::Fault(past));
        // Code cannot be written, data cannot be executed.
        assert_eq!(writer.run(start, start, start, 1), UserExit::Fault(start));
        assert_eq!(writer.run(word(0), word(0), word(0), 1), UserExit::Fault(word(0)));
        // The kernel may only read it, on either CPU: so may who is shown it from now on.
        let kernels = area.addr().0 + 4096;
        engine.protect(area.id, area.generation, Rights::Read).expect("its own");
        assert!(arch::store(kernels, 44).is_err() && smp::store_there(kernels, 44).is_err());
        let refused = show(&more, &area).err();
        assert_eq!(refused, Some(RemapError::TooManyRights { user: Rights::ReadWrite }));
        engine.protect(area.id, area.generation, Rights::ReadWrite).expect("its own");
        assert!(arch::store(kernels, 44).is_ok() && smp::store_there(kernels, 45).is_ok());
        let third = show(&more, &area).expect("writable again");
        assert_eq!(reader.run(start, word(2), word(2), 46), UserExit::Call(45));
        drop(third);
        remaps.into_iter().chain(programs).for_each(drop);
        writer.drop();
        reader.drop();
        free_all(engine, [program, area]);
        assert_eq!(parts.buddy.free(), setup().frames, "frames that did not come home");
    });
}

fn free_all<const N: usize>(engine: &KernelEngine<'_>, areas: [Area; N]) {
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
            let at = lend(engine, || arch::call_module(text.addr().0, allocate, 9000));
            let area = engine.find(VirtAddr(at)).expect("what the module allocated");
            assert_eq!((area.bytes, arch::load(at)), (9000, Ok(0)));
            free_all(engine, [area, text]);
            assert!(arch::load(text.addr().0).is_err() && arch::load(at).is_err());
        }
    });
}
