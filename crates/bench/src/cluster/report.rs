//! The results, as JSON, as a plot and on the terminal.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::args::ClusterArgs;
use crate::machine::Machine;
use crate::plot;

/// Where the figures are judged.
const BAR_CLIENTS: usize = 64;
/// At least so many times etcd's puts per second.
const PER_S_BAR: f64 = 2.0;
/// At most so much of its median.
const P50_BAR: f64 = 0.6;

/// What a system did with so many clients.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub clients: usize,
    pub system: &'static str,
    pub per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Row {
    pub fn line(&self) -> String {
        let Row {
            clients,
            system,
            per_s,
            p50_us,
            p99_us,
        } = self;
        format!(
            "{clients:>4} clients  {system:18} {per_s:>8.0} puts/s  p50 {p50_us:>8.0} us  p99 \
             {p99_us:>8.0} us"
        )
    }
}

/// What is written.
#[derive(Serialize)]
pub struct Report {
    machine: Machine,
    /// When the run began: others may use the machine.
    load_average: String,
    value_bytes: usize,
    runs: u32,
    rounds: u32,
    burst_ms: u64,
    results: Vec<Row>,
}

impl Report {
    pub fn new(args: &ClusterArgs) -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Report {
            machine: Machine::here(&args.dir, &PathBuf::from("/dev/shm")),
            load_average: load.trim().to_owned(),
            value_bytes: super::load::VALUE_BYTES,
            runs: args.runs,
            rounds: args.rounds,
            burst_ms: args.burst_ms,
            results: Vec::new(),
        }
    }

    pub fn add(&mut self, row: Row) {
        self.results.push(row);
    }

    pub fn write(&self, out: &Path) -> Result<()> {
        fs::write(out.join("cluster.json"), serde_json::to_vec_pretty(self)?)?;
        plot::cluster(&self.results, out)?;
        for line in self.verdict() {
            println!("{line}");
        }
        println!("{}: cluster.json, cluster.svg", out.display());
        Ok(())
    }

    fn verdict(&self) -> Vec<String> {
        let find = |system: &str| {
            let mut rows = self.results.iter();
            rows.find(|row| row.clients == BAR_CLIENTS && row.system == system)
        };
        let (Some(ours), Some(etcd)) = (find("raft-rocks-server"), find("etcd")) else {
            return Vec::new();
        };
        let word = |holds| if holds { "holds" } else { "SHORT" };
        let (per_s, p50) = (ours.per_s / etcd.per_s, ours.p50_us / etcd.p50_us);
        let at = format!("at {BAR_CLIENTS} clients");
        vec![
            format!(
                "{:5} puts/s {at}: {per_s:.2} x etcd's, {PER_S_BAR} at least",
                word(per_s >= PER_S_BAR)
            ),
            format!(
                "{:5} p50 {at}: {p50:.2} x etcd's, {P50_BAR} at most",
                word(p50 <= P50_BAR)
            ),
        ]
    }
}
