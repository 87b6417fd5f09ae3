//! `make demo`: three nodes that are killed, cut apart and joined by a fourth while clients write,
//! told as it happens, and a judgement at the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cluster::Cluster;
use crate::fault::between;
use crate::judge::{Findings, judge};
use crate::load::{Load, Plan};
use crate::node::{Flags, serves_http};
use crate::proxy::Rule;
use crate::{admin, until};

/// A tick of the nodes: an election takes ten to twenty.
const TICK_MS: u64 = 50;
/// Entries after which a snapshot is made, and that stay behind it: few, so that the node that
/// joins cannot do without.
const COMPACTION: (u64, u64) = (2_000, 200);
const CLIENTS: usize = 8;
const PREFIX: &str = "demo";
/// Acknowledged operations between two faults.
const BETWEEN: u64 = 120;

/// What the demo is told.
#[derive(Args)]
pub struct Arguments {
    /// How many processes are killed at least
    #[arg(long, value_name = "N", default_value_t = 22)]
    kills: u64,
    /// What is drawn is drawn from this; random without
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where summary.json goes, and what is left of a cluster that failed
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    out: PathBuf,
}

/// Runs it; whether nothing was found.
///
/// # Errors
/// The cluster does not do what it should: start, recover, take a node in.
pub fn demo(arguments: &Arguments) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new().context("start threads")?;
    runtime.block_on(play(arguments))
}

async fn play(arguments: &Arguments) -> Result<bool> {
    std::fs::create_dir_all(&arguments.out).context("make the directory of the demo")?;
    let summary = arguments.out.join("summary.json");
    // That of an earlier run would speak for this one, should it break off.
    drop(std::fs::remove_file(&summary));
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("seed {seed}");
    let begun = Instant::now();
    let mut story = Story::begin(arguments, seed).await?;
    let told = story.tell().await;
    let ended = match told {
        Ok(()) => story.end().await,
        Err(e) => Err(e.context(story.cluster.failed().unwrap_or_default())),
    };
    story.bar.finish_and_clear();
    let (figures, findings) = match ended {
        Ok(ended) => ended,
        Err(e) => {
            let kept = story.cluster.keep();
            return Err(e.context(format!("the nodes' logs are in {}", kept.display())));
        }
    };
    figures.print(begun.elapsed());
    figures.write(&summary)?;
    if !findings.is_clean() {
        findings.lines().iter().for_each(|line| println!("{line}"));
        println!("the nodes are kept in {}", story.cluster.keep().display());
    }
    Ok(figures.is_clean() && findings.is_clean())
}

struct Story {
    cluster: Cluster,
    load: Option<Load>,
    bar: ProgressBar,
    rng: Rng,
    kills: u64,
    kills_min: u64,
    partitions: u64,
    joins: u64,
}

impl Story {
    async fn begin(arguments: &Arguments, seed: u64) -> Result<Self> {
        let bar = ProgressBar::new(arguments.kills);
        bar.set_style(ProgressStyle::with_template(
            "{bar:20} {pos}/{len} kills {elapsed} {msg}",
        )?);
        bar.enable_steady_tick(Duration::from_millis(200));
        let program = std::env::current_exe().context("find this program")?;
        let flags = Flags::new(TICK_MS, COMPACTION);
        let cluster = Cluster::start(&program, &arguments.out, 3, &flags, false).await?;
        let plan = Plan {
            prefix: PREFIX.to_owned(),
            clients: CLIENTS,
            think: Duration::from_millis(4),
            seed,
        };
        let story = Story {
            load: Some(Load::start(&plan, cluster.clients())),
            cluster,
            bar,
            rng: Rng::with_seed(seed),
            kills: 0,
            kills_min: arguments.kills,
            partitions: 0,
            joins: 0,
        };
        story.say("three nodes run, each with every write synced");
        for node in &story.cluster.nodes {
            let line = format!(
                "node {}: redis-cli -p {}",
                node.number,
                node.addresses.client.port()
            );
            story.bar.suspend(|| println!("{line}"));
        }
        if serves_http() {
            let at = story.cluster.node(0)?.addresses.http;
            story.bar.suspend(|| println!("status page: http://{at}/"));
        }
        Ok(story)
    }

    fn say(&self, what: &str) {
        let answered = self
            .load
            .as_ref()
            .map_or(0, |load| load.recorder.acknowledged());
        let line = format!("{answered} acknowledged; {what}");
        if self.bar.is_hidden() {
            println!("{line}");
        }
        self.bar.set_message(line);
        self.bar.set_position(self.kills);
    }

    fn load(&self) -> Result<&Load> {
        self.load.as_ref().context("the clients have ended")
    }

    async fn tell(&mut self) -> Result<()> {
        self.load()?.acknowledges(BETWEEN).await?;
        self.load()?.recorder.watch_gaps();
        while self.kills < self.kills_min / 3 {
            self.kill_some().await?;
        }
        self.partition().await?;
        while self.kills < 2 * self.kills_min / 3 {
            self.kill_some().await?;
        }
        self.join().await?;
        while self.kills < self.kills_min {
            self.kill_some().await?;
        }
        Ok(())
    }

    /// Kills the leader, or followers, or so many that nobody can lead; and starts them again.
    async fn kill_some(&mut self) -> Result<()> {
        let leader = self.cluster.leader().await?;
        let followers = (0..self.cluster.nodes.len()).filter(|at| *at != leader);
        let follower = self
            .rng
            .choice(followers.collect::<Vec<_>>())
            .context("a follower")?;
        let (victims, what) = match self.kills % 7 {
            6 => (
                vec![leader, follower],
                "the leader and a follower are killed",
            ),
            n if n % 2 == 0 => (vec![leader], "the leader is killed"),
            _ => (vec![follower], "a follower is killed"),
        };
        for at in &victims {
            self.cluster.kill(*at).await?;
            self.kills += 1;
        }
        self.say(what);
        let up = self
            .cluster
            .nodes
            .iter()
            .filter(|node| node.is_up())
            .count();
        if 2 * up > self.cluster.nodes.len() {
            self.load()?.acknowledges(BETWEEN).await?;
        }
        for at in victims {
            self.cluster.restart(at)?;
        }
        self.say("restarted");
        self.cluster.whole().await?;
        self.load()?.acknowledges(BETWEEN).await
    }

    /// The leader cannot reach the others, nor they it, until they have another.
    async fn partition(&mut self) -> Result<()> {
        let leader = self.cluster.leader().await?;
        let others: Vec<usize> = (0..self.cluster.nodes.len())
            .filter(|at| *at != leader)
            .collect();
        self.cluster
            .network
            .set(between(&[leader], &others), Rule::Stall);
        self.partitions += 1;
        self.say("the leader is cut off");
        self.cluster.leader_other_than(leader).await?;
        self.load()?.acknowledges(BETWEEN).await?;
        self.cluster.heal()?;
        self.say("the network is whole again");
        self.cluster.whole().await?;
        self.load()?.acknowledges(BETWEEN).await
    }

    /// A fourth node joins when the beginning of the log is gone everywhere.
    async fn join(&mut self) -> Result<()> {
        let (_, before) = self.compacted().await?;
        self.say("a fourth node joins");
        let flags = Flags::new(TICK_MS, COMPACTION);
        let joined = self.cluster.add(&flags).await?;
        self.load()?.move_to(self.cluster.clients());
        self.cluster.whole().await?;
        let told = self.cluster.stats().await;
        let own = told.iter().find(|(at, _)| *at == joined);
        let first = own
            .map(|(_, stats)| stats.first)
            .context("the node that joined")?;
        ensure!(
            first >= before,
            "the node that joined has entries from {first} on: not from a snapshot"
        );
        self.joins += 1;
        self.say(&format!(
            "it has joined by a snapshot: its log begins at {first}"
        ));
        self.load()?.acknowledges(BETWEEN).await
    }

    /// Lets every node make a snapshot; the leader, and where all logs begin then at the earliest.
    async fn compacted(&self) -> Result<(usize, u64)> {
        for node in self.cluster.clients() {
            admin::tell(node, &["RAFTSNAPSHOT"]).await?;
        }
        let compacted = || async {
            let told = self.cluster.stats().await;
            let first = told.iter().map(|(_, stats)| stats.first).min()?;
            let leader = self.cluster.leader_now().await?;
            (first > COMPACTION.1).then_some((leader, first))
        };
        until("logs are compacted", compacted).await
    }

    async fn end(&mut self) -> Result<(Figures, Findings)> {
        self.say("reading back and judging");
        let load = self.load.take().context("the clients have ended")?;
        let unavailable_ms_max = load.recorder.longest_gap_ms();
        let recorder = load.end().await;
        self.cluster.whole().await?;
        let acknowledged = recorder.acknowledged();
        let findings = judge(&recorder, PREFIX, &self.cluster.clients()).await?;
        let figures = Figures {
            nodes: self.cluster.nodes.len(),
            acknowledged,
            kills: self.kills,
            partitions: self.partitions,
            joins: self.joins,
            unavailable_ms_max,
            lost: findings.lost.len(),
            nonlinearizable: findings.nonlinearizable.len(),
            undecided: findings.undecided.len(),
        };
        Ok((figures, findings))
    }
}

/// What summary.json says.
struct Figures {
    nodes: usize,
    acknowledged: u64,
    kills: u64,
    partitions: u64,
    joins: u64,
    unavailable_ms_max: u64,
    lost: usize,
    nonlinearizable: usize,
    undecided: usize,
}

impl Figures {
    fn is_clean(&self) -> bool {
        self.lost == 0 && self.nonlinearizable == 0 && self.undecided == 0
    }

    fn print(&self, took: Duration) {
        println!("nodes at the end             {:>8}", self.nodes);
        println!("operations acknowledged      {:>8}", self.acknowledged);
        println!("processes killed             {:>8}", self.kills);
        println!("partitions                   {:>8}", self.partitions);
        println!("nodes joined by snapshot     {:>8}", self.joins);
        println!(
            "longest without an answer    {:>8} ms",
            self.unavailable_ms_max
        );
        println!("acknowledged writes lost     {:>8}", self.lost);
        println!("keys not linearizable        {:>8}", self.nonlinearizable);
        if self.undecided > 0 {
            println!("keys that were not judged    {:>8}", self.undecided);
        }
        println!("took                         {:>8.0?}", took);
    }

    fn write(&self, to: &Path) -> Result<()> {
        let figures = json!({
            "nodes": self.nodes,
            "acknowledged": self.acknowledged,
            "kills": self.kills,
            "partitions": self.partitions,
            "joins": self.joins,
            "unavailable_ms_max": self.unavailable_ms_max,
            "lost": self.lost,
            "nonlinearizable": self.nonlinearizable,
            "undecided": self.undecided,
        });
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        std::fs::write(to, text).with_context(|| format!("write {}", to.display()))?;
        println!("{}", to.display());
        Ok(())
    }
}
