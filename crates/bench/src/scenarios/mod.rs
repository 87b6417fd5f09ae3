//! What is measured, by the names of the report.

mod append;
mod bytes;
mod long_logs;
mod read;
mod stall;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::CompareArgs;
use crate::clients::{Model, Shape};
use crate::contenders::System;
use crate::disk;
use crate::entries::Noise;
use crate::image;
use crate::logs::Logs;
use crate::machine::Machine;
use crate::report::{Outcome, Report};
use crate::settings::Settings;

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// As in the report.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Appends on the disk.
    Append(Shape),
    /// The same in RAM, where what remains is the CPU's share.
    AppendCpu(Shape),
    ReadHot,
    TermHot,
    ReadCold,
    /// Opening a log that is this many times shorter than the longest.
    Open(u64),
    Compact,
    Resident,
    /// Bytes written with so many entries kept.
    Written(u64),
    Stall,
}

const fn append(batch: usize, bytes: usize, groups: usize) -> Shape {
    Shape {
        batch,
        bytes,
        groups,
        hard_state: false,
    }
}

const fn ready(groups: usize) -> Shape {
    Shape {
        hard_state: true,
        ..append(1, 256, groups)
    }
}

const fn scenario(name: &'static str, kind: Kind) -> Scenario {
    Scenario { name, kind }
}

/// All of them, in the order in which they run.
const SCENARIOS: [Scenario; 22] = [
    scenario("append_sync_1x256_g1", Kind::Append(append(1, 256, 1))),
    scenario("append_sync_64x256_g1", Kind::Append(append(64, 256, 1))),
    scenario("append_sync_1x4096_g1", Kind::Append(append(1, 4096, 1))),
    scenario("append_sync_1x256_g8", Kind::Append(append(1, 256, 8))),
    scenario("append_sync_1x256_g32", Kind::Append(append(1, 256, 32))),
    scenario("append_sync_1x256_g128", Kind::Append(append(1, 256, 128))),
    // Beyond the entries each append stores a hard state whose commit moves, as Readys do.
    scenario("ready_sync_1x256_g1", Kind::Append(ready(1))),
    scenario("ready_sync_1x256_g32", Kind::Append(ready(32))),
    scenario("append_cpu_1x256", Kind::AppendCpu(append(1, 256, 1))),
    scenario("append_cpu_64x256", Kind::AppendCpu(append(64, 256, 1))),
    scenario("append_cpu_64x4096", Kind::AppendCpu(append(64, 4096, 1))),
    scenario("read_hot_64x256", Kind::ReadHot),
    scenario("term_hot", Kind::TermHot),
    scenario("read_cold_1000x256", Kind::ReadCold),
    scenario("open_10k_256", Kind::Open(100)),
    scenario("open_100k_256", Kind::Open(10)),
    scenario("open_1m_256", Kind::Open(1)),
    scenario("compact_1m", Kind::Compact),
    scenario("ram_per_million_entries", Kind::Resident),
    scenario("write_amp_keep10k", Kind::Written(10_000)),
    scenario("write_amp_keep100k", Kind::Written(100_000)),
    scenario("stall_max", Kind::Stall),
];

impl Scenario {
    /// Those of `systems` that take part.
    fn participants(&self, systems: &[System]) -> Vec<System> {
        let takes_part = |system: &System| match self.kind {
            Kind::Append(shape) | Kind::AppendCpu(shape) => {
                Model::of(*system, shape.groups).is_some()
            }
            Kind::ReadHot | Kind::TermHot => {
                matches!(system, System::RaftRocks | System::MemStorage)
            }
            Kind::Open(_) | Kind::Resident => {
                matches!(system, System::RaftRocks | System::RaftEngine)
            }
            Kind::ReadCold | Kind::Compact | Kind::Written(_) | Kind::Stall => matches!(
                system,
                System::RaftRocks | System::RaftEngine | System::RocksdbBatch
            ),
        };
        systems.iter().copied().filter(takes_part).collect()
    }

    fn rounds(&self, settings: &Settings) -> u32 {
        match self.kind {
            Kind::Append(_) | Kind::AppendCpu(_) => settings.rounds,
            Kind::ReadHot | Kind::TermHot | Kind::ReadCold => settings.rounds,
            Kind::Open(_) | Kind::Compact => settings.long_rounds,
            Kind::Resident | Kind::Written(_) | Kind::Stall => 1,
        }
    }
}

/// What all scenarios share.
pub struct Run {
    settings: Settings,
    systems: Vec<System>,
    noise: Noise,
    logs: Logs,
    progress: ProgressBar,
    report: Report,
}

/// Runs what the command line asks for, and writes and prints the report.
pub fn compare(args: &CompareArgs) -> Result<()> {
    let settings = Settings::new(args);
    make_dir("--dir", &settings.dir)?;
    make_dir("--out", &args.out)?;
    ensure!(
        settings.ram_dir.is_dir(),
        "--ram-dir {}: no such directory; name one in RAM, such as a tmpfs",
        settings.ram_dir.display()
    );
    let scenarios = select(&args.scenario)?;
    let systems = match args.system.as_slice() {
        [] => System::all().to_vec(),
        named => named.to_vec(),
    };
    let machine = Machine::here(&settings.dir, &settings.ram_dir);
    let (scenarios, skipped) = possible(scenarios, &settings, !args.scenario.is_empty())?;
    let turns = |scenario: &Scenario| {
        let participants = scenario.participants(&systems).len() as u64;
        participants * u64::from(scenario.rounds(&settings))
    };
    let total = scenarios.iter().map(turns).sum();
    ensure!(
        total > 0,
        "none of the systems named takes part in these scenarios"
    );
    let noise = Noise::new(settings.seed);
    let mut run = Run {
        logs: Logs::new(&settings, &noise),
        progress: progress_bar(total)?,
        report: Report::new(machine, &settings, skipped),
        settings,
        systems,
        noise,
    };
    run.all(&scenarios)?;
    run.progress.finish_and_clear();
    run.report.write(&args.out)
}

impl Run {
    fn all(&mut self, scenarios: &[Scenario]) -> Result<()> {
        // Contenders stay open from one append scenario to the next: each has been warmed up
        // until what it reuses is there, which takes longer than a scenario.
        append::on_disk(self, scenarios)?;
        append::in_ram(self, scenarios)?;
        for scenario in scenarios {
            let here = || format!("scenario {}", scenario.name);
            self.one(scenario).with_context(here)?;
        }
        Ok(())
    }

    fn one(&mut self, scenario: &Scenario) -> Result<()> {
        match scenario.kind {
            Kind::Append(_) | Kind::AppendCpu(_) => Ok(()),
            Kind::ReadHot => read::hot(self, scenario),
            Kind::TermHot => read::terms(self, scenario),
            Kind::ReadCold => read::cold(self, scenario),
            Kind::Open(divisor) => long_logs::open(self, scenario, divisor),
            Kind::Compact => long_logs::compact(self, scenario),
            Kind::Resident => bytes::resident(self, scenario),
            Kind::Written(keep) => bytes::written(self, scenario, keep),
            Kind::Stall => stall::stall(self, scenario),
        }
    }

    /// Keeps a result, and shows it.
    fn add(&mut self, outcome: Outcome) {
        let line = outcome.line();
        self.progress.suspend(|| eprintln!("{line}"));
        self.report.add(outcome);
    }

    fn start(&self, scenario: &Scenario) {
        self.progress.set_message(scenario.name);
    }
}

fn progress_bar(total: u64) -> Result<ProgressBar> {
    let style = "{elapsed_precise} [{bar:40}] {pos}/{len} {msg} (about {eta} left)";
    let bar = ProgressBar::new(total);
    bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    Ok(bar)
}

fn make_dir(flag: &str, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("{flag} {}", dir.display()))
}

fn select(prefixes: &[String]) -> Result<Vec<Scenario>> {
    for prefix in prefixes {
        if !SCENARIOS.iter().any(|s| s.name.starts_with(prefix)) {
            let names: Vec<_> = SCENARIOS.iter().map(|s| s.name).collect();
            bail!(
                "--scenario {prefix}: none starts so; there are {}",
                names.join(", ")
            );
        }
    }
    let wanted = |scenario: &Scenario| {
        let starts = |prefix: &String| scenario.name.starts_with(prefix);
        prefixes.is_empty() || prefixes.iter().any(starts)
    };
    Ok(SCENARIOS.into_iter().filter(wanted).collect())
}

/// Without what cannot be measured here. What was asked for by name must be possible.
fn possible(
    scenarios: Vec<Scenario>,
    settings: &Settings,
    by_name: bool,
) -> Result<(Vec<Scenario>, Vec<String>)> {
    let mut skipped = Vec::new();
    let mut possible = Vec::new();
    for scenario in scenarios {
        let obstacle = match scenario.kind {
            Kind::Written(_) => check_counted(&settings.dir).err(),
            Kind::Stall => image::check(&settings.ram_dir).err(),
            _ => None,
        };
        match obstacle {
            None => possible.push(scenario),
            Some(obstacle) if by_name => return Err(obstacle.context(scenario.name)),
            Some(obstacle) => skipped.push(format!("{} was not run: {obstacle:#}", scenario.name)),
        }
    }
    Ok((possible, skipped))
}

fn check_counted(dir: &Path) -> Result<()> {
    ensure!(
        disk::counts_bytes(dir)?,
        "the kernel counts no bytes written to {}; --dir must be on a block device",
        dir.display()
    );
    Ok(())
}
