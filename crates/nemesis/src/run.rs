//! Many histories under drawn faults.
//!
//! A history begins and ends with a cluster that is whole. Between, clients ask, and one to three
//! faults happen; then everything is mended, read back and judged. Clusters serve several histories,
//! with keys of their own each, so that they grow old: in terms, in members, in what lies on disk.
//!
//! Faults are dealt from a shuffled deck: in a run that is long enough none is left out. Everything
//! that is drawn comes from the seed; which message is where when it happens does not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use raft_rocks::testing::linearizability::Operation;

use crate::cluster::Cluster;
use crate::fault::{Foreign, Kind, Scene};
use crate::history::{Action, Recorder};
use crate::judge::{judge, shown};
use crate::load::{Load, Plan};
use crate::node::Flags;
use crate::report::Report;

/// A tick of the nodes: an election takes ten to twenty.
const TICK_MS: u64 = 25;
/// Entries after which a snapshot is made, and that stay behind it: few, so that who was away comes
/// back by a snapshot now and then.
const COMPACTION: (u64, u64) = (500, 100);
/// Histories that a cluster serves.
const HISTORIES_OF_CLUSTER: u64 = 10;
/// Faults of one history.
const FAULTS_MAX: usize = 3;
const SIZES: [usize; 2] = [3, 5];
const CLIENTS: usize = 6;
/// Acknowledged operations before the first fault, and after the last.
const ANSWERS: u64 = 60;
/// Lines of a finding that are shown, at its beginning and at its end.
const LINES_OF_END: usize = 15;

/// What a run is told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// How many histories
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub histories: u64,
    /// What is drawn is drawn from this; random without
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Only faults whose names start with NAME; may be repeated
    #[arg(long, value_name = "NAME")]
    pub fault: Vec<String>,
    /// Only this history of the run, on a new cluster
    #[arg(long, value_name = "N")]
    pub only: Option<u64>,
    /// Go on after a finding, with a new cluster
    #[arg(long)]
    pub keep_going: bool,
    /// Where report.json goes, and the directories of clusters that failed
    #[arg(long, value_name = "DIR", default_value = "target/nemesis")]
    pub out: PathBuf,
    /// The program that is a node; this one without
    #[arg(long, value_name = "FILE", hide = true)]
    pub program: Option<PathBuf>,
}

/// Runs them; whether nothing was found and no fault is missing.
///
/// # Errors
/// What was asked for makes no run, or the report cannot be written.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new().context("start threads")?;
    let report = runtime.block_on(histories(arguments))?;
    report.print();
    report.write(&arguments.out.join("report.json"))?;
    Ok(report.is_clean())
}

/// As [`run`], inside a runtime; what was found.
///
/// # Errors
/// As [`run`].
pub async fn histories(arguments: &Arguments) -> Result<Report> {
    let named = |kind: &Kind| {
        let mut asked = arguments.fault.iter();
        arguments.fault.is_empty() || asked.any(|name| kind.name().starts_with(name.as_str()))
    };
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(named).collect();
    let all = || Kind::ALL.map(Kind::name).join(", ");
    ensure!(
        !kinds.is_empty(),
        "no fault has that name; there are {}",
        all()
    );
    let histories = arguments.histories;
    ensure!(histories > 0, "--histories 0 is no run; give 1 or more");
    if let Some(only) = arguments.only {
        ensure!(
            only < histories,
            "--only {only}: the histories of this run are 0 to {}; give --histories as it was",
            histories - 1
        );
    }
    std::fs::create_dir_all(&arguments.out).context("make the directory of the run")?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("seed {seed}");
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("find this program")?,
    };
    let mut run = Run {
        arguments: arguments.clone(),
        program,
        plans: deal(&kinds, arguments.histories, seed),
        report: Report::new(seed, &kinds),
        seed,
        cluster: None,
        foreign: None,
        last: None,
    };
    run.all().await?;
    Ok(run.report)
}

/// The faults of each history.
fn deal(kinds: &[Kind], histories: u64, seed: u64) -> Vec<Vec<Kind>> {
    let mut rng = Rng::with_seed(seed);
    let mut deck = Vec::new();
    let mut next = |rng: &mut Rng| {
        if deck.is_empty() {
            deck.extend_from_slice(kinds);
            rng.shuffle(&mut deck);
        }
        deck.pop()
    };
    let mut deal_one = |_| {
        let count = 1 + rng.usize(..FAULTS_MAX);
        (0..count).filter_map(|_| next(&mut rng)).collect()
    };
    (0..histories).map(&mut deal_one).collect()
}

struct Run {
    arguments: Arguments,
    program: PathBuf,
    plans: Vec<Vec<Kind>>,
    report: Report,
    seed: u64,
    cluster: Option<Cluster>,
    foreign: Option<Foreign>,
    last: Option<Arc<Recorder>>,
}

impl Run {
    async fn all(&mut self) -> Result<()> {
        let begun = Instant::now();
        let bar = ProgressBar::new(self.arguments.histories);
        bar.set_style(ProgressStyle::with_template(
            "{bar:30} {pos}/{len} histories {elapsed} {msg}",
        )?);
        bar.enable_steady_tick(Duration::from_millis(200));
        for (number, plan) in (0..).zip(self.plans.clone()) {
            if self.arguments.only.is_some_and(|only| only != number) {
                continue;
            }
            let names: Vec<_> = plan.iter().map(|kind| kind.name()).collect();
            let names = names.join(", ");
            bar.set_message(names.clone());
            let begun = Instant::now();
            let findings = self.history(number, &plan).await;
            let took = begun.elapsed();
            bar.set_position(number + 1);
            if bar.is_hidden() {
                println!("history {number}: {names}: {took:.1?}");
            }
            if !findings.is_empty() {
                let text = self.found(number, &names, &findings)?;
                bar.suspend(|| print_ends(&text));
                if !self.arguments.keep_going {
                    break;
                }
            }
        }
        bar.finish_and_clear();
        self.report.seconds = begun.elapsed().as_secs();
        Ok(())
    }

    /// Keeps what is there to be looked at, and says how to see it again.
    fn found(&mut self, number: u64, names: &str, findings: &[String]) -> Result<String> {
        let mut text = format!("VIOLATION in history {number} ({names})\n");
        findings
            .iter()
            .for_each(|finding| text.push_str(&format!("{finding}\n")));
        if let Some(cluster) = self.cluster.take() {
            let kept = cluster.keep();
            std::fs::write(kept.join("findings.txt"), &text).context("keep what was found")?;
            std::fs::write(kept.join("history.txt"), self.told()).context("keep the history")?;
            text.push_str(&format!("kept: {}\n", kept.display()));
        }
        let (seed, histories) = (self.seed, self.arguments.histories);
        let faults = self
            .arguments
            .fault
            .iter()
            .map(|name| format!(" --fault {name}"));
        let faults: String = faults.collect();
        text.push_str(&format!(
            "again: make nemesis NEMESIS=\"--seed {seed} --histories {histories}{faults} --only \
             {number}\", or without --only from the first on"
        ));
        self.report.violations.push(text.clone());
        Ok(text)
    }

    /// The last history, an operation a line.
    fn told(&self) -> String {
        let operations = self.last.as_ref().map(|last| last.operations());
        let mut operations = operations.unwrap_or_default();
        operations.sort_by_key(|operation| operation.invoked);
        let line = |of: &Operation<Action>| format!("key {}: {}\n", of.key, shown(of));
        operations.iter().map(line).collect()
    }

    /// One history; what was found.
    async fn history(&mut self, number: u64, plan: &[Kind]) -> Vec<String> {
        let size = SIZES.get((number / HISTORIES_OF_CLUSTER) as usize % SIZES.len());
        let size = size.copied().unwrap_or(3);
        if number.is_multiple_of(HISTORIES_OF_CLUSTER) {
            self.cluster = None;
        }
        let cluster = match self.cluster.take() {
            Some(cluster) => Ok(cluster),
            None => {
                let flags = Flags::new(TICK_MS, COMPACTION);
                Cluster::start(&self.program, &self.arguments.out, size, &flags, true).await
            }
        };
        let mut cluster = match cluster {
            Ok(cluster) => cluster,
            Err(e) => return vec![format!("no cluster of {size}: {e:#}")],
        };
        let mut rng = Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let clients = Plan {
            prefix: format!("h{number}"),
            clients: CLIENTS,
            think: Duration::from_millis(8),
            seed: rng.u64(..),
        };
        let load = Load::start(&clients, cluster.clients());
        let mut findings = Vec::new();
        let faults = self.faults(&mut cluster, &load, &mut rng, plan).await;
        let recorder = load.end().await;
        let judged = match faults {
            Ok(()) => self.judged(&mut cluster, &recorder, &clients.prefix).await,
            Err(e) => Err(e),
        };
        match judged {
            Ok(found) => findings.extend(found),
            Err(e) => findings.push(format!("{e:#}")),
        }
        findings.extend(cluster.failed());
        self.report.add(&recorder);
        self.last = Some(recorder);
        self.cluster = Some(cluster);
        findings
    }

    async fn faults(
        &mut self,
        cluster: &mut Cluster,
        load: &Load,
        rng: &mut Rng,
        plan: &[Kind],
    ) -> Result<()> {
        load.acknowledges(ANSWERS).await?;
        for kind in plan {
            let mut scene = Scene {
                cluster,
                load,
                rng,
                foreign: &mut self.foreign,
            };
            let has_met = scene.inflict(*kind).await?;
            self.report.count(*kind, has_met);
            if !kind.lasts() {
                cluster.heal()?;
                cluster
                    .whole()
                    .await
                    .with_context(|| format!("after {}", kind.name()))?;
            }
        }
        cluster.heal()?;
        cluster
            .whole()
            .await
            .context("when everything was mended")?;
        load.acknowledges(ANSWERS).await
    }

    async fn judged(
        &mut self,
        cluster: &mut Cluster,
        recorder: &Arc<Recorder>,
        prefix: &str,
    ) -> Result<Vec<String>> {
        cluster
            .whole()
            .await
            .context("when the clients had ended")?;
        let findings = judge(recorder, prefix, &cluster.clients()).await?;
        self.report.lost += findings.lost.len();
        self.report.nonlinearizable += findings.nonlinearizable.len();
        self.report.undecided += findings.undecided.len();
        Ok(findings.lines())
    }
}

/// The history of a key may be long; the whole of it is kept.
fn print_ends(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let left_out = lines.len().saturating_sub(2 * LINES_OF_END);
    for (at, line) in lines.iter().enumerate() {
        if at == LINES_OF_END && left_out > 0 {
            println!("    .. {left_out} lines ..");
        }
        if at < LINES_OF_END || at >= LINES_OF_END + left_out {
            println!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_dealt_before_one_comes_twice() {
        let plans = deal(&Kind::ALL, 200, 7);
        assert_eq!(plans, deal(&Kind::ALL, 200, 7));
        let mut dealt: Vec<Kind> = plans.into_iter().flatten().take(Kind::ALL.len()).collect();
        dealt.sort_unstable();
        assert_eq!(dealt, Kind::ALL);
    }
}
