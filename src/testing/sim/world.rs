//! The scheduler of a simulation, and what its events do.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::time::Duration;

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Message};
use raft::{SnapshotStatus, StateRole};

use super::checks::{Broken, Checks, is_quorum};
use super::client::{Ask, Client, Pending};
use super::faults::Fault;
use super::machine::{self, answered};
use super::network::{MILLISECOND, Network, Time};
use super::node::{Node, Running, TICK, ToApply};
use super::store::SimStore;
use super::{Options, Report, Violation};
use crate::driver::{
    Answer, Book, Consistency, Durability, Error, Finished, NodeInfo, Outcome, Output, RequestId,
};
use crate::testing::linearizability::{self, Operation};

const SECOND: Time = 1_000 * MILLISECOND;
const CLUSTER_ID: [u8; 16] = [7; 16];
const KEYS: u64 = 3;
const NODES_MAX: usize = 7;
/// Applied entries after which a node makes a snapshot by itself.
const SNAPSHOT_EVERY: u64 = 40;
/// Simulated time in which a healed cluster must come to rest.
const REST: Time = 120 * SECOND;

enum Event {
    Tick {
        node: u64,
        start: u64,
    },
    Deliver(Box<Message>),
    DeliverSnapshot {
        message: Box<Message>,
        data: Vec<u8>,
        broken: bool,
    },
    SnapshotReport {
        node: u64,
        to: u64,
        status: SnapshotStatus,
    },
    Sync {
        node: u64,
        start: u64,
    },
    Apply {
        node: u64,
        start: u64,
    },
    StoreSnapshot {
        node: u64,
        start: u64,
    },
    Client {
        client: usize,
    },
    GiveUp {
        client: usize,
        request: RequestId,
    },
    Retry {
        client: usize,
        request: RequestId,
    },
    /// A request that arrived while its node was paused.
    Late {
        client: usize,
        request: RequestId,
        to: u64,
    },
    Fault,
    Restart {
        node: u64,
    },
}

pub(crate) struct World<S: SimStore> {
    options: Options,
    rng: fastrand::Rng,
    now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    numbered: u64,
    nodes: BTreeMap<u64, Node<S>>,
    network: Network,
    checks: Checks,
    clients: Vec<Client>,
    history: Vec<Operation>,
    requests: RequestId,
    values: u64,
    durability: Durability,
    lease: bool,
    calm: bool,
    report: Report,
}

type Step = Result<(), Broken>;

/// An error that no fault explains.
fn unexplained(id: u64) -> impl Fn(Error) -> Broken {
    move |e| ("a node goes on", format!("{id} stopped: {e}"))
}

fn io(id: u64) -> impl Fn(std::io::Error) -> Broken {
    move |e| ("a store opens again", format!("{id}: {e}"))
}

fn info(id: u64) -> NodeInfo {
    NodeInfo {
        id,
        address: format!("node-{id}"),
        store_id: id.to_be_bytes().repeat(2),
        context: Vec::new(),
        promote: true,
    }
}

impl<S: SimStore> World<S> {
    pub(crate) fn new(options: &Options) -> Self {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let durabilities = [Durability::Memory, Durability::Own, Durability::Shared];
        let durability = *rng.choice(&durabilities).unwrap_or(&Durability::Memory);
        World {
            options: options.clone(),
            now: 0,
            queue: BTreeMap::new(),
            numbered: 0,
            nodes: BTreeMap::new(),
            network: Network::new(&mut rng),
            checks: Checks::default(),
            clients: (0..4).map(|at| Client::new(at % 2 == 0)).collect(),
            history: Vec::new(),
            requests: 0,
            values: 0,
            durability,
            lease: rng.bool(),
            calm: false,
            report: Report::default(),
            rng,
        }
    }

    pub(crate) fn run(mut self) -> Result<Report, Box<Violation>> {
        match self.run_to_the_end() {
            Ok(()) => {
                self.report.committed = self.checks.last_committed();
                Ok(self.report)
            }
            Err((rule, seen)) => Err(Box::new(Violation {
                seed: self.options.seed,
                rule,
                seen,
                event: self.report.events,
                trace: self.report.trace,
            })),
        }
    }

    fn run_to_the_end(&mut self) -> Step {
        self.begin()?;
        while self.report.events < self.options.events {
            self.next_event()?;
        }
        self.calm_down()?;
        let deadline = self.now + REST;
        while !self.is_at_rest() {
            if self.now > deadline {
                return Err(("a healed cluster comes to rest", self.describe()));
            }
            self.next_event()?;
        }
        for client in 0..self.clients.len() {
            self.give_up(client);
        }
        linearizability::check(&self.history).map_err(|(key, history)| {
            let lines: Vec<_> = history.iter().map(|one| format!("{one:?}")).collect();
            (
                "linearizability",
                format!("key {key}:\n{}", lines.join("\n")),
            )
        })
    }

    fn begin(&mut self) -> Step {
        let count = *self.rng.choice(&[1, 2, 3, 3, 3, 4, 5, 5]).unwrap_or(&3);
        let mut conf_state = ConfState::default();
        conf_state.set_voters((1..=count).collect());
        let book = Book::new(CLUSTER_ID, (1..=count).map(info));
        let durability = self.durability;
        self.note(|| format!("{count} nodes, machine: {durability:?}"));
        self.checks.changes(0, 1, &conf_state)?;
        for id in 1..=count {
            self.create(id)?;
            if let Some(node) = self.nodes.get_mut(&id)
                && let Some(store) = &node.store
            {
                let machine = node
                    .machine(self.durability, store)
                    .map_err(unexplained(id))?;
                let mut applier = crate::driver::Applier::open(store.clone(), machine)
                    .map_err(unexplained(id))?;
                applier
                    .begin(&conf_state, book.clone())
                    .map_err(unexplained(id))?;
            }
            self.start(id)?;
        }
        for client in 0..self.clients.len() {
            let at = self.now + self.rng.u64(0..SECOND);
            self.schedule(at, Event::Client { client });
        }
        self.schedule(SECOND / 2, Event::Fault);
        Ok(())
    }

    fn create(&mut self, id: u64) -> Step {
        let store = S::create(id, self.options.durable_dir.as_ref()).map_err(io(id))?;
        self.nodes.insert(id, Node::new(id, store));
        Ok(())
    }

    fn start(&mut self, id: u64) -> Step {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        if node.running.is_some() {
            return Ok(());
        }
        node.start(self.durability, self.options.seed, self.lease)
            .map_err(unexplained(id))?;
        let (start, tick) = (node.start, node.tick);
        let at = self.now + self.rng.u64(0..tick);
        self.note(|| format!("node {id} starts"));
        self.schedule(at, Event::Tick { node: id, start });
        self.after(id)
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.numbered += 1;
        self.queue.insert((at, self.numbered), event);
    }

    fn count(&mut self, what: &'static str) {
        *self.report.counts.entry(what).or_default() += 1;
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.options.trace {
            let line = format!("{:>10.3} ms  {}", self.now as f64 / 1e3, line());
            self.report.trace.push(line);
        }
    }

    fn next_event(&mut self) -> Step {
        let Some(((at, _), event)) = self.queue.pop_first() else {
            return Err(("something always happens", self.describe()));
        };
        self.now = self.now.max(at);
        self.report.events += 1;
        if let Some(until) = self.paused(&event) {
            self.schedule(until, event);
            return Ok(());
        }
        self.happen(event)
    }

    /// Until when the node that an event concerns does nothing.
    fn paused(&self, event: &Event) -> Option<Time> {
        let node = match event {
            Event::Tick { node, .. }
            | Event::Sync { node, .. }
            | Event::Apply { node, .. }
            | Event::StoreSnapshot { node, .. }
            | Event::SnapshotReport { node, .. } => *node,
            Event::Deliver(message) | Event::DeliverSnapshot { message, .. } => message.to,
            _ => return None,
        };
        let until = self.nodes.get(&node)?.paused_until;
        (until > self.now).then_some(until)
    }

    fn running(&mut self, id: u64, start: u64) -> Option<&mut Running<S>> {
        let node = self.nodes.get_mut(&id)?;
        if node.start != start {
            return None;
        }
        node.running.as_mut()
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    fn happen(&mut self, event: Event) -> Step {
        match event {
            Event::Tick { node, start } => self.tick(node, start),
            Event::Deliver(message) => self.deliver(*message),
            Event::DeliverSnapshot {
                message,
                data,
                broken,
            } => self.deliver_snapshot(*message, &data, broken),
            Event::SnapshotReport { node, to, status } => {
                if let Some(running) = self.nodes.get_mut(&node).and_then(|n| n.running.as_mut()) {
                    running.peer.report_snapshot(to, status);
                }
                self.after(node)
            }
            Event::Sync { node, start } => self.sync(node, start),
            Event::Apply { node, start } => self.apply(node, start),
            Event::StoreSnapshot { node, start } => self.store_snapshot(node, start),
            Event::Client { client } => self.ask(client),
            Event::GiveUp { client, request } => {
                let waits = self.clients.get(client).and_then(|c| c.pending);
                if waits.is_some_and(|pending| pending.request == request) {
                    return self.unknown(client);
                }
                Ok(())
            }
            Event::Retry { client, request } => {
                let waits = self.clients.get(client).and_then(|c| c.pending);
                if waits.is_some_and(|pending| pending.request == request) {
                    return self.request(client);
                }
                Ok(())
            }
            Event::Late {
                client,
                request,
                to,
            } => self.ask_node(client, request, to),
            Event::Fault => self.fault(),
            Event::Restart { node } => self.start(node),
        }
    }

    fn tick(&mut self, id: u64, start: u64) -> Step {
        let now = self.now();
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        running.peer.tick(now);
        let tick = self.nodes.get(&id).map_or(TICK, |node| node.tick);
        self.schedule(self.now + tick, Event::Tick { node: id, start });
        self.after(id)
    }

    fn deliver(&mut self, message: Message) -> Step {
        let id = message.to;
        self.note(|| line_of(&message));
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
            running.peer.step(message);
            return self.after(id);
        }
        Ok(())
    }

    fn deliver_snapshot(&mut self, message: Message, data: &[u8], broken: bool) -> Step {
        let (from, to) = (message.from, message.to);
        let receiver = self.nodes.get_mut(&to).and_then(|n| n.running.as_mut());
        let status = match receiver {
            Some(running) if !broken => {
                let staged =
                    stage(running.peer.store(), &message, data).map_err(unexplained(to))?;
                running.peer.step_snapshot(message, staged);
                SnapshotStatus::Finish
            }
            _ => SnapshotStatus::Failure,
        };
        self.count(match status {
            SnapshotStatus::Finish => "snapshot streamed",
            SnapshotStatus::Failure => "snapshot broken off",
        });
        let at = self.now + MILLISECOND;
        self.schedule(
            at,
            Event::SnapshotReport {
                node: from,
                to,
                status,
            },
        );
        self.after(to)
    }

    fn sync(&mut self, id: u64, start: u64) -> Step {
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        running.is_syncing = false;
        // A sync covers what had been written when it began: sometimes one write, sometimes all.
        let unsynced = running.peer.store().unsynced();
        let covered = self.rng.usize(1..=unsynced.max(1));
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        for _ in 0..covered {
            running.peer.store().sync_one();
        }
        self.note(|| format!("node {id} syncs {covered} of {unsynced} writes"));
        self.after(id)
    }

    fn apply(&mut self, id: u64, start: u64) -> Step {
        let persists = self.rng.u32(0..10) < 2;
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        running.is_applying = false;
        let Some(next) = running.to_apply.pop_front() else {
            return Ok(());
        };
        let restores = matches!(next, ToApply::Restore);
        let outcome = match next {
            ToApply::Restore => running.applier.restore().map(|()| {
                let index = running.applier.applied();
                running.peer.on_restored(index);
            }),
            ToApply::Committed(committed) => running.applier.apply(&committed).map(|applied| {
                running.peer.on_applied(applied);
            }),
        };
        if let Err(e) = outcome {
            return self.stopped(id, e);
        }
        if persists {
            running.applier.machine().persist();
        }
        let applied = running.applier.applied();
        let trail = running.applier.machine_mut().take_trail();
        let conf_state = running.applier.conf_state().clone();
        let regressed = applied < running.applied_max;
        running.applied_max = applied;
        let due = running.applier.since_snapshot().0 >= SNAPSHOT_EVERY;
        self.note(|| match restores {
            true => format!("node {id} is restored, at {applied}"),
            false => format!("node {id} has applied {applied}"),
        });
        if regressed {
            return Err(("applied never goes back", format!("{id} is at {applied}")));
        }
        for (index, history) in trail {
            self.checks.applies(id, index, history)?;
        }
        self.checks.keeps(id, applied, &conf_state)?;
        if due {
            self.make_snapshot(id)?;
        }
        self.after(id)
    }

    fn make_snapshot(&mut self, id: u64) -> Step {
        let at = self.now + self.rng.u64(MILLISECOND..40 * MILLISECOND);
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let start = node.start;
        let Some(running) = node.running.as_mut() else {
            return Ok(());
        };
        if running.snapshot.is_some() || running.applier.applied() == 0 {
            return Ok(());
        }
        running.snapshot = running.applier.snapshot().map_err(unexplained(id))?;
        self.schedule(at, Event::StoreSnapshot { node: id, start });
        Ok(())
    }

    fn store_snapshot(&mut self, id: u64, start: u64) -> Step {
        let keep = if self.rng.bool() {
            0
        } else {
            self.rng.u64(0..20)
        };
        let Some(running) = self.running(id, start) else {
            return Ok(());
        };
        let Some(job) = running.snapshot.take() else {
            return Ok(());
        };
        let store = running.peer.store().clone();
        let index = job.index();
        let stored = job.run(&store).and_then(|()| {
            let to = running.peer.compact_to(index, keep, 60);
            Ok(store.compact(to)?)
        });
        // A crash opens the log again, and finds it in use.
        drop(store);
        match stored {
            Ok(()) => {
                self.count("snapshot stored");
                self.note(|| format!("node {id} stores a snapshot at {index}"));
                self.after(id)
            }
            // A newer one has arrived meanwhile.
            Err(Error::Store(crate::Error::SnapshotOutOfDate { .. })) => Ok(()),
            Err(e) => self.stopped(id, e),
        }
    }

    /// A node could not go on. Where its disk has failed, or a fault was planted, it is taken for
    /// dead and started again later.
    fn stopped(&mut self, id: u64, error: Error) -> Step {
        let explained = matches!(error, Error::Stopped(_))
            || self.nodes.get(&id).is_some_and(|node| node.disk_failed);
        if !explained {
            return Err(unexplained(id)(error));
        }
        self.note(|| format!("node {id} stops: {error}"));
        self.crash(id)
    }

    fn crash(&mut self, id: u64) -> Step {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let Some(running) = node.running.as_mut() else {
            return Ok(());
        };
        let unsynced = running.peer.store().unsynced();
        let kept = self.rng.usize(0..=unsynced);
        node.crash(kept).map_err(io(id))?;
        if kept < unsynced {
            self.count("unsynced writes lost");
        }
        self.note(|| format!("node {id} crashes, {kept} of {unsynced} unsynced writes stay"));
        self.forget_what_nobody_saw(id);
        let at = self.now + self.rng.u64(10 * MILLISECOND..SECOND);
        self.schedule(at, Event::Restart { node: id });
        Ok(())
    }

    /// Entries that were neither durable nor sent may come again, other ones.
    fn forget_what_nobody_saw(&mut self, id: u64) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        let nodes = &self.nodes;
        self.checks.forget(|index, term| {
            let has = |log: &S| log.term(index).ok() == Some(term);
            node.written.contains(&(index, term)) && !nodes.values().filter_map(Node::log).any(has)
        });
    }

    /// What every event on a node ends with: the node's outputs, and the rules.
    fn after(&mut self, id: u64) -> Step {
        loop {
            let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) else {
                return Ok(());
            };
            let before = running.peer.conf_state().clone();
            let reports: Vec<_> = running.persisted.lock().drain(..).collect();
            let none = reports.is_empty();
            let mut outcome = Ok(());
            for (number, result) in reports {
                outcome = outcome.and_then(|()| running.peer.on_persisted(number, result));
            }
            let output = match outcome.and_then(|()| running.peer.drain()) {
                Ok(output) => output,
                Err(e) => return self.stopped(id, e),
            };
            self.check_log(id)?;
            self.carry_out(id, output, &before)?;
            self.check_role(id)?;
            self.go_on(id);
            if none {
                return Ok(());
            }
        }
    }

    /// Schedules what a node has to do of itself.
    fn go_on(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let start = node.start;
        let (slow_disk, slow_machine) = (
            node.slow_disk_until > self.now,
            node.slow_machine_until > self.now,
        );
        let Some(running) = node.running.as_mut() else {
            return;
        };
        let syncs = !running.is_syncing && running.peer.store().unsynced() > 0;
        let applies = !running.is_applying && !running.to_apply.is_empty();
        running.is_syncing |= syncs;
        running.is_applying |= applies;
        if syncs {
            let takes = self.rng.u64(200..5 * MILLISECOND);
            let at = self.now + takes * if slow_disk { 100 } else { 1 };
            self.schedule(at, Event::Sync { node: id, start });
        }
        if applies {
            let takes = self.rng.u64(10..MILLISECOND);
            let at = self.now + takes * if slow_machine { 500 } else { 1 };
            self.schedule(at, Event::Apply { node: id, start });
        }
    }

    fn carry_out(&mut self, id: u64, output: Output, before: &ConfState) -> Step {
        for message in output.messages {
            self.send(message);
        }
        for message in output.snapshots {
            self.stream(message)?;
        }
        if output.restore
            && let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut())
        {
            running.to_apply.push_back(ToApply::Restore);
        }
        let term = self.status(id).map_or(0, |status| status.term);
        for committed in output.committed {
            for entry in &committed.entries {
                if self.checks.commits(id, entry, term)? {
                    self.check_quorum(id, before, entry.index, entry.term)?;
                    self.check_promotion(id, entry.index, &committed.changes, before)?;
                }
            }
            for change in &committed.changes {
                if let Ok((conf_state, _)) = &change.outcome {
                    self.checks.changes(id, change.index, conf_state)?;
                }
            }
            if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
                running.to_apply.push_back(ToApply::Committed(committed));
            }
        }
        for finished in output.finished {
            self.finish(id, finished)?;
        }
        if output.snapshot_wanted {
            self.make_snapshot(id)?;
        }
        if output.removed
            && let Some(node) = self.nodes.get_mut(&id)
        {
            node.removed = true;
            self.note(|| format!("node {id} has left"));
        }
        Ok(())
    }

    fn send(&mut self, message: Message) {
        let fate = self
            .network
            .send(&mut self.rng, self.now, message.from, message.to);
        for what in fate.counted {
            self.count(what);
        }
        for at in fate.arrivals {
            self.schedule(at, Event::Deliver(Box::new(message.clone())));
        }
    }

    /// The data of a snapshot is read when it is sent, and may break off on its way.
    fn stream(&mut self, message: Message) -> Step {
        let (from, to) = (message.from, message.to);
        let index = message.get_snapshot().get_metadata().index;
        let mut data = Vec::new();
        let mut found = 0;
        if let Some(store) = self.nodes.get(&from).and_then(Node::log) {
            let opened = store
                .open_snapshot()
                .map_err(|e| unexplained(from)(e.into()))?;
            if let Some((at, mut reader)) = opened {
                found = at;
                reader.read_to_end(&mut data).map_err(io(from))?;
            }
        }
        let lost = self.network.is_cut(from, to) || self.rng.u32(0..10) == 0;
        let broken = lost || found != index;
        let at = self.now + self.rng.u64(MILLISECOND..100 * MILLISECOND);
        self.note(|| format!("snapshot {index} from {from} to {to}, broken off: {broken}"));
        self.schedule(
            at,
            Event::DeliverSnapshot {
                message: Box::new(message),
                data,
                broken,
            },
        );
        Ok(())
    }

    /// What is committed is durable in a quorum.
    fn check_quorum(&self, id: u64, before: &ConfState, index: u64, term: u64) -> Step {
        let has = |id: u64| {
            let log = self.nodes.get(&id).and_then(Node::log);
            let durable = log.and_then(|log| log.durable_term(index));
            durable.is_some_and(|found| found.is_none_or(|found| found == term))
        };
        let running = self.nodes.get(&id).and_then(|node| node.running.as_ref());
        let after = running.map(|running| running.peer.conf_state());
        if is_quorum(before, has) || after.is_some_and(|after| is_quorum(after, has)) {
            return Ok(());
        }
        // A leader whose own disk is behind has not come to the last change yet.
        if self
            .checks
            .last_two(index)
            .any(|of_leader| is_quorum(of_leader, has))
        {
            return Ok(());
        }
        let having: Vec<u64> = self.nodes.keys().copied().filter(|id| has(*id)).collect();
        Err((
            "what is committed is durable in a quorum",
            format!("{id} hands out {index}, durable on {having:?} of {before:?}"),
        ))
    }

    /// A learner becomes a voter when it lacks little.
    fn check_promotion(
        &mut self,
        id: u64,
        index: u64,
        changes: &[crate::driver::Change],
        before: &ConfState,
    ) -> Step {
        let change = changes.iter().find(|change| change.index == index);
        let Some(Ok((conf_state, _))) = change.map(|change| &change.outcome) else {
            return Ok(());
        };
        let promoted = conf_state.get_voters().iter();
        let promoted: Vec<u64> = promoted
            .copied()
            .filter(|voter| before.get_learners().contains(voter))
            .collect();
        for voter in promoted {
            self.count("learner promoted");
            self.note(|| format!("node {voter} becomes a voter at {index}"));
            let log = self.nodes.get(&voter).and_then(Node::log);
            let has = index.saturating_sub(5);
            if log.and_then(|log| log.durable_term(has)).is_none() {
                return Err((
                    "who becomes a voter has caught up",
                    format!("{id} makes {voter} one at {index}, which lacks {has}"),
                ));
            }
        }
        Ok(())
    }

    /// Looks at what has changed in a node's log since the last time.
    fn check_log(&mut self, id: u64) -> Step {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let written = &mut node.written;
        let Some(running) = node.running.as_mut() else {
            return Ok(());
        };
        let store = running.peer.store().clone();
        let raft = |e: raft::Error| ("a log can be read", format!("{id}: {e}"));
        let first = store.first_index().map_err(raft)?;
        let last = store.last_index().map_err(raft)?;
        let mut low = last + 1;
        while low > first {
            let term = store.term(low - 1).map_err(raft)?;
            if running.terms.get(&(low - 1)) == Some(&term) {
                break;
            }
            low -= 1;
        }
        running.terms.split_off(&low);
        if low > last {
            return Ok(());
        }
        let context = raft::GetEntriesContext::empty(false);
        let entries = store.entries(low, last + 1, None, context).map_err(raft)?;
        for entry in entries {
            running.terms.insert(entry.index, entry.term);
            written.insert((entry.index, entry.term));
            let before = store.term(entry.index - 1).ok();
            self.checks.written(id, &entry, before)?;
        }
        Ok(())
    }

    fn check_role(&mut self, id: u64) -> Step {
        let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) else {
            return Ok(());
        };
        let status = running.peer.status();
        if status.role != StateRole::Leader || running.led_term == status.term {
            return Ok(());
        }
        running.led_term = status.term;
        let store = running.peer.store().clone();
        self.note(|| format!("node {id} leads in term {}", status.term));
        self.checks.leads(id, status.term)?;
        self.checks
            .is_complete(id, status.term, status.first_index, |index| {
                store.term(index).ok()
            })
    }

    // Clients.

    fn ask(&mut self, client: usize) -> Step {
        let Some(own) = self.clients.get_mut(client) else {
            return Ok(());
        };
        if own.pending.is_some() {
            return Ok(());
        }
        if self.calm && own.sequence >= own.last_sequence {
            return Ok(());
        }
        own.sequence += 1;
        let key = self.rng.u64(1..=KEYS);
        let ask = match self.rng.u32(0..10) {
            0..5 => {
                self.values += 1;
                Ask::Swap { new: self.values }
            }
            5..8 => Ask::Get {
                consistency: Consistency::Linearizable,
            },
            _ => Ask::Get {
                consistency: Consistency::Lease,
            },
        };
        own.pending = Some(Pending {
            key,
            ask,
            invoked: self.now,
            request: 0,
            tries: 0,
        });
        self.request(client)
    }

    /// Sends a client's operation to a node: the leader it believes in, or any.
    fn request(&mut self, client: usize) -> Step {
        let request = self.new_request(client);
        let up: Vec<u64> = self
            .nodes
            .values()
            .filter(|node| node.running.is_some() && !node.removed)
            .map(|node| node.id)
            .collect();
        let any = self.rng.choice(&up).copied().unwrap_or(0);
        let random = self.rng.u32(0..4) == 0;
        let Some(own) = self.clients.get_mut(client) else {
            return Ok(());
        };
        let Some(pending) = own.pending.as_mut() else {
            return Ok(());
        };
        pending.tries += 1;
        let to = match up.contains(&own.leader) && !random {
            true => own.leader,
            false => any,
        };
        let waits = self.now + self.rng.u64(SECOND..3 * SECOND);
        self.schedule(waits, Event::GiveUp { client, request });
        let paused_until = self.nodes.get(&to).map_or(0, |node| node.paused_until);
        if paused_until > self.now {
            self.schedule(
                paused_until,
                Event::Late {
                    client,
                    request,
                    to,
                },
            );
            return Ok(());
        }
        self.ask_node(client, request, to)
    }

    fn ask_node(&mut self, client: usize, request: RequestId, to: u64) -> Step {
        let now = self.now();
        let Some(own) = self.clients.get(client) else {
            return Ok(());
        };
        let session = own.session(client);
        let Some(pending) = own.pending.filter(|pending| pending.request == request) else {
            return Ok(());
        };
        let Some(running) = self.nodes.get_mut(&to).and_then(|n| n.running.as_mut()) else {
            return Ok(());
        };
        running.requests.insert(request, client);
        match pending.ask {
            Ask::Swap { new } => {
                let command = machine::swap(pending.key, new);
                running.peer.propose(request, session, command);
            }
            Ask::Get { consistency } => running.peer.read(request, consistency, now),
        }
        self.after(to)
    }

    fn finish(&mut self, id: u64, finished: Finished) -> Step {
        let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) else {
            return Ok(());
        };
        let Some(client) = running.requests.remove(&finished.id) else {
            return Ok(());
        };
        let Some(pending) = self.clients.get(client).and_then(|own| own.pending) else {
            return Ok(());
        };
        if pending.request != finished.id {
            return Ok(());
        }
        match finished.outcome {
            Outcome::Applied {
                answer: Answer::Command(bytes),
                ..
            } => {
                let old = answered(&bytes);
                if old.is_none() {
                    return Err(("an answer is one", format!("{bytes:?} to a swap")));
                }
                self.answer(client, &pending, old);
                Ok(())
            }
            Outcome::Applied {
                answer: Answer::AnswerLost,
                ..
            } => {
                self.answer(client, &pending, None);
                Ok(())
            }
            Outcome::Readable { .. } => {
                let value = running.applier.machine().get(pending.key);
                if matches!(
                    pending.ask,
                    Ask::Get {
                        consistency: Consistency::Lease
                    }
                ) && self.lease
                {
                    self.count("lease read");
                }
                self.answer(client, &pending, Some(value));
                Ok(())
            }
            Outcome::NotLeader { leader } => {
                if let Some(own) = self.clients.get_mut(client) {
                    own.leader = leader;
                }
                self.again(client)
            }
            Outcome::Dropped => self.again(client),
            Outcome::Unknown => self.unknown(client),
            other => Err(("an answer is one", format!("{other:?} to {pending:?}"))),
        }
    }

    fn answer(&mut self, client: usize, pending: &Pending, old: Option<u64>) {
        self.report.answered += 1;
        self.note(|| format!("client {client}: {pending:?} answered {old:?}"));
        let operation = Client::finished(pending, old, Some(self.now));
        self.history.extend(operation);
        self.next_operation(client);
    }

    fn next_operation(&mut self, client: usize) {
        if let Some(own) = self.clients.get_mut(client) {
            own.pending = None;
        }
        let at = self.now + self.rng.u64(MILLISECOND..60 * MILLISECOND);
        self.schedule(at, Event::Client { client });
    }

    /// The request did nothing: the operation is tried again a little later.
    fn again(&mut self, client: usize) -> Step {
        let at = self.now + self.rng.u64(MILLISECOND..50 * MILLISECOND);
        let request = self.new_request(client);
        self.schedule(at, Event::Retry { client, request });
        Ok(())
    }

    /// From here on the answers of earlier requests are ignored.
    fn new_request(&mut self, client: usize) -> RequestId {
        self.requests += 1;
        let pending = self.clients.get_mut(client).map(|own| &mut own.pending);
        if let Some(Some(pending)) = pending {
            pending.request = self.requests;
        }
        self.requests
    }

    /// Nobody knows whether the request has done something. With a session it may be repeated.
    fn unknown(&mut self, client: usize) -> Step {
        let repeats = self.rng.u32(0..4) != 0;
        let Some(own) = self.clients.get(client) else {
            return Ok(());
        };
        let Some(pending) = own.pending else {
            return Ok(());
        };
        let is_read = matches!(pending.ask, Ask::Get { .. });
        if (own.has_session || is_read) && repeats && pending.tries < 20 {
            if !is_read {
                self.count("command repeated");
            }
            return self.request(client);
        }
        self.give_up(client);
        self.next_operation(client);
        Ok(())
    }

    fn give_up(&mut self, client: usize) {
        let pending = self
            .clients
            .get_mut(client)
            .and_then(|own| own.pending.take());
        if let Some(pending) = pending {
            self.history.extend(Client::finished(&pending, None, None));
        }
    }

    // Faults.

    fn fault(&mut self) -> Step {
        if self.calm {
            return Ok(());
        }
        let at = self.now + self.rng.u64(20 * MILLISECOND..400 * MILLISECOND);
        self.schedule(at, Event::Fault);
        let fault = Fault::draw(&mut self.rng);
        if self.inflict(fault)? {
            self.count(fault.name());
            self.note(|| format!("fault: {}", fault.name()));
        }
        Ok(())
    }

    /// A node that runs, any of them.
    fn any_running(&mut self) -> Option<u64> {
        let running = self.nodes.values().filter(|node| node.running.is_some());
        let ids: Vec<u64> = running.map(|node| node.id).collect();
        self.rng.choice(&ids).copied()
    }

    /// The node that leads in the highest term.
    fn leader(&self) -> Option<u64> {
        let running = self.nodes.values().filter_map(|node| {
            let status = node.running.as_ref()?.peer.status();
            (status.role == StateRole::Leader).then_some((status.term, node.id))
        });
        running.max().map(|(_, id)| id)
    }

    /// Whether there was anything to do.
    fn inflict(&mut self, fault: Fault) -> Result<bool, Broken> {
        let Some(id) = self.any_running() else {
            return Ok(false);
        };
        let until = self.now + self.rng.u64(50 * MILLISECOND..2 * SECOND);
        match fault {
            Fault::Crash => self.crash(id)?,
            Fault::CrashAtPoint => self.plant(id),
            Fault::CrashAll => {
                let all: Vec<u64> = self.nodes.keys().copied().collect();
                for id in all {
                    self.crash(id)?;
                }
            }
            Fault::Partition | Fault::OneWayCut => return Ok(self.cut(fault)),
            Fault::Isolate => {
                let leader = self.leader();
                let cut = self.cut(fault);
                // What it gets now it has to throw away.
                if let Some(leader) = leader.filter(|_| cut && self.rng.bool()) {
                    self.burst(leader)?;
                }
                return Ok(cut);
            }
            Fault::PausedLeader => {
                let Some(leader) = self.leader().filter(|_| self.cut(Fault::Isolate)) else {
                    return Ok(false);
                };
                self.hamper(leader, Fault::Pause, until);
            }
            Fault::Heal => self.network.cut.clear(),
            Fault::LossyNetwork => {
                self.network.lost_per_mille = self.rng.u32(0..300);
                self.network.delay_max = self.rng.u64(1..60) * MILLISECOND;
            }
            Fault::FailedSync => {
                let Some(running) = self.nodes.get_mut(&id).and_then(|n| {
                    n.disk_failed = true;
                    n.running.as_mut()
                }) else {
                    return Ok(false);
                };
                running.peer.store().fail();
                self.after(id)?;
                // Where nothing was under way, the next write finds out.
            }
            Fault::SlowDisk | Fault::SlowMachine | Fault::Pause | Fault::ClockRate => {
                self.hamper(id, fault, until);
            }
            Fault::TransferLeader => return self.transfer(),
            Fault::Campaign => {
                if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
                    running.peer.campaign();
                }
                self.after(id)?;
            }
            Fault::AddNode | Fault::RemoveNode | Fault::ReplaceNode => {
                return self.change_members(fault);
            }
            Fault::Snapshot => self.make_snapshot(id)?,
            Fault::Burst => return self.burst(id),
        }
        Ok(true)
    }

    /// Stops the node in the middle of a Ready, some steps from now.
    fn plant(&mut self, id: u64) {
        let mut steps = self.rng.u32(0..40);
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
            running.peer.set_fault_hook(Some(Box::new(move |_| {
                steps = steps.saturating_sub(1);
                steps == 0
            })));
        }
    }

    /// Many commands at once on a node that takes itself for the leader: logs grow, and where
    /// nobody follows it, have to be thrown away again.
    fn burst(&mut self, id: u64) -> Result<bool, Broken> {
        let leads = |status: crate::driver::Status| status.role == StateRole::Leader;
        if !self.status(id).is_some_and(leads) {
            return Ok(false);
        }
        for _ in 0..self.rng.u32(5..40) {
            self.requests += 1;
            let (request, command) = (self.requests, machine::swap(KEYS + 1, self.requests));
            if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
                running.peer.propose(request, None, command);
            }
        }
        self.after(id)?;
        Ok(true)
    }

    fn hamper(&mut self, id: u64, fault: Fault, until: Time) {
        let rate = self.rng.u64(80..=125);
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        match fault {
            Fault::SlowDisk => node.slow_disk_until = until,
            Fault::SlowMachine => node.slow_machine_until = until,
            Fault::Pause => node.paused_until = until,
            _ => node.tick = TICK * rate / 100,
        }
    }

    fn cut(&mut self, fault: Fault) -> bool {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let side: HashSet<u64> = match fault {
            Fault::Isolate => self.leader().into_iter().collect(),
            _ => ids.iter().copied().filter(|_| self.rng.bool()).collect(),
        };
        let one_way = fault == Fault::OneWayCut || (fault == Fault::Isolate && self.rng.bool());
        let mut any = false;
        for &from in &ids {
            for &to in &ids {
                let (inside, other) = (side.contains(&from), side.contains(&to));
                if (inside && !other) || (!one_way && !inside && other) {
                    self.network.cut.insert((from, to));
                    any = true;
                }
            }
        }
        any
    }

    fn transfer(&mut self) -> Result<bool, Broken> {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let to = self.rng.choice(&ids).copied().unwrap_or(0);
        let Some(id) = self.leader().filter(|id| *id != to) else {
            return Ok(false);
        };
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.running.as_mut()) {
            running.peer.transfer_leader(to);
        }
        self.after(id)?;
        Ok(true)
    }

    fn change_members(&mut self, fault: Fault) -> Result<bool, Broken> {
        let Some(leader) = self.leader() else {
            return Ok(false);
        };
        let Some(running) = self.nodes.get(&leader).and_then(|n| n.running.as_ref()) else {
            return Ok(false);
        };
        let conf_state = running.peer.conf_state().clone();
        let new = self.nodes.keys().next_back().map_or(1, |last| last + 1);
        let members = conf_state.get_voters().len() + conf_state.get_learners().len();
        let leaving = self.rng.choice(conf_state.get_voters()).copied();
        let adds = fault != Fault::RemoveNode;
        let removes = fault != Fault::AddNode;
        if (adds && members >= NODES_MAX) || (removes && conf_state.get_voters().len() < 2) {
            return Ok(false);
        }
        let mut changes = Vec::new();
        if adds {
            self.create(new)?;
            self.start(new)?;
            changes.push(single(ConfChangeType::AddLearnerNode, new));
        }
        if let Some(leaving) = leaving.filter(|_| removes) {
            changes.push(single(ConfChangeType::RemoveNode, leaving));
        }
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.into());
        self.requests += 1;
        let request = self.requests;
        let told = if adds { vec![info(new)] } else { Vec::new() };
        if let Some(running) = self.nodes.get_mut(&leader).and_then(|n| n.running.as_mut()) {
            running.peer.propose_change(request, &change, told);
        }
        self.after(leader)?;
        Ok(true)
    }

    // The end.

    /// No more faults, and everything runs again.
    fn calm_down(&mut self) -> Step {
        self.calm = true;
        self.network.heal();
        for own in &mut self.clients {
            // Some more, which see what the faults have left.
            own.last_sequence = own.sequence + 5;
        }
        self.note(|| "no more faults".to_owned());
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let failed = self.nodes.get_mut(&id).is_some_and(|node| {
                node.paused_until = 0;
                node.slow_disk_until = 0;
                node.slow_machine_until = 0;
                node.tick = TICK;
                if let Some(running) = node.running.as_mut() {
                    running.peer.set_fault_hook(None);
                }
                node.disk_failed
            });
            if failed {
                self.crash(id)?;
            }
            self.start(id)?;
        }
        Ok(())
    }

    /// Clients have what they asked for, and every member has applied everything.
    fn is_at_rest(&self) -> bool {
        if self.clients.iter().any(|client| client.pending.is_some()) {
            return false;
        }
        let Some(leader) = self.leader() else {
            return false;
        };
        let Some(status) = self.status(leader) else {
            return false;
        };
        let conf_state = &status.conf_state;
        if !conf_state.get_voters_outgoing().is_empty() || !conf_state.get_learners().is_empty() {
            // Every learner here wants to become a voter.
            return false;
        }
        conf_state.get_voters().iter().all(|id| {
            let own = self.status(*id);
            own.is_some_and(|own| own.applied == status.last_index)
        })
    }

    fn status(&self, id: u64) -> Option<crate::driver::Status> {
        let running = self.nodes.get(&id)?.running.as_ref()?;
        Some(running.peer.status())
    }

    fn describe(&self) -> String {
        let lines = self.nodes.values().map(|node| {
            let status = node.running.as_ref().map(|running| running.peer.status());
            format!("{} (removed: {}): {status:?}", node.id, node.removed)
        });
        let clients = self
            .clients
            .iter()
            .map(|client| format!("{:?}", client.pending));
        lines.chain(clients).collect::<Vec<_>>().join("\n")
    }
}

/// A message, for the trace.
fn line_of(message: &Message) -> String {
    let entries = message.get_entries();
    let last = entries.last().map_or(0, |entry| entry.index);
    format!(
        "{} -> {}: {:?} term {}, index {} (term {}), entries to {last}, commit {}{}",
        message.from,
        message.to,
        message.get_msg_type(),
        message.term,
        message.index,
        message.log_term,
        message.commit,
        if message.reject { ", rejected" } else { "" },
    )
}

fn single(kind: ConfChangeType, id: u64) -> ConfChangeSingle {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = id;
    single
}

/// Writes received data into the receiver's store.
fn stage<S: SimStore>(store: &S, message: &Message, data: &[u8]) -> Result<S::Staged, Error> {
    let metadata = message.get_snapshot().get_metadata();
    let conf_state = metadata.get_conf_state();
    let mut writer = store.stage_snapshot(metadata.index, metadata.term, conf_state)?;
    writer.write_all(data).map_err(|source| Error::Machine {
        doing: "receiving a snapshot",
        source,
    })?;
    Ok(store.finish_snapshot(writer)?)
}
