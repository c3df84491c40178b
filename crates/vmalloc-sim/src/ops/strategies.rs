//! Operations by chance, as strategies of proptest: what shrinks, and what fuzzers draw from.
//!
//! A feature, so that who needs the simulated machine alone builds no proptest.

use super::Op;
use crate::Step;
use crate::subject::{Abilities, Setup, Want};
use proptest::prelude::*;
use vmalloc_core::{PAGE_SIZE, Pages, Publish};

const PAGE: u64 = PAGE_SIZE as u64;

/// Sequences of up to `len` operations that a machine of this size and these abilities
/// understands.
pub fn sequences(
    setup: Setup,
    abilities: Abilities,
    len: usize,
) -> impl Strategy<Value = Vec<Op>> + use<> {
    prop::collection::vec(op(setup, abilities), 1..=len)
}

/// One such operation.
pub fn op(setup: Setup, abilities: Abilities) -> impl Strategy<Value = Op> + use<> {
    let member = 0..setup.members;
    let nth = 0..64_usize;
    let how = prop_oneof![Just(Publish::Frozen), Just(Publish::Shared)];
    let step = prop::sample::select(&Step::SHORT_OF_MEMORY[..]);
    let alloc = (member.clone(), want(setup));
    let range = (nth.clone(), any::<u64>(), 1..5 * PAGE);
    let write = (range.clone(), any::<u8>());
    let vmap = (member.clone(), 0..24_usize, any::<u64>());
    // Weights that keep the pool between empty and full.
    let mut ops: Vec<(u32, BoxedStrategy<Op>)> = vec![
        (20, alloc.prop_map(|(member, want)| Op::Alloc { member, want }).boxed()),
        (12, nth.clone().prop_map(|nth| Op::Free { nth }).boxed()),
        (6, range.prop_map(|(nth, at, len)| Op::Read { nth, at, len }).boxed()),
        (12, write.prop_map(|((nth, at, len), seed)| Op::Write { nth, at, len, seed }).boxed()),
        (6, (nth.clone(), how).prop_map(|(nth, how)| Op::Share { nth, how }).boxed()),
        (
            8,
            (member.clone(), nth.clone())
                .prop_map(|(member, nth)| Op::Attach { member, nth })
                .boxed(),
        ),
        (5, nth.clone().prop_map(|nth| Op::Detach { nth }).boxed()),
        (2, member.prop_map(|member| Op::PurgeStep { member }).boxed()),
        (2, Just(Op::Purge).boxed()),
        (2, Just(Op::Verify).boxed()),
    ];
    if abilities.frees_by_address {
        let inside = (nth.clone(), any::<u64>());
        ops.push((2, inside.prop_map(|(nth, offset)| Op::FreeInside { nth, offset }).boxed()));
        ops.push((1, nth.clone().prop_map(|nth| Op::FreeTwice { nth }).boxed()));
    }
    if abilities.vmaps {
        let vmap = vmap.prop_map(|(member, frames, shuffle)| Op::Vmap { member, frames, shuffle });
        ops.push((3, vmap.boxed()));
        ops.push((3, nth.prop_map(|nth| Op::Vunmap { nth }).boxed()));
    }
    if abilities.resizes {
        let resize = (0..64_usize, bytes(setup.frames), any::<bool>())
            .prop_map(|(nth, bytes, zeroed)| Op::Resize { nth, bytes, zeroed });
        ops.push((5, resize.boxed()));
    }
    if abilities.injects_faults {
        ops.push((4, (step, 1..4_u64).prop_map(|(step, n)| Op::FailNext { step, n }).boxed()));
        ops.push((1, any::<bool>().prop_map(|may| Op::MayWait { may }).boxed()));
    }
    prop::strategy::Union::new_weighted(ops)
}

/// Requests, mostly such as can be served; some that are wrong in one way or another.
pub fn want(setup: Setup) -> impl Strategy<Value = Want> + use<> {
    (bytes(setup.frames), align(), any::<[bool; 4]>()).prop_map(
        |(bytes, align, [zeroed, odd, huge, strict])| {
            // Most with a guard, and most reusable: that is the default.
            let (guard, reuse) = (!(odd && huge), !(odd && strict));
            Want { bytes, align, zeroed, guard, huge, reuse, user: odd && zeroed }
        },
    )
}

fn bytes(pool: Pages) -> impl Strategy<Value = u64> + use<> {
    let pool = pool.bytes();
    prop_oneof![
        10 => 1..=8 * PAGE,
        // Few shapes, so that they are revived.
        6 => prop::sample::select(vec![1_u64, 2, 4, 16]).prop_map(|pages| pages * PAGE),
        6 => 1..=pool / 8,
        2 => 1..=pool,
        1 => pool..=2 * pool,
        1 => prop::sample::select(vec![0, u64::MAX, u64::MAX - PAGE, 1 << 63]),
    ]
}

fn align() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => Just(PAGE),
        6 => (0..=22_u32).prop_map(|log2| 1 << log2),
        1 => prop::sample::select(vec![0, 3, 4097, 3 * PAGE, 1 << 31, 1 << 63, u64::MAX]),
    ]
}
