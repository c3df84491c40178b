//! `vmalloc stress`: the cases of Linux's `lib/test_vmalloc.c`, and others, on either machine.
//!
//! ```text
//!   args ─▶ plan ─┬ Linux's thirteen ─▶ crew: N workers on one stage ─▶ settle: nothing leaked
//!                 └ ours, one by one, each on a machine of its own
//!                                            └────────▶ a summary line a case and worker
//! ```
//!
//! [`subject`] is what a case needs of a machine, [`on_linux`] and [`on_sim`] give it;
//! [`linux_cases`] and [`later`] are the thirteen, [`ours`] the others, and [`alone`] the table of
//! those; [`pool`] has the cases of many processes. Memory is bounded by [`memory`], and everything hangs on this process alone, so nothing
//! is left if it is killed.

mod alone;
mod crew;
mod grace;
mod later;
mod linux_cases;
mod memory;
mod on_linux;
mod on_sim;
mod ours;
mod percpu;
pub mod pool;
mod subject;
mod summary;
mod work;

use crate::args::{Machine, Preset, StressArgs};
use crate::failure::{Done, Failure};
use alone::{Alone, GROUPS, POOL, Terms};
use crew::Plan;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use linux_cases::{Scale, cases};
use std::fmt::Display;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Write, stdout};
use std::time::Instant;
use subject::{Settled, Stage, Stop, Verdict};
use summary::{Report, Summary, Worker};

/// Linux's group.
const LINUX: &str = "linux";

/// Linux: the default of `nr_pcpu_objects`.
const OBJECTS_MAX: u64 = 35_000;

/// Runs the cases, prints what became of them, and fails if one did.
pub fn run(args: &StressArgs) -> Done {
    let started = Instant::now();
    let chosen = |group: &str, name: &str| {
        // A loop of a case of many processes is a kill or a second: those run when named.
        let is_one_of_all = group != POOL;
        args.case
            .iter()
            .any(|wanted| wanted == group || wanted == name || wanted == "all" && is_one_of_all)
    };
    let names = linux_names().into_iter().filter(|name| chosen(LINUX, name)).collect();
    let plan = plan(args, names);
    let alone: Vec<&Alone> = GROUPS
        .iter()
        .flat_map(|(group, cases)| cases.iter().filter(|case| chosen(group, case.name)))
        .collect();
    let bar = bar(&plan, alone.len());

    let mut report = Report {
        machine: if args.machine == Machine::Linux { "linux" } else { "sim" },
        seed: plan.seed,
        cpus: plan.scale.cpus,
        threads: plan.threads,
        workers: Vec::new(),
        alone: Vec::new(),
        settled: None,
        leaked: None,
        elapsed_ms: 0,
    };
    if !plan.names.is_empty() {
        let (workers, settled) = linux_cases(args.machine, &plan, &bar).map_err(not_run)?;
        report.workers = workers;
        match settled {
            Ok(settled) => report.settled = Some(settled),
            Err(stop) => report.leaked = Some(reason(stop)),
        }
    }
    let terms = Terms {
        machine: args.machine,
        seed: plan.seed,
        loops: args.loops,
        pool_bytes: args.pool.map(|size| size.0),
    };
    for case in alone {
        bar.set_message(case.name);
        let mut summary = Summary::new(0, case.name, plan.repeat, 1);
        summary.count(false, || (case.run)(&terms).map(Some));
        report.alone.push(summary);
        bar.inc(plan.loops);
    }
    bar.finish_and_clear();
    report.elapsed_ms = started.elapsed().as_millis() as u64;
    if args.json {
        print_json(&report)?
    } else {
        print(&report, &plan)?
    }
    match report.failures() {
        0 => Ok(()),
        failures => Err(Failure::new(format_args!(
            "stress: {failures} failed; the same again: --seed {}",
            plan.seed
        ))),
    }
}

/// Every name that `--case` takes, groups first.
pub fn names() -> Vec<&'static str> {
    let groups = ["all", LINUX].into_iter().chain(GROUPS.iter().map(|(group, _)| *group));
    let alone = GROUPS.iter().flat_map(|(_, cases)| cases.iter().map(|case| case.name));
    groups.chain(linux_names()).chain(alone).collect()
}

fn linux_names() -> [&'static str; 13] {
    cases::<on_linux::LinuxWorker<'_>>().map(|case| case.name)
}

/// The presets of Linux's `test_vmalloc.sh`, and what the arguments change in them.
fn plan(args: &StressArgs, names: Vec<&'static str>) -> Plan {
    let (threads, loops, repeat, sequential) = match args.preset {
        None => (1, 10_000, 1, false),
        Some(Preset::Smoke) => (1, 10_000, 10, false),
        Some(Preset::Performance) => (1, 1_000_000, 3, true),
        Some(Preset::Stress) => (on_linux::cpus(), 1_000_000, 20, false),
    };
    let threads = args.threads.unwrap_or(threads);
    let cpus = match args.machine {
        Machine::Linux => on_linux::cpus(),
        Machine::Sim => threads,
    };
    // As the shell script has it: of 90 % of the pages, one for each object and CPU.
    let objects = OBJECTS_MAX.min(memory::BUDGET_PAGES * 9 / 10 / u64::from(cpus));
    let scale = Scale { cpus, objects };
    let wanted = cases::<on_linux::LinuxWorker<'_>>().into_iter();
    let wanted = wanted.filter(|case| names.contains(&case.name));
    let most = wanted.map(|case| (case.pages)(&scale)).max().unwrap_or(1);
    Plan {
        threads: threads as usize,
        loops: args.loops.unwrap_or(loops),
        repeat: args.repeat.unwrap_or(repeat),
        seed: args.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 40),
        sequential: args.sequential || sequential,
        names,
        scale,
        memory_pages: (most * u64::from(threads)).min(memory::BUDGET_PAGES.max(most)),
    }
}

type Ran = (Vec<Worker>, Verdict<Settled>);

fn linux_cases(machine: Machine, plan: &Plan, bar: &ProgressBar) -> Verdict<Ran> {
    match machine {
        Machine::Linux => on_linux::with(plan.memory_pages, |stage| on_stage(stage, plan, bar)),
        Machine::Sim => {
            on_sim::with(plan.scale.cpus, plan.memory_pages, |stage| on_stage(stage, plan, bar))
        }
    }
}

fn on_stage<M: Stage>(stage: &M, plan: &Plan, bar: &ProgressBar) -> Verdict<Ran> {
    let workers = crew::run(stage, plan, bar)?;
    Ok((workers, stage.settle()))
}

/// On stderr, and on a terminal only.
fn bar(plan: &Plan, alone: usize) -> ProgressBar {
    let looping = cases::<on_linux::LinuxWorker<'_>>().into_iter();
    let looping = looping.filter(|case| plan.names.contains(&case.name));
    let rounds = |case: linux_cases::Case<_>| match case.loops {
        true => plan.loops,
        false if case.name.starts_with("pcpu") => plan.scale.objects,
        false => 1,
    };
    let rounds = looping.map(rounds).sum::<u64>() * plan.repeat * plan.threads as u64;
    let bar = ProgressBar::with_draw_target(
        Some(rounds + alone as u64 * plan.loops),
        ProgressDrawTarget::stderr(),
    );
    let style = ProgressStyle::with_template("stress {wide_bar} {percent} % {per_sec} {msg}");
    bar.with_style(style.expect("the template is ours"))
}

fn not_run(stop: Stop) -> Failure {
    Failure::new(format_args!("stress: {}", reason(stop)))
}

fn reason(stop: Stop) -> String {
    match stop {
        Stop::Failed(why) => why.to_string(),
        Stop::Unsupported(why) => why.to_owned(),
    }
}

fn print(report: &Report, plan: &Plan) -> Done {
    for worker in &report.workers {
        put(worker)?;
    }
    if let Some(settled) = &report.settled {
        let Settled { allocs, revives, purged, flushes, .. } = settled;
        put(format_args!(
            "Nothing leaked: {allocs} allocated ({revives} warm), {purged} purged in {flushes} \
             flushes, all free."
        ))?;
    }
    if let Some(leaked) = &report.leaked {
        put(format_args!("Not settled: {leaked}"))?;
    }
    for summary in &report.alone {
        put(summary)?;
    }
    let count = |of: fn(&Summary) -> u64| report.summaries().map(of).sum::<u64>();
    put(format_args!(
        "{}: {} passed, {} failed, {} xfailed, {} unsupported in {:.1} s; --seed {}",
        report.machine,
        count(|summary| summary.passed),
        report.failures(),
        count(|summary| summary.xfailed),
        count(|summary| u64::from(summary.unsupported.is_some())),
        report.elapsed_ms as f64 / 1000.0,
        plan.seed
    ))
}

fn put(text: impl Display) -> Done {
    writeln!(stdout().lock(), "{text}").map_err(|e| Failure::output(&e))
}

fn print_json(report: &Report) -> Done {
    let mut out = stdout().lock();
    let written = serde_json::to_writer_pretty(&mut out, report).map_err(std::io::Error::from);
    let written = written.and_then(|()| writeln!(out)).and_then(|()| out.flush());
    written.map_err(|e| Failure::output(&e))
}
