//! What a node can be told.

use std::time::Duration;

use super::book::{ADDRESS_BYTES_MAX, CONTEXT_BYTES_MAX};
use super::log_store::DRIVER_FAMILY;
use super::peer::PeerOptions;
use crate::config::{Options, SnapshotPayload};

/// When snapshots are made, and what stays of the log behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// A snapshot is made when this many entries have been applied since the last. Default:
    /// 10,000.
    pub every_entries: u64,
    /// Or this many bytes of entries. Default: 256 MiB.
    pub every_bytes: u64,
    /// Entries that stay in the log for followers that lag. Default: 10,000.
    pub keep_entries: u64,
    /// Entries that stay at the most for the sake of a live follower that needs them. Default:
    /// 1,000,000.
    pub keep_entries_max: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Compaction {
            every_entries: 10_000,
            every_bytes: 256 << 20,
            keep_entries: 10_000,
            keep_entries_max: 1_000_000,
        }
    }
}

/// What a node does with a request for the leader when it does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// It hands the request on, and the answer back.
    Forward,
    /// It says who leads.
    Redirect,
}

/// The options of a node. Start from [`NodeOptions::new`] and set what differs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeOptions {
    /// Where the other nodes reach this one, as its transport understands it: never a wildcard
    /// such as `0.0.0.0` or `[::]`, which is refused.
    pub address: String,
    /// Whatever else everyone is to know of this node, such as the address for its clients: at
    /// most 16 KiB.
    pub context: Vec<u8>,
    /// The time between two ticks. Default: 100 ms.
    pub tick: Duration,
    /// Of the raft core; `id` and `incarnation` are set by the node.
    pub peer: PeerOptions,
    /// Default: [`Forwarding::Forward`].
    pub forwarding: Forwarding,
    /// When snapshots are made.
    pub compaction: Compaction,
    /// Bytes of one command. Default: 1 MiB. Maximum: 4 MiB.
    pub command_bytes_max: usize,
    /// Requests that are under way or wait for their turn; who comes then waits. Default: 4096.
    pub requests_max: usize,
    /// Bytes of commands that are under way or wait for their turn. Default: 64 MiB.
    pub request_bytes_max: usize,
    /// Messages of others that wait for the raft thread; more are dropped, which raft makes up
    /// for. Default: 4096.
    pub messages_max: usize,
    /// Bytes of these messages. Default: 32 MiB.
    pub message_bytes_max: usize,
    /// Bytes of entries that were given to the log and are not durable; proposals and entries of
    /// a leader wait beyond it. Less than half of
    /// [`Options::write_queue_bytes`](crate::Options::write_queue_bytes), so that the raft
    /// thread never waits for the disk. Default: 16 MiB.
    pub unpersisted_bytes_max: u64,
    /// Bytes of committed entries that wait for the state machine in memory; what comes then is
    /// read from the log again when it is its turn. Default: 32 MiB.
    pub apply_bytes_max: usize,
    /// The longest snapshot that is received, in bytes. Default: 1 TiB.
    pub snapshot_bytes_max: u64,
    /// A stream of a snapshot on which nothing has moved for this long has failed. Default:
    /// 30 s.
    pub snapshot_patience: Duration,
    /// How long [`join`](super::Builder::join) asks before it gives up. Default: 30 s.
    pub join_patience: Duration,
    /// Whether a node that finds at a restart that it was removed goes on alone, as a cluster of
    /// its own with the state it had. Default: no.
    pub alone_when_removed: bool,
}

impl NodeOptions {
    /// The defaults of a node that is reached at `address`.
    pub fn new(address: impl Into<String>) -> Self {
        NodeOptions {
            address: address.into(),
            context: Vec::new(),
            tick: Duration::from_millis(100),
            peer: PeerOptions::new(0),
            forwarding: Forwarding::Forward,
            compaction: Compaction::default(),
            command_bytes_max: 1 << 20,
            requests_max: 4096,
            request_bytes_max: 64 << 20,
            messages_max: 4096,
            message_bytes_max: 32 << 20,
            unpersisted_bytes_max: 16 << 20,
            apply_bytes_max: 32 << 20,
            snapshot_bytes_max: 1 << 40,
            snapshot_patience: Duration::from_secs(30),
            join_patience: Duration::from_secs(30),
            alone_when_removed: false,
        }
    }

    /// What of it cannot work.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let wildcard = ["0.0.0.0", "[::]"];
        if self.address.is_empty() {
            return Some("address: others cannot reach a node without one");
        }
        if wildcard
            .iter()
            .any(|at| host(&self.address).starts_with(at))
        {
            return Some("address: others cannot reach a wildcard; name the host");
        }
        if self.command_bytes_max > 4 << 20 {
            return Some("command_bytes_max: at most 4194304 (4 MiB), a packet must hold it");
        }
        if self.peer.message_bytes_max > 4 << 20 {
            return Some("peer.message_bytes_max: at most 4194304 (4 MiB), a packet must hold it");
        }
        if self.address.len() > ADDRESS_BYTES_MAX || self.context.len() > CONTEXT_BYTES_MAX {
            return Some(
                "address, context: at most 1024 and 16384 bytes, all nodes' travel together",
            );
        }
        if self.requests_max == 0 || self.request_bytes_max < self.command_bytes_max {
            return Some("requests_max, request_bytes_max: at least one command must fit");
        }
        if self.tick.is_zero() {
            return Some("tick: a clock must move");
        }
        None
    }
}

/// What stands behind the scheme, if there is one.
fn host(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, host)| host)
}

/// The options that a store with a driver needs, over those given.
#[must_use]
pub fn store_options(mut options: Options) -> Options {
    let family = DRIVER_FAMILY.to_owned();
    if !options.column_families.contains(&family) {
        options.column_families.push(family);
    }
    options.snapshot_payload = SnapshotPayload::Reference;
    options
}
