//! `raft-rocks-crash`: runs the fault harness as a whole (`make crash`) and writes down what it
//! found.
//!
//! The harness itself is in the tests of raft-rocks: power cuts, failing I/O, full disks, damaged
//! files. Each is a test that can be run alone, takes a seed, and writes its figures to the file
//! that `RAFT_ROCKS_REPORT` names. This program builds them, runs each at the scale that is asked
//! for, shows how far it is, and adds the figures up.

mod parts;
mod report;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::report::Report;

/// Cuts the power, fails I/O, fills disks and damages files under raft-rocks, and reports
/// whether anything acknowledged was lost or any damage went unnoticed. Power cuts and full disks
/// need root and loop devices.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Power cuts; the other parts grow with them. From 1,000 on every I/O point is tried
    #[arg(long, value_name = "N", default_value_t = 160, value_parser = clap::value_parser!(u64).range(20..))]
    rounds: u64,

    /// Replays a run, as far as threads and a disk can be replayed; random without
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Only parts whose names start with NAME; may be repeated
    #[arg(long, value_name = "NAME")]
    part: Vec<String>,

    /// Where report.json and the output of each part go
    #[arg(long, value_name = "DIR", default_value = "target/crash")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match all(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("raft-rocks-crash: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was found.
fn all(cli: &Cli) -> Result<bool> {
    std::fs::create_dir_all(&cli.out).with_context(|| format!("make {}", cli.out.display()))?;
    let seed = cli.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let wanted = |name: &str| cli.part.is_empty() || cli.part.iter().any(|p| name.starts_with(p));
    let parts: Vec<_> = parts::all(cli.rounds)
        .into_iter()
        .filter(|part| wanted(part.name))
        .collect();
    anyhow::ensure!(
        !parts.is_empty(),
        "no part has that name; without --part all run"
    );
    let programs = run::build(&parts)?;
    let mut report = Report::default();
    for part in &parts {
        let program = programs.get(part.test).context("a test was not built")?;
        let ran = run::run(part, program, seed, &cli.out)?;
        report.add(part, seed, ran);
    }
    let path = cli.out.join("report.json");
    std::fs::write(&path, report.to_json()?)
        .with_context(|| format!("write {}", path.display()))?;
    print!("{}", report.table());
    println!("{}", path.display());
    Ok(report.is_clean())
}
