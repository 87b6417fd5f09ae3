//! What happens when: the cluster is formed, takes puts through outages, settles, is compared.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use raft_rocks::driver::Status;
use tokio::time::timeout;

use crate::client::{Client, WINDOW};
use crate::cluster::{Cluster, NODES, Seen, describe, leader, node_ids};
use crate::compare::{self, Findings};
use crate::outages::{self, Outage};
use crate::report::{self, Summary};
use crate::{Arguments, Failure};

/// How long to wait for the client to be told something before looking at the nodes again.
const PASS: Duration = Duration::from_millis(5);

/// Runs it all. What goes wrong stands in the summary.
pub async fn run(arguments: &Arguments, dir: &Path) -> Summary {
    let puts = arguments.puts;
    let cluster = Cluster::new(dir, (puts / 20).max(10), arguments.seed);
    let mut run = Run {
        arguments: arguments.clone(),
        dir: dir.to_path_buf(),
        begin: Instant::now(),
        client: Client::new(&cluster.nodes, puts),
        cluster,
        restarts: 0,
        phase: "",
        seen: Seen::new(),
    };
    let worked = timeout(Duration::from_secs(arguments.seconds), run.work()).await;
    // After a failure nodes may be running still.
    run.cluster.halt(&node_ids().collect::<Vec<_>>()).await;
    let (findings, failure) = match worked {
        Ok(Ok(findings)) => (Some(findings), None),
        Ok(Err(failure)) => (None, Some(failure.to_string())),
        Err(_) => {
            let (seconds, seen) = (arguments.seconds, describe(&run.seen));
            let failure = format!("gave up after {seconds} s, {}: {seen}", run.phase);
            (None, Some(failure))
        }
    };
    let mut summary = Summary {
        seed: arguments.seed,
        puts,
        acknowledged: run.client.acknowledged(),
        retries: run.client.told.borrow().retries,
        restarts: run.restarts,
        catch_ups: run.cluster.catch_ups.load(Ordering::Relaxed),
        written: run.cluster.written,
        elapsed: run.begin.elapsed(),
        findings,
        failure,
    };
    if let Some(objection) = objection(arguments, &summary) {
        summary.failure = Some(objection.to_owned());
    }
    summary
}

/// What makes a run that came to its end a failure all the same.
fn objection(arguments: &Arguments, summary: &Summary) -> Option<&'static str> {
    let findings = summary.findings.as_ref()?;
    if findings.lost > 0 || findings.diverged > 0 {
        return Some("the nodes do not hold what they should");
    }
    if summary.restarts < arguments.restarts {
        return Some("there were fewer restarts than asked for");
    }
    (summary.catch_ups == 0).then_some("no node had to catch up by a snapshot")
}

struct Run {
    arguments: Arguments,
    dir: PathBuf,
    begin: Instant,
    client: Client,
    cluster: Cluster,
    restarts: u64,
    /// What is being waited for, and what was seen last, should it take too long.
    phase: &'static str,
    seen: Seen,
}

impl Run {
    async fn work(&mut self) -> Result<Findings, Failure> {
        self.form_cluster().await?;
        let puts = self.arguments.puts;
        let outages = outages::draw(puts, self.arguments.restarts, self.arguments.seed);
        let mut coming = outages.iter().peekable();
        while let Some(outage) = coming.next() {
            let next = coming.peek().map_or(0, |next| next.begin);
            self.pass_through(outage, next).await?;
        }
        self.put_until("putting the last pairs", puts, |_| false)
            .await?;
        self.settle().await?;
        self.say("all nodes are level; their directories are opened again when they are down");
        let leader = self.leader().await?;
        self.cluster.shut_down(leader).await;
        let nodes = compare::read_all(&self.dir)?;
        report::print_nodes(&nodes);
        compare::compare(&nodes, puts, &self.client.told.borrow().acknowledged)
    }

    /// The first node begins alone, the others join it one by one.
    async fn form_cluster(&mut self) -> Result<(), Failure> {
        self.cluster.bootstrap().await?;
        self.leader().await?;
        self.say("node 1 leads a cluster of one");
        for id in node_ids().skip(1) {
            self.cluster.join(id).await?;
            self.until("making a node a voter", |run| {
                let of = run.seen.get(&id);
                of.is_some_and(|of| of.conf_state.voters.contains(&id))
            })
            .await?;
            self.say(&format!("node {id} joined, has caught up, and votes"));
        }
        Ok(())
    }

    /// One outage, from the put at which it begins until its nodes are level with the others;
    /// meanwhile the client goes on towards `next`, where the next one begins.
    async fn pass_through(&mut self, outage: &Outage, next: u64) -> Result<(), Failure> {
        self.put_until("putting pairs", outage.begin, |_| false)
            .await?;
        let (victims, ids) = outage.choose(self.leader().await?);
        let names: Vec<String> = ids.iter().map(u64::to_string).collect();
        let names = names.join(", ");
        let applied = self.applied();
        let last = ids.iter().filter_map(|id| self.seen.get(id));
        let last = last.map(|of| of.last_index).max().unwrap_or(0);
        // It finds proposals under way.
        self.client.let_through(self.client.acknowledged() + WINDOW);
        self.cluster.halt(&ids).await;
        let since = self.client.acknowledged();
        self.say(&format!("{victims} halted: node {names}"));

        // With what was under way.
        let last = last + 2 * WINDOW;
        let is_behind = |run: &Run| {
            let mut others = run.seen.values();
            outage.puts.is_none() && others.all(|of| of.first_index > last + 1)
        };
        let puts = outage.puts.map(|puts| since + puts);
        let puts = puts.unwrap_or(outages::end(self.arguments.puts));
        self.put_until("putting pairs in an outage", puts, is_behind)
            .await?;

        self.client.let_through(next + WINDOW);
        let behind = match outage.puts {
            None => ", which the others' logs have left behind",
            Some(_) => "",
        };
        self.say(&format!("back: node {names}{behind}"));
        let level = self.applied().max(applied);
        for id in &ids {
            self.cluster.reopen(*id).await?;
            self.restarts += 1;
        }
        self.until("waiting for nodes to catch up", |run| {
            run.seen.values().all(|of| of.applied >= level)
        })
        .await
    }

    fn say(&self, what: &str) {
        let (seconds, puts) = (self.begin.elapsed().as_secs_f64(), self.arguments.puts);
        let acknowledged = self.client.acknowledged();
        println!("{seconds:5.1} s  {acknowledged:4} of {puts} puts  {what}");
    }

    /// By the nodes that are furthest.
    fn applied(&self) -> u64 {
        let applied = self.seen.values().map(|of| of.applied);
        applied.max().unwrap_or(0)
    }

    async fn leader(&mut self) -> Result<u64, Failure> {
        self.until("waiting for a leader", |run| leader(&run.seen).is_some())
            .await?;
        Ok(leader(&self.seen).map_or(0, |of| of.id))
    }

    /// Until so many puts are acknowledged, or something else is so.
    async fn put_until(
        &mut self,
        phase: &'static str,
        puts: u64,
        or: impl Fn(&Run) -> bool,
    ) -> Result<(), Failure> {
        let puts = puts.min(self.arguments.puts);
        self.client.let_through(puts + WINDOW);
        let is_over = |run: &Run| run.client.acknowledged() >= puts || or(run);
        self.until(phase, is_over).await
    }

    /// Until all nodes follow one leader and have applied the same log to its end.
    async fn settle(&mut self) -> Result<(), Failure> {
        self.until("waiting for all nodes to have applied everything", |run| {
            let Some(leader) = leader(&run.seen) else {
                return false;
            };
            let state = (leader.id, leader.term, leader.last_index, leader.last_index);
            let is_level = |of: &Status| (of.leader, of.term, of.last_index, of.applied) == state;
            run.seen.len() as u64 == NODES && run.seen.values().all(is_level)
        })
        .await
    }

    /// Looks until it is so; an error when a node or the client has failed.
    async fn until(
        &mut self,
        phase: &'static str,
        is_so: impl Fn(&Run) -> bool,
    ) -> Result<(), Failure> {
        self.phase = phase;
        loop {
            self.seen = self.cluster.look().await?;
            if let Some(refusal) = &self.client.told.borrow().refusal {
                return Err(refusal.as_str().into());
            }
            if is_so(self) {
                return Ok(());
            }
            // Whichever comes first.
            let _ = timeout(PASS, self.client.told.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::put_key;
    use crate::cluster::open_store;
    use crate::machine::remove_pair;
    use clap::Parser as _;

    #[tokio::test]
    async fn a_short_run_loses_nothing_and_what_is_taken_away_afterwards_is_missed() {
        let mut arguments = Arguments::parse_from(["five_nodes", "--puts=200", "--restarts=9"]);
        let seed = std::env::var("RAFT_ROCKS_SEED");
        arguments.seed = seed.map_or(arguments.seed, |seed| seed.parse().unwrap());
        println!("RAFT_ROCKS_SEED={}", arguments.seed);
        let dir = tempfile::tempdir().unwrap();
        let summary = run(&arguments, dir.path()).await;
        assert_eq!(summary.failure, None);
        assert_eq!(summary.findings, Some(Findings::default()));

        remove_pair(&open_store(dir.path(), 3).unwrap(), &put_key(7));
        let nodes = compare::read_all(dir.path()).unwrap();
        let acknowledged = (0..arguments.puts).map(|number| (number, 0)).collect();
        let findings = compare::compare(&nodes, arguments.puts, &acknowledged).unwrap();
        // It is lost, differs from the others', and is missing beside the history.
        assert_eq!((findings.lost, findings.diverged), (1, 2), "{findings:?}");
    }
}
