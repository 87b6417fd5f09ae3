//! Simulated clusters: many seeds, or one with everything that happens.
//!
//! ```text
//! cargo run --release --features driver,testing --example sim -- --seeds 1000
//! cargo run --release --features driver,testing --example sim -- --seed 17
//! ```
#![allow(clippy::print_stdout, reason = "it reports to a terminal")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use raft_rocks::testing::sim::{self, COUNTED, Options, Report, Violation};

/// Runs a cluster of driver cores under simulated time, faults and clients, and checks Raft's
/// rules after every event.
#[derive(Parser)]
struct Arguments {
    /// Replay this seed, with a line for everything that happens
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// How many seeds to run
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed; drawn at random and printed when not given
    #[arg(long)]
    from: Option<u64>,
    /// Events per seed before its faults end
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(500..))]
    events: u64,
    /// Run on the durable store, in new directories here: best a RAM disk
    #[arg(long)]
    durable: Option<PathBuf>,
    /// Threads; one per processor when not given
    #[arg(long)]
    jobs: Option<usize>,
    /// Go on after a violation, and count them
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let violations = match arguments.seed {
        Some(seed) => replay(seed, &arguments),
        None => run_many(&arguments),
    };
    match violations {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run_one(seed: u64, arguments: &Arguments, trace: bool) -> Result<Report, Box<Violation>> {
    let mut options = Options::new(seed);
    options.events = arguments.events;
    options.trace = trace;
    let scratch = arguments.durable.as_ref().map(|dir| {
        let made = tempfile::Builder::new().prefix("sim-").tempdir_in(dir);
        made.unwrap_or_else(|e| panic!("cannot make a directory in {}: {e}", dir.display()))
    });
    options.durable_dir = scratch.as_ref().map(|dir| dir.path().to_owned());
    sim::run(&options)
}

fn replay(seed: u64, arguments: &Arguments) -> u64 {
    let (trace, end, violations) = match run_one(seed, arguments, true) {
        Ok(report) => {
            let end = format!("seed {seed}: {} events, everything held", report.events);
            (report.trace, end, 0)
        }
        Err(violation) => (violation.trace.clone(), violation.to_string(), 1),
    };
    for line in trace {
        println!("{line}");
    }
    println!("{end}");
    violations
}

#[derive(Default)]
struct Totals {
    events: u64,
    answered: u64,
    committed: u64,
    counts: BTreeMap<&'static str, u64>,
    violations: u64,
}

fn run_many(arguments: &Arguments) -> u64 {
    let from = arguments.from.unwrap_or_else(|| fastrand::u64(..1 << 48));
    println!("seeds {from} to {}", from + arguments.seeds - 1);
    let bar = ProgressBar::new(arguments.seeds);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left {msg}")
    {
        bar.set_style(style);
    }
    let (next, totals) = (AtomicU64::new(0), Mutex::new(Totals::default()));
    let begun = Instant::now();
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.unwrap_or(processors) {
            scope.spawn(|| work(arguments, from, &next, &totals, &bar));
        }
    });
    bar.finish_and_clear();
    let totals = totals.into_inner().unwrap_or_else(|e| e.into_inner());
    print_totals(&totals, arguments, begun);
    totals.violations
}

fn work(
    arguments: &Arguments,
    from: u64,
    next: &AtomicU64,
    totals: &Mutex<Totals>,
    bar: &ProgressBar,
) {
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= arguments.seeds {
            return;
        }
        let outcome = run_one(from + at, arguments, false);
        let mut totals = totals.lock().unwrap_or_else(|e| e.into_inner());
        match outcome {
            Ok(report) => totals.add(&report),
            Err(violation) => {
                totals.violations += 1;
                bar.suspend(|| println!("VIOLATION: {violation}"));
                if !arguments.keep_going {
                    next.store(arguments.seeds, Ordering::Relaxed);
                }
            }
        }
        bar.inc(1);
    }
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.events += report.events;
        self.answered += report.answered;
        self.committed += report.committed;
        for (what, count) in &report.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

fn print_totals(totals: &Totals, arguments: &Arguments, begun: Instant) {
    for what in COUNTED {
        let count = totals.counts.get(what).copied().unwrap_or(0);
        println!("{what:28} {count:>10}");
    }
    println!(
        "{} seeds in {:.0?}: {} events, {} entries committed, {} operations answered, {} violations",
        arguments.seeds,
        begun.elapsed(),
        totals.events,
        totals.committed,
        totals.answered,
        totals.violations
    );
}
