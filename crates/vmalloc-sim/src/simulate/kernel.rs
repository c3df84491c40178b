//! A kernel by seed: its size, its TLBs and its operations, held against the model.
//!
//! Each operation is followed by everything there is to check. A frame that goes home while a TLB
//! shows it ends the run at once, whether or not anybody comes to use it.

use super::{Failure, Figures, shrink::shrink, told};
use crate::random::Random;
use crate::subject::{Setup, Subject};
use crate::{KernelConfig, Op, SimKernel, SimSubject, TlbSize, model, ops};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use vmalloc_core::Pages;

pub(super) fn simulate(seed: u64, steps: usize) -> Result<Figures, Box<Failure>> {
    let mut random = Random::new(seed);
    let (frames, window) =
        [(512, 32 << 10), (512, 1024), (48, 4096), (256, 16 << 10)][random.index(4)];
    let setup = Setup {
        frames: Pages(frames),
        window: Pages(window),
        members: 2 + random.index(3),
        lazy_pages_max: Pages([0, 64, 256][random.index(3)]),
    };
    let tlb = [TlbSize::Unlimited, TlbSize::Unlimited, TlbSize::DirectMapped(16)][random.index(3)];
    let ops = operations(seed, setup, steps);
    let failed = |what, ops: &[Op]| {
        let short = shrink(ops, |part| run(setup, tlb, part).is_err());
        let what = run(setup, tlb, &short).err().unwrap_or(what);
        let len = short.len();
        let test = model::Divergence { setup, ops: short, what: what.clone() }.to_string();
        Box::new(Failure { seed, what, len, test })
    };
    run(setup, tlb, &ops).map_err(|what| failed(what, &ops))
}

fn operations(seed: u64, setup: Setup, steps: usize) -> Vec<Op> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut abilities = None;
    SimKernel::run(config(setup, TlbSize::Unlimited), |kernel| {
        abilities = Some(SimSubject::new(kernel, setup).abilities());
    });
    let op = ops::op(setup, abilities.expect("the kernel ran"));
    (0..steps).map(|_| op.new_tree(&mut runner).expect("a value").current()).collect()
}

fn config(setup: Setup, tlb: TlbSize) -> KernelConfig {
    KernelConfig {
        frames: setup.frames,
        window: setup.window,
        spaces: setup.members,
        lazy_pages_max: setup.lazy_pages_max,
        tlb,
        watches_frames: true,
        ..KernelConfig::default()
    }
}

fn run(setup: Setup, tlb: TlbSize, ops: &[Op]) -> Result<Figures, String> {
    let checked: Vec<Op> = ops.iter().flat_map(|&op| [op, Op::Verify]).collect();
    told(|| {
        SimKernel::run(config(setup, tlb), |kernel| {
            let mut subject = SimSubject::new(kernel, setup);
            let tally = model::run(&mut subject, &checked).map_err(|d| d.what)?;
            Ok(Figures {
                seeds: 1,
                operations: (tally.done - ops.len()) as u64 + tally.refused as u64,
                faults: subject.faults_fired(),
                flushes: kernel.hardware().counters().flushes,
                ..Figures::default()
            })
        })
    })
}
