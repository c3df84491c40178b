//! The model of many CPUs as a program: `model --measured FILE [--seed N] [--cpus N,N,…] [--row NAME]
//! [--only NAME]`. `cargo xtask model` builds and runs it.
//!
//! ```text
//!   measure's lines, instructions ─▶ costs of this machine ─▶ foretold beside measured
//!                                └─▶ costs of the large one ─▶ tables, hottest lines
//! ```
//!
//! Prints Markdown. `--row` prints one row of the last table alone, for a build with other lanes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use vmalloc_core::layout::LANES;
use vmalloc_sim::scale::{
    AREAS, Costs, Outcome, Ps, Setting, WINDOW, Words, Workload, accesses_each, simulate,
};

/// The CPUs of the tables.
const CPUS: [usize; 9] = [1, 2, 4, 7, 8, 16, 32, 64, 128];
/// Those of the last table.
const FEW_CPUS: [usize; 5] = [2, 8, 16, 32, 128];
/// Seeds of a figure; the median is told.
const SEEDS: u64 = 3;
/// Hottest lines told.
const HOT: usize = 5;

fn main() -> ExitCode {
    match Options::parse().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("model: {why}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    measured: String,
    seed: u64,
    cpus: Vec<usize>,
    row: Option<String>,
    only: Option<String>,
}

impl Options {
    fn parse() -> Result<Options, String> {
        let mut options = Options {
            measured: String::new(),
            seed: 1,
            cpus: CPUS.to_vec(),
            row: None,
            only: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or(format!("{word} wants a value"))?;
            let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
            match word.as_str() {
                "--measured" => options.measured = value,
                "--seed" => options.seed = number(&value)?,
                "--cpus" => {
                    let cpus = value.split(',').map(|n| number(n).map(|n| n as usize));
                    options.cpus = cpus.collect::<Result<_, _>>()?;
                    if options.cpus.iter().any(|cpus| !(1..=128).contains(cpus)) {
                        return Err(format!("{value}: 1 to 128 CPUs are possible"));
                    }
                }
                "--row" => options.row = Some(value),
                "--only" => options.only = Some(value),
                _ => return Err(format!("{word} is no option")),
            }
        }
        Ok(options)
    }
}

/// What a program measured: name, then a figure, its quartiles, and how many samples it had.
struct Measured(BTreeMap<String, Vec<f64>>);

impl Measured {
    fn read(path: &str) -> Result<Measured, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let figures = lines.filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            Some((name.to_owned(), words.map_while(|word| word.parse().ok()).collect()))
        });
        Ok(Measured(figures.collect()))
    }

    fn of(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.first().copied()
    }

    fn ns(&self, name: &str) -> Result<Ps, String> {
        let ns = self.of(name).ok_or(format!("{name} was not measured"))?;
        Ok((ns * 1e3) as Ps)
    }
}

/// All that a run needs.
struct Model {
    measured: Measured,
    /// Instructions between two accesses, in thousandths, a workload.
    between: BTreeMap<&'static str, u64>,
    seed: u64,
    here: Costs,
    large: Costs,
}

impl Model {
    fn new(options: &Options) -> Result<Model, String> {
        let measured = Measured::read(&options.measured)?;
        let here = Costs {
            instruction: 0,
            change: measured.ns("change")?,
            fence: measured.ns("fence")?,
            spin: measured.ns("spin")?,
            near: measured.ns("transfer")?,
            far: measured.ns("transfer")?,
            fetch: measured.ns("fetch")?,
            shootdown: 0,
            shootdown_each: 0,
            interrupted: 0,
            socket: 128,
            line_bytes: 64,
            cache_lines: (measured.of("cache").ok_or("no size of the cache")? as usize) / 64,
        };
        let mut model =
            Model { measured, between: BTreeMap::new(), seed: options.seed, here, large: here };
        model.count_accesses()?;
        // What is left of the measured pair when its steps are paid is its instructions'.
        let steps = model.run(Workload::Pair, 1, here).ns_each();
        let pair = model.measured.of("pair/1").ok_or("pair/1 was not measured")?;
        let count = model.instructions(Workload::Pair)?;
        if pair <= steps {
            return Err(format!("a pair of {pair} ns has steps of {steps} ns"));
        }
        model.here.instruction = ((pair - steps) * 1e3 / count) as Ps;
        model.large = Costs {
            near: 51_000,
            far: 108_000,
            shootdown: 1_000_000,
            shootdown_each: 200_000,
            interrupted: 1_000_000,
            socket: 64,
            ..model.here
        };
        Ok(model)
    }

    /// Spreads the instructions of a turn over its accesses.
    fn count_accesses(&mut self) -> Result<(), String> {
        for workload in Workload::ALL {
            let setting = self.setting(workload, 1, self.here, 0);
            let each = accesses_each(&Words::new(WINDOW.words()), &setting);
            let milli = self.instructions(workload)? * 1e6 / each.max(1) as f64;
            self.between.insert(workload.name(), milli as u64);
        }
        Ok(())
    }

    /// Instructions of a turn.
    fn instructions(&self, workload: Workload) -> Result<f64, String> {
        let name = format!("{}/instructions", workload.name());
        self.measured.of(&name).ok_or(format!("{name} were not counted"))
    }

    fn setting(&self, workload: Workload, cpus: usize, costs: Costs, milli: u64) -> Setting {
        const US: Ps = 1_000_000;
        let (turns_before, warm_up, time) = match workload {
            Workload::Pair | Workload::PairOneLane => (0, 300 * US, 300 * US),
            Workload::Mixed => (200, 700 * US, 500 * US),
            // Until the tags are in each CPU's cache.
            Workload::Find => (0, 3_000 * US, 200 * US),
            Workload::Purge => (500, 1_000 * US, 4_000 * US),
        };
        // What is looked at is the address layer: a free of these is a shootdown each.
        let free = Costs { shootdown: 0, shootdown_each: 0, interrupted: 0, ..costs };
        let costs = if workload == Workload::Mixed { free } else { costs };
        Setting {
            cpus,
            workload,
            costs,
            milli_instructions: milli,
            geometry: WINDOW,
            areas: AREAS,
            turns_before,
            warm_up,
            time,
            seed: self.seed,
        }
    }

    fn run(&self, workload: Workload, cpus: usize, costs: Costs) -> Outcome {
        let mut outcomes = self.run_seeds(workload, cpus, costs);
        outcomes.swap_remove(outcomes.len() / 2)
    }

    /// One outcome a seed, the slowest first.
    fn run_seeds(&self, workload: Workload, cpus: usize, costs: Costs) -> Vec<Outcome> {
        let milli = self.between.get(workload.name()).copied().unwrap_or(0);
        // Look-ups hardly differ, and take long to simulate.
        let seeds = if workload == Workload::Find { 1 } else { SEEDS };
        let mut outcomes: Vec<Outcome> = (self.seed..self.seed + seeds)
            .map(|seed| {
                let setting = self.setting(workload, cpus, costs, milli);
                simulate(&Words::new(WINDOW.words()), &Setting { seed, ..setting }, false)
            })
            .collect();
        outcomes.sort_by(|a, b| a.turns_a_second().total_cmp(&b.turns_a_second()));
        outcomes
    }
}

fn run(options: &Options) -> Result<(), String> {
    let model = Model::new(options)?;
    let wants =
        |workload: &Workload| options.only.as_ref().is_none_or(|only| *only == workload.name());
    if let Some(name) = &options.row {
        let workload = Workload::ALL.into_iter().find(|workload| workload.name() == name);
        let workload = workload.ok_or(format!("{name} is no workload"))?;
        row(&model, &format!("`{name}`, {LANES} lanes"), workload, model.large);
        return Ok(());
    }
    constants(&model)?;
    check(&model);
    for workload in Workload::ALL.into_iter().filter(wants) {
        table(&model, workload, &options.cpus);
    }
    if options.only.is_none() {
        what_if(&model);
    }
    Ok(())
}

fn ns(ps: Ps) -> String {
    figure(ps as f64 / 1e3)
}

/// Three digits, no more.
fn figure(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "–".into(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn constants(model: &Model) -> Result<(), String> {
    let Costs { instruction, change, fence, spin, fetch, cache_lines, .. } = model.here;
    let near = model.here.near;
    let large = model.large;
    println!("### Constants\n\n| what | here, ns | at 128 CPUs, ns | found |\n|---|---|---|---|");
    let row = |what: &str, here: Ps, large: Ps, found: &str| {
        println!("| {what} | {} | {} | {found} |", ns(here), ns(large));
    };
    let rest = "what is left of the measured warm pair of one thread, its atomic steps paid";
    row("an instruction", instruction, large.instruction, rest);
    row("an atomic change, the line being here", change, large.change, "measured: `fetch_add`");
    row("a fence", fence, large.fence, "measured: `fence(SeqCst)`");
    row("a turn of a wait", spin, large.spin, "measured: `spin_loop`");
    let random = "measured: loads at random in 64 MiB, which the cache that all share holds";
    row("a line that nobody has changed", fetch, large.fetch, random);
    let literature = "here measured: a line that two threads hand to each other by compare-and-swap; \
                      there the same, as published for two Xeon 8375C, \
                      <https://github.com/nviennot/core-to-core-latency>";
    row("a line from a CPU of the same socket", near, large.near, literature);
    row("… of another socket, of 64 CPUs each", near, large.far, "as above");
    let ipi = "not measured; of the order that <https://unseel.com/cs/tlb-shootdown> tells";
    row("a shootdown", 0, large.shootdown, ipi);
    row("… for each other CPU", 0, large.shootdown_each, ipi);
    row("… lost by each other CPU", 0, large.interrupted, "assumed");
    println!("\nA CPU's own cache has {} KiB, as here. Instructions:", cache_lines * 64 / 1024);
    println!("\n| turn | instructions, by callgrind | accesses of words |\n|---|---|---|");
    for workload in Workload::ALL {
        let count = model.instructions(workload)?;
        let accesses = count * 1e3 / model.between[workload.name()] as f64;
        println!("| `{}` | {count:.0} | {} |", workload.name(), figure(accesses));
    }
    println!();
    Ok(())
}

fn check(model: &Model) {
    let load = model.measured.of("load").unwrap_or(0.0);
    println!(
        "### Checked against this machine\n\nLoad when it began: {load:.1}, on CPUs: {}.",
        cpus()
    );
    println!("\n| turn | threads | measured, ns | quartiles | samples | model, ns | error |");
    println!("|---|---|---|---|---|---|---|");
    for workload in Workload::ALL {
        for threads in [1, 2] {
            let name = format!("{}/{threads}", workload.name());
            let foretold = model.run(workload, threads, model.here).ns_each();
            let Some([median, low, high, samples]) =
                model.measured.0.get(&name).and_then(|figures| figures.first_chunk().copied())
            else {
                if workload != Workload::Purge {
                    let foretold = figure(foretold);
                    let name = workload.name();
                    println!("| `{name}` | {threads} | too few samples | – | – | {foretold} | – |");
                }
                continue;
            };
            let error = match name.as_str() {
                "pair/1" => "fitted".into(),
                _ => format!("{:+.0} %", (foretold / median - 1.0) * 100.0),
            };
            println!(
                "| `{}` | {threads} | {} | {} – {} | {samples} | {} | {error} |",
                workload.name(),
                figure(median),
                figure(low),
                figure(high),
                figure(foretold),
            );
        }
    }
    println!();
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn table(model: &Model, workload: Workload, cpus: &[usize]) {
    println!("### `{}`\n\n{}, {LANES} lanes.\n", workload.name(), workload.about());
    println!(
        "| CPUs | million turns/s | by seed | of each CPU | ns a turn | waits for lines | lines on \
         their way | shootdowns/s |\n|---|---|---|---|---|---|---|---|"
    );
    let mut hot = Vec::new();
    for &cpus in cpus {
        let mut outcomes = model.run_seeds(workload, cpus, model.large);
        let ends = [0, outcomes.len() - 1].map(|i| figure(outcomes[i].turns_a_second() / 1e6));
        let outcome = outcomes.swap_remove(outcomes.len() / 2);
        let million = outcome.turns_a_second() / 1e6;
        let (busy, moved) = outcome.shares();
        let seconds = outcome.time as f64 * 1e-12;
        println!(
            "| {cpus} | {} | {} – {} | {} | {} | {:.1} % | {:.1} % | {:.0} |",
            figure(million),
            ends[0],
            ends[1],
            figure(million / cpus as f64),
            figure(outcome.ns_each()),
            busy * 100.0,
            moved * 100.0,
            outcome.shootdowns as f64 / seconds,
        );
        hot.push(outcome);
    }
    println!("\nTime lost for lines, by what they are:\n");
    for outcome in hot.iter().filter(|outcome| [2, 8, 16, 128].contains(&outcome.cpus)) {
        let all: Ps = outcome.hot.iter().map(|hot| hot.lost).sum();
        let told = outcome.hot.iter().take(HOT).map(|hot| {
            let share = hot.lost as f64 * 100.0 / all.max(1) as f64;
            let lines =
                if hot.lines == 1 { "1 line".into() } else { format!("{} lines", hot.lines) };
            format!("{} {share:.0} % ({lines}, moved {} times)", hot.name, hot.moves)
        });
        let told = told.collect::<Vec<_>>().join("; ");
        println!("- {} CPUs: {}.", outcome.cpus, if told.is_empty() { "none" } else { &told });
    }
    println!();
}

fn row(model: &Model, what: &str, workload: Workload, costs: Costs) {
    let figures = FEW_CPUS.iter().map(|cpus| {
        let outcome = model.run(workload, *cpus, costs);
        format!(" {} |", figure(outcome.turns_a_second() / 1e6))
    });
    println!("| {what} |{}", figures.collect::<String>());
}

fn what_if(model: &Model) {
    println!("### What if\n\nMillion turns/s of all CPUs:\n");
    let cpus = FEW_CPUS;
    println!("| CPUs |{}", cpus.iter().map(|cpus| format!(" {cpus} |")).collect::<String>());
    println!("|---|{}", "---|".repeat(cpus.len()));
    let large = model.large;
    let rows = [
        (format!("`pair`, {LANES} lanes"), Workload::Pair, large),
        ("`pair`, lines come in pairs".into(), Workload::Pair, Costs { line_bytes: 128, ..large }),
        (
            "`pair`, lines from others twice as dear".into(),
            Workload::Pair,
            Costs { near: 2 * large.near, far: 2 * large.far, ..large },
        ),
        ("`purge`".into(), Workload::Purge, large),
        (
            "`purge`, shootdowns five times as dear".into(),
            Workload::Purge,
            Costs {
                shootdown: 5 * large.shootdown,
                shootdown_each: 5 * large.shootdown_each,
                interrupted: 5 * large.interrupted,
                ..large
            },
        ),
    ];
    for (what, workload, costs) in rows {
        row(model, &what, workload, costs);
    }
}
