//! How a node takes part.

use std::time::Duration;

use raft::Config;

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
    /// Bytes of entries in one message, one entry at least. Default: 1 MiB. Maximum: 4 MiB.
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

    pub(super) fn raft_config(&self, applied: u64) -> Config {
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
