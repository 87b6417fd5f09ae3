//! What is left of a run: two tables, and a summary for programs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use raft_rocks::CommitStats;
use serde_json::json;

use crate::Failure;
use crate::cluster::NODES;
use crate::compare::{Contents, Findings};

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
