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

mod membership;
mod options;
mod output;
mod reading;
mod ready;
mod status;

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;
use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};

pub(super) use self::membership::decode_change;
pub use self::membership::single_change;
pub use self::options::PeerOptions;
pub use self::output::{
    Consistency, FaultHook, FaultPoint, Finished, Outcome, Output, PeerProgress, PersistedHook,
    Status,
};
use self::ready::Unpersisted;
use super::applier::{Answer, Applied};
use super::book::Book;
use super::error::{Error, Result};
use super::log_store::LogStore;
use super::proposals::{Proposals, RequestId, Settled};
use super::reads::Reads;
use super::sessions::{CommandContext, Session};

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
        self.tick_quietly(now);
        if let Some(seed) = self.options.election_seed {
            self.set_election_timeout(seed);
        }
        if !self.must_not_campaign() {
            self.raw.tick();
        }
        let every = self.options.heartbeat_ticks as u64;
        if let Some(question) = self.reads.ask_again(self.ticks, every) {
            self.ask(question);
        }
        if self.is_leader() && self.ticks.is_multiple_of(every) {
            self.promote_who_has_caught_up();
        }
    }

    /// A tick of a node that was removed: time passes, and it neither campaigns nor leads. It
    /// votes: where it was one of two, the other needs that to go on.
    pub fn tick_quietly(&mut self, now: Duration) {
        self.ticks += 1;
        self.now = now;
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

    fn proposed(&mut self, id: RequestId) {
        let raft = &self.raw.raft;
        let (index, term) = (raft.raft_log.last_index(), raft.term);
        self.proposals.insert(id, index, term, self.ticks);
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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

    fn answered_votes(quiet_ticks: usize) -> usize {
        let mut peer = started(None);
        for _ in 0..quiet_ticks {
            peer.tick_quietly(Duration::ZERO);
        }
        let mut vote = Message::default();
        vote.set_msg_type(MessageType::MsgRequestPreVote);
        (vote.from, vote.to, vote.term) = (2, 1, 2);
        peer.step(vote);
        peer.drain().unwrap().messages.len()
    }

    /// One of two removed itself, and the other missed that this was committed: it needs the vote
    /// of the removed one, whose clock stood still, so that it seemed to have just started.
    #[test]
    fn a_removed_node_goes_on_voting() {
        let options = PeerOptions::new(1);
        assert_eq!(answered_votes(options.election_ticks - 1), 0);
        assert_eq!(answered_votes(options.election_ticks), 1);
    }
}
