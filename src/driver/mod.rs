//! A thin driver around raft-rs's `RawNode`: the order of a Ready, and what must be remembered
//! beside the log.
//!
//! - [`StateMachine`]: three methods, and more where they are wanted.
//! - [`Peer`]: one node of one group as a machine without threads, clock or sockets.
//! - [`Applier`]: what is committed, on its way to the state machine.
//! - [`LogStore`]: the durable log, or [`MemoryLog`].
//! - [`Builder`] and [`Node`]: the threads around these, and the handle of what they make.
//! - [`Transport`]: who carries packets between nodes; [`LocalNetwork`] does within a process.

mod applier;
mod apply_queue;
mod apply_thread;
mod book;
mod error;
mod identity;
mod inbox;
mod lifecycle;
mod local;
mod log_store;
mod mailbox;
mod memory_log;
mod node;
mod options;
mod peer;
mod proposals;
mod raft_thread;
mod reads;
mod request;
mod runtime;
mod sessions;
mod shared;
mod state_machine;
mod streams;
mod transfer;
mod transport;
mod wire;

pub use applier::{Answer, Applied, Applier, Change, Committed, SnapshotJob};
pub use book::{Book, NodeInfo, Refusal};
pub use error::{Error, Result};
pub use identity::Identity;
pub use inbox::{Inbox, Refused};
pub use lifecycle::{Builder, JoinOptions, StartError};
pub use local::{Faults, LocalNetwork, Traffic};
pub use log_store::{DRIVER_FAMILY, LogStore, OnDurable, Writes};
pub use memory_log::{MemoryLog, MemorySnapshot, MemoryStaged};
pub use node::{MemberChange, Node, NodeStatus, Proposed};
pub use options::{Compaction, Forwarding, NodeOptions, store_options};
pub use peer::{
    Consistency, FaultHook, FaultPoint, Finished, Outcome, Output, Peer, PeerOptions, PeerProgress,
    PersistedHook, Status, single_change,
};
pub use proposals::RequestId;
pub use request::{Ask, Done, Ending, RequestError};
pub use sessions::Session;
pub use shared::Leadership;
pub use state_machine::{Command, Durability, Preprocessor, SnapshotSource, StateMachine};
pub use transport::{
    Body, FRAME_BYTES_MAX, Frame, Lane, Packet, Reply, Request, RequestKey, SendError, Transport,
};
pub use wire::PacketError;
