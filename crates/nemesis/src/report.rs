//! What a run has done and found.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::fault::Kind;
use crate::history::Recorder;

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What everything was drawn from.
    pub seed: u64,
    /// Histories that have ended.
    pub histories: u64,
    /// How long it took.
    pub seconds: u64,
    /// Acknowledged writes that were not there.
    pub lost: usize,
    /// Keys whose history cannot be.
    pub nonlinearizable: usize,
    /// Keys of which it was not found out.
    pub undecided: usize,
    /// Everything that was found, with how to see it again.
    pub violations: Vec<String>,
    /// How often a fault met something, and how often it met nothing.
    pub faults: BTreeMap<Kind, (u64, u64)>,
    acknowledged: u64,
    unknown: u64,
    nothing: u64,
    errors: BTreeMap<String, u64>,
}

impl Report {
    /// Nothing yet, of faults of these kinds.
    pub fn new(seed: u64, kinds: &[Kind]) -> Self {
        Report {
            seed,
            faults: kinds.iter().map(|kind| (*kind, (0, 0))).collect(),
            ..Report::default()
        }
    }

    /// A fault has happened.
    pub fn count(&mut self, kind: Kind, has_met: bool) {
        let (met, missed) = self.faults.entry(kind).or_default();
        *if has_met { met } else { missed } += 1;
    }

    /// A history has ended.
    pub fn add(&mut self, recorder: &Recorder) {
        let counts = recorder.counts();
        self.histories += 1;
        self.acknowledged += counts.acknowledged;
        self.unknown += counts.unknown;
        self.nothing += counts.nothing;
        for (error, count) in counts.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    /// Kinds that should have happened and have not.
    pub fn missing(&self) -> Vec<Kind> {
        let faults = self.faults.iter();
        let missing = faults.filter(|(_, (met, _))| *met == 0);
        // A short run cannot have them all.
        let is_long = self.histories >= self.faults.len() as u64;
        missing.map(|(kind, _)| *kind).filter(|_| is_long).collect()
    }

    /// Whether nothing was found, and no kind of fault is missing.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.missing().is_empty()
    }

    /// For a terminal.
    pub fn print(&self) {
        for (kind, (met, missed)) in &self.faults {
            let missed = match missed {
                0 => String::new(),
                missed => format!("  and {missed} that met nothing"),
            };
            println!("{:16} {met:>6}{missed}", kind.name());
        }
        for (error, count) in &self.errors {
            println!("{count:>8} x {error}");
        }
        println!(
            "{} histories in {} s: {} operations acknowledged, {} unknown, {} without effect; {} \
             lost, {} keys not linearizable, {} not judged; {} violations",
            self.histories,
            self.seconds,
            self.acknowledged,
            self.unknown,
            self.nothing,
            self.lost,
            self.nonlinearizable,
            self.undecided,
            self.violations.len()
        );
        for kind in self.missing() {
            println!(
                "{} has never happened: this run proves nothing of it",
                kind.name()
            );
        }
    }

    /// The same, as JSON.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, to: &Path) -> Result<()> {
        let faults = self.faults.iter();
        let faults: BTreeMap<_, _> = faults.map(|(kind, (met, _))| (kind.name(), met)).collect();
        let report = json!({
            "seed": self.seed,
            "histories": self.histories,
            "seconds": self.seconds,
            "faults": faults,
            "acknowledged": self.acknowledged,
            "unknown": self.unknown,
            "without_effect": self.nothing,
            "errors": self.errors,
            "lost": self.lost,
            "nonlinearizable": self.nonlinearizable,
            "undecided": self.undecided,
            "violations": self.violations,
        });
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(to, text).with_context(|| format!("write {}", to.display()))?;
        println!("{}", to.display());
        Ok(())
    }
}
