//! What happens when: the group is formed, takes puts through outages, settles, is compared.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::vec;

use crate::Failure;
use crate::arguments::Arguments;
use crate::client::{Client, WINDOW};
use crate::cluster::{Cluster, FIRST_NODE};
use crate::compare::{self, Findings};
use crate::network::{Command, Status, node_ids};
use crate::node::Compaction;
use crate::outages::{self, Outage, Return};
use crate::report::{self, Progress, Summary};

/// How long to wait for an answer before looking at the nodes again.
const PASS: Duration = Duration::from_millis(5);

/// An outage that has begun.
struct Away {
    outage: Outage,
    ids: Vec<u64>,
    /// How many puts were acknowledged when it began.
    since: usize,
    /// Set when the nodes have been started again: the index they have to come to.
    catching_up_to: Option<u64>,
}

impl Away {
    /// How many puts have to be acknowledged before the nodes come back.
    fn puts_needed(&self) -> usize {
        match (self.catching_up_to, self.outage.until) {
            (Some(_), _) => 0,
            (None, Return::AfterPuts(puts)) => self.since + puts,
            (None, Return::BehindTheLog) => usize::MAX,
        }
    }
}

pub struct Run {
    arguments: Arguments,
    dir: PathBuf,
    begin: Instant,
    cluster: Cluster,
    progress: Progress,
    acknowledged: BTreeSet<usize>,
    retries: u64,
    restarts: u64,
    /// What is being waited for, to be named should it take too long.
    phase: &'static str,
}

impl Run {
    pub fn new(arguments: &Arguments, dir: &Path, progress: Progress) -> Self {
        let entries_between = (arguments.puts as u64 / 20).max(10);
        let compaction = Compaction {
            entries_between,
            entries_kept: entries_between,
        };
        Run {
            arguments: arguments.clone(),
            dir: dir.to_path_buf(),
            begin: Instant::now(),
            cluster: Cluster::new(dir, compaction),
            progress,
            acknowledged: BTreeSet::new(),
            retries: 0,
            restarts: 0,
            phase: "",
        }
    }

    /// Runs it all. What goes wrong stands in the summary.
    pub fn finish(mut self) -> Summary {
        let findings = self.work();
        // After a failure nodes may be running still; a second one would only hide the first.
        let stopped = self.cluster.stop_all();
        self.progress.finish();
        let mut summary = Summary {
            seed: self.arguments.seed,
            puts: self.arguments.puts,
            acknowledged: self.acknowledged.len(),
            retries: self.retries,
            restarts: self.restarts,
            catch_ups: self.cluster.network().catch_ups(),
            elapsed: self.begin.elapsed(),
            findings: None,
            failure: None,
        };
        match findings.and_then(|findings| stopped.map(|()| findings)) {
            Ok(findings) => summary.findings = Some(findings),
            Err(failure) => summary.failure = Some(failure.to_string()),
        }
        summary.failure = summary.failure.take().or_else(|| self.objection(&summary));
        summary
    }

    fn work(&mut self) -> Result<Findings, Failure> {
        self.form_group()?;
        self.put_through_outages()?;
        self.settle()?;
        self.cluster.stop_all()?;
        self.progress.finish();
        let nodes = compare::read_all(&self.dir)?;
        report::print_nodes(&nodes);
        compare::compare(&nodes, self.arguments.puts, &self.acknowledged)
    }

    /// What makes a run that came to its end a failure all the same.
    fn objection(&self, summary: &Summary) -> Option<String> {
        let findings = summary.findings.as_ref()?;
        if findings.lost > 0 || findings.diverged > 0 {
            return Some("the nodes do not hold what they should".to_owned());
        }
        if summary.acknowledged < self.arguments.puts {
            return Some("not every put was acknowledged".to_owned());
        }
        if summary.restarts < self.arguments.restarts {
            return Some("there were fewer restarts than asked for".to_owned());
        }
        (summary.catch_ups == 0).then(|| "no node had to catch up by a snapshot".to_owned())
    }

    /// The first node makes the group, the others join it one by one.
    fn form_group(&mut self) -> Result<(), Failure> {
        self.phase = "forming the group";
        for id in node_ids() {
            self.cluster.start(id)?;
        }
        for id in node_ids().filter(|id| *id != FIRST_NODE) {
            let add = vec![Command::AddNode(id)];
            let mut client = Client::new(self.cluster.network().clone(), add);
            while !client.is_done() {
                client.work(PASS, 1);
                self.look_after(0)?;
            }
        }
        self.progress.line("the group has five members");
        Ok(())
    }

    fn put_through_outages(&mut self) -> Result<(), Failure> {
        self.phase = "putting pairs";
        let puts = self.arguments.puts;
        let mut client = Client::puts(self.cluster.network().clone(), puts);
        let drawn = outages::draw(puts, self.arguments.restarts, self.arguments.seed);
        let mut coming = drawn.into_iter().peekable();
        let mut away: Option<Away> = None;
        while !client.is_done() || away.is_some() || coming.peek().is_some() {
            // The client does not run ahead of the outages, each finds proposals under way, and
            // the last puts reach all nodes as entries of the log.
            let end = if away.is_some() { 0 } else { puts };
            let next = coming.peek().map_or(end, |next| next.begin);
            let needed = match &away {
                Some(away) => away.puts_needed(),
                None => self.acknowledged.len(),
            };
            client.work(PASS, next.max(needed).saturating_add(WINDOW));
            self.acknowledged.clone_from(client.acknowledged());
            self.retries = client.retries();
            self.look_after(self.acknowledged.len())?;
            away = match away {
                Some(away) => self.go_on_with(away)?,
                None => self.begin_outage(&mut coming)?,
            };
        }
        Ok(())
    }

    /// Begins the next outage if it is time and there is a leader to go by.
    fn begin_outage(
        &mut self,
        coming: &mut Peekable<vec::IntoIter<Outage>>,
    ) -> Result<Option<Away>, Failure> {
        let acknowledged = self.acknowledged.len();
        let due = coming.peek().filter(|next| next.begin <= acknowledged);
        let ids = due
            .map(|due| due.choose(self.cluster.network()))
            .unwrap_or_default();
        if ids.is_empty() {
            return Ok(None);
        }
        let Some(outage) = coming.next() else {
            return Ok(None);
        };
        let stopped = self.cluster.stop(&ids, outage.place)?;
        let stopped: Vec<String> = stopped
            .iter()
            .map(|(id, place)| format!("node {id} {}", place.describe()))
            .collect();
        let line = format!(
            "at {acknowledged} puts {} stopped: {}",
            outage.victims,
            stopped.join(", ")
        );
        self.progress.line(&line);
        Ok(Some(Away {
            outage,
            ids,
            since: acknowledged,
            catching_up_to: None,
        }))
    }

    /// Starts the nodes again when it is time; done when they are level with the others.
    fn go_on_with(&mut self, mut away: Away) -> Result<Option<Away>, Failure> {
        let network = self.cluster.network();
        if let Some(index) = away.catching_up_to {
            let is_level = |id: &u64| {
                let status = network.status(*id);
                status.is_up && status.applied >= index
            };
            let is_over = away.ids.iter().all(is_level);
            return Ok(if is_over { None } else { Some(away) });
        }
        let is_time = match away.outage.until {
            Return::AfterPuts(_) => self.acknowledged.len() >= away.puts_needed(),
            Return::BehindTheLog => away.ids.iter().all(|id| self.is_behind_the_log(*id)),
        };
        if is_time || self.acknowledged.len() == self.arguments.puts {
            let applied = network
                .statuses()
                .into_iter()
                .map(|status| status.applied)
                .max();
            away.catching_up_to = applied;
            self.restart(&away)?;
        }
        Ok(Some(away))
    }

    /// Whether every node that is up has dropped the entry that this one needs next.
    fn is_behind_the_log(&self, id: u64) -> bool {
        let network = self.cluster.network();
        let next = network.status(id).last + 1;
        let up = network.statuses().into_iter().filter(|status| status.is_up);
        up.map(|status| status.first)
            .min()
            .is_some_and(|first| first > next)
    }

    fn restart(&mut self, away: &Away) -> Result<(), Failure> {
        for id in &away.ids {
            self.cluster.start(*id)?;
            self.restarts += 1;
        }
        let ids: Vec<String> = away.ids.iter().map(u64::to_string).collect();
        let behind = match away.outage.until {
            Return::BehindTheLog => ", which the others' logs have left behind",
            Return::AfterPuts(_) => "",
        };
        let acknowledged = self.acknowledged.len();
        self.progress.line(&format!(
            "at {acknowledged} puts back: node {}{behind}",
            ids.join(", ")
        ));
        Ok(())
    }

    /// Until all nodes follow one leader and have applied the same log to its end.
    fn settle(&mut self) -> Result<(), Failure> {
        self.phase = "waiting for all nodes to have applied everything";
        loop {
            let statuses = self.cluster.network().statuses();
            let [one, ..] = statuses;
            let is_level = |status: &Status| {
                let Status {
                    is_up,
                    term,
                    last,
                    applied,
                    ..
                } = *status;
                is_up && (term, last, applied) == (one.term, one.last, one.last)
            };
            if self.cluster.network().leader().is_some() && statuses.iter().all(is_level) {
                return Ok(());
            }
            self.look_after(self.acknowledged.len())?;
            self.cluster.network().wait_for_news(PASS);
        }
    }

    /// Shows how it goes; an error when a node has failed or the time is up.
    fn look_after(&mut self, acknowledged: usize) -> Result<(), Failure> {
        self.progress
            .update(acknowledged, self.restarts, self.cluster.network());
        self.cluster.check()?;
        if self.begin.elapsed() > self.arguments.time_max {
            let network = self.cluster.network();
            let nodes = node_ids().map(|id| format!("node {id} {}", network.status(id)));
            let nodes: Vec<String> = nodes.collect();
            return Err(format!(
                "gave up after {} s, {}, with {acknowledged} puts acknowledged: {}",
                self.arguments.time_max.as_secs(),
                self.phase,
                nodes.join("; ")
            )
            .into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::put_key;
    use crate::machine::{Machine, column_families};
    use crate::node::Place;
    use crate::{cluster::node_dir, outages::Victims};
    use raft_rocks::{Options, RaftMachineStorage};

    fn seed() -> u64 {
        let given = std::env::var("RAFT_ROCKS_SEED");
        let seed = given.map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        println!("RAFT_ROCKS_SEED={seed}");
        seed
    }

    #[test]
    fn a_short_run_loses_nothing_and_what_is_taken_away_afterwards_is_missed() {
        let arguments = Arguments {
            puts: 200,
            restarts: 9,
            seed: seed(),
            ..Arguments::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let run = Run::new(&arguments, dir.path(), Progress::lines(arguments.puts));
        let summary = run.finish();
        assert_eq!(summary.failure, None);
        assert_eq!(summary.findings, Some(Findings::default()));

        let mut options = Options::default();
        options.column_families = column_families();
        let storage = RaftMachineStorage::open(node_dir(dir.path(), 3), options).unwrap();
        let machine = Machine::new(storage.clone());
        machine.remove(&put_key(7)).unwrap();
        drop((machine, storage));

        let nodes = compare::read_all(dir.path()).unwrap();
        let acknowledged = (0..arguments.puts).collect();
        let findings = compare::compare(&nodes, arguments.puts, &acknowledged).unwrap();
        assert_eq!((findings.lost, findings.diverged), (1, 1), "{findings:?}");
    }

    #[test]
    fn every_seed_stops_a_leader_all_nodes_one_for_long_and_at_every_place() {
        for seed in 0..200 {
            let drawn = outages::draw(1000, 16, seed);
            let restarts: u64 = drawn
                .iter()
                .map(|outage| if outage.victims == Victims::All { 5 } else { 1 })
                .sum();
            assert!(restarts >= 16, "seed {seed}: {drawn:?}");
            assert!(drawn.iter().any(|outage| outage.victims == Victims::Leader));
            assert!(drawn.iter().any(|outage| outage.victims == Victims::All));
            assert!(
                drawn
                    .iter()
                    .any(|outage| outage.until == Return::BehindTheLog)
            );
            for place in Place::ALL {
                assert!(
                    drawn.iter().any(|outage| outage.place == place),
                    "{place:?}"
                );
            }
            assert!(drawn.is_sorted_by_key(|outage| outage.begin));
            assert!(drawn.iter().all(|outage| outage.begin < 1000));
        }
    }
}
