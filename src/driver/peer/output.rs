//! What a peer is asked, and what it wants done.

use std::sync::Arc;

use raft::StateRole;
use raft::eraftpb::{ConfState, Message};

use crate::driver::applier::{Answer, Committed};
use crate::driver::book::{Book, Refusal};
use crate::driver::proposals::RequestId;

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
    /// Snapshots to be streamed; each is to be reported with [`Peer::report_snapshot`](super::Peer::report_snapshot).
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
    /// The index of its last snapshot, or 0.
    pub snapshot_index: u64,
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
