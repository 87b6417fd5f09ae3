//! `cluster`: three nodes of raft-rocks-server and, where it is installed, three of etcd beside
//! them, on this machine, under the same load of puts over each one's own protocol.
//!
//! The clients run in this process, on the processors that the nodes need as well: what is
//! measured is what a machine does altogether, and the same for both.

mod etcd;
mod load;
mod nodes;
mod report;
mod server;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;

use self::etcd::Etcd;
use self::load::{Burst, Client};
use self::report::Report;
pub use self::report::Row;
use self::server::Server;
use crate::args::ClusterArgs;
use crate::disk::Pace;
use crate::harness::{Samples, median, take_turns};

/// Clients with which a system is warmed up.
const WARM_UP_CLIENTS: usize = 64;
/// How long the disk rests between two turns.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a run waits, all in all, for a disk that has slowed down to recover.
const RECOVERY: Duration = Duration::from_secs(60);

/// Who is measured.
pub enum System {
    /// Ours.
    Server(Server),
    /// The peer.
    Etcd(Etcd),
}

impl System {
    pub fn name(&self) -> &'static str {
        match self {
            System::Server(_) => "raft-rocks-server",
            System::Etcd(_) => "etcd",
        }
    }

    /// Connections to the node that leads now.
    async fn clients(&self, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::with_capacity(count);
        match self {
            System::Server(server) => {
                let leader = server.leader().await?;
                for _ in 0..count {
                    clients.push(Client::Redis(server::connect(&leader).await?));
                }
            }
            System::Etcd(etcd) => {
                let leader = etcd.leader().await?;
                for _ in 0..count {
                    clients.push(Client::Etcd(etcd::connect(&leader).await?));
                }
            }
        }
        Ok(clients)
    }
}

/// Runs it.
pub fn run(args: &ClusterArgs) -> Result<()> {
    let runtime = Runtime::new().context("starting threads")?;
    std::fs::create_dir_all(&args.dir)?;
    std::fs::create_dir_all(&args.out)?;
    let dir = tempfile::tempdir_in(&args.dir)?;
    let mut systems = runtime.block_on(start(args, dir.path()))?;
    let mut report = Report::new(args);
    let mut load = Load {
        runtime: &runtime,
        burst: Duration::from_millis(args.burst_ms),
        keys: 0,
    };
    for system in &mut systems {
        load.turn(system, WARM_UP_CLIENTS)?;
    }
    let names: Vec<_> = systems.iter().map(System::name).collect();
    let bar = progress(args)?;
    for clients in args.clients.iter().copied() {
        let mut runs: Vec<Vec<Row>> = Vec::new();
        for run in 0..args.runs {
            runs.push(load.run(args, &mut systems, clients, run, &bar)?);
        }
        for row in medians(clients, &names, &runs) {
            bar.suspend(|| println!("{}", row.line()));
            report.add(row);
        }
    }
    bar.finish_and_clear();
    report.write(&args.out)
}

async fn start(args: &ClusterArgs, dir: &Path) -> Result<Vec<System>> {
    let mut systems = vec![System::Server(
        Server::start(args, &dir.join("server")).await?,
    )];
    match is_there(&args.etcd) {
        true => systems.push(System::Etcd(
            Etcd::start(&args.etcd, &dir.join("etcd")).await?,
        )),
        false => eprintln!(
            "no etcd beside it: {} does not run; `scripts/setup bench` installs it on Debian",
            args.etcd.display()
        ),
    }
    Ok(systems)
}

fn is_there(program: &Path) -> bool {
    let asked = Command::new(program).arg("--version").output();
    asked.is_ok_and(|output| output.status.success())
}

fn progress(args: &ClusterArgs) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {msg}")?;
    let runs = args.clients.len() as u64 * u64::from(args.runs);
    Ok(ProgressBar::new(runs).with_style(style))
}

/// What asks, and how far its keys are: none is put twice.
struct Load<'a> {
    runtime: &'a Runtime,
    burst: Duration,
    keys: u64,
}

impl Load<'_> {
    fn turn(&mut self, system: &System, clients: usize) -> Result<Burst> {
        self.keys += 1;
        let (keys, length) = (self.keys, self.burst);
        self.runtime
            .block_on(async {
                let clients = system.clients(clients).await?;
                load::burst(clients, keys, length).await
            })
            .with_context(|| format!("{} clients of {}", clients, system.name()))
    }

    /// One run of one number of clients: every system in turns.
    fn run(
        &mut self,
        args: &ClusterArgs,
        systems: &mut [System],
        clients: usize,
        run: u32,
        bar: &ProgressBar,
    ) -> Result<Vec<Row>> {
        bar.set_message(format!("{clients} clients"));
        let mut pace = Pace::new(&args.dir, PAUSE, RECOVERY)?;
        let mut measured: Vec<_> = systems
            .iter()
            .map(|system| (system, Samples::default()))
            .collect();
        let seed = args.seed + u64::from(run);
        take_turns(&mut measured, args.rounds, seed, |(system, samples)| {
            pace.wait()?;
            let burst = self.turn(system, clients)?;
            let per_s = burst.latencies.len() as f64 / burst.elapsed.as_secs_f64();
            let nanos = burst.latencies.iter().map(|nanos| *nanos as f64);
            samples.add(nanos, Some(per_s));
            Ok(())
        })?;
        bar.inc(1);
        let row = |(system, samples): (&System, Samples)| {
            let summary = samples.summary();
            Row {
                clients,
                system: system.name(),
                per_s: summary.per_s.unwrap_or_default(),
                p50_us: summary.p50_us,
                p99_us: summary.p99_us,
            }
        };
        Ok(measured.into_iter().map(row).collect())
    }
}

/// Of several runs, each figure's median.
fn medians(clients: usize, systems: &[&'static str], runs: &[Vec<Row>]) -> Vec<Row> {
    let of = |system: &'static str| {
        let figure = |figure: fn(&Row) -> f64| {
            let rows = runs.iter().flatten();
            median(
                rows.filter(|row| row.system == system)
                    .map(figure)
                    .collect(),
            )
        };
        Row {
            clients,
            system,
            per_s: figure(|row| row.per_s),
            p50_us: figure(|row| row.p50_us),
            p99_us: figure(|row| row.p99_us),
        }
    };
    systems.iter().map(|system| of(system)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_runs_the_median_counts_figure_by_figure() {
        let row = |system, per_s, p50_us| Row {
            clients: 4,
            system,
            per_s,
            p50_us,
            p99_us: 3.0,
        };
        let runs = [
            vec![row("a", 10.0, 1.0), row("b", 7.0, 2.0)],
            vec![row("a", 30.0, 900.0), row("b", 7.0, 2.0)],
            vec![row("a", 20.0, 5.0), row("b", 7.0, 2.0)],
        ];
        let rows = medians(4, &["a", "b"], &runs);
        let figures: Vec<_> = rows
            .iter()
            .map(|row| (row.system, row.per_s, row.p50_us))
            .collect();
        assert_eq!(figures, [("a", 20.0, 5.0), ("b", 7.0, 2.0)]);
    }
}
