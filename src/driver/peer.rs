//! One node of one group: raft-rs, the order of a Ready, and who waits for what. No threads, no
//! clock, no sockets: a simulator can drive it, and a reader can follow it.
//!
//! Whoever drives it calls [`Peer::drain`] after every input, and carries out what it returns:
//! sends the messages, streams the snapshots, hands what is committed to the [`Applier`], reports
//! back with [`Peer::on_persisted`], [`Peer::on_applied`] and [`Peer::on_restored`].
//!
//! Invariants:
//! 1. A message that says something is durable leaves when it is, and when everything is that
//!    an earlier Ready held: a Ready that needs no sync of its own waits for those before it.
//!    raft-rs lets a leader's messages go at once, because it was elected by answers to a durable
//!    vote; the only voter elects itself without any. So none leaves in a term that is not
//!    durable: after a crash that term would have another leader, with other entries.
//! 2. Everything a Ready holds is submitted, whatever becomes of its messages, and before raft
//!    goes on.
//! 3. Configuration changes reach raft in the order of the log, when they are committed; book
//!    and configuration are handed on with the entries, so that the machine's side records
//!    those of its own index.
//! 4. After a failed write nothing leaves any more: every call returns the error.
//! 5. An answer is given once for every request: see [`Outcome`].
//! 6. A node that has just started takes no part in elections for an election timeout: it may
//!    have promised a leader not to, and has forgotten that. Without leases it may be told to
//!    campaign: the others have not forgotten, and nothing is answered on a promise.
//!
//! [`Applier`]: super::Applier

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
    Message, MessageType, SnapshotMetadata,
};
use raft::{Config, ProgressState, RawNode, Ready, SnapshotStatus, StateRole};

use prost::Message as _;

use super::applier::{self, Answer, Applied, Change, Committed};
use super::book::{self, Book, ChangeContext, NodeInfo, Refusal};
use super::error::{Error, Result};
use super::log_store::LogStore;
use super::proposals::{Proposals, RequestId, Settled};
use super::reads::Reads;
use super::sessions::{CommandContext, Session};

/// How a node takes part.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerOptions {
    /// The node's id, never 0, never used by another node of this cluster.
    pub id: u64,
    /// Drawn at random at every start: it tells this start's reads from those of an earlier one.
    pub incarnation: u64,
    /// Ticks without a leader after which an election is tried, up to twice as many.
    /// Default: 10.
    pub election_ticks: usize,
    /// Ticks between heartbeats. Default: 2.
    pub heartbeat_ticks: usize,
    /// Bytes of entries in one message, one entry at least. Default: 1 MiB.
    pub message_bytes_max: u64,
    /// Messages with entries on their way to one follower. Default: 256.
    pub inflight_max: usize,
    /// Bytes proposed and not committed; more is refused. Default: 64 MiB.
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries handed out at once. Default: 4 MiB.
    pub committed_bytes_max: u64,
    /// How long a confirmed round lets the leader serve reads alone; `None`: lease reads ask
    /// the quorum as linearizable ones do. Less than `election_ticks - 1` ticks (a follower's
    /// first tick may come at once) by as much as the clocks of two nodes may differ over that
    /// time. The same on all nodes: one that has promised a leader its lease does not campaign
    /// when it is told to. Default: `None`.
    pub lease: Option<Duration>,
    /// Ticks after which an outcome is unknown. Default: 100.
    pub request_ticks: u64,
    /// A learner that wants to become a voter is caught up when it lacks no more entries than
    /// this. Default: 100.
    pub promote_lag_max: u64,
    /// Makes the random part of election timeouts a function of this, the id and the term, so
    /// that a simulation can be repeated. Default: `None`, raft-rs's own randomness.
    pub election_seed: Option<u64>,
}

impl PeerOptions {
    /// The defaults of a node.
    pub fn new(id: u64) -> Self {
        PeerOptions {
            id,
            incarnation: 0,
            election_ticks: 10,
            heartbeat_ticks: 2,
            message_bytes_max: 1 << 20,
            inflight_max: 256,
            uncommitted_bytes_max: 64 << 20,
            committed_bytes_max: 4 << 20,
            lease: None,
            request_ticks: 100,
            promote_lag_max: 100,
            election_seed: None,
        }
    }

    fn raft_config(&self, applied: u64) -> Config {
        Config {
            id: self.id,
            applied,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            max_size_per_msg: self.message_bytes_max,
            max_inflight_msgs: self.inflight_max,
            max_uncommitted_size: self.uncommitted_bytes_max,
            max_committed_size_per_ready: self.committed_bytes_max,
            pre_vote: true,
            check_quorum: true,
            ..Config::default()
        }
    }
}

/// Where a fault may be planted: between two steps of a Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultPoint {
    /// A Ready has been taken; nothing of it is submitted.
    BeforePersist,
    /// It is submitted; nothing is known to be durable.
    AfterSubmit,
    /// It is durable; its messages have not left.
    BeforePersistedMessages,
    /// Committed entries have been handed out.
    AfterCommitted,
}

/// Decides whether the node stops at a point: for tests.
pub type FaultHook = Box<dyn FnMut(FaultPoint) -> bool + Send>;

/// Told by the log that what it was given with this number is durable, or has failed.
pub type PersistedHook = Arc<dyn Fn(u64, crate::Result<()>) + Send + Sync>;

/// How fresh what is read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Whatever this node has applied.
    Stale,
    /// What this node has applied, if it takes itself for the leader: it may have been replaced.
    Leader,
    /// As linearizable as the clocks are true: the leader answers alone for as long as nobody
    /// else can have been elected. Asks the quorum where no lease is configured or held.
    Lease,
    /// Nothing that was acknowledged before the read began is missing. Asks a quorum; works on
    /// any node that knows a leader.
    Linearizable,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The proposal is committed, and applied at this index.
    Applied {
        /// Its place in the log.
        index: u64,
        /// What came of it.
        answer: Answer,
    },
    /// The read may be served from this node's machine now; it has applied at least `index`.
    Readable {
        /// The index that was waited for.
        index: u64,
    },
    /// Nothing has happened: this node does not lead. `leader` is 0 when it knows none.
    NotLeader {
        /// The leader's id.
        leader: u64,
    },
    /// Nothing has happened and nothing will: it may be tried again.
    Dropped,
    /// Nothing has happened: another change of the configuration is under way.
    ChangeUnderWay,
    /// Nothing has happened: the change is refused.
    Refused(Refusal),
    /// It may or may not have taken effect, or may yet.
    Unknown,
}

/// One finished request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Which.
    pub id: RequestId,
    /// How it ended.
    pub outcome: Outcome,
}

/// What is to be done, in this order where it matters: `restore` comes before `committed`.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent, in order per receiver.
    pub messages: Vec<Message>,
    /// Snapshots to be streamed; each is to be reported with [`Peer::report_snapshot`].
    pub snapshots: Vec<Message>,
    /// A snapshot is stored; the machine is to be restored from it before it applies more.
    pub restore: bool,
    /// To be applied, in order.
    pub committed: Vec<Committed>,
    /// Requests that ended.
    pub finished: Vec<Finished>,
    /// A follower cannot be served by the stored snapshot: a new one is wanted.
    pub snapshot_wanted: bool,
    /// This node is no longer a member.
    pub removed: bool,
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its id.
    pub id: u64,
    /// Its role.
    pub role: StateRole,
    /// Its term.
    pub term: u64,
    /// The leader it knows, or 0.
    pub leader: u64,
    /// The highest index known to be committed.
    pub commit: u64,
    /// The highest index that its machine has applied.
    pub applied: u64,
    /// The first index of its log.
    pub first_index: u64,
    /// The last index of its log.
    pub last_index: u64,
    /// Proposals that wait for their outcome.
    pub proposals: usize,
    /// Reads that wait.
    pub reads: usize,
    /// The configuration in force.
    pub conf_state: ConfState,
    /// Where the others are reached.
    pub book: Book,
    /// Of a leader: how far each of the others is.
    pub progress: Vec<PeerProgress>,
}

/// How far a follower is, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The follower.
    pub id: u64,
    /// It has this index, durably.
    pub matched: u64,
    /// The next to be sent.
    pub next_index: u64,
    /// Whether it has been heard of within an election timeout.
    pub recent_active: bool,
    /// Whether it is being sent a snapshot, at this index, or else 0.
    pub pending_snapshot: u64,
}

/// A Ready that is submitted.
struct Unpersisted {
    number: u64,
    /// Of its entries.
    bytes: u64,
    /// It is durable, or needs no sync; those before it may not be.
    settled: bool,
    messages: Vec<Message>,
    /// Of the hard state it held, or 0.
    term: u64,
    /// Of the snapshot it held; index 0: none.
    snapshot: SnapshotMetadata,
}

/// One node of one group.
pub struct Peer<S: LogStore> {
    raw: RawNode<S>,
    options: PeerOptions,
    book: Book,
    conf_state: ConfState,
    unpersisted: VecDeque<Unpersisted>,
    durable_term: u64,
    on_persisted: PersistedHook,
    proposals: Proposals,
    reads: Reads,
    /// Received, for the Ready that will hold its metadata.
    staged: Option<(u64, S::Staged)>,
    /// What the machine has applied.
    applied: u64,
    ticks: u64,
    now: Duration,
    out: Output,
    failed: bool,
    fault_hook: Option<FaultHook>,
}

impl<S: LogStore> Peer<S> {
    /// Starts a node whose machine is at `applied`, with the book of that index.
    ///
    /// # Errors
    /// raft-rs refuses the configuration or what the log holds.
    pub fn new(
        options: PeerOptions,
        store: S,
        applied: u64,
        book: Book,
        on_persisted: PersistedHook,
    ) -> Result<Self> {
        let config = options.raft_config(applied);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let (conf_state, durable_term) = (store.conf_state(), store.hard_state().term);
        let raw = RawNode::new(&config, store, &logger)?;
        Ok(Peer {
            raw,
            options,
            book,
            conf_state,
            unpersisted: VecDeque::new(),
            durable_term,
            on_persisted,
            proposals: Proposals::default(),
            reads: Reads::default(),
            staged: None,
            applied,
            ticks: 0,
            now: Duration::ZERO,
            out: Output::default(),
            failed: false,
            fault_hook: None,
        })
    }

    /// Plants faults, for tests.
    pub fn set_fault_hook(&mut self, hook: Option<FaultHook>) {
        self.fault_hook = hook;
    }

    /// The log.
    pub fn store(&self) -> &S {
        self.raw.store()
    }

    /// Whether this node takes itself for the leader.
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The leader it knows, or 0.
    pub fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Bytes of entries that were given to the log and are not durable yet.
    pub fn unpersisted_bytes(&self) -> u64 {
        self.unpersisted.iter().map(|ready| ready.bytes).sum()
    }

    /// The book, as of what is committed.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The configuration, as of what is committed.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// One tick of the raft clock. `now` is the time of a clock that counts while a process is
    /// paused, such as CLOCK_BOOTTIME; it never goes back.
    pub fn tick(&mut self, now: Duration) {
        self.ticks += 1;
        self.now = now;
        if let Some(seed) = self.options.election_seed {
            self.set_election_timeout(seed);
        }
        if !self.must_not_campaign() {
            self.raw.tick();
        }
        let expired = self.ticks.saturating_sub(self.options.request_ticks);
        if self.ticks > self.options.request_ticks {
            for id in self.proposals.expire(expired) {
                self.finish(id, Outcome::Unknown);
            }
            for id in self.reads.expire(expired) {
                self.finish(id, Outcome::Unknown);
            }
            self.begin_round();
        }
        let every = self.options.heartbeat_ticks as u64;
        if let Some(question) = self.reads.ask_again(self.ticks, every) {
            self.ask(question);
        }
        if self.is_leader() && self.ticks.is_multiple_of(every) {
            self.promote_who_has_caught_up();
        }
    }

    fn set_election_timeout(&mut self, seed: u64) {
        let term = self.raw.raft.term;
        let mixed = (seed ^ self.options.id.rotate_left(32) ^ term)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let ticks = self.options.election_ticks;
        let random = (mixed >> 33) as usize % ticks;
        self.raw
            .raft
            .set_randomized_election_timeout(ticks + random);
    }

    /// A message of another node. One that must not be listened to is dropped.
    pub fn step(&mut self, message: Message) {
        if self.is_unwelcome(&message) || message.get_msg_type() == MessageType::MsgSnapshot {
            return;
        }
        // What raft refuses is stale or of a stranger: nothing to be told to anyone.
        let _ = self.raw.step(message);
    }

    /// A snapshot of the leader whose data is whole and staged.
    pub fn step_snapshot(&mut self, message: Message, staged: S::Staged) {
        if self.is_unwelcome(&message) || message.get_msg_type() != MessageType::MsgSnapshot {
            return;
        }
        if self.raw.snap().is_some() {
            // One at a time: the Ready that takes the other is still to come.
            return;
        }
        self.staged = Some((message.get_snapshot().get_metadata().index, staged));
        let _ = self.raw.step(message);
        if self.raw.snap().is_none() {
            // raft does not want it.
            self.staged = None;
        }
    }

    fn is_unwelcome(&self, message: &Message) -> bool {
        let addressed = message.to == self.options.id;
        let refused = match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => self.has_just_started(),
            MessageType::MsgTimeoutNow => self.must_not_campaign(),
            // A driver forwards them itself, with an answer; raft would without.
            MessageType::MsgPropose | MessageType::MsgTransferLeader => true,
            // raft-rs panics at these; no driver sends them.
            MessageType::MsgReadIndex => message.get_entries().len() != 1 || message.term != 0,
            MessageType::MsgHeartbeat => message.commit > self.raw.raft.raft_log.last_index(),
            _ => false,
        };
        !addressed || refused || self.book.is_retired(message.from)
    }

    fn has_just_started(&self) -> bool {
        self.ticks < self.options.election_ticks as u64
    }

    /// Two things that raft-rs takes for granted when it campaigns, and panics without.
    fn must_not_campaign(&self) -> bool {
        // That a new leader's log is durable: the only voter wins its election at once, without a
        // message that would have waited for the disk.
        let alone = self.conf_state.get_voters() == [self.options.id]
            && self.conf_state.get_voters_outgoing().is_empty();
        let alone = alone && !self.is_leader() && !self.unpersisted.is_empty();
        // That what is committed and not applied can be read: a snapshot that is stored, and not
        // durable yet, has taken its place.
        let installs = self
            .unpersisted
            .iter()
            .any(|ready| ready.snapshot.index != 0);
        alone || installs
    }

    /// Proposes a command. It ends in [`Output::finished`].
    pub fn propose(&mut self, id: RequestId, session: Option<Session>, command: Vec<u8>) {
        if !self.is_leader() {
            let leader = self.leader();
            return self.finish(id, Outcome::NotLeader { leader });
        }
        let context = CommandContext::of(session, &command);
        match self.raw.propose(context.encode_to_vec(), command) {
            Ok(()) => self.proposed(id),
            Err(_) => self.finish(id, Outcome::Dropped),
        }
    }

    /// Proposes a change of the configuration; `nodes` says where those that it adds are reached.
    /// It ends in [`Output::finished`].
    pub fn propose_change(&mut self, id: RequestId, change: &ConfChangeV2, nodes: Vec<NodeInfo>) {
        if !self.is_leader() {
            let leader = self.leader();
            return self.finish(id, Outcome::NotLeader { leader });
        }
        if let Err(refusal) = self.book.check(change, &nodes) {
            return self.finish(id, Outcome::Refused(refusal));
        }
        if !self.raw.raft.apply_to_current_term() {
            // It has just been elected: changes before its time may be under way.
            return self.finish(id, Outcome::Dropped);
        }
        // raft would put an empty entry in the place of the change, and say nothing.
        if self.raw.raft.has_pending_conf() {
            return self.finish(id, Outcome::ChangeUnderWay);
        }
        let leaving = !self.conf_state.get_voters_outgoing().is_empty();
        if leaving != change.get_changes().is_empty() {
            return self.finish(id, Outcome::ChangeUnderWay);
        }
        let context = ChangeContext { nodes }.encode_to_vec();
        match self.raw.propose_conf_change(context, change.clone()) {
            Ok(()) => self.proposed(id),
            Err(_) => self.finish(id, Outcome::Dropped),
        }
    }

    fn proposed(&mut self, id: RequestId) {
        let raft = &self.raw.raft;
        let (index, term) = (raft.raft_log.last_index(), raft.term);
        self.proposals.insert(id, index, term, self.ticks);
    }

    /// Asks when something may be read; it ends in [`Output::finished`].
    pub fn read(&mut self, id: RequestId, consistency: Consistency, now: Duration) {
        self.see(now);
        let index = self.applied;
        match consistency {
            Consistency::Stale => self.finish(id, Outcome::Readable { index }),
            Consistency::Leader if self.is_leader() => self.finish(id, Outcome::Readable { index }),
            Consistency::Leader => {
                let leader = self.leader();
                self.finish(id, Outcome::NotLeader { leader });
            }
            Consistency::Lease if self.holds_lease() => {
                let committed = self.raw.raft.raft_log.committed;
                self.reads.wait_for(committed, id, self.ticks);
                self.serve_reads();
            }
            Consistency::Lease | Consistency::Linearizable => {
                self.reads.arrive(id);
                self.begin_round();
            }
        }
    }

    fn see(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Whether a lease read at `now` would be answered without asking anybody: as long as it is,
    /// nobody else is elected.
    pub fn answers_alone(&mut self, now: Duration) -> bool {
        self.see(now);
        self.holds_lease()
    }

    fn holds_lease(&self) -> bool {
        self.is_leader()
            && self.raw.raft.commit_to_current_term()
            && self.reads.has_lease(self.now, self.raw.raft.term)
    }

    fn begin_round(&mut self) {
        let term = self.raw.raft.term;
        if let Some(question) = self.reads.begin(self.now, term, self.ticks) {
            self.ask(question);
        }
    }

    fn ask(&mut self, question: u64) {
        // raft drops it where there is no leader, or none that has committed yet: it is asked
        // again.
        self.raw.read_index(self.question_context(question));
    }

    fn question_context(&self, question: u64) -> Vec<u8> {
        let parts = [self.options.id, self.options.incarnation, question];
        parts.iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    /// Tries to become the leader.
    pub fn campaign(&mut self) {
        // raft-rs does not ask whether it may: one without a configuration wins, and panics.
        // And who has promised a leader its lease, or may have before it was started, does not
        // break it.
        let promised =
            self.options.lease.is_some() && (self.leader() != 0 || self.has_just_started());
        if self.raw.raft.promotable() && !self.must_not_campaign() && !promised {
            // Refused where it leads already.
            let _ = self.raw.campaign();
        }
    }

    /// Hands leadership over, if this node has it and `to` is a voter that has all there is
    /// within an election timeout.
    pub fn transfer_leader(&mut self, to: u64) {
        if self.is_leader() {
            // That election does not wait for leases.
            self.reads.end_lease(self.raw.raft.term);
            self.raw.transfer_leader(to);
        }
    }

    /// A node could not be sent to.
    pub fn report_unreachable(&mut self, id: u64) {
        self.raw.report_unreachable(id);
    }

    /// How the streaming of a snapshot ended.
    pub fn report_snapshot(&mut self, id: u64, status: SnapshotStatus) {
        self.raw.report_snapshot(id, status);
    }

    /// What the log was given with this number is durable.
    ///
    /// # Errors
    /// [`Error::Store`]: it is not. Nothing leaves this node any more.
    pub fn on_persisted(&mut self, number: u64, result: crate::Result<()>) -> Result<()> {
        if let Err(e) = result {
            self.failed = true;
            return Err(Error::Store(e));
        }
        let at = self
            .unpersisted
            .iter_mut()
            .find(|ready| ready.number == number);
        if let Some(ready) = at {
            ready.settled = true;
        }
        Ok(())
    }

    /// The machine has applied these entries.
    pub fn on_applied(&mut self, applied: Vec<Applied>) {
        for applied in applied {
            self.applied = self.applied.max(applied.index);
            for settled in self.proposals.settle(applied.index, applied.term) {
                match settled {
                    Settled::Dropped(id) => self.finish(id, Outcome::Dropped),
                    Settled::Applied(id) => {
                        let (index, answer) = (applied.index, applied.answer.clone());
                        let outcome = match answer {
                            Answer::Refused(refusal) => Outcome::Refused(refusal),
                            answer => Outcome::Applied { index, answer },
                        };
                        self.finish(id, outcome);
                    }
                }
            }
        }
        self.serve_reads();
    }

    /// The machine has been restored, and is at `index`.
    pub fn on_restored(&mut self, index: u64) {
        self.applied = self.applied.max(index);
        for id in self.proposals.forget_to(index) {
            self.finish(id, Outcome::Unknown);
        }
        self.serve_reads();
    }

    fn serve_reads(&mut self) {
        let index = self.applied;
        for id in self.reads.serve(index) {
            self.finish(id, Outcome::Readable { index });
        }
    }

    fn finish(&mut self, id: RequestId, outcome: Outcome) {
        self.out.finished.push(Finished { id, outcome });
    }

    /// The node stops: nobody will learn how what is under way ends.
    pub fn abandon(&mut self) -> Vec<Finished> {
        for id in self.proposals.take_all() {
            self.finish(id, Outcome::Unknown);
        }
        for id in self.reads.take_all() {
            self.finish(id, Outcome::Unknown);
        }
        std::mem::take(&mut self.out.finished)
    }

    /// Everything that is to be done since the last call.
    ///
    /// # Errors
    /// The node must stop; see [`Error`].
    pub fn drain(&mut self) -> Result<Output> {
        let drained = self.handle_readies();
        self.failed |= drained.is_err();
        drained?;
        Ok(std::mem::take(&mut self.out))
    }

    fn handle_readies(&mut self) -> Result<()> {
        self.check_usable()?;
        loop {
            self.release()?;
            if !self.raw.has_ready() {
                return Ok(());
            }
            self.handle_ready()?;
        }
    }

    fn check_usable(&self) -> Result<()> {
        match self.failed {
            true => Err(Error::Store(crate::Error::Poisoned {
                cause: "an earlier step of this node failed".into(),
            })),
            false => Ok(()),
        }
    }

    fn handle_ready(&mut self) -> Result<()> {
        let mut ready = self.raw.ready();
        self.fault(FaultPoint::BeforePersist)?;
        let mut messages = ready.take_messages();
        let mut held = ready.take_persisted_messages();
        if self.raw.raft.term > self.durable_term {
            held.append(&mut messages);
        }
        let read_states = ready.take_read_states();
        let committed = ready.take_committed_entries();
        self.submit(&ready, held)?;
        self.fault(FaultPoint::AfterSubmit)?;
        self.raw.advance_append_async(ready);
        // Only from here on raft may be changed.
        self.send(messages);
        for state in read_states {
            self.confirm_reads(state.index, &state.request_ctx);
        }
        self.hand_out(committed)?;
        self.fault(FaultPoint::AfterCommitted)
    }

    fn submit(&mut self, ready: &Ready, messages: Vec<Message>) -> Result<()> {
        let number = ready.number();
        let snapshot = ready.snapshot().get_metadata().clone();
        let staged = self.staged.take_if(|(index, _)| *index == snapshot.index);
        let staged = staged.map(|(_, staged)| staged);
        let is_empty =
            ready.hs().is_none() && ready.entries().is_empty() && ready.snapshot().is_empty();
        if !is_empty {
            let on_persisted = Arc::clone(&self.on_persisted);
            let on_durable = Box::new(move |result| on_persisted(number, result));
            self.store().submit_ready(ready, staged, on_durable)?;
        }
        let bytes = ready
            .entries()
            .iter()
            .map(|entry| entry.data.len() + entry.context.len());
        self.unpersisted.push_back(Unpersisted {
            number,
            bytes: bytes.sum::<usize>() as u64,
            settled: !ready.must_sync(),
            messages,
            term: ready.hs().map_or(0, |hard_state| hard_state.term),
            snapshot,
        });
        Ok(())
    }

    /// Lets go what waited for a Ready that is durable by now, with all before it.
    fn release(&mut self) -> Result<()> {
        while let Some(ready) = self.unpersisted.pop_front_if(|ready| ready.settled) {
            self.fault(FaultPoint::BeforePersistedMessages)?;
            self.durable_term = self.durable_term.max(ready.term);
            self.raw.on_persist_ready(ready.number);
            self.send(ready.messages);
            if ready.snapshot.index != 0 {
                self.follow_snapshot(&ready.snapshot)?;
            }
        }
        Ok(())
    }

    /// A snapshot is stored: from here on its configuration and its book are in force. What is
    /// committed behind it is handed out only later.
    fn follow_snapshot(&mut self, metadata: &SnapshotMetadata) -> Result<()> {
        self.raw.advance_apply_to(metadata.index);
        self.conf_state = metadata.get_conf_state().clone();
        if let Some((_, mut reader)) = self.store().open_snapshot()? {
            self.book = applier::read_header(&mut reader)?.book.unwrap_or_default();
        }
        self.out.restore = true;
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) {
        let mut unusable = Vec::new();
        for message in messages {
            if message.get_msg_type() != MessageType::MsgSnapshot {
                self.out.messages.push(message);
                continue;
            }
            let conf_state = message.get_snapshot().get_metadata().get_conf_state();
            if book::contains(conf_state, message.to) {
                self.out.snapshots.push(message);
            } else {
                // The receiver would ignore it: it is older than its membership.
                self.out.snapshot_wanted = true;
                unusable.push(message.to);
            }
        }
        for to in unusable {
            self.raw.report_snapshot(to, SnapshotStatus::Failure);
        }
    }

    fn confirm_reads(&mut self, index: u64, context: &[u8]) {
        let own = self.question_context(0);
        let Some((own, _)) = own.split_at_checked(16) else {
            return;
        };
        let number = context
            .strip_prefix(own)
            .and_then(|rest| rest.try_into().ok());
        let Some(number) = number.map(u64::from_be_bytes) else {
            return;
        };
        let lease = self.options.lease.filter(|_| self.is_leader());
        let term = self.raw.raft.term;
        self.reads.confirm(number, index, term, lease);
        self.serve_reads();
        self.begin_round();
    }

    fn hand_out(&mut self, entries: Vec<Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut changes = Vec::new();
        for entry in &entries {
            if let Some((change, told)) = decode_change(entry)? {
                let outcome = self.change(&change, told);
                let index = entry.index;
                changes.push(Change { index, outcome });
            }
        }
        // For raft an entry counts as applied when raft has learned of the change in it; when the
        // machine comes to it is not its concern.
        if let Some(last) = entries.last() {
            self.raw.advance_apply_to(last.index);
        }
        self.out.committed.push(Committed { entries, changes });
        Ok(())
    }

    fn change(
        &mut self,
        change: &ConfChangeV2,
        told: Vec<NodeInfo>,
    ) -> std::result::Result<(ConfState, Book), Refusal> {
        self.book.check(change, &told)?;
        let conf_state = self
            .raw
            .apply_conf_change(change)
            .map_err(|e| Refusal::Raft(e.to_string()))?;
        self.book.follow(&conf_state, told);
        let id = self.options.id;
        self.out.removed |=
            book::contains(&self.conf_state, id) && !book::contains(&conf_state, id);
        let votes = [conf_state.get_voters(), conf_state.get_voters_outgoing()];
        if !votes.iter().any(|voters| voters.contains(&id)) {
            self.step_down();
        }
        self.conf_state = conf_state.clone();
        Ok((conf_state, self.book.clone()))
    }

    /// A leader that has committed its own removal, or that it becomes a learner. raft-rs would
    /// let it go on: it panics at the next acknowledgement (`Raft::maybe_commit` looks for the
    /// leader's own progress), and a learner that leads a single voter answers reads alone.
    fn step_down(&mut self) {
        if self.is_leader() {
            // The others learn that the removal is committed, so that they need not ask.
            self.raw.ping();
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
    }

    fn promote_who_has_caught_up(&mut self) {
        let raft = &self.raw.raft;
        if raft.has_pending_conf()
            || !raft.apply_to_current_term()
            || raft.lead_transferee.is_some()
        {
            return;
        }
        let last = raft.raft_log.last_index();
        let lag_max = self.options.promote_lag_max;
        let caught_up = self.book.nodes.iter().find(|node| {
            let progress = raft.prs().get(node.id);
            // One that has everything stays in raft's probing state until there is more.
            let close = progress.is_some_and(|progress| {
                let follows = progress.state == ProgressState::Replicate;
                let lag_max = if follows { lag_max } else { 0 };
                progress.recent_active && progress.matched + lag_max >= last
            });
            node.promote && close && self.conf_state.get_learners().contains(&node.id)
        });
        let Some(id) = caught_up.map(|node| node.id) else {
            return;
        };
        let change = single_change(ConfChangeType::AddNode, id);
        // Where it is refused or lost, it is tried again.
        let _ = self
            .raw
            .propose_conf_change(ChangeContext::default().encode_to_vec(), change);
    }

    fn fault(&mut self, point: FaultPoint) -> Result<()> {
        let stops = self.fault_hook.as_mut().is_some_and(|hook| hook(point));
        match stops {
            true => Err(Error::Stopped(point)),
            false => Ok(()),
        }
    }

    /// Where the log may be compacted to, when the snapshot is at `snapshot_index`: `keep` entries
    /// stay for those who lag, and what a live follower still needs, up to `keep_max`.
    pub fn compact_to(&self, snapshot_index: u64, keep: u64, keep_max: u64) -> u64 {
        let last = self.raw.raft.raft_log.last_index();
        let mut to = (snapshot_index + 1).saturating_sub(keep);
        if self.is_leader() {
            let live = self.raw.raft.prs().iter();
            let needed = live
                .filter(|(id, progress)| **id != self.options.id && progress.recent_active)
                .map(|(_, progress)| progress.matched + 1);
            to = to.min(needed.min().unwrap_or(u64::MAX));
        }
        to.max((last + 1).saturating_sub(keep_max))
            .min(snapshot_index + 1)
    }

    /// Where this node stands.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let progress = match self.is_leader() {
            true => progress_of(raft.prs()),
            false => Vec::new(),
        };
        Status {
            id: self.options.id,
            role: raft.state,
            term: raft.term,
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            applied: self.applied,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            proposals: self.proposals.len(),
            reads: self.reads.len(),
            conf_state: self.conf_state.clone(),
            book: self.book.clone(),
            progress,
        }
    }
}

fn progress_of(tracker: &raft::ProgressTracker) -> Vec<PeerProgress> {
    let mut all: Vec<_> = tracker
        .iter()
        .map(|(id, progress)| PeerProgress {
            id: *id,
            matched: progress.matched,
            next_index: progress.next_idx,
            recent_active: progress.recent_active,
            pending_snapshot: progress.pending_snapshot,
        })
        .collect();
    all.sort_unstable_by_key(|progress| progress.id);
    all
}

/// A change of one node.
pub fn single_change(kind: ConfChangeType, id: u64) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = id;
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    change
}

/// The change that an entry holds, and what it tells of its nodes.
pub(super) fn decode_change(entry: &Entry) -> Result<Option<(ConfChangeV2, Vec<NodeInfo>)>> {
    let what = "a configuration change in the log";
    let format = |e: protobuf::ProtobufError| Error::format(what, e);
    let change = match entry.get_entry_type() {
        EntryType::EntryNormal => return Ok(None),
        EntryType::EntryConfChange => {
            let mut change = ConfChange::default();
            protobuf::Message::merge_from_bytes(&mut change, &entry.data).map_err(format)?;
            single_change(change.get_change_type(), change.node_id)
        }
        EntryType::EntryConfChangeV2 => {
            let mut change = ConfChangeV2::default();
            protobuf::Message::merge_from_bytes(&mut change, &entry.data).map_err(format)?;
            change
        }
    };
    let told = ChangeContext::decode(&entry.context[..]).map_err(|e| Error::format(what, e))?;
    Ok(Some((change, told.nodes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Applier, MemoryLog, StateMachine};

    struct Nothing;

    impl StateMachine for Nothing {
        fn apply(&mut self, _index: u64, _command: &[u8]) -> Vec<u8> {
            Vec::new()
        }

        fn snapshot(&self) -> Vec<u8> {
            Vec::new()
        }

        fn restore(&mut self, _snapshot: &[u8]) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// One of three nodes, which has just started.
    fn started(lease: Option<Duration>) -> Peer<MemoryLog> {
        let store = MemoryLog::new([1; 16]);
        let mut conf_state = ConfState::default();
        conf_state.set_voters(vec![1, 2, 3]);
        let mut applier = Applier::open(store.clone(), Nothing).unwrap();
        applier.begin(&conf_state, Book::default()).unwrap();
        let mut options = PeerOptions::new(1);
        options.lease = lease;
        let book = applier.book().clone();
        Peer::new(options, store, applier.applied(), book, Arc::new(|_, _| {})).unwrap()
    }

    /// How many it asks whether they would vote for it when it is told to campaign, after this
    /// many ticks.
    fn asked(lease: Option<Duration>, ticks: u64) -> usize {
        let mut peer = started(lease);
        for tick in 0..ticks {
            peer.tick(Duration::from_millis(tick));
        }
        peer.drain().unwrap();
        peer.campaign();
        let messages = peer.drain().unwrap().messages;
        let asks = |message: &&Message| message.get_msg_type() == MessageType::MsgRequestPreVote;
        messages.iter().filter(asks).count()
    }

    /// A follower that had confirmed its leader's lease, and was started again, no longer knew a
    /// leader: told to campaign, it did, and with the vote of a third, which had not heard the
    /// leader for a while, it was elected while that one still answered reads alone. Found by the
    /// simulator, once it checked that nobody is elected beside a lease: seed 1005149.
    #[test]
    fn who_has_just_started_does_not_campaign_against_a_lease() {
        let lease = Some(Duration::from_millis(500));
        assert_eq!(asked(lease, 0), 0);
        assert_eq!(asked(lease, 9), 0);
        assert_eq!(asked(lease, 10), 2);
        assert_eq!(asked(None, 0), 2);
    }
}
