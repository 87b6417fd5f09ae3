//! The thread that owns the raft core: it takes what comes in, ticks, and carries out what the
//! core wants done. It waits for nothing but its mailbox and the next tick.
//!
//! Invariants:
//! 1. A tick is late by no more than one turn takes; ticks that were missed are not made up for:
//!    a burst of them would make a paused node's leases and elections run ahead of its clock.
//! 2. Every request is answered once.
//! 3. Every snapshot handed out is reported, once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use raft::SnapshotStatus;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, Message, MessageType};

use super::apply_queue::{ApplyQueue, Task};
use super::apply_thread::Job;
use super::book::NodeInfo;
use super::error::Result;
use super::log_store::LogStore;
use super::mailbox::{Event, Mail, Waiting, bytes_of};
use super::peer::{Consistency, Finished, Output, Peer, single_change};
use super::proposals::RequestId;
use super::request::{Ask, Done, Ending, RequestError, ending_of};
use super::shared::{Leadership, Shared, clock};
use super::state_machine::Preprocessor;
use super::streams::{Arrived, Streams};
use super::transport::Body;

/// Messages and bytes of them in one packet; one message may be longer.
const PACKET_MESSAGES: usize = 1024;
const PACKET_BYTES: usize = 2 << 20;
/// What a preprocessor may make of a command: it must fit a packet.
const PROCESSED_BYTES_MAX: usize = 5 << 20;

/// Someone waits until another node leads.
struct Handover {
    to: u64,
    until: u64,
    waiting: Waiting,
}

/// A request under way; `joining`: the id of the node it takes in.
struct Pending {
    waiting: Waiting,
    joining: Option<u64>,
}

pub(crate) struct RaftThread<S: LogStore, M> {
    pub peer: Peer<S>,
    pub shared: Arc<Shared>,
    pub queue: Arc<ApplyQueue<M>>,
    pub jobs: mpsc::Sender<Job>,
    pub arrived: Arc<Arrived<S>>,
    pub streams: Streams<S>,
    pub preprocessor: Option<Preprocessor>,
    pub state: TurnState,
}

/// What lasts from one turn to the next.
pub(crate) struct TurnState {
    next_tick: Instant,
    ticks: u64,
    next_id: RequestId,
    pending: HashMap<RequestId, Pending>,
    handovers: Vec<Handover>,
    /// Entries of a leader, and proposals, that wait for the disk.
    held_messages: VecDeque<Message>,
    held_bytes: usize,
    held_asks: VecDeque<(Ask, Waiting)>,
    /// Bytes of entries given to the core in this turn.
    taken_bytes: u64,
    snapshot_asked: bool,
    /// The clock of raft stands still.
    is_quiet: bool,
    /// The tick at which it stops, whatever is left to do.
    stopping: Option<u64>,
}

impl TurnState {
    pub(crate) fn new(is_quiet: bool) -> Self {
        TurnState {
            is_quiet,
            next_tick: Instant::now(),
            ticks: 0,
            next_id: 1,
            pending: HashMap::new(),
            handovers: Vec::new(),
            held_messages: VecDeque::new(),
            held_bytes: 0,
            held_asks: VecDeque::new(),
            taken_bytes: 0,
            snapshot_asked: false,
            stopping: None,
        }
    }
}

impl<S: LogStore, M> RaftThread<S, M> {
    /// Runs until the node is shut down; says why, when it is for another reason.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        let turned = self.turn_until_done();
        self.give_up();
        turned
    }

    fn turn_until_done(&mut self) -> Result<(), String> {
        loop {
            let mail = self.shared.mailbox.take(self.wake_at());
            if mail.closed {
                return Ok(());
            }
            self.tick_when_due();
            self.take(mail)?;
            let output = self.peer.drain().map_err(|e| e.to_string())?;
            self.state.taken_bytes = 0;
            self.carry_out(output);
            if self.is_done() {
                return Ok(());
            }
        }
    }

    /// What was held back goes on as soon as there is room.
    fn wake_at(&self) -> Instant {
        let holds = !self.state.held_messages.is_empty() || !self.state.held_asks.is_empty();
        match holds && self.has_room() {
            true => Instant::now(),
            false => self.state.next_tick,
        }
    }

    fn tick_when_due(&mut self) {
        let now = Instant::now();
        if now < self.state.next_tick {
            return;
        }
        self.state.next_tick = tick_after(self.state.next_tick, now, self.shared.options.tick);
        self.state.ticks += 1;
        self.shared.ticks.store(self.state.ticks, Ordering::Release);
        if self.state.is_quiet {
            self.peer.tick_quietly(clock());
        } else {
            self.peer.tick(clock());
            self.leave_joint();
        }
        let patience = self.shared.options.peer.request_ticks;
        let expired = self.state.ticks.saturating_sub(patience);
        self.shared.expire_forwarded(expired);
    }

    /// A leader that is elected in a joint configuration has to leave it itself.
    fn leave_joint(&mut self) {
        let every = self.shared.options.peer.election_ticks as u64;
        let is_joint = !self.peer.conf_state().get_voters_outgoing().is_empty();
        if is_joint && self.peer.is_leader() && self.state.ticks.is_multiple_of(every) {
            let id = self.draw();
            self.peer
                .propose_change(id, &ConfChangeV2::default(), Vec::new());
        }
    }

    fn take(&mut self, mail: Mail) -> Result<(), String> {
        for event in mail.events {
            self.on_event(event)?;
        }
        for id in mail.unreachable {
            self.peer.report_unreachable(id);
        }
        self.release();
        for message in mail.messages {
            self.step(message);
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Persisted(number, result) => {
                let persisted = self.peer.on_persisted(number, result);
                persisted.map_err(|e| e.to_string())?;
            }
            Event::Applied(applied) => self.peer.on_applied(applied),
            Event::Restored(index) => self.peer.on_restored(index),
            Event::Ask(ask, waiting) => self.ask(ask, waiting),
            Event::Read(consistency, waiting) => self.read(consistency, waiting),
            Event::Campaign => self.peer.campaign(),
            // Who asked may be gone.
            Event::Status(waiting) => drop(waiting.send(self.peer.status())),
            Event::Snapshotted(made) => self.compact(made),
            Event::Streamed { to, ok } => self.streamed(to, ok),
            Event::Arrived => {
                if let Some((message, staged)) = self.arrived.lock().take() {
                    self.peer.step_snapshot(message, staged);
                }
            }
            Event::Removed => self.be_quiet(),
            Event::Failed(cause) => return Err(cause),
            Event::Shutdown => self.begin_shutdown(),
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        let taken = self.peer.unpersisted_bytes() + self.state.taken_bytes;
        taken <= self.shared.options.unpersisted_bytes_max
    }

    /// A message with entries waits while the disk has enough to do: the log would make this
    /// thread wait.
    fn step(&mut self, message: Message) {
        let has_entries =
            message.get_msg_type() == MessageType::MsgAppend && !message.get_entries().is_empty();
        if !has_entries {
            return self.peer.step(message);
        }
        let bytes = bytes_of(&message);
        if self.state.held_messages.is_empty() && self.has_room() {
            self.state.taken_bytes += bytes as u64;
            self.peer.step(message);
        } else if self.state.held_bytes + bytes <= self.shared.options.message_bytes_max {
            self.state.held_bytes += bytes;
            self.state.held_messages.push_back(message);
        } else {
            self.shared.dropped.messages.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn release(&mut self) {
        while self.has_room()
            && let Some(message) = self.state.held_messages.pop_front()
        {
            let bytes = bytes_of(&message);
            self.state.held_bytes -= bytes;
            self.state.taken_bytes += bytes as u64;
            self.peer.step(message);
        }
        while self.has_room()
            && let Some((ask, waiting)) = self.state.held_asks.pop_front()
        {
            self.start(ask, waiting);
        }
    }

    fn draw(&mut self) -> RequestId {
        self.state.next_id += 1;
        self.state.next_id
    }

    fn wait(&mut self, waiting: Waiting, joining: Option<u64>) -> RequestId {
        let id = self.draw();
        self.state.pending.insert(id, Pending { waiting, joining });
        id
    }

    fn ask(&mut self, ask: Ask, waiting: Waiting) {
        if self.shared.is_removed() {
            return self
                .shared
                .answer(waiting.answerer, Err(RequestError::Removed));
        }
        if self.state.stopping.is_some() {
            return self
                .shared
                .answer(waiting.answerer, Err(RequestError::Dropped));
        }
        if matches!(ask, Ask::Propose { .. })
            && (!self.has_room() || !self.state.held_asks.is_empty())
        {
            return self.state.held_asks.push_back((ask, waiting));
        }
        self.start(ask, waiting);
    }

    fn start(&mut self, ask: Ask, waiting: Waiting) {
        match ask {
            Ask::Propose { session, command } => match self.process(command) {
                Ok(command) => {
                    self.state.taken_bytes += command.len() as u64;
                    let id = self.wait(waiting, None);
                    self.peer.propose(id, session, command);
                }
                Err(e) => self.shared.answer(waiting.answerer, Err(e)),
            },
            Ask::Change { change, nodes } => {
                let id = self.wait(waiting, None);
                self.peer.propose_change(id, &change, nodes);
            }
            Ask::Join(node) => self.join(node, waiting),
            Ask::Transfer { to } => self.hand_over(to, waiting),
        }
    }

    fn process(&self, command: Vec<u8>) -> Result<Vec<u8>, RequestError> {
        let preprocessor = self.preprocessor.as_ref();
        let Some(preprocessor) = preprocessor.filter(|_| self.peer.is_leader()) else {
            return Ok(command);
        };
        let command = preprocessor(command).map_err(RequestError::Rejected)?;
        match command.len() {
            bytes if bytes > PROCESSED_BYTES_MAX => Err(RequestError::TooLarge {
                bytes,
                max: PROCESSED_BYTES_MAX,
            }),
            _ => Ok(command),
        }
    }

    /// Takes a node in as a learner; one that is in already, with the same store, has asked
    /// before.
    fn join(&mut self, mut node: NodeInfo, waiting: Waiting) {
        let book = self.peer.book();
        let known = book
            .nodes
            .iter()
            .find(|known| known.store_id == node.store_id && (node.id == 0 || known.id == node.id));
        if let Some(known) = known.filter(|_| self.peer.is_leader()) {
            let (id, book) = (known.id, book.clone());
            return self
                .shared
                .answer(waiting.answerer, Ok(Done::Joined { id, book }));
        }
        if node.id == 0 {
            node.id = book.next_id();
        }
        let change = single_change(ConfChangeType::AddLearnerNode, node.id);
        let id = self.wait(waiting, Some(node.id));
        self.peer.propose_change(id, &change, vec![node]);
    }

    fn hand_over(&mut self, to: u64, waiting: Waiting) {
        if !self.peer.is_leader() {
            let leader = self.shared.node(self.peer.leader()).map(Box::new);
            return self
                .shared
                .answer(waiting.answerer, Err(RequestError::NotLeader { leader }));
        }
        if !self.peer.conf_state().get_voters().contains(&to) {
            let refusal = super::book::Refusal::Unknown(to);
            return self.shared.answer(waiting.answerer, Err(refusal.into()));
        }
        self.peer.transfer_leader(to);
        let until = self.state.ticks + 2 * self.shared.options.peer.election_ticks as u64;
        self.state.handovers.push(Handover { to, until, waiting });
    }

    fn read(&mut self, consistency: Consistency, waiting: Waiting) {
        if self.shared.is_removed() && consistency != Consistency::Stale {
            return self
                .shared
                .answer(waiting.answerer, Err(RequestError::Removed));
        }
        let id = self.wait(waiting, None);
        self.peer.read(id, consistency, clock());
    }

    fn compact(&mut self, made: Option<u64>) {
        self.state.snapshot_asked = false;
        let Some(index) = made else { return };
        let compaction = &self.shared.options.compaction;
        let (keep, keep_max) = (compaction.keep_entries, compaction.keep_entries_max);
        let to = self.peer.compact_to(index, keep, keep_max);
        // The thread that compacts ends only after this one.
        let _ = self.jobs.send(Job::Compact(to));
    }

    fn streamed(&mut self, to: u64, ok: bool) {
        self.streams.ended(to);
        let status = match ok {
            true => SnapshotStatus::Finish,
            false => SnapshotStatus::Failure,
        };
        self.peer.report_snapshot(to, status);
    }

    fn removed(&mut self) {
        if self.shared.removed.swap(true, Ordering::AcqRel) {
            return;
        }
        log::warn!(
            "node {} is no longer a member of its cluster",
            self.shared.id()
        );
        let _ = self.jobs.send(Job::Removed);
    }

    /// Others say that this node was removed: it will not hear of it through the log, and must
    /// not disturb their elections.
    fn be_quiet(&mut self) {
        self.removed();
        self.state.is_quiet = true;
        for finished in self.peer.abandon() {
            self.finish(finished);
        }
    }

    fn carry_out(&mut self, output: Output) {
        // Before anybody can hear of it from another node.
        self.tell_leadership();
        self.send(output.messages);
        for message in output.snapshots {
            let to = message.to;
            if !self.streams.start(message) {
                self.peer.report_snapshot(to, SnapshotStatus::Failure);
            }
        }
        let changed = |committed: &super::applier::Committed| !committed.changes.is_empty();
        if output.restore || output.committed.iter().any(changed) {
            self.shared.set_book(self.peer.book().clone());
        }
        if output.restore {
            // Refused only when the node stops.
            self.queue.push(Task::Restore);
        }
        for committed in output.committed {
            self.queue.apply(committed);
        }
        if output.snapshot_wanted && !self.state.snapshot_asked {
            self.state.snapshot_asked = self.queue.push(Task::Snapshot);
        }
        for finished in output.finished {
            self.finish(finished);
        }
        if output.removed {
            self.removed();
        }
    }

    /// In order per receiver, several in one packet.
    fn send(&mut self, messages: Vec<Message>) {
        let mut by_node: BTreeMap<u64, Vec<Message>> = BTreeMap::new();
        for message in messages {
            by_node.entry(message.to).or_default().push(message);
        }
        for (to, messages) in by_node {
            let node = self.shared.node(to);
            let sent = node.is_some_and(|node| {
                let mut packets = packets(messages).into_iter();
                packets.all(|packet| self.shared.send(&node, Body::Raft(packet)).is_ok())
            });
            if !sent {
                self.peer.report_unreachable(to);
            }
        }
    }

    fn finish(&mut self, Finished { id, outcome }: Finished) {
        let Some(pending) = self.state.pending.remove(&id) else {
            return;
        };
        let ending = ending_of(outcome, |id| self.shared.node(id));
        let ending = match (ending, pending.joining) {
            (Ok(Done::Applied { .. }), Some(id)) => Ok(Done::Joined {
                id,
                book: self.peer.book().clone(),
            }),
            (ending, _) => ending,
        };
        self.shared.answer(pending.waiting.answerer, ending);
    }

    fn tell_leadership(&mut self) {
        let status = Leadership {
            term: self.peer.term(),
            leader: self.peer.leader(),
        };
        self.shared.leadership.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
        let ticks = self.state.ticks;
        let over = |handover: &mut Handover| handover.to == status.leader || ticks > handover.until;
        for handover in self.state.handovers.extract_if(.., over) {
            let ending: Ending = match handover.to == status.leader {
                true => Ok(Done::Transferred),
                false => Err(RequestError::Dropped),
            };
            self.shared.answer(handover.waiting.answerer, ending);
        }
    }

    /// The voter that leadership is handed to when this node stops.
    fn successor(&self) -> Option<u64> {
        let status = self.peer.status();
        let voters = status.conf_state.get_voters();
        let others = status.progress.iter().filter(|progress| {
            progress.id != status.id && progress.recent_active && voters.contains(&progress.id)
        });
        others
            .max_by_key(|progress| progress.matched)
            .map(|of| of.id)
    }

    fn begin_shutdown(&mut self) {
        let patience = 2 * self.shared.options.peer.election_ticks as u64;
        self.state.stopping = Some(self.state.ticks + patience);
        if let Some(to) = self.successor() {
            self.peer.transfer_leader(to);
        }
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.state.stopping else {
            return false;
        };
        let leads_others = self.peer.is_leader() && self.successor().is_some();
        self.state.ticks >= until || (!leads_others && self.state.pending.is_empty())
    }

    /// Nobody will learn how what is under way ends.
    fn give_up(&mut self) {
        for finished in self.peer.abandon() {
            self.finish(finished);
        }
        let unknown = || Err(RequestError::OutcomeUnknown);
        for (_, pending) in std::mem::take(&mut self.state.pending) {
            self.shared.answer(pending.waiting.answerer, unknown());
        }
        for handover in std::mem::take(&mut self.state.handovers) {
            self.shared.answer(handover.waiting.answerer, unknown());
        }
        for (_, waiting) in std::mem::take(&mut self.state.held_asks) {
            self.shared
                .answer(waiting.answerer, Err(RequestError::Dropped));
        }
    }
}

/// The tick after the one that was due and comes now: those that were missed are left out.
fn tick_after(due: Instant, now: Instant, every: Duration) -> Instant {
    let planned = due + every;
    if planned > now { planned } else { now + every }
}

/// Messages as packets of a bounded size.
fn packets(messages: Vec<Message>) -> Vec<Vec<Message>> {
    let mut packets: Vec<Vec<Message>> = Vec::new();
    let mut room = 0;
    for message in messages {
        let bytes = bytes_of(&message);
        match packets.last_mut() {
            Some(packet) if bytes <= room && packet.len() < PACKET_MESSAGES => {
                room -= bytes;
                packet.push(message);
            }
            _ => {
                room = PACKET_BYTES.saturating_sub(bytes);
                packets.push(vec![message]);
            }
        }
    }
    packets
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::Entry;

    #[test]
    fn a_late_tick_does_not_shift_the_next_and_missed_ones_are_left_out() {
        let (begin, every) = (Instant::now(), Duration::from_millis(100));
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(tick_after(at(0), at(30), every), at(100));
        // The process was paused for a second: one tick, not ten.
        assert_eq!(tick_after(at(0), at(1030), every), at(1130));
    }

    #[test]
    fn packets_keep_the_order_and_their_size() {
        let message = |index: u64, bytes| {
            let mut entry = Entry::default();
            entry.data = vec![0; bytes].into();
            let mut message = Message::default();
            message.index = index;
            message.set_entries(vec![entry].into());
            message
        };
        let sizes = [100, 100, PACKET_BYTES - 10, 200, PACKET_BYTES + 10];
        let messages = (0..).zip(sizes).map(|(index, bytes)| message(index, bytes));
        let packets = packets(messages.collect());
        let order: Vec<Vec<u64>> = packets
            .iter()
            .map(|packet| packet.iter().map(|message| message.index).collect())
            .collect();
        assert_eq!(order, [vec![0, 1], vec![2], vec![3], vec![4]]);
    }
}
