//! The handle of a node.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};
use tokio::sync::{oneshot, watch};

use super::apply_queue::{ApplyQueue, Task};
use super::book::{Book, NodeInfo, contains};
use super::inbox::Inbox;
use super::mailbox::{Event, Waiting};
use super::options::Forwarding;
use super::peer::{Consistency, Status, single_change};
use super::request::{Ask, Done, Ending, RequestError};
use super::runtime::{Started, is_of_a_node};
use super::sessions::Session;
use super::shared::{Answerer, Leadership, Permit, Shared};
use super::state_machine::StateMachine;

/// How often a request follows a hint to another leader.
const HOPS_MAX: usize = 4;

/// How long dropping the last handle waits for the threads of the node.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its place in the log.
    pub index: u64,
    /// The machine's answer; none when the command was repeated and its first answer is not
    /// kept, or handed on to the leader and answered with more than 7 MiB.
    pub answer: Option<Vec<u8>>,
}

/// One part of a change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A node that gets the log and has no vote; also makes a voter one.
    Learner(NodeInfo),
    /// A node with a vote.
    Voter(NodeInfo),
    /// A learner becomes a voter.
    Promote(u64),
    /// A node leaves; its id is never used again.
    Remove(u64),
}

/// Where a node stands, and what waits in it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Of the raft core.
    pub raft: Status,
    /// It was removed from its cluster.
    pub removed: bool,
    /// Messages of others that wait, and their bytes.
    pub messages: (usize, usize),
    /// Requests that are under way or wait.
    pub requests: usize,
    /// What waits for the state machine, and the bytes of entries among it.
    pub apply: (usize, usize),
    /// Messages of others that were dropped because too many waited.
    pub messages_dropped: u64,
    /// Pieces of snapshots that were dropped.
    pub frames_dropped: u64,
    /// Packets that were refused: of another cluster, store or node.
    pub packets_refused: u64,
    /// Packets that the transport did not take.
    pub packets_unsent: u64,
}

/// A handle of a running node. A clone is another; when the last is dropped the node stops at
/// once, as a crash would stop it, and the drop waits until every thread of it has ended, for
/// what the state machine is at and a sync, ten seconds at most; on a thread of a node it does
/// not wait. In asynchronous code [`halt`](Node::halt) does the same without holding a thread up.
///
/// End every node before the process: RocksDB does not bear `exit` while one is being closed.
pub struct Node<M: StateMachine> {
    inner: Arc<Inner<M>>,
}

struct Inner<M: StateMachine> {
    shared: Arc<Shared>,
    queue: Arc<ApplyQueue<M>>,
    ended: Mutex<mpsc::Receiver<Infallible>>,
}

impl<M: StateMachine> Drop for Inner<M> {
    fn drop(&mut self) {
        self.shared.mailbox.close();
        if is_of_a_node() {
            return;
        }
        let ended = self.ended.get_mut().recv_timeout(DROP_PATIENCE);
        if ended == Err(mpsc::RecvTimeoutError::Timeout) {
            let id = self.shared.id();
            log::warn!("node {id} was dropped, and has not ended after {DROP_PATIENCE:?}");
        }
    }
}

impl<M: StateMachine> Clone for Node<M> {
    fn clone(&self) -> Self {
        let inner = Arc::clone(&self.inner);
        Node { inner }
    }
}

impl<M: StateMachine> Node<M> {
    pub(crate) fn new(shared: Arc<Shared>, started: Started<M>) -> Self {
        let inner = Arc::new(Inner {
            shared,
            queue: started.queue,
            ended: Mutex::new(started.ended),
        });
        Node { inner }
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.shared().id()
    }

    /// The cluster it belongs to, 16 bytes.
    pub fn cluster_id(&self) -> Vec<u8> {
        self.shared().own().cluster_id.clone()
    }

    /// The members, and who has left, as of what this node knows to be committed.
    pub fn book(&self) -> Book {
        Book::clone(&self.shared().book())
    }

    /// Where the transport hands in what it receives.
    pub fn inbox(&self) -> Inbox {
        Inbox::new(&self.inner.shared)
    }

    /// Replicates a command; returns when it is applied on the leader. Waits while too much is
    /// under way. Dropping the future does not take the command back.
    ///
    /// # Errors
    /// [`RequestError::is_retryable`]: nothing has happened. [`RequestError::OutcomeUnknown`]:
    /// it may have, or may yet.
    pub async fn propose(&self, command: impl Into<Vec<u8>>) -> Result<Proposed, RequestError> {
        self.propose_with(None, command.into()).await
    }

    /// As [`propose`](Node::propose); a command that is repeated with the same session is
    /// applied once, and the repetition gets the first answer.
    ///
    /// # Errors
    /// As [`propose`](Node::propose); [`RequestError::Stale`]: a later one has been applied.
    pub async fn propose_in(
        &self,
        session: Session,
        command: impl Into<Vec<u8>>,
    ) -> Result<Proposed, RequestError> {
        self.propose_with(Some(session), command.into()).await
    }

    async fn propose_with(
        &self,
        session: Option<Session>,
        command: Vec<u8>,
    ) -> Result<Proposed, RequestError> {
        let permit = self.shared().room(command.len()).await?;
        let ask = Ask::Propose { session, command };
        proposed(self.ask_with(ask, permit).await)
    }

    /// As [`propose`](Node::propose), without waiting for room.
    ///
    /// # Errors
    /// As there; [`RequestError::Busy`]: too much is under way.
    pub async fn try_propose(&self, command: impl Into<Vec<u8>>) -> Result<Proposed, RequestError> {
        let (session, command) = (None, command.into());
        let permit = self.shared().try_room(command.len())?;
        let ask = Ask::Propose { session, command };
        proposed(self.ask_with(ask, permit).await)
    }

    async fn ask(&self, ask: Ask) -> Ending {
        let permit = self.shared().room(ask.bytes()).await?;
        self.ask_with(ask, permit).await
    }

    async fn ask_with(&self, ask: Ask, permit: Permit) -> Ending {
        let own = self.id();
        let follows = self.shared().options.forwarding == Forwarding::Forward;
        let leader = self.leader().leader;
        let mut target = match follows && leader != own {
            true => self.shared().node(leader),
            false => None,
        };
        for _ in 0..HOPS_MAX {
            let ending = match &target {
                None => self.ask_here(ask.clone(), permit.clone()).await,
                Some(node) => self.ask_there(node, ask.clone()).await,
            };
            match ending {
                Err(RequestError::NotLeader { leader: Some(node) }) if follows => {
                    target = (node.id != own).then_some(*node);
                }
                ending => return ending,
            }
        }
        Err(RequestError::Dropped)
    }

    async fn ask_here(&self, ask: Ask, permit: Permit) -> Ending {
        self.tell(|waiting| Event::Ask(ask, waiting), permit).await
    }

    async fn tell(&self, event: impl FnOnce(Waiting) -> Event, permit: Permit) -> Ending {
        let (answer, ending) = oneshot::channel();
        let waiting = Waiting {
            answerer: Answerer::Local(answer),
            _permit: permit,
        };
        if !self.shared().mailbox.tell(event(waiting)) {
            return Err(self.shared().stopped_error());
        }
        ending.await.unwrap_or(Err(RequestError::OutcomeUnknown))
    }

    async fn ask_there(&self, node: &NodeInfo, ask: Ask) -> Ending {
        if self.shared().is_removed() {
            return Err(RequestError::Removed);
        }
        let (answer, ending) = oneshot::channel();
        // Who asked may be gone.
        let answer = move |ending| drop(answer.send(ending));
        self.shared().forward(node, ask, answer);
        ending.await.unwrap_or(Err(RequestError::OutcomeUnknown))
    }

    /// Waits until this node's machine may be read with this consistency; the index it has
    /// applied at least.
    ///
    /// # Errors
    /// [`RequestError::NotLeader`] under [`Consistency::Leader`]; [`RequestError::Dropped`]: no
    /// quorum answered in time.
    pub async fn read(&self, consistency: Consistency) -> Result<u64, RequestError> {
        let permit = self.shared().room(0).await?;
        self.read_with(consistency, permit).await
    }

    async fn read_with(
        &self,
        consistency: Consistency,
        permit: Permit,
    ) -> Result<u64, RequestError> {
        let read = |waiting| Event::Read(consistency, waiting);
        match self.tell(read, permit).await {
            Ok(Done::Readable { index }) => Ok(index),
            // A read that was not served has changed nothing.
            Ok(_) | Err(RequestError::OutcomeUnknown) => Err(RequestError::Dropped),
            Err(e) => Err(e),
        }
    }

    /// Reads this node's machine, on its own thread: it should not take long.
    ///
    /// # Errors
    /// As [`read`](Node::read).
    ///
    /// # Panics
    /// When `query` does; the node goes on.
    pub async fn query<R: Send + 'static>(
        &self,
        consistency: Consistency,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, RequestError> {
        let permit = self.shared().room(0).await?;
        self.read_with(consistency, permit.clone()).await?;
        let (answer, result) = oneshot::channel();
        let query = Box::new(move |machine: &M| {
            let result = catch_unwind(AssertUnwindSafe(|| query(machine)));
            // Who asked may be gone.
            drop(answer.send(result));
        });
        if !self.inner.queue.push(Task::Query(query, permit)) {
            return Err(self.shared().stopped_error());
        }
        match result.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(self.shared().stopped_error()),
        }
    }

    /// Adds a node without a vote.
    ///
    /// # Errors
    /// As [`change_membership`](Node::change_membership).
    pub async fn add_learner(&self, node: NodeInfo) -> Result<(), RequestError> {
        self.change_membership(vec![MemberChange::Learner(node)])
            .await
    }

    /// Adds a node with a vote. One that has no log yet counts for the quorum from this moment
    /// on: rather add it as a learner, and promote it when it has caught up.
    ///
    /// # Errors
    /// As [`change_membership`](Node::change_membership).
    pub async fn add_voter(&self, node: NodeInfo) -> Result<(), RequestError> {
        self.change_membership(vec![MemberChange::Voter(node)])
            .await
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// As [`change_membership`](Node::change_membership).
    pub async fn promote(&self, id: u64) -> Result<(), RequestError> {
        self.change_membership(vec![MemberChange::Promote(id)])
            .await
    }

    /// Removes a node; its id is never used again.
    ///
    /// # Errors
    /// As [`change_membership`](Node::change_membership).
    pub async fn remove(&self, id: u64) -> Result<(), RequestError> {
        self.change_membership(vec![MemberChange::Remove(id)]).await
    }

    /// Changes the membership. Several changes are one joint change: at no moment can less than
    /// a majority of both the old and the new voters decide. Returns when the change is applied;
    /// a joint configuration is left by itself after that.
    ///
    /// # Errors
    /// As [`propose`](Node::propose); [`RequestError::ChangeUnderWay`],
    /// [`RequestError::Refused`]: nothing has happened.
    pub async fn change_membership(&self, changes: Vec<MemberChange>) -> Result<(), RequestError> {
        if changes.is_empty() {
            return Ok(());
        }
        let (change, nodes) = encode_changes(changes);
        self.ask(Ask::Change { change, nodes }).await.map(drop)
    }

    /// Hands leadership over; returns when the other leads.
    ///
    /// # Errors
    /// [`RequestError::Dropped`]: it did not come to it within two election timeouts.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), RequestError> {
        self.ask(Ask::Transfer { to }).await.map(drop)
    }

    /// Tries to become the leader; [`watch_leader`](Node::watch_leader) tells whether it did. With
    /// leases it does not while it knows a leader, or may have forgotten one: for an election
    /// timeout after its start.
    pub fn campaign(&self) {
        // A node that has stopped has said so elsewhere.
        self.shared().mailbox.tell(Event::Campaign);
    }

    /// Makes a snapshot of this node's machine, in the background.
    pub fn snapshot_now(&self) {
        // As above.
        self.inner.queue.push(Task::Snapshot);
    }

    /// Leaves the cluster: another node applies the removal. This node goes on without a part in
    /// anything; shut it down.
    ///
    /// # Errors
    /// As [`change_membership`](Node::change_membership); the only voter is refused.
    pub async fn leave(&self) -> Result<(), RequestError> {
        let own = self.id();
        let status = self.status().await?.raft;
        let voters = status.conf_state.get_voters().iter();
        let others = status
            .progress
            .iter()
            .filter(|of| of.id != own && of.recent_active);
        let successor = others
            .filter(|of| voters.clone().any(|voter| *voter == of.id))
            .max_by_key(|of| of.matched);
        if let Some(successor) = successor {
            // A leader that removes itself would go on until the others miss it.
            self.transfer_leader(successor.id).await?;
        }
        match self
            .ask(Ask::Change {
                change: single_change(ConfChangeType::RemoveNode, own),
                nodes: Vec::new(),
            })
            .await
        {
            Err(_) if self.shared().is_removed() => Ok(()),
            ending => ending.map(drop),
        }
    }

    /// Where it stands.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn status(&self) -> Result<NodeStatus, RequestError> {
        let shared = self.shared();
        let (answer, status) = oneshot::channel();
        if !shared.mailbox.tell(Event::Status(answer)) {
            return Err(shared.stopped_error());
        }
        let raft = status.await.map_err(|_| shared.stopped_error())?;
        let dropped = &shared.dropped;
        Ok(NodeStatus {
            removed: shared.is_removed() || !contains_self(&raft),
            raft,
            messages: shared.mailbox.depth(),
            requests: shared.requests(),
            apply: self.inner.queue.depth(),
            messages_dropped: dropped.messages.load(Ordering::Relaxed),
            frames_dropped: dropped.frames.load(Ordering::Relaxed),
            packets_refused: dropped.packets.load(Ordering::Relaxed),
            packets_unsent: dropped.unsent.load(Ordering::Relaxed),
        })
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Leadership {
        *self.shared().leadership.borrow()
    }

    /// Tells of every change of the leader.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.shared().leadership.subscribe()
    }

    /// Why the node stopped, when it has.
    pub fn watch_stopped(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared().stopped.subscribe()
    }

    /// Stops in good order: hands leadership over where there is somebody, waits for what is
    /// under way, for two election timeouts at most, syncs, and ends every thread. The store is
    /// free when this returns.
    pub async fn shutdown(&self) {
        // Where it has stopped already there is only to wait for.
        self.shared().mailbox.tell(Event::Shutdown);
        self.finished().await;
    }

    /// Stops at once, as a crash would, and returns when every thread has ended.
    pub async fn halt(&self) {
        self.shared().mailbox.close();
        self.finished().await;
    }

    async fn finished(&self) {
        let mut finished = self.shared().finished.subscribe();
        // It fails only when the node is gone altogether.
        let _ = finished.wait_for(|finished| *finished).await;
    }
}

/// A node that has not heard of its cluster yet was not removed.
fn contains_self(status: &Status) -> bool {
    status.conf_state.get_voters().is_empty() || contains(&status.conf_state, status.id)
}

fn proposed(ending: Ending) -> Result<Proposed, RequestError> {
    match ending? {
        Done::Applied { index, answer } => Ok(Proposed { index, answer }),
        // No node answers a proposal so.
        _ => Err(RequestError::OutcomeUnknown),
    }
}

fn encode_changes(changes: Vec<MemberChange>) -> (ConfChangeV2, Vec<NodeInfo>) {
    let mut nodes = Vec::new();
    let mut singles = Vec::new();
    for change in changes {
        let (kind, id, node) = match change {
            MemberChange::Learner(node) => (ConfChangeType::AddLearnerNode, node.id, Some(node)),
            MemberChange::Voter(node) => (ConfChangeType::AddNode, node.id, Some(node)),
            MemberChange::Promote(id) => (ConfChangeType::AddNode, id, None),
            MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id, None),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id;
        singles.push(single);
        nodes.extend(node);
    }
    let mut change = ConfChangeV2::default();
    change.set_changes(singles.into());
    (change, nodes)
}
