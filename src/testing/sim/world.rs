//! The scheduler of a simulation, and what its events do.

mod clients;
mod crashes;
mod end;
mod faults;
mod follow_ups;
mod outputs;
mod rules;
mod steps;

use std::collections::BTreeMap;
use std::time::Duration;

use raft::eraftpb::{ConfState, Message};
use raft::{SnapshotStatus, StateRole};

use super::checks::{Broken, Checks};
use super::client::Client;
use super::network::{MILLISECOND, Network, Time};
use super::node::{Node, Running};
use super::store::SimStore;
use super::{Options, Report, Violation};
use crate::driver::{Book, Durability, Error, NodeInfo, RequestId};
use crate::testing::linearizability::{self, Operation};
use follow_ups::Then;

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
        took: Time,
    },
    Apply {
        node: u64,
        start: u64,
        took: Time,
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
    /// A process ends, if it has not before.
    Crash {
        node: u64,
        start: u64,
    },
    Then(Then),
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
    reads_only_until: Time,
    /// The highest term that anybody has led in.
    led_term: u64,
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
            reads_only_until: 0,
            led_term: 0,
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
        node.start(self.durability, self.options.seed, self.lease, self.now)
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
            Event::Late { to, .. } => *to,
            _ => return None,
        };
        let until = self.nodes.get(&node)?.paused_until;
        (until > self.now).then_some(until)
    }

    fn is_paused(&self, id: u64) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|node| node.paused_until > self.now)
    }

    fn running(&mut self, id: u64, start: u64) -> Option<&mut Running<S>> {
        let node = self.nodes.get_mut(&id)?;
        if node.start != start {
            return None;
        }
        node.running.as_mut()
    }

    fn start_of(&self, id: u64) -> u64 {
        self.nodes.get(&id).map_or(0, |node| node.start)
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
            Event::Sync { node, start, took } => self.sync(node, start, took),
            Event::Apply { node, start, took } => self.apply(node, start, took),
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
            Event::Crash { node, start } => {
                if self.running(node, start).is_none() || self.calm {
                    return Ok(());
                }
                self.crash(node, true)
            }
            Event::Then(then) => self.follow_up(then),
        }
    }

    /// The node that leads in the highest term.
    fn leader(&self) -> Option<u64> {
        let running = self.nodes.values().filter_map(|node| {
            let status = node.running.as_ref()?.peer.status();
            (status.role == StateRole::Leader).then_some((status.term, node.id))
        });
        running.max().map(|(_, id)| id)
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
