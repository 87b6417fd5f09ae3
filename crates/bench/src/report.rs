//! The results, as JSON, as Markdown and on the terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::bars::{self, Verdict};
use crate::harness::Summary;
use crate::machine::Machine;
use crate::plot;
use crate::settings::Settings;

/// What one system did in one scenario. `None` where a figure does not apply.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// As on the command line.
    pub scenario: &'static str,
    /// Who.
    pub system: &'static str,
    /// The median of all calls, in microseconds.
    pub p50_us: Option<f64>,
    /// The 99th percentile of all calls, in microseconds.
    pub p99_us: Option<f64>,
    /// Entries per second, the median of the turns.
    pub per_s: Option<f64>,
    /// Where a scenario has one figure.
    pub value: Option<f64>,
    /// The unit of `value`.
    pub unit: Option<&'static str>,
    /// Turns.
    pub rounds: u32,
    /// What explains a value.
    #[serde(flatten)]
    pub extra: BTreeMap<&'static str, f64>,
    /// From 0 to 99, in microseconds.
    #[serde(skip)]
    pub percentiles: Vec<f64>,
}

impl Outcome {
    /// Of many calls.
    pub fn timed(scenario: &'static str, system: &'static str, summary: Summary) -> Self {
        Outcome {
            scenario,
            system,
            p50_us: Some(summary.p50_us),
            p99_us: Some(summary.p99_us),
            per_s: summary.per_s,
            value: None,
            unit: None,
            rounds: summary.rounds,
            extra: BTreeMap::new(),
            percentiles: summary.percentiles,
        }
    }

    /// Of one figure.
    pub fn value(
        scenario: &'static str,
        system: &'static str,
        value: f64,
        unit: &'static str,
        rounds: u32,
    ) -> Self {
        Outcome {
            scenario,
            system,
            p50_us: None,
            p99_us: None,
            per_s: None,
            value: Some(value),
            unit: Some(unit),
            rounds,
            extra: BTreeMap::new(),
            percentiles: Vec::new(),
        }
    }

    /// Adds the figure that the scenario is about.
    pub fn with_value(mut self, value: f64, unit: &'static str) -> Self {
        (self.value, self.unit) = (Some(value), Some(unit));
        self
    }

    /// Adds a figure that explains the value.
    pub fn with(mut self, name: &'static str, figure: f64) -> Self {
        self.extra.insert(name, figure);
        self
    }

    /// For the terminal.
    pub fn line(&self) -> String {
        let mut line = format!("{:24} {:27}", self.scenario, self.system);
        let [p50, p99, per_s, value] = self.cells();
        for (name, cell) in [("p50", p50), ("p99", p99), ("per_s", per_s), ("", value)] {
            if !cell.is_empty() {
                let _ = write!(line, " {name:>5} {cell:>10}");
            }
        }
        line
    }

    fn cells(&self) -> [String; 4] {
        let cell = |value: Option<f64>| value.map(figure).unwrap_or_default();
        let value = match (self.value, self.unit) {
            (Some(value), Some(unit)) => format!("{} {unit}", figure(value)),
            _ => String::new(),
        };
        [
            cell(self.p50_us),
            cell(self.p99_us),
            cell(self.per_s),
            value,
        ]
    }
}

/// A number with as many places as it deserves.
fn figure(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}

/// Everything a run found.
#[derive(Serialize)]
pub struct Report {
    machine: Machine,
    options: Settings,
    /// What could not be measured here, and why.
    notes: Vec<String>,
    results: Vec<Outcome>,
    /// What the project set itself.
    bars: Vec<Verdict>,
}

impl Report {
    /// Without results yet.
    pub fn new(machine: Machine, options: &Settings, notes: Vec<String>) -> Self {
        Report {
            machine,
            options: options.clone(),
            notes,
            results: Vec::new(),
            bars: Vec::new(),
        }
    }

    /// Adds a result.
    pub fn add(&mut self, outcome: Outcome) {
        self.results.push(outcome);
    }

    /// Says how long was waited for a disk that was held back.
    pub fn waited(&mut self, waited: Duration) {
        if !waited.is_zero() {
            let seconds = waited.as_secs_f64();
            self.notes.push(format!(
                "waited {seconds:.1} s for a disk that had slowed down"
            ));
        }
    }

    /// Writes all files into `out`, and prints the bars.
    pub fn write(mut self, out: &Path) -> Result<()> {
        self.bars = bars::judge(&self.results);
        let write = |name: &str, text: &str| {
            let path = out.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("compare.json", &serde_json::to_string_pretty(&self)?)?;
        let plots = plot::all(&self.results, out)?;
        write("compare.md", &self.markdown(&plots))?;
        for note in &self.notes {
            println!("note: {note}");
        }
        print!("{}", bars::table(&self.bars));
        println!("\nAll results: {}", out.join("compare.md").display());
        Ok(())
    }

    fn markdown(&self, plots: &[String]) -> String {
        let mut text = String::from("# raft-rocks and its peers\n\n");
        let _ = writeln!(text, "{}\n", self.machine.line());
        let _ = writeln!(
            text,
            "Scale: {}; {} turns of {:?}; seed {}. Times are medians and 99th percentiles of all \
             calls, rates the median of the turns. Compare systems within one run, not runs.\n",
            self.options.scale, self.options.rounds, self.options.burst, self.options.seed
        );
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text.push_str("\n## Bars\n\n");
        text.push_str(&bars::table(&self.bars));
        text.push_str("\n## Results\n");
        let mut scenario = "";
        for outcome in &self.results {
            if outcome.scenario != scenario {
                scenario = outcome.scenario;
                let _ = write!(
                    text,
                    "\n### {scenario}\n\n| system | p50 us | p99 us | entries/s | value |\n\
                     |---|---:|---:|---:|---:|\n"
                );
            }
            let cells = outcome.cells().join(" | ");
            let _ = writeln!(text, "| {} | {cells} |", outcome.system);
        }
        text.push_str("\n## Plots\n\n");
        for plot in plots {
            let _ = writeln!(text, "![{plot}]({plot})");
        }
        text
    }
}
