//! What the demo shows: progress while it runs, a table and a summary at its end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::Failure;
use crate::compare::{Contents, Findings};
use crate::network::{NODES, Network};

/// A bar on a terminal; plain lines, one for each tenth, elsewhere.
pub struct Progress {
    bar: ProgressBar,
    puts: usize,
    tenths: usize,
}

impl Progress {
    pub fn bar(puts: usize) -> Self {
        let progress = Progress::on(ProgressDrawTarget::stderr(), puts);
        progress.bar.enable_steady_tick(Duration::from_millis(200));
        progress
    }

    /// Plain lines, whatever is there to print on.
    #[cfg(test)]
    pub fn lines(puts: usize) -> Self {
        Progress::on(ProgressDrawTarget::hidden(), puts)
    }

    fn on(target: ProgressDrawTarget, puts: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(puts as u64), target);
        let template = "{elapsed_precise} [{bar:20}] {pos}/{len} puts  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress {
            bar,
            puts,
            tenths: 0,
        }
    }

    pub fn line(&self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{:5.1} s  {line}", self.bar.elapsed().as_secs_f64());
        } else {
            self.bar.println(line);
        }
    }

    pub fn update(&mut self, acknowledged: usize, restarts: u64, network: &Network) {
        let statuses = network.statuses();
        let up = statuses.iter().filter(|status| status.is_up).count();
        let term = statuses.iter().map(|status| status.term).max().unwrap_or(0);
        let leader = network
            .leader()
            .map_or("no leader".to_owned(), |id| format!("leader {id}"));
        let state = format!("{up} of {NODES} up, {leader}, term {term}, {restarts} restarts");
        self.bar.set_position(acknowledged as u64);
        let tenths = acknowledged * 10 / self.puts.max(1);
        if self.bar.is_hidden() && tenths > self.tenths {
            self.line(&format!(
                "{acknowledged} of {} puts acknowledged; {state}",
                self.puts
            ));
        }
        self.tenths = tenths;
        self.bar.set_message(state);
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What came of a run. What is `None` was not reached.
#[derive(Debug, Default)]
pub struct Summary {
    pub seed: u64,
    pub puts: usize,
    pub acknowledged: usize,
    pub retries: u64,
    pub restarts: u64,
    pub catch_ups: u64,
    pub elapsed: Duration,
    pub findings: Option<Findings>,
    pub failure: Option<String>,
}

impl Summary {
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let findings = self.findings.as_ref();
        let summary = json!({
            "nodes": NODES,
            "acknowledged": self.acknowledged,
            "restarts": self.restarts,
            "lost": findings.map(|findings| findings.lost),
            "diverged": findings.map(|findings| findings.diverged),
            "snapshot_catch_ups": self.catch_ups,
            "retries": self.retries,
            "seconds": self.elapsed.as_secs_f64().round(),
            "seed": self.seed,
            "failure": self.failure,
        });
        fs::write(path, format!("{summary:#}\n"))?;
        Ok(())
    }

    pub fn print(&self) {
        let count = |count: Option<usize>| count.map_or("?".to_owned(), |count| count.to_string());
        let findings = self.findings.as_ref();
        let lost = count(findings.map(|findings| findings.lost));
        let diverged = count(findings.map(|findings| findings.diverged));
        println!();
        println!("acknowledged  restarts  snapshot catch-ups  retries   lost  diverged");
        println!(
            "{:>5} of {:<5} {:>7}  {:>18}  {:>7}  {lost:>5}  {diverged:>8}",
            self.acknowledged, self.puts, self.restarts, self.catch_ups, self.retries
        );
        const NOTES_MAX: usize = 10;
        let notes = findings
            .map(|findings| findings.notes.as_slice())
            .unwrap_or_default();
        for note in notes.iter().take(NOTES_MAX) {
            println!("  {note}");
        }
        if notes.len() > NOTES_MAX {
            println!("  and {} more", notes.len() - NOTES_MAX);
        }
    }
}

pub fn print_nodes(nodes: &[Contents]) {
    println!();
    println!("node          log  term  commit  applied  snapshot  pairs  puts applied");
    for node in nodes {
        println!(
            "{:>4}  {:>11}  {:>4}  {:>6}  {:>7}  {:>8}  {:>5}  {:>12}",
            node.id,
            format!("{}..={}", node.first, node.last),
            node.term,
            node.commit,
            node.applied,
            node.snapshot,
            node.pairs.len(),
            node.history.puts
        );
    }
}
