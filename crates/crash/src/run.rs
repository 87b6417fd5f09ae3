//! Builds the tests of the harness and runs them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::parts::Part;

/// What a test prints of how far it is: `progress: 3/20`.
const PROGRESS: &str = "progress: ";
/// Lines of a failed test that are shown.
const TAIL: usize = 15;

/// How a part ended.
pub struct Ran {
    pub passed: bool,
    /// What it wrote to its report.
    pub figures: BTreeMap<String, u64>,
}

/// Builds the tests that the parts are in; returns their programs.
pub fn build(parts: &[Part]) -> Result<BTreeMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    command.args(["--package", "raft-rocks", "--features", "testing,metrics"]);
    let mut tests: Vec<_> = parts.iter().map(|part| part.test).collect();
    tests.dedup();
    for test in tests {
        command.args(["--test", test]);
    }
    let built = command.stderr(Stdio::inherit()).output();
    let built = built.context("run cargo to build the tests")?;
    ensure!(
        built.status.success(),
        "the tests of the harness do not build"
    );
    let lines = built.stdout.lines().map_while(std::io::Result::ok);
    Ok(lines.filter_map(|line| program_of(&line)).collect())
}

/// Name and program of a built test, if cargo's message is about one.
fn program_of(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let program = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), program.into()))
}

/// Runs one part; its output goes to a file in `out`.
pub fn run(part: &Part, program: &Path, seed: u64, out: &Path) -> Result<Ran> {
    let file_name = part.name.replace([' ', ',', ':', '/'], "-");
    let (log_path, figures_path) = (
        out.join(format!("{file_name}.log")),
        out.join(format!("{file_name}.json")),
    );
    if figures_path.exists() {
        std::fs::remove_file(&figures_path).context("remove the figures of an earlier run")?;
    }
    let figures_path = std::path::absolute(&figures_path).context("name the figures")?;
    let mut command = Command::new(program);
    command.args(["--nocapture", "--test-threads", "1"]);
    if !part.case.is_empty() {
        command.args(["--exact", part.case]);
    }
    command
        .envs(part.environment.iter().map(|(name, value)| (name, value)))
        .env("RAFT_ROCKS_SEED", seed.to_string())
        .env("RAFT_ROCKS_REPORT", &figures_path)
        // What is lacking is an error.
        .env("CI", "true")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let bar = progress_bar(part)?;
    let mut child = command
        .spawn()
        .with_context(|| format!("run {}", program.display()))?;
    let stdout = child.stdout.take().context("its output")?;
    let stderr = child.stderr.take().context("its messages")?;
    let mut log =
        File::create(&log_path).with_context(|| format!("make {}", log_path.display()))?;
    // The test harness's own lines are few: read when it has ended.
    for line in BufReader::new(stderr).lines() {
        let line = line.context("read its messages")?;
        match line.strip_prefix(PROGRESS).and_then(fraction) {
            Some((done, of)) => {
                bar.set_length(of);
                bar.set_position(done);
            }
            None => writeln!(log, "{line}").context("write its messages down")?,
        }
    }
    for line in BufReader::new(stdout).lines() {
        writeln!(log, "{}", line.context("read its output")?).context("write its output down")?;
    }
    let status = child.wait().context("wait for it")?;
    bar.finish();
    if !status.success() {
        show_end(part, &log_path)?;
    }
    Ok(Ran {
        passed: status.success(),
        figures: figures(&figures_path)?,
    })
}

fn progress_bar(part: &Part) -> Result<ProgressBar> {
    let style = "{prefix:38} {wide_bar} {pos}/{len} {elapsed}";
    let bar = ProgressBar::new(1).with_style(ProgressStyle::with_template(style)?);
    bar.set_prefix(part.name);
    bar.enable_steady_tick(Duration::from_millis(200));
    if bar.is_hidden() {
        eprintln!("{}", part.name);
    }
    Ok(bar)
}

fn fraction(text: &str) -> Option<(u64, u64)> {
    let (done, of) = text.trim().split_once('/')?;
    Some((done.parse().ok()?, of.parse().ok()?))
}

fn show_end(part: &Part, log: &Path) -> Result<()> {
    let text = std::fs::read_to_string(log).context("read what it wrote")?;
    let lines: Vec<_> = text.lines().collect();
    eprintln!("{} FAILED; the end of {}:", part.name, log.display());
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        eprintln!("    {line}");
    }
    Ok(())
}

/// The figures of a test that got as far as writing them.
fn figures(path: &Path) -> Result<BTreeMap<String, u64>> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Ok(BTreeMap::new());
    };
    let mut figures: BTreeMap<String, u64> = BTreeMap::new();
    // A test that writes several times has a line for each.
    for line in text.lines() {
        let more: BTreeMap<String, u64> =
            serde_json::from_str(line).with_context(|| format!("read {}", path.display()))?;
        for (name, value) in more {
            *figures.entry(name).or_default() += value;
        }
    }
    Ok(figures)
}
