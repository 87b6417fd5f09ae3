//! What the demo shows: progress while it runs, a table and a summary at its end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use raft_rocks::CommitStats;
use serde_json::json;

use crate::Failure;
use crate::cluster::{NODES, Seen, leader};
use crate::compare::{Contents, Findings};

/// Lines, and on a terminal a bar below them.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new(puts: u64) -> Self {
        let bar = ProgressBar::new(puts);
        let template = "{elapsed_precise} [{bar:20}] {pos}/{len} puts  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress(bar)
    }

    pub fn line(&self, line: &str) {
        let line = format!("{:5.1} s  {line}", self.0.elapsed().as_secs_f64());
        match self.0.is_hidden() {
            true => eprintln!("{line}"),
            false => self.0.println(line),
        }
    }

    pub fn update(&self, acknowledged: u64, seen: &Seen) {
        let leader = match leader(seen) {
            Some(of) => format!("leader {} of term {}", of.id, of.term),
            None => "no leader".to_owned(),
        };
        self.0.set_position(acknowledged);
        self.0
            .set_message(format!("{} of {NODES} up, {leader}", seen.len()));
    }

    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// What came of a run. What is `None` was not reached.
#[derive(Debug, Default)]
pub struct Summary {
    pub seed: u64,
    pub puts: u64,
    pub acknowledged: u64,
    pub retries: u64,
    pub restarts: u64,
    pub catch_ups: u64,
    pub written: CommitStats,
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
            "writes": self.written.writes,
            "batches": self.written.batches,
            "syncs": self.written.syncs,
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
        let (writes, batches) = (self.written.writes, self.written.batches);
        let syncs = self.written.syncs;
        println!();
        println!("{writes} writes of all nodes went into {batches} batches with {syncs} syncs");
        const NOTES_MAX: usize = 10;
        let notes = findings.map_or(&[][..], |findings| &findings.notes);
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
        let log = format!("{}..={}", node.first, node.last);
        let (pairs, puts) = (node.pairs.len(), node.history.puts);
        println!(
            "{:>4}  {log:>11}  {:>4}  {:>6}  {:>7}  {:>8}  {pairs:>5}  {puts:>12}",
            node.id, node.term, node.commit, node.applied, node.snapshot
        );
    }
}
