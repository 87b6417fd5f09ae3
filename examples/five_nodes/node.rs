//! One node: a thread that owns a `RawNode` on its own store.
//!
//! [`Node::handle_ready`] is the part to learn from; the rest is channels and clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use protobuf::Message as _;
use raft_rocks::raft::eraftpb::{
    ConfChange, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType,
    Snapshot,
};
use raft_rocks::raft::{Config, RawNode, Ready, SnapshotStatus, StateRole};
use raft_rocks::{Options, RaftMachineStorage};

use crate::Failure;
use crate::machine::{self, Machine};
use crate::network::{Command, Mail, Network, Outcome, Proposal, Status};

const TICK: Duration = Duration::from_millis(100);
const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 3;
/// A node that is to stop at a place it does not come to stops where it is after this.
const STOP_TICKS_MAX: usize = 3;
const MESSAGE_BYTES_MAX: u64 = 64 << 10;
/// Low enough for the run to make snapshots of both kinds: in the record, and in a file.
const SNAPSHOT_INLINE_BYTES_MAX: usize = 8 << 10;

/// Where in its work a node is when it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// Proposals are taken in, and nobody knows of them yet.
    BeforeSending = 1,
    /// The leader's messages are out, its own entries are not written.
    BeforeWrite,
    /// Entries are durable, nobody has been told.
    AfterWrite,
    /// Everybody has been told; what is committed has not been applied.
    BeforeApply,
    /// Applied, with no client answered.
    AfterApply,
    /// Nothing to do.
    Idle,
}

impl Place {
    pub const ALL: [Place; 6] = [
        Place::BeforeSending,
        Place::BeforeWrite,
        Place::AfterWrite,
        Place::BeforeApply,
        Place::AfterApply,
        Place::Idle,
    ];

    pub fn describe(self) -> &'static str {
        match self {
            Place::BeforeSending => "before sending what it has taken in",
            Place::BeforeWrite => "before a write",
            Place::AfterWrite => "between a write and its replies",
            Place::BeforeApply => "before applying",
            Place::AfterApply => "between applying and answering",
            Place::Idle => "while idle",
        }
    }
}

/// Tells a running node where to stop.
#[derive(Default)]
pub struct StopSignal(AtomicU8);

impl StopSignal {
    pub fn stop_at(&self, place: Place) {
        self.0.store(place as u8, Ordering::Relaxed);
    }

    fn is_for(&self, place: Place) -> bool {
        self.0.load(Ordering::Relaxed) == place as u8
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// Why a node's thread ends: it was told to, or it must not go on.
pub enum Halt {
    Stopped(Place),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Halt {
    fn from(error: E) -> Self {
        Halt::Failed(error.into())
    }
}

/// How often a node makes a snapshot, and how much of the log it keeps behind it.
#[derive(Clone, Copy)]
pub struct Compaction {
    pub entries_between: u64,
    pub entries_kept: u64,
}

pub struct Setup {
    pub id: u64,
    pub dir: PathBuf,
    /// The first node of all makes the group, with itself as the only voter.
    pub bootstraps: bool,
    pub compaction: Compaction,
    pub network: Arc<Network>,
    pub stop: Arc<StopSignal>,
}

impl Setup {
    /// Runs the node until it is stopped or fails.
    pub fn run(self, inbox: &Receiver<Mail>) -> Halt {
        let start = if self.dir.exists() || self.bootstraps {
            Ok(None)
        } else {
            // Unknown so far: it makes its store when somebody speaks to it.
            self.wait_for_first_message(inbox).map(Some)
        };
        let started = start.and_then(|first| Node::open(self, first));
        match started.map(|node| node.run(inbox)) {
            Ok(halt) | Err(halt) => halt,
        }
    }

    fn wait_for_first_message(&self, inbox: &Receiver<Mail>) -> Result<Message, Halt> {
        loop {
            match inbox.recv_timeout(TICK) {
                Ok(Mail::Raft(message)) if makes_node(&message) => return Ok(*message),
                // Appends to a node that has no log yet, to be sent again.
                Ok(Mail::Raft(_)) => {}
                Ok(Mail::Propose(proposal)) => proposal.reply(Outcome::Dropped),
                Err(RecvTimeoutError::Timeout) if !self.stop.is_set() => {}
                Err(_) => return Err(Halt::Stopped(Place::Idle)),
            }
        }
    }
}

/// What a leader or candidate sends to a member it has not heard from. A heartbeat with a
/// commit index is for a node that had a log.
fn makes_node(message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => true,
        MessageType::MsgHeartbeat => message.commit == 0,
        _ => false,
    }
}

struct Node {
    setup: Setup,
    raft: RawNode<RaftMachineStorage>,
    storage: RaftMachineStorage,
    machine: Machine,
    /// Proposals of this leader that are not applied yet: by index, with their entry's term.
    proposed: BTreeMap<u64, (u64, Proposal)>,
    /// What became of messages: peers that could not be reached, snapshots that were sent.
    unreachable: BTreeSet<u64>,
    snapshots_sent: Vec<(u64, SnapshotStatus)>,
    ticks_to_stop: usize,
}

impl Node {
    fn open(setup: Setup, first: Option<Message>) -> Result<Self, Halt> {
        let mut options = Options::default();
        options.column_families = machine::column_families();
        options.snapshot_inline_bytes_max = SNAPSHOT_INLINE_BYTES_MAX;
        let storage = RaftMachineStorage::open(&setup.dir, options)?;
        let machine = Machine::new(storage.clone());
        let is_new_group = setup.bootstraps && storage.conf_state() == ConfState::default();
        if is_new_group {
            storage.apply_snapshot(&first_snapshot(setup.id, &machine)?)?;
        }

        let config = Config {
            // What the state machine holds, which is less than what is committed.
            applied: storage.applied_index(),
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            // Proposals that arrive together leave in one message.
            batch_append: true,
            ..Config::new(setup.id)
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut raft = RawNode::new(&config, storage.clone(), &logger)?;
        if is_new_group {
            raft.campaign()?;
        }
        if let Some(message) = first {
            // A message raft does not want is not the node's failure.
            let _ = raft.step(message);
        }
        Ok(Node {
            setup,
            raft,
            storage,
            machine,
            proposed: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            snapshots_sent: Vec::new(),
            ticks_to_stop: STOP_TICKS_MAX,
        })
    }

    /// Everything the node holds in memory ends here; see `cluster.rs` for what that stands for.
    fn run(mut self, inbox: &Receiver<Mail>) -> Halt {
        let halt = match self.work(inbox) {
            Ok(never) => match never {},
            Err(halt) => halt,
        };
        self.publish();
        halt
    }

    fn work(&mut self, inbox: &Receiver<Mail>) -> Result<Infallible, Halt> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            while self.raft.has_ready() {
                self.handle_ready()?;
            }
            self.publish();
            self.stop_if(Place::Idle, true)?;
            match inbox.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(mail) => {
                    self.receive(mail);
                    // What else is waiting shares the next Ready, and with it one sync.
                    inbox.try_iter().for_each(|mail| self.receive(mail));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Halt::Stopped(Place::Idle)),
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick()?;
            }
        }
    }

    fn tick(&mut self) -> Result<(), Halt> {
        if self.setup.stop.is_set() {
            self.ticks_to_stop -= 1;
            if self.ticks_to_stop == 0 {
                return Err(Halt::Stopped(Place::Idle));
            }
        }
        self.raft.tick();
        Ok(())
    }

    fn stop_if(&self, place: Place, has_work: bool) -> Result<(), Halt> {
        if has_work && self.setup.stop.is_for(place) {
            return Err(Halt::Stopped(place));
        }
        Ok(())
    }

    fn receive(&mut self, mail: Mail) {
        match mail {
            Mail::Raft(message) => {
                // An answer from a node that is no member (any more) is refused; so be it.
                let _ = self.raft.step(*message);
            }
            Mail::Propose(proposal) => self.propose(proposal),
        }
    }

    fn propose(&mut self, proposal: Proposal) {
        // raft-rs would forward it, and then nobody could tell the client what became of it.
        if self.raft.raft.state != StateRole::Leader {
            return proposal.reply(Outcome::Dropped);
        }
        let proposed = match &proposal.command {
            Command::Put(data) => self.raft.propose(vec![], data.clone()),
            Command::AddNode(id) => {
                let mut change = ConfChange::default();
                change.node_id = *id;
                change.set_change_type(ConfChangeType::AddNode);
                self.raft.propose_conf_change(vec![], change)
            }
        };
        if proposed.is_err() {
            return proposal.reply(Outcome::Dropped);
        }
        // Index and term together name an entry for good. The index alone does not: another
        // leader may put another entry there.
        let (index, term) = (self.raft.raft.raft_log.last_index(), self.raft.raft.term);
        if let Some((_, replaced)) = self.proposed.insert(index, (term, proposal)) {
            replaced.reply(Outcome::Dropped);
        }
    }

    /// The order matters:
    /// 1. A leader's messages go out at once, while it writes: its followers write meanwhile.
    /// 2. Snapshot, entries and hard state are persisted in one write, synced if they must be.
    /// 3. Only then go out the messages that promise what has just been written.
    /// 4. What is committed is applied: data, configuration and applied index in one write. It
    ///    is not synced: the log, which is, still has what it was made from.
    /// 5. `advance` tells raft that all this is done; what this write has committed, it hands
    ///    out as a `LightReady`. Its commit index need not be stored by itself: recording the
    ///    applied index does it.
    ///
    /// On an error the node stops: it must not acknowledge anything any more.
    fn handle_ready(&mut self) -> Result<(), Halt> {
        let mut ready = self.raft.ready();
        let has_work = !ready.entries().is_empty() || !ready.snapshot().is_empty();

        self.stop_if(Place::BeforeSending, has_work)?;
        self.send(ready.take_messages());
        self.stop_if(Place::BeforeWrite, has_work)?;
        self.persist(&ready)?;
        self.stop_if(Place::AfterWrite, has_work)?;
        self.send(ready.take_persisted_messages());
        self.apply(&ready.take_committed_entries())?;

        let mut light = self.raft.advance(ready);
        self.send(light.take_messages());
        self.apply(&light.take_committed_entries())?;
        self.raft.advance_apply();

        self.report_deliveries();
        self.make_snapshot()
    }

    /// Raft must not be called between `ready` and `advance`, so what became of the messages
    /// is only noted here.
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            let is_delivered = self.setup.network.send(to, Mail::Raft(Box::new(message)));
            if is_snapshot && is_delivered {
                self.snapshots_sent.push((to, SnapshotStatus::Finish));
            } else if is_snapshot {
                self.snapshots_sent.push((to, SnapshotStatus::Failure));
            } else if !is_delivered {
                self.unreachable.insert(to);
            }
        }
    }

    /// Without these reports the leader would go on sending blindly to a node that is down, and
    /// wait for ever for one that went down before it had its snapshot.
    fn report_deliveries(&mut self) {
        for id in std::mem::take(&mut self.unreachable) {
            self.raft.report_unreachable(id);
        }
        for (id, status) in std::mem::take(&mut self.snapshots_sent) {
            self.raft.report_snapshot(id, status);
        }
    }

    fn persist(&mut self, ready: &Ready) -> Result<(), Halt> {
        if ready.snapshot().is_empty() {
            return Ok(self.storage.write_ready(ready)?);
        }
        // The state machine becomes the snapshot's in the very write that replaces the log by
        // it: a crash leaves both as they were, or both new.
        let index = ready.snapshot().get_metadata().index;
        if self.storage.last_index() > 0 {
            self.setup.network.count_catch_up(self.setup.id);
        }
        let batch = self.storage.batch().ready(ready);
        self.machine
            .restore(batch, &ready.snapshot().data)?
            .write()?;
        let later = self.proposed.split_off(&(index + 1));
        for (_, proposal) in std::mem::replace(&mut self.proposed, later).into_values() {
            proposal.reply(Outcome::Unknown);
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), Halt> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        self.stop_if(Place::BeforeApply, true)?;
        let mut commands = Vec::new();
        let mut conf_state = None;
        for entry in entries {
            match entry.get_entry_type() {
                EntryType::EntryNormal => commands.push(entry),
                EntryType::EntryConfChange => {
                    let mut change = ConfChange::default();
                    change.merge_from_bytes(&entry.data)?;
                    conf_state = Some(self.raft.apply_conf_change(&change)?);
                }
                EntryType::EntryConfChangeV2 => {
                    let mut change = ConfChangeV2::default();
                    change.merge_from_bytes(&entry.data)?;
                    conf_state = Some(self.raft.apply_conf_change(&change)?);
                }
            }
        }
        let batch = match &conf_state {
            Some(conf_state) => self.storage.batch().conf_state(conf_state, last.index),
            None => self.storage.batch().applied(last.index),
        };
        self.machine.apply(batch, &commands)?.write()?;
        self.stop_if(Place::AfterApply, true)?;
        self.answer(entries);
        Ok(())
    }

    fn answer(&mut self, entries: &[Entry]) {
        for entry in entries {
            let Some((term, proposal)) = self.proposed.remove(&entry.index) else {
                continue;
            };
            let is_it = term == entry.term && proposal.command.is_in(entry);
            proposal.reply(if is_it {
                Outcome::Applied
            } else {
                Outcome::Dropped
            });
        }
    }

    /// Snapshots what is applied, with the configuration as of there, and drops the log it
    /// stands for but for a little that saves nodes that were away for a moment a snapshot.
    ///
    /// A new member gets its first state as a snapshot, and raft-rs refuses one whose
    /// configuration does not have the receiver in it: hence one after each change.
    fn make_snapshot(&mut self) -> Result<(), Halt> {
        let Compaction {
            entries_between,
            entries_kept,
        } = self.setup.compaction;
        let (applied, conf_state) = (self.storage.applied_index(), self.storage.conf_state());
        let newest = self.storage.snapshot_metadata().unwrap_or_default();
        if applied < newest.index + entries_between && newest.get_conf_state() == &conf_state {
            return Ok(());
        }
        let data = self.machine.to_snapshot()?;
        self.storage.create_snapshot(applied, &conf_state, &data)?;
        self.storage
            .compact((applied + 1).saturating_sub(entries_kept))?;
        Ok(())
    }

    fn publish(&self) {
        let status = Status {
            is_up: true,
            is_leader: self.raft.raft.state == StateRole::Leader,
            term: self.raft.raft.term,
            first: self.storage.first_index(),
            last: self.storage.last_index(),
            applied: self.storage.applied_index(),
        };
        self.setup.network.publish(self.setup.id, status);
    }
}

/// The group begins as a snapshot at index 1 that names its first voter. A log that began empty
/// at index 0 would let a new member replay it without ever hearing of the first configuration.
fn first_snapshot(voter: u64, machine: &Machine) -> Result<Snapshot, Halt> {
    let mut snapshot = Snapshot::default();
    snapshot.data = machine.to_snapshot()?.into();
    let metadata = snapshot.mut_metadata();
    metadata.index = 1;
    metadata.term = 1;
    metadata.mut_conf_state().voters = vec![voter];
    Ok(snapshot)
}
